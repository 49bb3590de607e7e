//! A device that executes nothing: it hands out addresses, and keeps the list of what it was asked to do. What a training
//! step launches is known so without a GPU and without memory for weights; `benches/estimate.py` reads the list.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::argument::{Argument, Launch, Role};
use super::graph::Command;
use super::table::{Kernel, Kind, kernels};
use super::tensor_map::TensorMap;
use super::{Backend, Gpu};
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Where the first buffer lies: above what any number among the arguments is likely to be.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;

/// A command, with all its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listed {
    Launch(ListedLaunch),
    /// Bytes.
    Copy(usize),
    /// Bytes.
    Clear(usize),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListedLaunch {
    pub kernel: String,
    /// `f32`, `bf16` or `f16`: what the kernel is compiled for.
    pub dtype: String,
    pub grid: [u32; 3],
    /// Threads.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    pub arguments: Vec<ListedArgument>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListedArgument {
    /// Address and bytes.
    Input(u64, usize),
    Output(u64, usize),
    Update(u64, usize),
    Null,
    Int(i32),
    Unsigned(u32),
    Long(i64),
    /// Its bits: JSON has no infinity.
    Float(u32),
    /// Boxes, and address and bytes of the memory.
    InputMap(TensorMap, u64, usize),
    OutputMap(TensorMap, u64, usize),
}

/// The commands of a device that executes nothing, in their order.
#[derive(Clone, Default)]
pub struct Commands(Arc<Mutex<Vec<Listed>>>);

impl Commands {
    /// What was queued since the last call.
    pub fn take(&self) -> Vec<Listed> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gpu {
    /// A device that executes nothing. What is read back from it is zero.
    pub fn dry_run() -> (Self, Commands) {
        let commands = Commands::default();
        let next = AtomicU64::new(FIRST_ADDRESS);
        (Self::over(DryRun { commands: commands.clone(), next }), commands)
    }
}

struct DryRun {
    commands: Commands,
    next: AtomicU64,
}

impl Backend for DryRun {
    fn name(&self) -> String {
        "a device that executes nothing".into()
    }

    fn is_simulated(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        Ok(Some(self.next.fetch_add(bytes.next_multiple_of(256) as u64, Ordering::Relaxed)))
    }

    fn free(&self, _address: u64) {}

    fn room(&self) -> Result<Option<[u64; 2]>> {
        Ok(None)
    }

    fn upload(&self, _data: &[u8], _to: u64) -> Result<()> {
        Ok(())
    }

    fn stage(&self, _data: &[u8], _to: u64) -> Result<()> {
        Ok(())
    }

