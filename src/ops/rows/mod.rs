//! Ops that look up, select, reorder and repeat rows or pixels: concat and slice of channels, row selection, token lookup,
//! timestep embedding, nearest-neighbour upsampling, reshape.

pub(super) mod cpu;
pub(super) mod gpu;

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, device_of, float};

/// `[.., a]` and `[.., b]` -> `[.., a + b]`.
///
/// # Errors
/// [`Error::Shape`] where the two differ before the last dimension, in dtype or in device; what a GPU says, here and below.
pub fn concat_channels(tape: &Tape, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    const OP: &str = "concat_channels";
    let ((_, a), (_, b)) = (x.rows(OP)?, y.rows(OP)?);
    let leading = |t: &Tensor| t.shape()[..t.shape().len() - 1].to_vec();
    if leading(x) != leading(y) || x.dtype() != y.dtype() {
        return Err(Error::shape(OP, format!("{x:?} and {y:?} differ before the last dimension")));
    }
    let device = device_of(OP, &[x, y])?;
    let out = on!(device, concat_channels(x, y, [a, b]))?;
    tape.record(OP, [x, y], &out, move |dy, [wants_x, wants_y]| {
        let part = |wanted: bool, start, len| wanted.then(|| on!(device, slice_channels(dy, start, len))).transpose();
        Ok([part(wants_x, 0, a)?, part(wants_y, a, b)?])
    });
    Ok(out)
}

/// `x[.., start..start + len]`.
///
/// # Errors
/// [`Error::Shape`] where that leaves the last dimension.
pub fn slice_channels(tape: &Tape, x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    const OP: &str = "slice_channels";
    let (_, c) = x.rows(OP)?;
    if start.checked_add(len).is_none_or(|end| end > c) {
        return Err(Error::shape(OP, format!("{start}..+{len} leaves the last dimension of {x:?}")));
    }
    let device = device_of(OP, &[x])?;
    let out = on!(device, slice_channels(x, start, len))?;
    tape.record(OP, [x], &out, move |dy, _| Ok([Some(on!(device, spread_channels(dy, start, c))?)]));
    Ok(out)
}

/// `x` `[n, t, c]`, one row a sample -> `[n, c]` with `y[i] = x[i, rows[i]]`.
///
/// # Errors
/// [`Error::Shape`] where there is no such row, or not one a sample.
pub fn select_rows(tape: &Tape, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
    const OP: &str = "select_rows";
    let [n, t, _] = x.dims(OP)?;
    if rows.len() != n || rows.iter().any(|&row| row >= t) {
        return Err(Error::shape(OP, format!("rows {rows:?} do not fit {x:?}")));
    }
    let numbers = rows.iter().enumerate().map(|(i, row)| (i * t + row) as i64).collect();
    select_numbered_rows(tape, x, &Tensor::new(numbers, &[n]).to(&x.device())?)
}

/// The same with i64 `numbers` `[n]` where `x` is, which count rows through all samples: that of row r of sample i is `i t + r`.
/// On a GPU nobody checks that there are such rows.
///
/// # Errors
/// [`Error::Shape`] where there is not one a sample, or on the CPU no such row.
pub fn select_numbered_rows(tape: &Tape, x: &Tensor, numbers: &Tensor) -> Result<Tensor> {
    const OP: &str = "select_rows";
    let sizes @ [n, t, _] = x.dims(OP)?;
    let device = device_of(OP, &[x, numbers])?;
    let within = |(i, &number): (usize, &i64)| (i * t..(i + 1) * t).contains(&(number as usize));
    let known = |all: &[i64]| all.iter().enumerate().all(within);
    if numbers.shape() != [n] || numbers.dtype() != DType::I64 || (device == Device::Cpu && !known(numbers.data())) {
        return Err(Error::shape(OP, format!("rows {numbers:?} do not fit {x:?}")));
    }
    let out = on!(device, select_rows(x, numbers, sizes))?;
    let numbers = numbers.clone();
    tape.record(OP, [x], &out, move |dy, _| Ok([Some(on!(device, spread_rows(dy, &numbers, sizes))?)]));
    Ok(out)
}

