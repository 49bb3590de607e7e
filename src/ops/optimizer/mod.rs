//! What a step does with the gradients of all parameters, which lie in one flat tensor: it adds them up, clips their norm,
//! updates the parameters, and moves their average. All of it happens on the device of the parameters, without the host in
//! between, so that a GPU can replay it.
//!
//! An optimizer is one file: its settings, which implement [`Optimizer`], and its bodies. It names what it keeps; states
//! of training runs and the way to a device follow from that.

mod adafactor;
mod adamw;
mod adamw_8bit;
mod cpu;
mod gpu;
mod lion;
mod prodigy;
mod progress;
mod schedule_free;
mod sgd;

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, device_of};
pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use adamw_8bit::{AdamW8bit, BLOCK, code_values, decoded};
pub(super) use gpu::add_up;
pub use lion::Lion;
pub use prodigy::{DISTANCE, Prodigy};
pub use progress::Progress;
pub use schedule_free::ScheduleFree;
pub use sgd::Sgd;

/// How parameters follow their gradients.
pub trait Optimizer: Send + Sync {
    /// What it keeps for parameters of these values (f32 `[n]`) at the start of a run, on their device, by the names in
    /// training states.
    ///
    /// # Errors
    /// Where a GPU has no room, or the optimizer does not run there.
    fn initial(&self, values: &Tensor) -> Result<Vec<(&'static str, Tensor)>>;

    /// What it reads and never changes, on the device of `values`; training states do without it.
    ///
    /// # Errors
    /// Where a GPU has no room.
    fn tables(&self, _values: &Tensor) -> Result<Vec<Tensor>> {
        Ok(Vec::new())
    }

    /// One update. On the CPU it changes the values, on a GPU their copy too. It counts itself ([`Step::advance`], or the
    /// kernel that does the same); where the gradient is not finite, nothing else changes.
    ///
    /// # Errors
    /// What a GPU says.
    fn update(&self, parameters: &mut Parameters, step: Step<'_>) -> Result<()>;

    /// The values that the run is for, f32 `[n]` on their device, where they are others than those that are trained.
    ///
    /// # Errors
    /// What a GPU says.
    fn result(&self, _parameters: &Parameters) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// All parameters that are trained, one after the other, and what their optimizer keeps.
pub struct Parameters {
    /// The master copy, f32 `[n]`.
    pub values: Tensor,
    /// The values in the precision of the model, `[n]`.
    pub copy: Tensor,
    /// As [`Optimizer::initial`] names it.
    pub state: Vec<(&'static str, Tensor)>,
    /// Of [`Optimizer::tables`].
    pub tables: Vec<Tensor>,
}

impl Parameters {
    /// The start of a run of `optimizer`, at `values` f32 `[n]`; the model computes in `dtype`.
    ///
    /// # Errors
    /// Where a GPU has no room.
    pub fn new(values: Tensor, dtype: DType, optimizer: &dyn Optimizer) -> Result<Self> {
        Ok(Self {
            copy: copy(&values, dtype)?,
            state: optimizer.initial(&values)?,
            tables: optimizer.tables(&values)?,
            values,
        })
    }
}

/// What one update is told. Tensors are on the device of the parameters.
pub struct Step<'a> {
    /// The sum over the micro-batches, times the loss scale; f32 `[n]`.
    pub gradient: &'a Tensor,
    /// What it is multiplied by, `[1]`, as [`clip`] gives it.
    pub factor: &'a Tensor,
    /// The learning rate of each update, the last also for all that follow: f64 on the CPU, f32 on a GPU.
    pub lr: &'a Tensor,
    /// [`Progress::values`].
    pub progress: &'a mut Tensor,
    /// So many updates in a row double the loss scale; 0 for a scale that stays.
    pub interval: u32,
}

/// The numbers of an update on the CPU.
pub struct Update {
    /// From 1 on.
    pub number: u64,
    pub lr: f64,
    /// What the gradient is multiplied by.
    pub factor: f32,
}

impl Step<'_> {
    /// On the CPU: counts the step and adapts the loss scale. `None` where the gradient is not finite.
    pub fn advance(&mut self) -> Option<Update> {
        let factor = self.factor.item();
        let mut progress = Progress::of(self.progress, self.interval);
        let rates = self.lr.data::<f64>();
        let lr = rates[(progress.updates as usize).min(rates.len() - 1)];
        progress.advance(factor != 0.0);
        *self.progress = progress.tensor();
        (factor != 0.0).then_some(Update { number: progress.updates, lr, factor: factor as f32 })
    }
}

/// One update of `parameters` in place, with their copy.
///
/// # Errors
/// What a GPU says.
pub fn update(optimizer: &dyn Optimizer, parameters: &mut Parameters, step: Step<'_>) -> Result<()> {
    optimizer.update(parameters, step)?;
    if parameters.values.memory().is_none() {
        parameters.copy = copy(&parameters.values, parameters.copy.dtype())?;
    }
    Ok(())
}

/// Values f32 `[n]` in the precision of a model, in memory of their own on a GPU.
///
/// # Errors
/// What a GPU says.
pub fn copy(values: &Tensor, dtype: DType) -> Result<Tensor> {
    on!(device_of("copy", &[values])?, copy(values, dtype))
}

/// Adds `parts`, one behind the other, to the values of `gradient` f32 `[n]` from number `at` on, in place: what one
/// micro-batch adds to the gradients of neighbouring parameters. On a GPU parts are f32, and several of them one launch.
///
/// # Errors
/// [`Error::Shape`] where they leave the gradient or are on another device; what a GPU says.
pub fn accumulate(gradient: &mut Tensor, at: usize, parts: &[&Tensor]) -> Result<()> {
    const OP: &str = "accumulate";
    let mut end = at;
    for part in parts {
        end += part.len();
        if end > gradient.len() {
            return Err(Error::shape(OP, format!("{part:?} up to {end} leaves {gradient:?}")));
        }
    }
    let all: Vec<&Tensor> = [&*gradient].into_iter().chain(parts.iter().copied()).collect();
    on!(device_of(OP, &all)?, accumulate(gradient, at, parts))
}

/// The 2-norm of a gradient f32 `[n]` without its loss scale `[1]`, and the factor that takes the scale out and brings the
/// norm to at most `max_norm` (infinite: not clipped), as `torch.nn.utils.clip_grad_norm_`: max / (norm + 1e-6), where that
/// is below 1. The factor of a gradient that is not finite is 0. Both `[1]`, f64 on the CPU and f32 on a GPU.
///
/// # Errors
/// [`Error::Shape`] where the scale is no number; what a GPU says.
pub fn clip(gradient: &Tensor, scale: &Tensor, max_norm: f64) -> Result<[Tensor; 2]> {
    const OP: &str = "clip";
    expect(OP, &[(scale, 1)])?;
    on!(device_of(OP, &[gradient, scale])?, clip(gradient, scale, max_norm))
}

/// Moves a running average f32 `[n]` in place: `average = keep average + (1 - keep) values`. `keep` is `[1]`, f64 on the CPU
/// and f32 on a GPU.
///
/// # Errors
/// [`Error::Shape`] where the lengths differ; what a GPU says.
pub fn move_average(average: &mut Tensor, values: &Tensor, keep: &Tensor) -> Result<()> {
    const OP: &str = "move_average";
    expect(OP, &[(values, average.len()), (keep, 1)])?;
    on!(device_of(OP, &[average, values, keep])?, move_average(average, values, keep))
}

/// That tensors have the lengths that a pass takes for granted.
fn expect(op: &'static str, lengths: &[(&Tensor, usize)]) -> Result<()> {
    match lengths.iter().find(|(x, len)| x.len() != *len) {
        Some((x, len)) => Err(Error::shape(op, format!("{x:?} does not have {len} elements"))),
        None => Ok(()),
    }
}
