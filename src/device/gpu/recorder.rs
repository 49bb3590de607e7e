//! A device that remembers which kernels it ran.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::graph::Command;
use super::identity::Identity;
use super::{Backend, Gpu};
use crate::error::Result;

/// The names of kernels that a device has launched, and how often.
#[derive(Clone, Default)]
pub struct Launched(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Launched {
    /// What was launched since the last call.
    pub fn take(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Passes everything on.
pub(super) struct Recorder {
    pub inner: Gpu,
    pub launched: Launched,
}

impl Backend for Recorder {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn is_simulated(&self) -> bool {
        self.inner.is_simulated()
    }

    fn runs_hopper(&self) -> bool {
        self.inner.runs_hopper()
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.inner.0.backend.allocate(bytes)
    }

    fn free(&self, address: u64) {
        self.inner.0.backend.free(address);
    }

    fn renew(&self, address: u64, bytes: usize) {
        self.inner.0.backend.renew(address, bytes);
    }

    fn room(&self) -> Result<Option<[u64; 2]>> {
        self.inner.0.backend.room()
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<()> {
        self.inner.0.backend.upload(data, to)
    }

    fn stage(&self, data: &[u8], to: u64) -> Result<()> {
        self.inner.0.backend.stage(data, to)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.inner.0.backend.download(from, to)
    }

    fn queue(&self, command: &Command) -> Result<()> {
        self.inner.0.backend.queue(command)?;
        if let Command::Launch(launch) = command {
            let mut launched = self.launched.0.lock().unwrap_or_else(PoisonError::into_inner);
            *launched.entry(launch.kernel.name).or_default() += 1;
        }
        Ok(())
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.inner.0.backend.seconds(work)
    }
}
