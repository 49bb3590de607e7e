//! Launches of `optimizer.cu` and `adamw_8bit.cu`: passes over the flat f32 buffers of all trained parameters, without the host in between.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::Result;

const THREADS: usize = kernels::OPTIMIZER_THREADS;

/// What AdamW is told, as `torch.optim.AdamW` names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    /// Decay of the running mean and of the running square.
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

/// `gradient += part`, both f32: what one micro-batch adds to the gradient of one parameter.
pub fn accumulate(gradient: &Buffer, part: &Buffer) -> Result<()> {
    let n = gradient.len();
    expect("accumulate", &[("part", part, n)])?;
    let launch = gradient.gpu().kernel(&kernels::ACCUMULATE, DType::F32);
    let launch = launch.grid([n.div_ceil(THREADS), 1, 1]).block(THREADS);
    launch.update(gradient).input(part).long(n).launch()
}

/// Norm of the gradients without their loss scale, and the factor that takes the scale out and brings the norm to at most
/// `max_norm`: both f32 `[1]`. The factor of gradients that are not finite is 0. `scale` is f32 `[1]`.
pub fn clip_factor(gradients: &Buffer, scale: &Buffer, max_norm: f32) -> Result<[Buffer; 2]> {
    expect("clip_factor", &[("scale", scale, 1)])?;
    let gpu = gradients.gpu();
    let blocks = gradients.len().div_ceil(kernels::NORM_VALUES);
    let parts = gpu.buffer(DType::F32, blocks)?;
    let launch = gpu.kernel(&kernels::SQUARED_NORM_PARTS, DType::F32).grid([blocks, 1, 1]).block(THREADS);
    launch.output(&parts).input(gradients).long(gradients.len()).launch()?;
    let (norm, clip) = (gpu.buffer(DType::F32, 1)?, gpu.buffer(DType::F32, 1)?);
    let launch = gpu.kernel(&kernels::CLIP_FACTOR, DType::F32).block(THREADS).output(&norm).output(&clip);
    launch.input(&parts).input(scale).int(blocks).float(max_norm).launch()?;
    Ok([norm, clip])
}

/// What [`adamw`] reads as `rates`, f32 `[3]`; counts the update, and adapts the loss scale. `progress` is f32 `[3]`, as in
/// `kernels/optimizer.cu`, `clip` ([`clip_factor`]) f32 `[1]`: all that changes from step to step. `lr` is f32 with a rate for
/// each update, the last also for all that follow. Of `settings` all but the rate counts. `interval` is 0 for a scale that
/// stays.
pub fn adamw_rates(progress: &Buffer, clip: &Buffer, lr: &Buffer, settings: AdamW, interval: usize) -> Result<Buffer> {
    expect("adamw_rates", &[("progress", progress, 3), ("clip", clip, 1), ("lr", lr, lr.len().max(1))])?;
    let gpu = progress.gpu();
    let rates = gpu.buffer(DType::F32, 3)?;
    let launch = gpu.kernel(&kernels::ADAMW_RATES, DType::F32).block(32);
    let launch = launch.output(&rates).update(progress).input(clip).input(lr).int(lr.len());
    let (beta1, beta2) = settings.betas;
    let launch = launch.float(settings.weight_decay as f32);
    let launch = launch.float((1.0 - beta1) as f32).float((1.0 - beta2) as f32);
    launch.int(interval).launch()?;
    Ok(rates)
}

/// The buffers of [`adamw`], all of one length, f32 except the copy.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    pub values: &'a Buffer,
    pub first: &'a Buffer,
    pub second: &'a Buffer,
    /// Takes the new values in compute precision.
    pub copy: &'a Buffer,
}

/// One step of AdamW in place. `rates` is f32 `[3]` ([`adamw_rates`]), `clip` f32 `[1]` ([`clip_factor`]): where that is 0,
/// nothing changes.
pub fn adamw(
    parameters: Parameters<'_>,
    gradients: &Buffer,
    settings: AdamW,
    rates: &Buffer,
    clip: &Buffer,
) -> Result<()> {
    let Parameters { values, first, second, copy } = parameters;
    let n = values.len();
    expect("adamw", &[("first", first, n), ("second", second, n), ("copy", copy, n)])?;
    expect("adamw", &[("gradients", gradients, n), ("rates", rates, 3), ("clip", clip, 1)])?;
    let launch = values.gpu().kernel(&kernels::ADAMW, copy.dtype());
    let launch = launch.grid([n.div_ceil(4 * THREADS), 1, 1]).block(THREADS);
    let launch = launch.update(values).update(first).update(second).update(copy).input(gradients);
    let launch = launch.input(rates).input(clip).long(n);
    let (beta1, beta2) = settings.betas;
    let launch = launch.float(beta1 as f32).float((1.0 - beta1) as f32);
    let launch = launch.float(beta2 as f32).float((1.0 - beta2) as f32);
    launch.float(settings.eps as f32).launch()
}

/// A moment of [`adamw_8bit`]: `ops::optimizer::Codes`.
#[derive(Clone)]
pub struct Codes {
    /// i64, eight codes each.
    pub codes: Buffer,
    /// f32, one a block.
    pub scales: Buffer,
}

/// As [`adamw`], with moments in 8 bits, of which `meaning` says what the codes mean: f32 `[2, 256]`.
pub fn adamw_8bit(
    [values, copy]: [&Buffer; 2],
    [first, second]: &[Codes; 2],
    meaning: &Buffer,
    gradients: &Buffer,
    settings: AdamW,
    rates: &Buffer,
    clip: &Buffer,
) -> Result<()> {
    const OP: &str = "adamw_8bit";
    let n = values.len();
    let blocks = n.div_ceil(kernels::MOMENT_BLOCK);
    for moment in [first, second] {
        let words = blocks * kernels::MOMENT_BLOCK / size_of::<i64>();
        expect(OP, &[("codes", &moment.codes, words), ("scales", &moment.scales, blocks)])?;
    }
    expect(
        OP,
        &[
            ("copy", copy, n),
            ("gradients", gradients, n),
            ("meaning", meaning, 2 * 256),
            ("rates", rates, 3),
            ("clip", clip, 1),
        ],
    )?;
    let threads = kernels::MOMENT_THREADS;
    let launch = values.gpu().kernel(&kernels::ADAMW_8BIT, copy.dtype());
    let launch = launch.grid([blocks.div_ceil(threads / 32), 1, 1]).block(threads);
    let launch = launch.update(values).update(&first.codes).update(&first.scales);
    let launch = launch.update(&second.codes).update(&second.scales).update(copy);
    let launch = launch.input(gradients).input(meaning).input(rates).input(clip).long(n);
    let (beta1, beta2) = settings.betas;
    let launch = launch.float(beta1 as f32).float((1.0 - beta1) as f32);
    let launch = launch.float(beta2 as f32).float((1.0 - beta2) as f32);
    launch.float(settings.eps as f32).launch()
}

/// `average = keep average + (1 - keep) values`, in place; `keep` is f32 `[1]`.
pub fn moving_average(average: &Buffer, values: &Buffer, keep: &Buffer) -> Result<()> {
    expect("moving_average", &[("values", values, average.len()), ("keep", keep, 1)])?;
    let n = average.len();
    let launch = average.gpu().kernel(&kernels::MOVING_AVERAGE, DType::F32);
    let launch = launch.grid([n.div_ceil(THREADS), 1, 1]).block(THREADS);
    launch.update(average).input(values).input(keep).long(n).launch()
}
