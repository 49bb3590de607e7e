//! Token lookup and sinusoidal timestep embedding.

use rayon::prelude::*;

use super::on_gpu;
use crate::autograd::Tape;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{DType, Real, Tensor, buffer};

/// Rows of `table` `[v, d]` for i64 `ids` of any shape `[..]` -> `[.., d]`, in the dtype of `table`. The ids are on the
/// CPU wherever the table is.
///
/// # Errors
/// On an id outside the table.
pub fn embedding(tape: &Tape, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    let [v, d] = table.dims(OP)?;
    if ids.dtype().is_float() || !table.dtype().is_float() {
        return Err(Error::shape(OP, format!("expected i64 ids and a float table, got {ids:?} and {table:?}")));
    }
    if let Some(id) = ids.data::<i64>().iter().find(|&&id| id < 0 || id >= v as i64) {
        return Err(Error::shape(OP, format!("id {id} is not in a table of {v} rows")));
    }
    let mut shape = ids.shape().to_vec();
    shape.push(d);
    if on_gpu::holds(OP, &[table])? {
        return on_gpu::embedding(tape, table, ids, &shape);
    }
    // A row is copied as bytes, whatever its dtype.
    let out = dispatch!(table.dtype(), T => lookup::<T>(table, ids, d, &shape));
    let (ids, dtype) = (ids.clone(), table.dtype().accumulator());
    tape.record(OP, [table], &out, move |dy, _| {
        Ok([Some(dispatch!(dtype, T => {
            let dys = dy.reals::<T>();
            let mut dtable = vec![T::default(); v * d];
            for (&id, dy) in ids.data::<i64>().iter().zip(dys.chunks_exact(d.max(1))) {
                for (sum, &g) in dtable[id as usize * d..][..d].iter_mut().zip(dy) {
                    *sum += g;
                }
            }
            Tensor::from_reals(dtable, &[v, d], dtype)
        }))])
    });
    Ok(out)
}

fn lookup<T: Real>(table: &Tensor, ids: &Tensor, d: usize, shape: &[usize]) -> Tensor {
    let mut out = buffer::<T>(ids.len() * d);
    out.par_chunks_mut(d.max(1)).zip(ids.data::<i64>()).for_each(|(out, &id)| {
        // Only the row is widened: the table is large.
        out.copy_from_slice(&table.view(id as usize * d, &[d]).reals::<T>());
    });
    Tensor::from_reals(out, shape, table.dtype())
}

/// diffusers' `get_timestep_embedding` of `timesteps`, n values in f32 -> f32 `[n, dim]` (cast by the caller); no gradient.
/// Frequencies are `10000^(-i / (dim/2 - freq_shift))`; an odd `dim` ends in a column of zeros.
///
/// # Errors
/// [`Error::Shape`] for another type; what a GPU says.
pub fn timestep_embedding(timesteps: &Tensor, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Tensor> {
    const OP: &str = "timestep_embedding";
    if timesteps.dtype() != DType::F32 {
        return Err(Error::shape(OP, format!("expected f32, got {timesteps:?}")));
    }
    if on_gpu::holds(OP, &[timesteps])? {
        return on_gpu::timestep_embedding(timesteps, dim, flip_sin_to_cos, freq_shift);
    }
    const LONGEST_PERIOD: f64 = 10_000.0;
    let half = dim / 2;
    let mut out = vec![0.0_f32; timesteps.len() * dim];
    for (row, &t) in out.chunks_exact_mut(dim.max(1)).zip(timesteps.data::<f32>()) {
        for i in 0..half {
            let frequency = (-LONGEST_PERIOD.ln() * i as f64 / (half as f64 - freq_shift)).exp();
            let (sin, cos) = (f64::from(t) * frequency).sin_cos();
            let (first, second) = if flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
            row[i] = first as f32;
            row[half + i] = second as f32;
        }
    }
    Ok(Tensor::new(out, &[timesteps.len(), dim]))
}
