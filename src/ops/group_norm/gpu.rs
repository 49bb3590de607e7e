//! Launches of `group_norm.cu`.

use super::Shape;
use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const THREADS: usize = kernels::GROUP_NORM_THREADS;
/// Values of a slab, about: 32 KiB in 16 bits, some eight for each of a thread's channels. The order of all sums follows
/// from it.
const SLAB_VALUES: usize = 1 << 14;

/// The result, and mean and 1 / sqrt(variance + eps) of each group, f32 `[n, groups]`. `weight` and `bias` are f32.
pub fn forward(shape: &Shape, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, [Tensor; 2])> {
    let Shape { n, pixels, c, groups, .. } = *shape;
    let grid = [shape.slabs(), n, 1];
    let partial = x.new_empty(&[n, groups, shape.slabs(), 2], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_SLABS)?.grid(grid).block(THREADS);
    let launch = launch.dynamic_shared(floats(2 * (THREADS * pack(x.dtype()) + c)));
    let launch = launch.output(&partial).input(x);
    launch.int(pixels).int(c).int(groups).int(shape.slab_pixels()).launch()?;

    let mean = x.new_empty(&[n, groups], DType::F32)?;
    let rstd = x.new_empty(&[n, groups], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_GROUPS)?.grid([groups.div_ceil(THREADS / 32), n, 1]).block(THREADS);
    let launch = launch.output(&mean).output(&rstd).input(&partial);
    let launch = launch.int(pixels).int(c).int(groups).int(shape.slab_pixels());
    launch.float(shape.eps as f32).launch()?;

    let y = x.empty_like()?;
    let launch = x.kernel(&kernels::GROUP_NORM_FORWARD)?.grid(grid).block(THREADS).output(&y);
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
    [mean, rstd]: &[Tensor; 2],
    (dy, onto): (&Tensor, Option<Tensor>),
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let Shape { n, pixels, c, groups, .. } = *shape;
    let grid = [shape.slabs(), n, 1];
    let partial = x.new_empty(&[n, shape.slabs(), 2, c], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD_SLABS)?.grid(grid).block(THREADS);
    let launch = launch.dynamic_shared(floats(2 * THREADS * pack(x.dtype()))).output(&partial);
    let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
    let launch = launch.int(pixels).int(c).int(groups).int(shape.slab_pixels());
    launch.int(shape.silu.into()).launch()?;

    let sums = x.new_empty(&[n, 2, c], DType::F32)?;
    let averages = x.new_empty(&[n, groups, 2], DType::F32)?;
    let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD_GROUPS)?.grid([groups, n, 1]).block(THREADS);
    let launch = launch.output(&sums).output(&averages).input(&partial).input(weight);
    launch.int(pixels).int(c).int(shape.slabs()).launch()?;

    let mut gradients = [const { None }; 3];
    if wants[0] {
        let dx = x.empty_like()?;
        let launch = x.kernel(&kernels::GROUP_NORM_BACKWARD)?.grid(grid).block(THREADS).output(&dx);
        let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
        let launch =
            launch.input(&averages).input_if(onto.as_ref()).int(pixels).int(c).int(groups).int(shape.slab_pixels());
        launch.int(shape.silu.into()).launch()?;
        gradients[0] = Some(dx);
    }
    if wants[1] || wants[2] {
        let both = sum_rows(&sums, [n, 2 * c])?;
        gradients[1] = wants[1].then(|| both.view(c, &[c]));
        gradients[2] = wants[2].then(|| both.view(0, &[c]));
    }
    Ok(gradients)
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
