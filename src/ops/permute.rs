//! Ops that move data: concat and slice of channels, row selection, reshape.

use half::{bf16, f16};
use rayon::prelude::*;

use super::on_gpu;
use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, Tensor, buffer};

/// Elements that one task moves at least.
const CHUNK: usize = 1 << 13;

/// Calls a body that only moves elements with `$T` = the stored type.
macro_rules! stored {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::Bf16 => {
                type $T = bf16;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::I64 => {
                type $T = i64;
                $body
            }
        }
    };
}

/// `[.., a]` and `[.., b]` -> `[.., a + b]`.
pub fn concat_channels(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "concat_channels";
    let ((_, a), (_, b)) = (x.rows(OP)?, y.rows(OP)?);
    let leading = |t: &Tensor| t.shape()[..t.shape().len() - 1].to_vec();
    if leading(x) != leading(y) || x.dtype() != y.dtype() {
        return Err(Error::shape(OP, format!("{x:?} and {y:?} differ before the last dimension")));
    }
    if on_gpu::holds(OP, &[x, y])? {
        return on_gpu::concat_channels(tape, x, y, [a, b], &with_last(x, a + b));
    }
    let out = stored!(x.dtype(), T => concat::<T>(x, y, a, b));
    tape.record(OP, [x, y], &out, move |dy, [wants_x, wants_y]| {
        Ok([wants_x.then(|| cut(dy, 0, a)), wants_y.then(|| cut(dy, a, b))])
    });
    Ok(out)
}

fn concat<T: Element>(x: &Tensor, y: &Tensor, a: usize, b: usize) -> Tensor {
    let (xs, ys) = (x.data::<T>(), y.data::<T>());
    let c = a + b;
    let mut out = buffer::<T>(xs.len() + ys.len());
    out.par_chunks_mut(c.max(1)).with_min_len(rows_a_task(c)).enumerate().for_each(|(i, row)| {
        row[..a].copy_from_slice(&xs[i * a..][..a]);
        row[a..].copy_from_slice(&ys[i * b..][..b]);
    });
    Tensor::new(out, &with_last(x, c))
}

/// `x[.., start..start + len]`.
pub fn slice_channels(tape: &Tape, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    const OP: &str = "slice_channels";
    let (_, c) = x.rows(OP)?;
    if start.checked_add(len).is_none_or(|end| end > c) {
        return Err(Error::shape(OP, format!("{start}..+{len} leaves the last dimension of {x:?}")));
    }
    if on_gpu::holds(OP, &[x])? {
        return on_gpu::slice_channels(tape, x, start, &with_last(x, len));
    }
    let out = cut(x, start, len);
    tape.record(OP, [x], &out, move |dy, _| Ok([Some(stored!(dy.dtype(), T => spread::<T>(dy, start, len, c)))]));
    Ok(out)
}

fn cut(x: &Tensor, start: usize, len: usize) -> Tensor {
    stored!(x.dtype(), T => {
        let c = x.shape().last().copied().unwrap_or(1).max(1);
        let xs = x.data::<T>();
        let mut out = buffer::<T>(xs.len() / c * len);
        out.par_chunks_mut(len.max(1))
            .with_min_len(rows_a_task(len))
            .zip(xs.par_chunks(c))
            .for_each(|(out, x)| out.copy_from_slice(&x[start..][..len]));
        Tensor::new(out, &with_last(x, len))
    })
}

/// The reverse of [`cut`], with zeros around.
fn spread<T: Element>(x: &Tensor, start: usize, len: usize, c: usize) -> Tensor {
    let xs = x.data::<T>();
    let shape = with_last(x, c);
    let mut out = vec![T::default(); shape.iter().product()];
    out.par_chunks_mut(c.max(1))
        .with_min_len(rows_a_task(c))
        .zip(xs.par_chunks(len.max(1)))
        .for_each(|(out, x)| out[start..][..len].copy_from_slice(x));
    Tensor::new(out, &shape)
}

/// `x` `[n, t, c]`, one row a sample -> `[n, c]` with `y[i] = x[i, rows[i]]`.
pub fn select_rows(tape: &Tape, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
    const OP: &str = "select_rows";
    let [n, t, c] = x.dims(OP)?;
    if rows.len() != n || rows.iter().any(|&row| row >= t) {
        return Err(Error::shape(OP, format!("rows {rows:?} do not fit {x:?}")));
    }
    if on_gpu::holds(OP, &[x])? {
        return on_gpu::select_rows(tape, x, rows, [n, t, c]);
    }
    let out = stored!(x.dtype(), T => {
        let xs = x.data::<T>();
        let picked = rows.iter().enumerate().flat_map(|(i, row)| &xs[(i * t + row) * c..][..c]);
        Tensor::new(picked.copied().collect::<Vec<T>>(), &[n, c])
    });
    let rows = rows.to_vec();
    tape.record(OP, [x], &out, move |dy, _| {
        Ok([Some(stored!(dy.dtype(), T => {
            let dys = dy.data::<T>();
            let mut dx = vec![T::default(); n * t * c];
            for (i, row) in rows.iter().enumerate() {
                dx[(i * t + row) * c..][..c].copy_from_slice(&dys[i * c..][..c]);
            }
            Tensor::new(dx, &[n, t, c])
        }))])
    });
    Ok(out)
}

/// The same values under another shape.
pub fn reshape(tape: &Tape, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.len() != shape.iter().product::<usize>() {
        return Err(Error::shape("reshape", format!("{x:?} does not fill {shape:?}")));
    }
    let out = x.with_shape(shape);
    let before = x.shape().to_vec();
    tape.record("reshape", [x], &out, move |dy, _| Ok([Some(dy.with_shape(&before))]));
    Ok(out)
}

fn rows_a_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// The shape of `x` with another last dimension.
fn with_last(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if let Some(c) = shape.last_mut() {
        *c = last;
    }
    shape
}
