//! Lookups and reorderings of rows.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::embedding as kernels;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::embedding`, with `ids` on the CPU, which has checked them; the result has `shape`.
pub fn embedding(tape: &Tape, table: &Tensor, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let size = [table.shape()[0], table.shape()[1]];
    let out = Tensor::on_gpu(kernels::embedding(&of(table)?, ids.data(), size)?, shape);
    let ids = ids.clone();
    tape.record("embedding", [table], &out, move |dy, _| {
        let gradient = kernels::embedding_backward(&of(dy)?, ids.data(), size)?;
        Ok([Some(Tensor::on_gpu(gradient, &size))])
    });
    Ok(out)
}

/// As `ops::timestep_embedding`.
pub fn timestep_embedding(timesteps: &Tensor, dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Result<Tensor> {
    let embedded = kernels::timestep_embedding(&of(timesteps)?, dim, flip_sin_to_cos, freq_shift as f32)?;
    Ok(Tensor::on_gpu(embedded, &[timesteps.len(), dim]))
}

/// As `ops::concat_channels` of `[.., a]` and `[.., b]`; the result has `shape`.
pub fn concat_channels(tape: &Tape, x: &Tensor, y: &Tensor, [a, b]: [usize; 2], shape: &[usize]) -> Result<Tensor> {
    let rows = shape[..shape.len() - 1].iter().product();
    let out = Tensor::on_gpu(kernels::concat_channels(&of(x)?, &of(y)?, rows, [a, b])?, shape);
    let inputs = [x, y];
    let shapes = inputs.map(|t| t.shape().to_vec());
    tape.record("concat_channels", inputs, &out, move |dy, wants| {
        let dy = of(dy)?;
        let mut gradients = [None, None];
        for (i, (offset, width)) in [(0, a), (a, b)].into_iter().enumerate() {
            if wants[i] {
                let part = kernels::slice_channels(&dy, rows, a + b, offset, width)?;
                gradients[i] = Some(Tensor::on_gpu(part, &shapes[i]));
            }
        }
        Ok(gradients)
    });
    Ok(out)
}

/// As `ops::slice_channels` of `[.., c]`; the result has `shape`, whose last dimension is what is taken.
pub fn slice_channels(tape: &Tape, x: &Tensor, start: usize, shape: &[usize]) -> Result<Tensor> {
    let (rows, c) = x.rows("slice_channels")?;
    let len = shape[shape.len() - 1];
    let out = Tensor::on_gpu(kernels::slice_channels(&of(x)?, rows, c, start, len)?, shape);
    let whole = x.shape().to_vec();
    tape.record("slice_channels", [x], &out, move |dy, _| {
        let dx = kernels::spread_channels(&of(dy)?, rows, c, start, len)?;
        Ok([Some(Tensor::on_gpu(dx, &whole))])
    });
    Ok(out)
}

/// As `ops::select_rows` of `x` `[n, t, c]`: a lookup among all `n t` rows.
pub fn select_rows(tape: &Tape, x: &Tensor, rows: &[usize], [n, t, c]: [usize; 3]) -> Result<Tensor> {
    let ids: Vec<i64> = rows.iter().enumerate().map(|(i, row)| (i * t + row) as i64).collect();
    let out = Tensor::on_gpu(kernels::embedding(&of(x)?, &ids, [n * t, c])?, &[n, c]);
    tape.record("select_rows", [x], &out, move |dy, _| {
        let dx = kernels::spread_rows(&of(dy)?, &ids, [t, c])?;
        Ok([Some(Tensor::on_gpu(dx, &[n, t, c]))])
    });
    Ok(out)
}

/// As `ops::upsample_nearest` of `[n, h, w, c]`.
pub fn upsample_nearest(tape: &Tape, x: &Tensor, from: [usize; 4], to: [usize; 2]) -> Result<Tensor> {
    let [n, _, _, c] = from;
    let out = Tensor::on_gpu(kernels::upsample_nearest(&of(x)?, from, to)?, &[n, to[0], to[1], c]);
    tape.record("upsample_nearest", [x], &out, move |dy, _| {
        let dx = kernels::upsample_nearest_backward(&of(dy)?, from, to)?;
        Ok([Some(Tensor::on_gpu(dx, &from))])
    });
    Ok(out)
}
