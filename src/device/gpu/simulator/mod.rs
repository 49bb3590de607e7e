//! Runs kernels on the host (`kernels/sim/`): the same source, one coroutine for each CUDA thread.

mod ffi;
mod memory;
mod trace;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::Backend;
use super::arena::Arena;
use super::argument::{Argument, Launch, Role};
use super::graph::Command;
use super::table::kernels::SIMULATOR;
use super::table::scalar_index;
use super::tensor_map;
use crate::error::{Error, Result};
use ffi::Shared;
use memory::{Memory, Pages, around};
pub use trace::{Touched, trace};

/// Whether each access to memory is checked: several times slower, and what tests want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    Off,
    On,
}

/// The order in which threads run where the kernel leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forwards,
    Backwards,
}

pub(super) struct Simulator {
    checks: Checks,
    order: Order,
    /// Allocations by address.
    memory: Mutex<BTreeMap<u64, Memory>>,
}

impl Simulator {
    pub(super) fn open(checks: Checks, order: Order) -> Result<Self> {
        if let Err(why) = SIMULATOR {
            return Err(Error::Usage(format!("--device sim: {why}")));
        }
        if !(std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c"))
        {
            let needs = "the simulator needs a processor with AVX2, FMA and F16C";
            return Err(Error::Usage(format!("--device sim: {needs}")));
        }
        Ok(Self { checks, order, memory: Mutex::default() })
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<u64, Memory>> {
        // The map is whole whenever the lock is free.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Simulator {
    fn name(&self) -> String {
        format!("simulator (checks {:?}, threads {:?})", self.checks, self.order)
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn runs_hopper(&self) -> bool {
        true
    }

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        let (Some(data), Some(written)) = (Pages::zeroed(bytes), Pages::zeroed(bytes)) else {
            return Ok(None);
        };
        let address = data.start() as u64;
        self.memory().insert(address, Memory { data, written });
        Ok(Some(address))
    }

    fn free(&self, address: u64) {
        self.memory().remove(&address);
    }

    fn renew(&self, address: u64, bytes: usize) {
        let bytes = Arena::rounded(bytes) as usize;
        let memory = self.memory();
        let (memory, at) = around(&memory, address, bytes);
        // 0xff everywhere is NaN in every float format and -1 in integers.
        memory.data.fill(at, bytes, 0xff);
        memory.written.fill(at, bytes, 0);
    }

    fn room(&self) -> Result<Option<[u64; 2]>> {
        // Which bytes are written is kept beside them.
        Ok(crate::device::memory::available().map(|bytes| [bytes / 2; 2]))
    }

    fn upload(&self, data: &[u8], to: u64) -> Result<()> {
        let memory = self.memory();
        let (memory, at) = around(&memory, to, data.len());
        // SAFETY: `around` says that the bytes lie inside the allocation, which `Pages` keeps alive; no kernel runs in
        // the meantime, since launches end before they return.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), memory.data.start().add(at), data.len()) };
        memory.written.fill(at, data.len(), 1);
        Ok(())
    }

    fn stage(&self, data: &[u8], to: u64) -> Result<()> {
        self.upload(data, to)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let memory = self.memory();
        let (memory, at) = around(&memory, from, to.len());
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(memory.data.start().add(at), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn queue(&self, command: &Command) -> Result<()> {
        match command {
            Command::Launch(launch) => self.launch(launch),
            &Command::Clear { to, bytes } => {
                let memory = self.memory();
                let (memory, at) = around(&memory, to, bytes);
                memory.data.fill(at, bytes, 0);
                memory.written.fill(at, bytes, 1);
                Ok(())
            }
            &Command::Copy { from, to, bytes } => {
                let memory = self.memory();
                let ((source, at), (target, there)) = (around(&memory, from, bytes), around(&memory, to, bytes));
                for (source, target) in [(&source.data, &target.data), (&source.written, &target.written)] {
                    // SAFETY: as in `upload`; buffers that overlap are copied as if through another one.
                    unsafe { std::ptr::copy(source.start().add(at), target.start().add(there), bytes) };
                }
                Ok(())
            }
        }
    }

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let begin = std::time::Instant::now();
        work()?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

impl Simulator {
    fn launch(&self, launch: &Launch) -> Result<()> {
        let ranges = self.ranges(launch);
        let checked = self.checks == Checks::On;
        if checked {
            for range in ranges.iter().filter(|range| range.role == Role::Output) {
                // SAFETY: `ranges` took pointer and length from an allocation, which the builder's buffers keep alive.
                unsafe { std::ptr::write_bytes(range.written, 0, range.bytes) };
            }
        }
        self.run(launch, &ranges, None)?;
        let unwritten = ranges.iter().filter(|range| checked && range.role == Role::Output).find_map(|range| {
            // SAFETY: as above; the kernel has ended.
            let written = unsafe { std::slice::from_raw_parts(range.written, range.bytes) };
            Some((written.iter().position(|&w| w == 0)?, range.parameter))
        });
        match unwritten {
            Some((byte, parameter)) => {
                let (kernel, name) = (launch.kernel.name, launch.kernel.parameters[parameter].name);
                Err(Error::Failed(format!("{kernel}: leaves byte {byte} of the output `{name}` unwritten")))
            }
            None => Ok(()),
        }
    }

    /// What the pointer arguments stand for.
    fn ranges(&self, launch: &Launch) -> Vec<Range> {
        let memory = self.memory();
        let pointers = launch.arguments.iter().enumerate().filter_map(|(parameter, argument)| {
            argument.memory().map(|(address, bytes, role)| (parameter, address, bytes, role))
        });
        pointers
            .map(|(parameter, address, bytes, role)| {
                let (memory, at) = around(&memory, address, bytes);
                Range {
                    parameter,
                    start: address as *mut u8,
                    bytes,
                    // SAFETY: inside the allocation.
                    written: unsafe { memory.written.start().add(at) },
                    role,
                }
            })
            .collect()
    }

    /// Runs all blocks, or traces one, spread over the threads of rayon's pool; the first failing run of blocks is what is
    /// told.
    fn run(&self, launch: &Launch, ranges: &[Range], traced: Option<usize>) -> Result<()> {
        let run = SIMULATOR.expect("no simulator could be opened without it");
        let simulated = launch.kernel.simulated.as_ref().expect("compiled together with the runtime");
        let functions = match self.checks {
            Checks::Off => &simulated.plain,
            Checks::On => &simulated.checked,
        };
        let function = functions[scalar_index(launch.scalar)].expect("the builder refuses other types");
        // The kernel's parameters, and a pointer to each.
        let values: Vec<Passed> = launch.arguments.iter().map(Passed::of).collect();
        let pointers: Vec<Shared<u64>> = values.iter().map(|value| Shared(value.start())).collect();
        let parameters = launch.kernel.parameters;
        let names: Vec<CString> = parameters.iter().map(|p| CString::new(p.name).expect("an identifier")).collect();
        let ranges: Vec<ffi::Range> = ranges.iter().map(|range| range.ffi(&names)).collect();
        let name = CString::new(launch.kernel.name).expect("an identifier");
        let call = ffi::Launch {
            kernel: Shared(name.as_ptr()),
            function,
            arguments: Shared(pointers.as_ptr()),
            ranges: Shared(ranges.as_ptr()),
            range_count: ranges.len(),
            grid: launch.grid,
            block: [launch.block, 1, 1],
            dynamic_bytes: launch.dynamic_bytes,
            checked: self.checks == Checks::On,
            backwards: self.order == Order::Backwards,
            traced: traced.is_some(),
            hopper: launch.kernel.hopper,
        };
        let all: usize = launch.grid.iter().map(|&n| n as usize).product();
        let blocks = traced.map_or(0..all, |block| block..block + 1);
        let portion = blocks.len().div_ceil(4 * rayon::current_num_threads());
        let portions = (0..blocks.len().div_ceil(portion)).into_par_iter().map(|i| {
            let mut message = [0; 512];
            let first = blocks.start + i * portion;
            let end = (first + portion).min(blocks.end);
            // SAFETY: `call` is laid out as runtime.h's Launch and all it points to outlives the run. The builder has
            // checked number and kinds of the arguments against the kernel's source. Blocks write to disjoint bytes, or
            // the kernel would race on a GPU as well.
            let done = unsafe { run((&raw const call).cast(), first, end, message.as_mut_ptr(), message.len()) };
            if done {
                return Ok(());
            }
            let text: Vec<u8> = message.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned()).collect();
            Err(Error::Failed(String::from_utf8_lossy(&text).into_owned()))
        });
        portions.collect::<Vec<Result<()>>>().into_iter().collect()
    }
}

/// A parameter as the kernel takes it.
enum Passed {
    Bits(u64),
    Map(tensor_map::Simulated),
}

impl Passed {
    fn of(argument: &Argument) -> Self {
        match argument {
            Argument::Map { map, address, .. } => Self::Map(map.simulated(*address)),
            other => Self::Bits(other.bits()),
        }
    }

    fn start(&self) -> *const u64 {
        match self {
            Self::Bits(bits) => bits,
            Self::Map(map) => std::ptr::from_ref(map).cast(),
        }
    }
}

struct Range {
    /// Which parameter stands for it.
    parameter: usize,
    start: *mut u8,
    bytes: usize,
    written: *mut u8,
    role: Role,
}

impl Range {
    fn ffi(&self, names: &[CString]) -> ffi::Range {
        ffi::Range {
            name: Shared(names[self.parameter].as_ptr()),
            start: Shared(self.start),
            bytes: self.bytes,
            written: Shared(self.written),
            role: self.role,
        }
    }
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use std::ffi::CStr;

    use super::super::table::planted::{PLANTED_COPY, PLANTED_THREADS};
    use super::*;
    use crate::dtype::DType;

    /// What the runtime knows of a thread lies at the end of the host thread's stack, near these operands.
    #[test]
    fn operands_may_lie_beside_the_runtimes_own_memory() {
        const BYTES: usize = PLANTED_THREADS * size_of::<f32>();
        let run = || {
            let (mut y, x) = ([0_f32; PLANTED_THREADS], [3_f32; PLANTED_THREADS]);
            let [mut y_written, mut x_written] = [[0_u8; BYTES], [1; BYTES]];
            let (y_start, x_start) = (y.as_mut_ptr(), x.as_ptr());
            let range = |name: &'static CStr, start: *const f32, written: &mut [u8], role| ffi::Range {
                name: Shared(name.as_ptr()),
                start: Shared(start.cast()),
                bytes: BYTES,
                written: Shared(written.as_mut_ptr()),
                role,
            };
            let ranges =
                [range(c"y", y_start, &mut y_written, Role::Output), range(c"x", x_start, &mut x_written, Role::Input)];
            let values = [y_start as u64, x_start as u64, PLANTED_THREADS as u64, 0];
            let arguments = values.each_ref().map(|value| Shared(std::ptr::from_ref(value)));
            let simulated = PLANTED_COPY.simulated.as_ref().expect("a build with the simulator");
            let call = ffi::Launch {
                kernel: Shared(c"planted_copy".as_ptr()),
                function: simulated.checked[scalar_index(DType::F32)].expect("compiled for f32"),
                arguments: Shared(arguments.as_ptr()),
                ranges: Shared(ranges.as_ptr()),
                range_count: ranges.len(),
                grid: [1; 3],
                block: [PLANTED_THREADS as u32, 1, 1],
                dynamic_bytes: 0,
                checked: true,
                backwards: false,
                traced: false,
                hopper: false,
            };
            let mut message = [0; 512];
            let run = SIMULATOR.expect("a build with the simulator");
            // SAFETY: as in `Simulator::run`; the arguments are those of planted_copy.
            let done = unsafe { run((&raw const call).cast(), 0, 1, message.as_mut_ptr(), message.len()) };
            let text = message.map(|c| char::from(c.cast_unsigned())).iter().collect::<String>();
            assert!(done, "{text}");
            assert_eq!(y, x);
        };
        std::thread::spawn(run).join().expect("the launch succeeds");
    }
}
