//! Where tensors live and ops run. The CPU is the definition of every op; a GPU (CUDA, or the simulator that runs the
//! same kernels on the host) is one more variant behind the same ops.

pub mod cpu;
pub mod gpu;

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
}

impl Device {
    /// `auto`, `cpu`, `cuda[:N]` or `sim`, as typed after `--device`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for devices that this build does not have, [`Error::Usage`] for anything else.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Device::Cpu),
            "sim" | "cuda" => Err(Error::Unavailable(format!("--device {name}"))),
            _ if name.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok()) => {
                Err(Error::Unavailable(format!("--device {name}")))
            }
            _ => Err(Error::Usage(format!(
                "--device {name}: expected auto, cpu, cuda, cuda:N or sim"
            ))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
        }
    }
}