    fn download(&self, _from: u64, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn queue(&self, command: &Command) -> Result<()> {
        let listed = match command {
            Command::Launch(launch) => Listed::Launch(ListedLaunch::from(launch)),
            Command::Copy { bytes, .. } => Listed::Copy(*bytes),
            Command::Clear { bytes, .. } => Listed::Clear(*bytes),
        };
        self.commands.0.lock().unwrap_or_else(PoisonError::into_inner).push(listed);
        Ok(())
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        work().map(|()| 0.0)
    }
}

impl From<&Launch> for ListedLaunch {
    fn from(launch: &Launch) -> Self {
        let argument = |argument: &Argument| match *argument {
            Argument::Map { map, address, bytes, role: Role::Input } => ListedArgument::InputMap(map, address, bytes),
            Argument::Map { map, address, bytes, .. } => ListedArgument::OutputMap(map, address, bytes),
            Argument::Memory { address, bytes, role: Role::Input } => ListedArgument::Input(address, bytes),
            Argument::Memory { address, bytes, role: Role::Output } => ListedArgument::Output(address, bytes),
            Argument::Memory { address, bytes, role: Role::Update } => ListedArgument::Update(address, bytes),
            Argument::Null => ListedArgument::Null,
            Argument::Int(x) => ListedArgument::Int(x),
            Argument::Unsigned(x) => ListedArgument::Unsigned(x),
            Argument::Long(x) => ListedArgument::Long(x),
            Argument::Float(x) => ListedArgument::Float(x.to_bits()),
        };
        Self {
            kernel: launch.kernel.name.into(),
            dtype: launch.scalar.name().into(),
            grid: launch.grid,
            block: launch.block,
            shared: launch.dynamic_bytes,
            arguments: launch.arguments.iter().map(argument).collect(),
        }
    }
}

impl ListedLaunch {
    /// The launch itself, its memory where it was.
    ///
    /// # Errors
    /// [`Error::Usage`] where this build has no such kernel, or the kernel has other parameters.
    pub(super) fn launch(&self) -> Result<Launch> {
        let wrong = |what: &str| Error::Usage(format!("launch of {}: {what}", self.kernel));
        let kernel: Option<&&'static Kernel> = kernels::ALL.iter().find(|kernel| kernel.name == self.kernel);
        let kernel = kernel.ok_or_else(|| wrong("this build has no kernel of that name"))?;
        let scalar = [DType::F32, DType::Bf16, DType::F16].into_iter().find(|dtype| dtype.name() == self.dtype);
        let scalar = scalar.ok_or_else(|| wrong("the dtype is none of f32, bf16 and f16"))?;
        if self.arguments.len() != kernel.parameters.len() {
            return Err(wrong(&format!("it has {} parameters", kernel.parameters.len())));
        }
        let argument = |argument: &ListedArgument| match *argument {
            ListedArgument::Input(address, bytes) => Argument::Memory { address, bytes, role: Role::Input },
            ListedArgument::Output(address, bytes) => Argument::Memory { address, bytes, role: Role::Output },
            ListedArgument::Update(address, bytes) => Argument::Memory { address, bytes, role: Role::Update },
            ListedArgument::Null => Argument::Null,
            ListedArgument::Int(x) => Argument::Int(x),
            ListedArgument::Unsigned(x) => Argument::Unsigned(x),
            ListedArgument::Long(x) => Argument::Long(x),
            ListedArgument::Float(bits) => Argument::Float(f32::from_bits(bits)),
            ListedArgument::InputMap(map, address, bytes) => Argument::Map { map, address, bytes, role: Role::Input },
            ListedArgument::OutputMap(map, address, bytes) => Argument::Map { map, address, bytes, role: Role::Output },
        };
        let arguments: Vec<Argument> = self.arguments.iter().map(argument).collect();
        let fits = kernel.parameters.iter().zip(&arguments).all(|(p, a)| fits(a, p.kind));
        if !fits {
            return Err(wrong("its parameters are of other kinds"));
        }
        Ok(Launch { kernel, scalar, grid: self.grid, block: self.block, dynamic_bytes: self.shared, arguments })
    }
}

/// Whether a parameter of this kind takes the argument.
fn fits(argument: &Argument, kind: Kind) -> bool {
    match argument {
        Argument::Null => matches!(kind, Kind::Const(_) | Kind::Mutable(_)),
        Argument::Memory { role: Role::Input, .. } => matches!(kind, Kind::Const(_)),
        Argument::Memory { .. } => matches!(kind, Kind::Mutable(_)),
        Argument::Int(_) => kind == Kind::Int,
        Argument::Unsigned(_) => kind == Kind::Unsigned,
        Argument::Long(_) => kind == Kind::Long,
        Argument::Float(_) => kind == Kind::Float,
        Argument::Map { .. } => kind == Kind::Map,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_listed_and_memory_is_not_taken() {
        let (gpu, commands) = Gpu::dry_run();
        let [from, to] = [0, 1].map(|_| gpu.allocate(1 << 50).unwrap());
        let bytes = 1 << 50;
        assert!(to - from >= bytes as u64);
        gpu.queue(Command::Copy { from, to, bytes }).unwrap();
        gpu.queue(Command::Clear { to, bytes: 16 }).unwrap();
        let memory = |address, role| Argument::Memory { address, bytes, role };
        let (x, y) = (memory(from, Role::Input), memory(to, Role::Output));
        let launch = Launch {
            kernel: &kernels::SCALE_FORWARD,
            scalar: DType::Bf16,
            grid: [7, 1, 1],
            block: 256,
            dynamic_bytes: 0,
            arguments: vec![y, x, Argument::Long(9), Argument::Float(f32::INFINITY)],
        };
        gpu.queue(Command::Launch(launch)).unwrap();
        let listed = commands.take();
        assert_eq!(listed[..2], [Listed::Copy(bytes), Listed::Clear(16)]);
        let text = serde_json::to_string(&listed[2]).unwrap();
        assert_eq!(serde_json::from_str::<Listed>(&text).unwrap(), listed[2]);
        let Listed::Launch(launch) = &listed[2] else { panic!("{text}") };
        assert_eq!(launch.arguments[..2], [ListedArgument::Output(to, bytes), ListedArgument::Input(from, bytes)]);
        assert_eq!(ListedLaunch::from(&launch.launch().unwrap()), *launch);
        assert!(commands.take().is_empty());
    }

    #[test]
    fn a_launch_that_fits_no_kernel_is_refused() {
        let mut launch = ListedLaunch {
            kernel: "add_forwards".into(),
            dtype: "bf16".into(),
            grid: [1; 3],
            block: 32,
            shared: 0,
            arguments: vec![ListedArgument::Null],
        };
        let error = |launch: &ListedLaunch| launch.launch().err().unwrap().to_string();
        assert!(error(&launch).contains("no kernel of that name"));
        launch.kernel = "add_forward".into();
        assert!(error(&launch).contains("4 parameters"));
        launch.arguments = vec![ListedArgument::Int(1); 4];
        assert!(error(&launch).contains("of other kinds"));
    }
}
