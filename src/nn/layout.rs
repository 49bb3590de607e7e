//! PyTorch's channels-first layout, which files have, to and from our channels-last one.

use half::{bf16, f16};

use crate::error::Result;
use crate::tensor::{DType, Element, Tensor, buffer};

/// `[n, c, h, w]` -> `[n, h, w, c]`; for convolution weights `[c_out, c_in, kh, kw]` -> `[c_out, kh, kw, c_in]`.
///
/// # Errors
/// [`crate::Error::Shape`] where `x` does not have four dimensions.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    let [n, c, h, w] = x.dims("channels_last")?;
    Ok(transpose(x, c, h * w, &[n, h, w, c]))
}

/// `[n, h, w, c]` -> `[n, c, h, w]`, the inverse of [`channels_last`].
///
/// # Errors
/// As [`channels_last`].
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("channels_first")?;
    Ok(transpose(x, h * w, c, &[n, c, h, w]))
}

/// Transposes each `[rows, columns]` matrix of `x`; the result has `shape`.
fn transpose(x: &Tensor, rows: usize, columns: usize, shape: &[usize]) -> Tensor {
    fn of<T: Element>(x: &Tensor, rows: usize, columns: usize, shape: &[usize]) -> Tensor {
        let from = x.data::<T>();
        let mut to = buffer::<T>(from.len());
        if rows * columns > 0 {
            for (from, to) in from.chunks_exact(rows * columns).zip(to.chunks_exact_mut(rows * columns)) {
                for (column, to) in to.chunks_exact_mut(rows).enumerate() {
                    for (row, to) in to.iter_mut().enumerate() {
                        *to = from[row * columns + column];
                    }
                }
            }
        }
        Tensor::new(to, shape)
    }
    match x.dtype() {
        DType::F32 => of::<f32>(x, rows, columns, shape),
        DType::F64 => of::<f64>(x, rows, columns, shape),
        DType::Bf16 => of::<bf16>(x, rows, columns, shape),
        DType::F16 => of::<f16>(x, rows, columns, shape),
        DType::I64 => of::<i64>(x, rows, columns, shape),
    }
}
