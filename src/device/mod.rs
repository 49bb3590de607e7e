//! Where tensors live and ops run. The CPU is the definition of every op; a GPU (CUDA, or the simulator that runs the
//! same kernels on the host) is one more variant behind the same ops.

pub mod conv_shape;
pub mod cpu;
pub mod gpu;
pub mod memory;
pub mod plan;

use crate::dtype::DType;
use crate::error::{Error, Result};
use gpu::graph::CachedGraph;
use gpu::{Checks, Gpu, Order};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu(Gpu),
}

impl Device {
    /// Opens `auto`, `cpu`, `cuda[:N]` or `sim`, as typed after `--device`. `auto` is [`Device::auto`]'s.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything else, and where build, driver or machine lack what the device needs.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::auto().0),
            "cpu" => Ok(Device::Cpu),
            "sim" => Gpu::simulator(Checks::Off, Order::Forwards).map(Device::Gpu),
            "cuda" => Gpu::cuda(0).map(Device::Gpu),
            _ => match name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Gpu::cuda(ordinal).map(Device::Gpu),
                None => Err(Error::Usage(format!("--device {name}: expected auto, cpu, cuda, cuda:N or sim"))),
            },
        }
    }

    /// NVIDIA's first GPU where it can be used, else the CPU: with the reason where there is a driver, and so, most likely,
    /// somebody who expects the GPU.
    pub fn auto() -> (Self, Option<Error>) {
        match Gpu::cuda(0) {
            Ok(gpu) => (Device::Gpu(gpu), None),
            Err(why) => (Device::Cpu, Gpu::has_driver().then_some(why)),
        }
    }

    /// Does `work`, which is the same every time and depends on what is in the device's memory alone: a GPU replays it.
    ///
    /// # Errors
    /// What `work` or the device say.
    pub fn repeat(&self, graph: &mut CachedGraph, work: impl FnOnce() -> Result<()>) -> Result<()> {
        match self {
            Device::Cpu => work(),
            Device::Gpu(gpu) => graph.run(gpu, work),
        }
    }

    /// Whether work is queued, so that the host waits for what it reads.
    pub fn is_asynchronous(&self) -> bool {
        *self != Device::Cpu
    }

    /// The type of norms, learning rates and other single numbers: GPUs compute them in f32.
    pub fn number_dtype(&self) -> DType {
        match self {
            Device::Cpu => DType::F64,
            Device::Gpu(_) => DType::F32,
        }
    }

    /// `cpu`, or the GPU's own name.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "cpu".into(),
            Device::Gpu(gpu) => gpu.name(),
        }
    }
}
