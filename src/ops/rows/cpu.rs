//! The CPU bodies: copies of rows, by all threads.

use half::{bf16, f16};
use rayon::prelude::*;

use super::with_last;
use crate::dispatch;
use crate::error::Result;
use crate::tensor::{DType, Element, Real, Tensor, buffer};

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

pub fn concat_channels(x: &Tensor, y: &Tensor, [a, b]: [usize; 2]) -> Result<Tensor> {
    Ok(stored!(x.dtype(), T => concat::<T>(x, y, a, b)))
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

pub fn slice_channels(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    Ok(stored!(x.dtype(), T => {
        let c = x.shape().last().copied().unwrap_or(1).max(1);
        let xs = x.data::<T>();
        let mut out = buffer::<T>(xs.len() / c * len);
        out.par_chunks_mut(len.max(1))
            .with_min_len(rows_a_task(len))
            .zip(xs.par_chunks(c))
            .for_each(|(out, x)| out.copy_from_slice(&x[start..][..len]));
        Tensor::new(out, &with_last(x, len))
    }))
}

/// The gradient of [`slice_channels`]: `dy` from channel `start` of `c` on, zeros elsewhere.
pub fn spread_channels(dy: &Tensor, start: usize, c: usize) -> Result<Tensor> {
    let len = dy.shape().last().copied().unwrap_or(0);
    Ok(stored!(dy.dtype(), T => spread::<T>(dy, start, len, c)))
}

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

pub fn select_rows(x: &Tensor, numbers: &Tensor, [n, _, c]: [usize; 3]) -> Result<Tensor> {
    Ok(stored!(x.dtype(), T => {
        let xs = x.data::<T>();
        let picked = numbers.data::<i64>().iter().flat_map(|&number| &xs[number as usize * c..][..c]);
        Tensor::new(picked.copied().collect::<Vec<T>>(), &[n, c])
    }))
}

/// The gradient of [`select_rows`]: zeros but for the selected rows.
pub fn spread_rows(dy: &Tensor, numbers: &Tensor, [n, t, c]: [usize; 3]) -> Result<Tensor> {
    Ok(stored!(dy.dtype(), T => {
        let dys = dy.data::<T>();
        let mut dx = vec![T::default(); n * t * c];
        for (i, &number) in numbers.data::<i64>().iter().enumerate() {
            dx[number as usize * c..][..c].copy_from_slice(&dys[i * c..][..c]);
        }
        Tensor::new(dx, &[n, t, c])
    }))
}

pub fn embedding(table: &Tensor, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
    // A row is copied as bytes, whatever its dtype.
    Ok(dispatch!(table.dtype(), T => lookup::<T>(table, ids, shape)))
}

fn lookup<T: Real>(table: &Tensor, ids: &Tensor, shape: &[usize]) -> Tensor {
    let d = table.shape()[1];
    let mut out = buffer::<T>(ids.len() * d);
    out.par_chunks_mut(d.max(1)).zip(ids.data::<i64>()).for_each(|(out, &id)| {
        // Only the row is widened: the table is large.
        out.copy_from_slice(&table.view(id as usize * d, &[d]).reals::<T>());
    });
    Tensor::from_reals(out, shape, table.dtype())
}

/// The gradient of a table `[v, d]`, in the accumulator dtype: rows of `dy` added up in the order of the ids.
pub fn embedding_backward(dy: &Tensor, ids: &Tensor, [v, d]: [usize; 2]) -> Result<Tensor> {
    let dtype = dy.dtype().master_dtype();
    Ok(dispatch!(dtype, T => {
        let dys = dy.reals::<T>();
        let mut dtable = vec![T::default(); v * d];
        for (&id, dy) in ids.data::<i64>().iter().zip(dys.chunks_exact(d.max(1))) {
            for (sum, &g) in dtable[id as usize * d..][..d].iter_mut().zip(dy) {
                *sum += g;
            }
        }
        Tensor::from_reals(dtable, &[v, d], dtype)
    }))
}

pub fn timestep_embedding(timesteps: &Tensor, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Tensor> {
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

pub fn upsample_nearest(x: &Tensor, [_, h, w, _]: [usize; 4], [height, width]: [usize; 2]) -> Result<Tensor> {
    Ok(dispatch!(x.dtype(), T => upsample::<T>(x, &sources(h, height), &sources(w, width))))
}

/// Each source pixel gathers the gradients of its copies, row by row.
pub fn upsample_nearest_backward(dy: &Tensor, from: [usize; 4], [height, width]: [usize; 2]) -> Result<Tensor> {
    let [_, h, w, _] = from;
    Ok(dispatch!(dy.dtype(), T => gather::<T>(dy, &sources(h, height), &sources(w, width), from)))
}

/// The source of each of `to` positions among `from`. The ratio is rounded to f32 first, as PyTorch does.
fn sources(from: usize, to: usize) -> Vec<usize> {
    let ratio = from as f32 / to as f32;
    (0..to).map(|i| ((i as f32 * ratio) as usize).min(from - 1)).collect()
}

fn upsample<T: Real>(x: &Tensor, ys: &[usize], xs: &[usize]) -> Tensor {
    let &[n, h, w, c] = x.shape() else { unreachable!("checked by the op") };
    let data = x.reals::<T>();
    let mut out = buffer::<T>(n * ys.len() * xs.len() * c);
    out.par_chunks_mut(xs.len() * c).enumerate().for_each(|(i, out)| {
        let (sample, y) = (i / ys.len(), ys[i % ys.len()]);
        let row = &data[(sample * h + y) * w * c..][..w * c];
        for (out, &x) in out.chunks_exact_mut(c).zip(xs) {
            out.copy_from_slice(&row[x * c..][..c]);
        }
    });
    Tensor::from_reals(out, &[n, ys.len(), xs.len(), c], x.dtype())
}

fn gather<T: Real>(dy: &Tensor, ys: &[usize], xs: &[usize], shape: [usize; 4]) -> Tensor {
    let [_, h, w, c] = shape;
    let data = dy.reals::<T>();
    let mut dx = vec![T::default(); shape.iter().product()];
    dx.par_chunks_mut(w * c).enumerate().for_each(|(i, dx)| {
        let (sample, y) = (i / h, i % h);
        for (above, _) in ys.iter().enumerate().filter(|&(_, &source)| source == y) {
            let row = &data[(sample * ys.len() + above) * xs.len() * c..][..xs.len() * c];
            for (dy, &x) in row.chunks_exact(c).zip(xs) {
                for (sum, &g) in dx[x * c..][..c].iter_mut().zip(dy) {
                    *sum += g;
                }
            }
        }
    });
    Tensor::from_reals(dx, &shape, dy.dtype())
}

fn rows_a_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}
