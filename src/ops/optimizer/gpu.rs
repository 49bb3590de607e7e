//! Launches of `optimizer.cu` that all optimizers share.

use super::Step;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

pub const THREADS: usize = kernels::OPTIMIZER_THREADS;

pub fn copy(values: &Tensor, dtype: DType) -> Result<Tensor> {
    let copy = values.new_empty(values.shape(), dtype)?;
    let blocks = values.len().div_ceil(crate::device::gpu::pack(dtype)).div_ceil(kernels::ELEMENTWISE_THREADS);
    let launch = copy.kernel(&kernels::CAST_FROM_FLOAT)?.grid([blocks, 1, 1]).block(kernels::ELEMENTWISE_THREADS);
    launch.output(&copy).input(values).long(values.len()).launch()?;
    Ok(copy)
}

pub fn accumulate(gradient: &mut Tensor, at: usize, parts: &[&Tensor]) -> Result<()> {
    let mut at = at;
    for parts in parts.chunks(kernels::ACCUMULATED) {
        let n = parts.iter().map(|part| part.len()).sum();
        add_up(&gradient.view(at, &[n]), parts)?;
        at += n;
    }
    Ok(())
}

/// Adds `parts`, one behind the other and at most `ACCUMULATED`, to `sum`, f32 and as long as they together.
pub fn add_up(sum: &Tensor, parts: &[&Tensor]) -> Result<()> {
    let mut launch = sum.kernel(&kernels::ACCUMULATE)?.grid([sum.len().div_ceil(THREADS), 1, 1]).block(THREADS);
    launch = launch.update(sum);
    for i in 0..kernels::ACCUMULATED {
        launch = launch.input_if(parts.get(i).copied());
    }
    for i in 0..kernels::ACCUMULATED {
        launch = launch.long(parts.get(i).map_or(0, |part| part.len()));
    }
    launch.launch()
}

pub fn clip(gradient: &Tensor, scale: &Tensor, max_norm: f64) -> Result<[Tensor; 2]> {
    let blocks = gradient.len().div_ceil(kernels::NORM_VALUES);
    let parts = gradient.new_empty(&[blocks], DType::F32)?;
    let launch = gradient.kernel(&kernels::SQUARED_NORM_PARTS)?.grid([blocks, 1, 1]).block(THREADS);
    launch.output(&parts).input(gradient).long(gradient.len()).launch()?;
    let (norm, factor) = (gradient.new_empty(&[1], DType::F32)?, gradient.new_empty(&[1], DType::F32)?);
    let launch = gradient.kernel(&kernels::CLIP_FACTOR)?.block(THREADS).output(&norm).output(&factor);
    launch.input(&parts).input(scale).int(blocks).float(max_norm as f32).launch()?;
    Ok([norm, factor])
}

pub fn move_average(average: &mut Tensor, values: &Tensor, keep: &Tensor) -> Result<()> {
    let n = average.len();
    let launch = average.kernel(&kernels::MOVING_AVERAGE)?.grid([n.div_ceil(THREADS), 1, 1]).block(THREADS);
    launch.update(average).input(values).input(keep).long(n).launch()
}

/// The learning rate of the update that is made now, f32 `[1]`. Counts the step, and adapts the loss scale.
pub fn rate(step: &mut Step<'_>) -> Result<Tensor> {
    let rate = step.progress.new_empty(&[1], DType::F32)?;
    let launch = step.progress.kernel(&kernels::UPDATE_RATE)?.block(32).output(&rate).update(step.progress);
    launch.input(step.factor).input(step.lr).int(step.lr.len()).int(step.interval as usize).launch()?;
    Ok(rate)
}
