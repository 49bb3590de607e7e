//! Launches of `pool.cu`.

use super::{Shape, Window};
use crate::device::gpu::pack;
use crate::device::gpu::table::{Kernel, kernels};
use crate::error::Result;
use crate::tensor::Tensor;

const THREADS: usize = kernels::POOL_THREADS;

pub fn max(shape: &Shape, x: &Tensor) -> Result<Tensor> {
    launch(&kernels::MAX_POOL2D, shape, &[x], shape.output())
}

pub fn max_backward(shape: &Shape, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    launch(&kernels::MAX_POOL2D_BACKWARD, shape, &[dy, x], shape.input())
}

pub fn avg(shape: &Shape, x: &Tensor) -> Result<Tensor> {
    launch(&kernels::AVG_POOL2D, shape, &[x], shape.output())
}

pub fn avg_backward(shape: &Shape, dy: &Tensor) -> Result<Tensor> {
    launch(&kernels::AVG_POOL2D_BACKWARD, shape, &[dy], shape.input())
}

/// A thread has a pack of the channels of a pixel of the result.
fn launch(kernel: &'static Kernel, shape: &Shape, inputs: &[&Tensor], result: [usize; 4]) -> Result<Tensor> {
    let x = inputs[0];
    let [n, height, width, c] = result;
    let rows = n * height * width;
    let packs = rows * c.div_ceil(pack(x.dtype()));
    let y = x.new_empty(&result, x.dtype())?;
    let mut launch = x.kernel(kernel)?.grid([packs.div_ceil(THREADS), 1, 1]).block(THREADS).output(&y);
    for input in inputs {
        launch = launch.input(*input);
    }
    let Window { kernel: [kh, kw], stride, padding: [top, left] } = shape.window;
    let launch = launch.long(rows).int(shape.h).int(shape.w).int(c).int(shape.ho).int(shape.wo);
    launch.int(kh).int(kw).int(stride).int(top).int(left).launch()?;
    Ok(y)
}
