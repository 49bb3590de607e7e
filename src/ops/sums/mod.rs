//! Sums over rows and pixels: what the gradients of parameters end with. No tape records them.

mod cpu;
pub(super) mod gpu;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of};

/// `x` `[rows, c]` -> `[c]`, f32 (f64 for an f64 `x`), each column added up in a fixed order.
///
/// # Errors
/// [`Error::Shape`] where `x` has another number of elements; what a GPU says.
pub fn sum_rows(x: &Tensor, [rows, c]: [usize; 2]) -> Result<Tensor> {
    const OP: &str = "sum_rows";
    expect(OP, x, &[rows, c])?;
    on!(device_of(OP, &[x])?, sum_rows(x, [rows, c]))
}

/// `x` `[n, pixels, c]` -> `[n, c]` in the same dtype: the gradient of what each pixel got.
///
/// # Errors
/// As [`sum_rows`].
pub fn sum_pixels(x: &Tensor, sizes: [usize; 3]) -> Result<Tensor> {
    const OP: &str = "sum_pixels";
    expect(OP, x, &sizes)?;
    on!(device_of(OP, &[x])?, sum_pixels(x, sizes))
}

fn expect(op: &'static str, x: &Tensor, shape: &[usize]) -> Result<()> {
    match x.len() == shape.iter().product::<usize>() {
        true => Ok(()),
        false => Err(Error::shape(op, format!("{x:?} does not have the elements of {shape:?}"))),
    }
}
