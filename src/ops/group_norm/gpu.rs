//! Launches of `group_norm.cu`.

use super::Shape;
use super::{channels, with_channels};
use crate::device::gpu::table::kernels;
use crate::device::gpu::{Operand, in_chunks, pack};
use crate::error::Result;
use crate::ops::rows::gpu::{concat_channels, slice_channels};
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::GROUP_NORM_THREADS;
/// Values of a slab, about: 32 KiB in 16 bits, some eight for each of a thread's channels. The order of all sums follows
/// from it.
const SLAB_VALUES: usize = 1 << 14;

/// The result, and mean and 1 / sqrt(variance + eps) of each group, f32 `[n, groups]`. `weight` and `bias` are f32.
pub fn forward(shape: &Shape, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    let partial = slabs(shape, x, None)?;
    normalised(shape, x, &partial, weight, bias)
}

/// [`forward`] of x and skip side by side, and the two so.
pub fn forward_concat(
    shape: &Shape,
    [x, skip]: [&Tensor; 2],
    weight: &Tensor,
    bias: &Tensor,
) -> Result<(Tensor, Tensor, [Tensor; 2])> {
    let [a, b] = [x, skip].map(channels);
    let both = x.new_empty(&with_channels(x, a + b), x.dtype())?;
    if !in_chunks(x.dtype(), &[a, b], &[&both, x, skip]) {
        let both = concat_channels(x, skip, [a, b])?;
        let (y, statistics) = forward(shape, &both, weight, bias)?;
        return Ok((y, both, statistics));
    }
    let partial = slabs(shape, x, Some((&both, skip)))?;
    let (y, statistics) = normalised(shape, &both, &partial, weight, bias)?;
    Ok((y, both, statistics))
}

/// What each slab adds to the statistics. `beside`: where x and skip go side by side, and skip.
fn slabs(shape: &Shape, x: &Tensor, beside: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
    let Shape { n, pixels, c, groups, .. } = *shape;
    let partial = x.new_empty(&[n, groups, shape.slabs(), 2], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_SLABS)?.grid([shape.slabs(), n, 1]).block(THREADS);
    let launch = launch.dynamic_shared(floats(2 * (THREADS * pack(x.dtype()) + c)));
    let (both, skip) = beside.unzip();
    let launch = launch.output(&partial).output_if(both).input(x).input_if(skip);
    launch.int(pixels).int(c).int(channels(x)).int(groups).int(shape.slab_pixels()).launch()?;
    Ok(partial)
}

fn normalised(
    shape: &Shape,
    x: &Tensor,
    partial: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<(Tensor, [Tensor; 2])> {
    let Shape { n, pixels, c, groups, .. } = *shape;
    let mean = x.new_empty(&[n, groups], DType::F32)?;
    let rstd = x.new_empty(&[n, groups], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_GROUPS)?.grid([groups.div_ceil(THREADS / 32), n, 1]).block(THREADS);
    let launch = launch.output(&mean).output(&rstd).input(partial);
    let launch = launch.int(pixels).int(c).int(groups).int(shape.slab_pixels());
    launch.float(shape.eps as f32).launch()?;

    let y = x.empty_like()?;
    let launch = x.kernel(&kernels::GROUP_NORM_FORWARD)?.grid([shape.slabs(), n, 1]).block(THREADS).output(&y);
    let launch = launch.input(x).input(weight).input(bias).input(&mean).input(&rstd);
    let launch = launch.int(pixels).int(c).int(groups).int(shape.slab_pixels());
    launch.int(shape.silu.into()).launch()?;
    Ok((y, [mean, rstd]))
}

/// The gradients of x, plus `onto`, weight and bias where wanted, those of the two f32 `[c]`.
pub fn backward(
    shape: &Shape,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    statistics: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    [wants_x, wants_weight, wants_bias]: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let pass = Pass { shape, x, weight, bias, statistics, dy };
    let [sums, averages] = pass.sums()?;
    let dx = wants_x.then(|| x.empty_like()).transpose()?;
    if let Some(dx) = &dx {
        pass.input_gradient([Some(dx), None], &averages, onto.as_ref())?;
    }
    let [dweight, dbias] = pass.of_parameters(&sums, [wants_weight, wants_bias])?;
    Ok([dx, dweight, dbias])
}

/// [`backward`] of two tensors side by side, `x`: the gradients of those, of `widths` channels, weight and bias. `onto` is like
/// `x`.
pub fn backward_concat(
    shape: &Shape,
    x: &Tensor,
    widths: [usize; 2],
    [weight, bias]: [&Tensor; 2],
    statistics: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    wants: [bool; 4],
) -> Result<[Option<Tensor>; 4]> {
    let pass = Pass { shape, x, weight, bias, statistics, dy };
    let [sums, averages] = pass.sums()?;
    let parts = widths.map(|width| x.new_empty(&with_channels(x, width), x.dtype()));
    let [dx, dskip] = parts;
    let (mut dx, mut dskip) = (dx?, dskip?);
    let memory: [&dyn Operand; 5] = [&dx, &dskip, x, dy, onto.as_ref().unwrap_or(dy)];
    if in_chunks(x.dtype(), &widths, &memory) {
        pass.input_gradient([Some(&dx), Some(&dskip)], &averages, onto.as_ref())?;
    } else {
        let both = x.empty_like()?;
        pass.input_gradient([Some(&both), None], &averages, onto.as_ref())?;
        (dx, dskip) = (slice_channels(&both, 0, widths[0])?, slice_channels(&both, widths[0], widths[1])?);
    }
    let [dweight, dbias] = pass.of_parameters(&sums, [wants[2], wants[3]])?;
    Ok([wants[0].then_some(dx), wants[1].then_some(dskip), dweight, dbias])
}

/// What the kernels of the gradients read.
struct Pass<'a> {
    shape: &'a Shape,
    x: &'a Tensor,
    weight: &'a Tensor,
    bias: &'a Tensor,
    statistics: &'a [Tensor; 2],
    dy: &'a Tensor,
}

