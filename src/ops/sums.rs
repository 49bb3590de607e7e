//! Sums over rows on a GPU, by `sums.cu`: what the gradients of parameters end with.

use super::on_gpu;
use crate::device::gpu::sums as launch;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x` `[rows, c]` -> f32 `[c]`, each column added up in a fixed order.
pub fn sum_rows(x: &Tensor, [rows, c]: [usize; 2]) -> Result<Tensor> {
    Ok(Tensor::on_gpu(launch::sum_rows(&on_gpu::of(x)?, rows, c)?, &[c]))
}

/// [`sum_rows`] of each of n matrices: `x` `[n, rows, c]` -> f32 `[n, c]`.
pub fn sum_rows_of_each(x: &Tensor, [n, rows, c]: [usize; 3]) -> Result<Tensor> {
    Ok(Tensor::on_gpu(launch::sum_rows_of_each(&on_gpu::of(x)?, [n, rows, c])?, &[n, c]))
}
