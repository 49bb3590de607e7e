//! Token lookup and sinusoidal timestep embedding.

use crate::autograd::Tape;
use crate::error::Result;
use crate::tensor::Tensor;

/// Rows of `table` `[v, d]` for i64 `ids` of any shape `[..]` -> `[.., d]`. Fails on an id outside the table.
pub fn embedding(tape: &Tape, table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    todo!()
}

/// diffusers' `get_timestep_embedding` of `timesteps` -> f32 `[n, dim]` (cast by the caller); no gradient.
pub fn timestep_embedding(timesteps: &[f32], dim: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Tensor {
    todo!()
}
