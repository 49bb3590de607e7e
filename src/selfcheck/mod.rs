//! Every kernel of a device against the CPU path. An op is run three times on the same numbers: on the CPU in f64, on the
//! CPU in the storage type, and on the device in the storage type, forward and backward. The device may be off by twice
//! what the CPU is off by, since sums may be made in another order.

mod hopper;
mod in_slices;
mod optimizer;
mod pointwise;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};

use crate::autograd::Tape;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::recorder::Launched;
use crate::device::gpu::table::{Kernel, kernels};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};

/// What rounding in f32 and another order of sums may do, relative to the norm of the result.
const LEAST_BOUND: f64 = 1e-5;
/// FLOPs of a check on a GPU; on the simulator, which does a thousandth of a GPU's work in a second; and of a small one,
/// for stand-ins that are slower still.
const GPU_FLOPS: usize = 1_000_000_000;
const SIMULATOR_FLOPS: usize = 100_000_000;
const SMALL_FLOPS: usize = 1_000_000;

/// How large the checks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Below 1 MFLOP each, but for the kernels that only run where there is more to do.
    Small,
    /// Below 1 GFLOP each; a tenth of it on the simulator.
    Usual,
    /// As many pixels and tokens as Stable Diffusion 1.5 has at 512 pixels.
    Full,
}

/// How one op, or one pass of the optimizer, came out in one storage type.
pub struct Row {
    pub check: String,
    pub dtype: DType,
    /// The result or gradient that used most of its bound.
    pub quantity: String,
    /// `||device - f64|| / ||f64||`.
    pub error: f64,
    pub bound: f64,
    /// What was launched.
    pub kernels: BTreeSet<&'static str>,
}

impl Row {
    /// NaN is never within a bound.
    pub fn ok(&self) -> bool {
        self.error <= self.bound
    }
}

/// Runs every check on `gpu` at real channels, head widths and ranks, with as many pixels and tokens as `size` says. `seen`
/// gets each row as it is there.
///
/// # Errors
/// What the device says; [`Error::Failed`] where a kernel of this build was not run by any check.
pub fn run(gpu: &Gpu, size: Size, mut seen: impl FnMut(&Row) -> Result<()>) -> Result<()> {
    let most_flops = match (size, gpu.is_simulated()) {
        (Size::Full, _) => usize::MAX,
        (Size::Usual, false) => GPU_FLOPS,
        (Size::Usual, true) => SIMULATOR_FLOPS,
        (Size::Small, _) => SMALL_FLOPS,
    };
    // What is recorded becomes a graph on the device itself alone.
    let replayed = replayed(gpu)?;
    let (gpu, launched) = gpu.recorded();
    let device = Device::Gpu(gpu.clone());
    let runs = |kernel: &&&Kernel| !kernel.hopper || gpu.runs_hopper();
    let mut never_run: BTreeSet<&str> = kernels::ALL.iter().filter(runs).map(|kernel| kernel.name).collect();
    let mut tell = |row: Row| {
        never_run.retain(|name| !row.kernels.contains(name));
        seen(&row)
    };
    for check in shapes::checks(most_flops).into_iter().chain(in_slices::checks()) {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            tell(check.run(&device, &launched, dtype)?)?;
        }
    }
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for in_8_bits in [false, true] {
            tell(optimizer::steps(&device, &launched, dtype, in_8_bits)?)?;
        }
    }
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for row in optimizer::others(&device, &launched, dtype)? {
            tell(row)?;
        }
    }
    tell(optimizer::noise(&gpu, &launched)?)?;
    tell(replayed)?;
    // Last: a kernel that no card has run yet may end the device's context.
    for check in if gpu.runs_hopper() { hopper::checks() } else { Vec::new() } {
        for dtype in [DType::Bf16, DType::F16] {
            tell(check.run(&device, &launched, dtype)?)?;
        }
    }
    match never_run.first() {
        None => Ok(()),
        Some(first) => Err(Error::Failed(format!("{} kernels were run by no check, such as {first}", never_run.len()))),
    }
}

/// Work that is recorded once and replayed on other numbers: a CUDA graph on a GPU that has them.
fn replayed(gpu: &Gpu) -> Result<Row> {
    const SHAPE: [usize; 2] = [40, 64];
    let device = Device::Gpu(gpu.clone());
    let weight = normals(0, &[SHAPE[1], SHAPE[1]]);
    let op = |x: &Tensor, weight: &Tensor| {
        let tape = Tape::watching(std::iter::empty());
        ops::silu(&tape, &ops::linear(&tape, x, weight, None)?)
    };
    let memory = |x: &Tensor| x.memory().ok_or_else(|| Error::Failed("a tensor on the CPU of a device".into()));
    let (input, on_device) = (normals(1, &SHAPE).to(&device)?, weight.to(&device)?);
    let result = gpu.buffer(DType::F32, SHAPE.iter().product())?;
    let work = || result.copy_from(&memory(&op(&input, &on_device)?)?);
    // Before it is recorded: modules are loaded, and there is memory.
    work()?;
    let graph = gpu.record(work)?;
    let mut quantities = Vec::new();
    for replay in 2..4 {
        let other = normals(replay, &SHAPE);
        memory(&input)?.copy_from(&memory(&other.to(&device)?)?)?;
        graph.replay()?;
        let reference = op(&other.cast(DType::F64), &weight.cast(DType::F64))?;
        let there = Tensor::on_gpu(result.clone(), &SHAPE).to_cpu()?;
        quantities.push((format!("replay {}", replay - 1), relative_error(&there, &reference), LEAST_BOUND));
    }
    Ok(worst("work that is recorded and replayed".into(), DType::F32, quantities.into_iter(), BTreeMap::new()))
}