impl Pass<'_> {
    /// Sums of each sample's channels, and averages of its groups.
    fn sums(&self) -> Result<[Tensor; 2]> {
        let Self { shape, x, weight, bias, statistics: [mean, rstd], dy } = *self;
        let Shape { n, pixels, c, groups, .. } = *shape;
        let partial = x.new_empty(&[n, shape.slabs(), 2, c], DType::F32)?;
        let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD_SLABS)?.grid([shape.slabs(), n, 1]).block(THREADS);
        let launch = launch.dynamic_shared(floats(2 * THREADS * pack(x.dtype()))).output(&partial);
        let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
        let launch = launch.int(pixels).int(c).int(groups).int(shape.slab_pixels());
        launch.int(shape.silu.into()).launch()?;

        let sums = x.new_empty(&[n, 2, c], DType::F32)?;
        let averages = x.new_empty(&[n, groups, 2], DType::F32)?;
        let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD_GROUPS)?.grid([groups, n, 1]).block(THREADS);
        let launch = launch.output(&sums).output(&averages).input(&partial).input(weight);
        launch.int(pixels).int(c).int(shape.slabs()).launch()?;
        Ok([sums, averages])
    }

    /// Into `dx`, and, of the channels behind those of `dx`, into `dskip`.
    fn input_gradient(
        &self,
        [dx, dskip]: [Option<&Tensor>; 2],
        averages: &Tensor,
        onto: Option<&Tensor>,
    ) -> Result<()> {
        let Self { shape, x, weight, bias, statistics: [mean, rstd], dy } = *self;
        let Shape { n, pixels, c, groups, .. } = *shape;
        let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD)?.grid([shape.slabs(), n, 1]).block(THREADS);
        let launch = launch.output_if(dx).output_if(dskip);
        let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
        let launch = launch.input(averages).input_if(onto).int(pixels).int(c).int(dx.map_or(c, channels));
        launch.int(groups).int(shape.slab_pixels()).int(shape.silu.into()).launch()
    }

    fn of_parameters(&self, sums: &Tensor, [wants_weight, wants_bias]: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
        let Shape { n, c, .. } = *self.shape;
        if !wants_weight && !wants_bias {
            return Ok([None, None]);
        }
        let both = sum_rows(sums, [n, 2 * c])?;
        Ok([wants_weight.then(|| both.view(c, &[c])), wants_bias.then(|| both.view(0, &[c]))])
    }
}

impl Shape {
    fn slab_pixels(&self) -> usize {
        (SLAB_VALUES / self.c).max(1)
    }

    fn slabs(&self) -> usize {
        self.pixels.div_ceil(self.slab_pixels())
    }
}

/// Bytes of dynamic shared memory for so many floats.
fn floats(count: usize) -> usize {
    (count * size_of::<f32>()).next_multiple_of(16)
}
