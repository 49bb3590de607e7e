//! Launches of `attention.cu` and `attention_backward.cu`. Heads that are too wide for them: `gpu_unfused.rs`.

use super::{Shape, gpu_unfused};
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{Launcher, MOST_SHARED_BYTES};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The kernels for heads of up to `size` channels.
struct Kernels {
    size: usize,
    forward: &'static Kernel,
    backward_q: &'static Kernel,
    backward_kv: &'static Kernel,
}

static KERNELS: [Kernels; 5] = [
    Kernels {
        size: 32,
        forward: &kernels::ATTENTION_FORWARD_32,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_32,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_32,
    },
    Kernels {
        size: 48,
        forward: &kernels::ATTENTION_FORWARD_48,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_48,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_48,
    },
    Kernels {
        size: 64,
        forward: &kernels::ATTENTION_FORWARD_64,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_64,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_64,
    },
    Kernels {
        size: 80,
        forward: &kernels::ATTENTION_FORWARD_80,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_80,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_80,
    },
    Kernels {
        size: 160,
        forward: &kernels::ATTENTION_FORWARD_160,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_160,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_160,
    },
];

/// The result, like `q`; and for the backward pass the result again, and the logarithm of each row's sum of exponentials,
/// f32 `[n, heads, tq]`: neither for a wide head.
pub fn forward(shape: &Shape, [q, k, v]: [&Tensor; 3]) -> Result<(Tensor, Vec<Tensor>)> {
    let Some(kernels) = shape.kernels() else {
        return Ok((gpu_unfused::forward(shape, [q, k, v])?, Vec::new()));
    };
    let Shape { n, tq, tk, heads, causal, .. } = *shape;
    let y = q.empty_like()?;
    let log_sums = q.new_empty(&[n, heads, tq], DType::F32)?;
    let launch = shape.over(q.kernel(kernels.forward)?, tq, kernels.size, 1, q.dtype());
    let launch = launch.output(&y).output(&log_sums).input(q).input(k).input(v);
    shape.heads(launch.int(tq).int(tk)).int(causal.into()).launch()?;
    Ok((y.clone(), vec![y, log_sums]))
}

/// The gradients of q, k and v where wanted.
pub fn backward(
    shape: &Shape,
    [q, k, v]: [&Tensor; 3],
    saved: &[Tensor],
    dy: &Tensor,
    wants: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let (Some(kernels), [y, log_sums]) = (shape.kernels(), saved) else {
        return gpu_unfused::backward(shape, [q, k, v], dy, wants);
    };
    let Shape { tq, tk, heads, n, causal, .. } = *shape;
    let dtype = q.dtype();
    let delta = log_sums.empty_like()?;
    let threads = kernels::ATTENTION_THREADS;
    let launch = q.kernel(&kernels::ATTENTION_BACKWARD_DELTA)?.block(threads);
    let launch = launch.grid([tq.div_ceil(threads / 32), heads, n]);
    shape.heads(launch.output(&delta).input(dy).input(y).int(tq)).launch()?;

    let mut gradients = [const { None }; 3];
    if wants[0] {
        let dq = q.empty_like()?;
        let launch = shape.over(q.kernel(kernels.backward_q)?, tq, kernels.size, 2, dtype);
        let launch = launch.output(&dq).input(dy).input(q).input(k).input(v).input(log_sums).input(&delta);
        shape.heads(launch.int(tq).int(tk)).int(causal.into()).launch()?;
        gradients[0] = Some(dq);
    }
    if wants[1] || wants[2] {
        let (dk, dv) = (k.empty_like()?, v.empty_like()?);
        let launch = shape.over(q.kernel(kernels.backward_kv)?, tk, kernels.size, 2, dtype);
        let launch = launch.output(&dk).output(&dv).input(dy).input(q).input(k).input(v);
        let launch = launch.input(log_sums).input(&delta);
        shape.heads(launch.int(tq).int(tk)).int(causal.into()).launch()?;
        (gradients[1], gradients[2]) = (wants[1].then_some(dk), wants[2].then_some(dv));
    }
    Ok(gradients)
}

impl Shape {
    /// The kernels for heads of this size; none for wider ones than they keep.
    fn kernels(&self) -> Option<&'static Kernels> {
        KERNELS.iter().find(|kernels| self.size <= kernels.size)
    }

    /// Blocks that keep `kept` tiles of rows of a kernel for `size` channels: four warps, or two where shared memory does
    /// not suffice for four.
    fn over<'a>(&self, launch: Launcher<'a>, rows: usize, size: usize, kept: usize, dtype: DType) -> Launcher<'a> {
        let shared = |warps: usize| {
            let rows = kept * warps * kernels::ATTENTION_ROWS + 2 * kernels::ATTENTION_TILE;
            let tiles = rows * (size * dtype.size() + 16);
            let scratch = if dtype == DType::F32 { warps * kernels::ATTENTION_ROWS } else { 0 };
            // Two values for each row that is walked along.
            tiles + (scratch + 2) * kernels::ATTENTION_TILE * size_of::<f32>()
        };
        let most = kernels::ATTENTION_THREADS / 32;
        let warps = if shared(most) <= MOST_SHARED_BYTES { most } else { most / 2 };
        let blocks = rows.div_ceil(warps * kernels::ATTENTION_ROWS);
        launch.grid([blocks, self.heads, self.n]).block(warps * 32).dynamic_shared(shared(warps))
    }

    /// The number of heads and their size.
    fn heads<'a>(&self, launch: Launcher<'a>) -> Launcher<'a> {
        launch.int(self.heads).int(self.size)
    }
}