type Op = Box<dyn Fn(&Tape, &[Tensor], &Device) -> Result<Tensor>>;

/// An op at one shape.
struct Check {
    name: String,
    inputs: Vec<Input>,
    op: Op,
}

struct Input {
    shape: Vec<usize>,
    /// Stored in the accumulator type, like norm weights and biases.
    vector: bool,
    /// Whether a gradient is asked for.
    tracked: bool,
}

impl Check {
    fn run(&self, device: &Device, launched: &Launched, dtype: DType) -> Result<Row> {
        let stored: Vec<Tensor> = (0..).zip(&self.inputs).map(|(i, input)| input.values(i, dtype)).collect();
        let exact: Vec<Tensor> = stored.iter().map(|x| x.cast(DType::F64)).collect();
        let reference = self.quantities(&exact, &Device::Cpu)?;
        let plain = self.quantities(&stored, &Device::Cpu)?;
        launched.take();
        let there = self.quantities(&stored, device)?;
        let rows = reference.iter().zip(&plain).zip(&there).map(|((reference, plain), there)| {
            let bound = LEAST_BOUND.max(2.0 * relative_error(&plain.1, &reference.1));
            (there.0.clone(), relative_error(&there.1, &reference.1), bound)
        });
        Ok(worst(self.name.clone(), dtype, rows, launched.take()))
    }

    /// The result and the gradients of the tracked inputs.
    fn quantities(&self, inputs: &[Tensor], device: &Device) -> Result<Vec<(String, Tensor)>> {
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.to(device)).collect::<Result<_>>()?;
        let tracked = inputs.iter().zip(&self.inputs).filter(|(_, input)| input.tracked);
        let tracked: Vec<&Tensor> = tracked.map(|(x, _)| x).collect();
        let tape = Tape::watching(tracked.iter().copied());
        let y = (self.op)(&tape, &inputs, device)?;
        let mut quantities = vec![("result".to_owned(), y.to_cpu()?)];
        if !tracked.is_empty() {
            let dy = normals(100, y.shape()).cast(y.dtype()).to(device)?;
            let gradients = tape.backward_from(&y, dy)?;
            for (i, x) in tracked.into_iter().enumerate() {
                let gradient = gradients.get(x).ok_or_else(|| {
                    Error::Failed(format!("{}: input {i} has no gradient on {}", self.name, device.name()))
                })?;
                quantities.push((format!("gradient {i}"), gradient.to_cpu()?));
            }
        }
        Ok(quantities)
    }
}

impl Input {
    fn values(&self, index: u64, dtype: DType) -> Tensor {
        let dtype = if self.vector { dtype.master_dtype() } else { dtype };
        normals(index, &self.shape).cast(dtype)
    }
}

fn normals(index: u64, shape: &[usize]) -> Tensor {
    Tensor::new(random::normals(0, Stream::Init, index, 0, shape.iter().product()), shape)
}

/// The row of the quantity that used most of its bound.
fn worst(
    check: String,
    dtype: DType,
    quantities: impl Iterator<Item = (String, f64, f64)>,
    launched: BTreeMap<&'static str, usize>,
) -> Row {
    let used = |error: f64, bound: f64| {
        let used = error / bound.max(f64::MIN_POSITIVE);
        if used.is_nan() { f64::INFINITY } else { used }
    };
    let worst = quantities.max_by(|a, b| used(a.1, a.2).total_cmp(&used(b.1, b.2)));
    let (quantity, error, bound) = worst.expect("every check has a result");
    Row { check, dtype, quantity, error, bound, kernels: launched.into_keys().collect() }
}

/// `||x - reference|| / ||reference||`; the norm itself where the reference is zero.
fn relative_error(x: &Tensor, reference: &Tensor) -> f64 {
    let (x, reference) = (x.reals::<f64>(), reference.reals::<f64>());
    if x.len() != reference.len() {
        return f64::INFINITY;
    }
    let difference: f64 = x.iter().zip(&*reference).map(|(a, b)| (a - b) * (a - b)).sum();
    let norm: f64 = reference.iter().map(|b| b * b).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}
