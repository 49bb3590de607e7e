//! Faults that tests plant into kernels, in builds for tests alone (feature `simulator`): `SELMA_PLANTED_FAULT` is
//! `FAULT:KERNEL`, and each launch of a kernel of that name goes wrong, on any device.

use std::str::FromStr;
use std::time::Duration;

use super::argument::{Argument, Launch, Role};
use super::forwarded::forwarded;
use super::graph::Command;
use super::library::Libraries;
use super::{Backend, Gpu};
use crate::error::Result;

const VARIABLE: &str = "SELMA_PLANTED_FAULT";
/// Bytes that a fault changes.
const SPOILT: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A value in the middle of the result is another.
    Wrong,
    /// A value in the middle of the result is not written.
    Unwritten,
    /// Bytes behind the result are written.
    Outside,
    /// Its first operand is changed.
    Operand,
    /// It never ends.
    Hang,
    /// The process ends.
    Crash,
    /// It takes twenty times as long.
    Slow,
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(name: &str) -> std::result::Result<Self, ()> {
        Ok(match name {
            "wrong" => Self::Wrong,
            "unwritten" => Self::Unwritten,
            "outside" => Self::Outside,
            "operand" => Self::Operand,
            "hang" => Self::Hang,
            "crash" => Self::Crash,
            "slow" => Self::Slow,
            _ => return Err(()),
        })
    }
}

pub(super) struct Planted {
    inner: Gpu,
    fault: Fault,
    kernel: String,
}

impl Planted {
    /// The device itself where nothing is planted.
    pub fn around(gpu: Gpu) -> Gpu {
        let Ok(asked) = std::env::var(VARIABLE) else { return gpu };
        let planted = asked.split_once(':').and_then(|(fault, kernel)| Some((fault.parse().ok()?, kernel)));
        let (fault, kernel) = planted.unwrap_or_else(|| panic!("{VARIABLE}={asked}: there is no such fault"));
        Gpu::over(Self { inner: gpu, fault, kernel: kernel.into() })
    }

    fn backend(&self) -> &dyn Backend {
        &*self.inner.0.backend
    }

    fn spoil(&self, launch: &Launch) -> Result<()> {
        let (queue, command) = (|command| self.backend().queue(command), Command::Launch(launch.clone()));
        let memory = |wanted| {
            launch.arguments.iter().find_map(|argument| match *argument {
                Argument::Memory { address, bytes, role } if role == wanted => Some((address, bytes)),
                _ => None,
            })
        };
        let (result, bytes) = memory(Role::Output).expect("a kernel has a result");
        let middle = result + (bytes / 2 / SPOILT * SPOILT) as u64;
        let mut values = [0; SPOILT];
        match self.fault {
            Fault::Wrong => {
                queue(&command)?;
                self.backend().download(middle, &mut values)?;
                self.backend().upload(&values.map(|byte| byte ^ 0x20), middle)
            }
            Fault::Unwritten => {
                self.backend().download(middle, &mut values)?;
                queue(&command)?;
                self.backend().upload(&values, middle)
            }
            Fault::Outside => {
                queue(&command)?;
                self.backend().upload(&[0x5a; SPOILT], result + bytes as u64)
            }
            Fault::Operand => {
                queue(&command)?;
                let (first, _) = memory(Role::Input).expect("a kernel has an operand");
                self.backend().download(first, &mut values)?;
                self.backend().upload(&values.map(|byte| byte ^ 0x20), first)
            }
            Fault::Hang => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            Fault::Crash => std::process::abort(),
            Fault::Slow => (0..20).try_for_each(|_| queue(&command)),
        }
    }
}

impl Backend for Planted {
    forwarded!();

    fn renew(&self, address: u64, bytes: usize) {
        self.backend().renew(address, bytes);
    }

    fn queue(&self, command: &Command) -> Result<()> {
        match command {
            Command::Launch(launch) if launch.kernel.name == self.kernel => self.spoil(launch),
            other => self.backend().queue(other),
        }
    }

    fn libraries(&self) -> Option<Box<dyn Libraries>> {
        self.backend().libraries()
    }
}