/// Rows of `table` `[v, d]` for i64 `ids` of any shape `[..]` -> `[.., d]`, in the dtype of `table`. The ids are on the
/// CPU; they may be where the table is if it has no gradient, and on a GPU nobody checks then that there are such rows.
///
/// # Errors
/// [`Error::Shape`] on an id outside the table, or other dtypes.
pub fn embedding(tape: &Tape, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    let sizes @ [v, d] = table.dims(OP)?;
    if ids.dtype().is_float() || !table.dtype().is_float() {
        return Err(Error::shape(OP, format!("expected i64 ids and a float table, got {ids:?} and {table:?}")));
    }
    let seen = ids.device() == Device::Cpu;
    if let Some(id) = seen.then(|| ids.data::<i64>().iter().find(|&&id| id < 0 || id >= v as i64)).flatten() {
        return Err(Error::shape(OP, format!("id {id} is not in a table of {v} rows")));
    }
    let mut shape = ids.shape().to_vec();
    shape.push(d);
    let device = if seen { device_of(OP, &[table])? } else { device_of(OP, &[table, ids])? };
    let out = on!(device, embedding(table, ids, &shape))?;
    let ids = ids.clone();
    tape.record(OP, [table], &out, move |dy, _| {
        if !seen {
            return Err(Error::shape(OP, "the gradient of a table needs its ids on the CPU"));
        }
        Ok([Some(on!(device, embedding_backward(dy, &ids, sizes))?)])
    });
    Ok(out)
}

/// diffusers' `get_timestep_embedding` of `timesteps`, n values in f32 -> f32 `[n, dim]` (cast by the caller); no gradient.
/// Frequencies are `10000^(-i / (dim/2 - freq_shift))`; an odd `dim` ends in a column of zeros.
///
/// # Errors
/// [`Error::Shape`] for another dtype.
pub fn timestep_embedding(timesteps: &Tensor, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Tensor> {
    const OP: &str = "timestep_embedding";
    if timesteps.dtype() != DType::F32 {
        return Err(Error::shape(OP, format!("expected f32, got {timesteps:?}")));
    }
    on!(device_of(OP, &[timesteps])?, timestep_embedding(timesteps, dim, flip_sin_to_cos, freq_shift))
}

/// `x` `[n, h, w, c]` -> `[n, height, width, c]`, source index `floor(i * h / height)` as PyTorch's
/// `interpolate(mode="nearest")`.
///
/// # Errors
/// [`Error::Shape`] for integers, or where there are no pixels.
pub fn upsample_nearest(tape: &Tape, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    const OP: &str = "upsample_nearest";
    float(OP, x)?;
    let (from, to) = (x.dims(OP)?, [height, width]);
    if x.is_empty() || height == 0 || width == 0 {
        return Err(Error::shape(OP, format!("{x:?} to {height}x{width} has no pixels")));
    }
    let device = device_of(OP, &[x])?;
    let out = on!(device, upsample_nearest(x, from, to))?;
    tape.record(OP, [x], &out, move |dy, _| Ok([Some(on!(device, upsample_nearest_backward(dy, from, to))?)]));
    Ok(out)
}

/// The same values under another shape.
///
/// # Errors
/// [`Error::Shape`] where the number of values differs.
pub fn reshape(tape: &Tape, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.len() != shape.iter().product::<usize>() {
        return Err(Error::shape("reshape", format!("{x:?} does not fill {shape:?}")));
    }
    let out = x.with_shape(shape);
    let before = x.shape().to_vec();
    tape.record("reshape", [x], &out, move |dy, _| Ok([Some(dy.with_shape(&before))]));
    Ok(out)
}

/// The shape of `x` with another last dimension.
fn with_last(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if let Some(c) = shape.last_mut() {
        *c = last;
    }
    shape
}
