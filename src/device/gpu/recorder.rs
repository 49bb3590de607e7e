//! A device that remembers which kernels it ran.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::argument::Launch;
use super::{Backend, Gpu};
use crate::error::Result;

/// The names of kernels that a device has launched.
#[derive(Clone, Default)]
pub struct Launched(Arc<Mutex<BTreeSet<&'static str>>>);

impl Launched {
    /// What was launched since the last call.
    pub fn take(&self) -> BTreeSet<&'static str> {
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

    fn is_simulated(&self) -> bool {
        self.inner.is_simulated()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.inner.0.allocate(bytes)
    }

    fn free(&self, address: u64) {
        self.inner.0.free(address);
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<()> {
        self.inner.0.upload(data, to)
    }

    fn clear(&self, to: u64, bytes: usize) -> Result<()> {
        self.inner.0.clear(to, bytes)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.inner.0.download(from, to)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.inner.0.launch(launch)?;
        let mut launched = self.launched.0.lock().unwrap_or_else(PoisonError::into_inner);
        launched.insert(launch.kernel.name);
        Ok(())
    }
}
