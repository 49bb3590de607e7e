//! Launches of `attention.cu` and `attention_backward.cu`. Heads that are too wide for them: `gpu_unfused.rs`.

use super::{OP, Shape, gpu_unfused};
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{ENOUGH_BLOCKS, Launcher, pack};
use crate::error::Result;
use crate::ops::sums::gpu::{Finish, sum_slices};
use crate::tensor::{DType, Tensor};

/// Queries that pay for a slice of their own.
const LEAST_QUERIES: usize = 256;

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
        size: 40,
        forward: &kernels::ATTENTION_FORWARD_40,
        backward_q: &kernels::ATTENTION_BACKWARD_Q_40,
        backward_kv: &kernels::ATTENTION_BACKWARD_KV_40,
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

impl Kernels {
    /// Tensors whose rows attention_backward_kv keeps in registers, in 16 bits.
    fn held(&self) -> usize {
        usize::from(self.size <= kernels::ATTENTION_KV_HELD) + usize::from(self.size <= kernels::ATTENTION_K_HELD)
    }
}

/// What a block of a kernel for heads of `size` channels has: `Head` in `attention.h`.
#[derive(Clone, Copy)]
struct Block {
    size: usize,
    dtype: DType,
    warps: usize,
    rows_of_warp: usize,
}

impl Block {
    fn new(size: usize, dtype: DType) -> Self {
        let (narrow, floats) = (size <= kernels::ATTENTION_NARROW, dtype == DType::F32);
        let warps = kernels::ATTENTION_WARPS / if floats && !narrow { 2 } else { 1 };
        let rows_of_warp = kernels::ATTENTION_ROWS * if floats || !narrow { 1 } else { 2 };
        Self { size, dtype, warps, rows_of_warp }
    }

    fn rows(&self) -> usize {
        self.warps * self.rows_of_warp
    }

    /// `Layout`, two numbers for each row of two tiles, and `Scratch`.
    fn shared_bytes(&self, kept: usize, held: usize) -> usize {
        let tile = self.warps * kernels::ATTENTION_TILE;
        let (held, scratch) =
            if self.dtype == DType::F32 { (0, self.warps * kernels::ATTENTION_ROWS) } else { (held, 0) };
        let rows = (kept - held) * self.rows() + (held * self.rows()).max(4 * tile);
        let row = self.size.next_multiple_of(16) * self.dtype.size() + 16;
        rows * row + (scratch + 4) * tile * size_of::<f32>()
    }
}

/// The result, like `q`; and for the backward pass the result again, and the logarithm of each row's sum of exponentials,
/// f32 `[n, heads, tq]`: neither for a wide head.
pub fn forward(shape: &Shape, [q, k, v]: [&Tensor; 3]) -> Result<(Tensor, Vec<Tensor>)> {
    let Some(kernels) = shape.kernels() else {
        return Ok((gpu_unfused::forward(shape, [q, k, v])?, Vec::new()));
    };
    let Shape { n, tq, tk, heads, causal, .. } = *shape;
    let y = q.empty_like()?;
    let log_sums = q.new_empty(&[n, heads, tq], DType::F32)?;
    let launch = shape.over(q.kernel(kernels.forward)?, [tq, n], Block::new(kernels.size, q.dtype()), 1, 1);
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
    let block = Block::new(kernels.size, q.dtype());
    let delta = delta(dy, y, heads)?;
    let mut gradients = [const { None }; 3];
    if wants[0] {
        let dq = q.empty_like()?;
        let launch = shape.over(q.kernel(kernels.backward_q)?, [tq, n], block, 2, 2);
        let launch = launch.output(&dq).input(dy).input(q).input(k).input(v).input(log_sums).input(&delta);
        shape.heads(launch.int(tq).int(tk)).int(causal.into()).launch()?;
        gradients[0] = Some(dq);
    }
    if wants[1] || wants[2] {
        let both = k.new_empty(&[2, k.len()], k.dtype())?;
        let [dk, dv] = [0, 1].map(|i| both.view(i * k.len(), k.shape()));
        let slices = shape.slices(block, k.dtype());
        let parts = (slices > 1).then(|| k.new_empty(&[slices, 2 * k.len()], DType::F32)).transpose()?;
        let launch = shape.over(q.kernel(kernels.backward_kv)?, [tk, n * slices], block, 2, kernels.held());
        let whole = |gradient| parts.is_none().then_some(gradient);
        let launch = launch.output_if(whole(&dk)).output_if(whole(&dv)).output_if(parts.as_ref());
        let launch = launch.input(dy).input(q).input(k).input(v).input(log_sums).input(&delta);
        shape.heads(launch.int(tq).int(tk)).int(causal.into()).int(slices).launch()?;
        if let Some(parts) = &parts {
            let finish = Finish { alpha: 1.0, bias: None, t: None, residual: None };
            sum_slices(&both, parts, heads * shape.size, finish)?;
        }
        (gradients[1], gradients[2]) = (wants[1].then_some(dk), wants[2].then_some(dv));
    }
    Ok(gradients)
}

/// `dy y` of each head, f32 `[n, heads, tq]`, of `[n, tq, heads * size]`.
pub fn delta(dy: &Tensor, y: &Tensor, heads: usize) -> Result<Tensor> {
    let [n, tq, c] = y.dims(OP)?;
    let delta = y.new_empty(&[n, heads, tq], DType::F32)?;
    let threads = kernels::ATTENTION_THREADS;
    let launch = y.kernel(&kernels::ATTENTION_BACKWARD_DELTA)?.block(threads);
    let launch = launch.grid([tq.div_ceil(threads / kernels::ATTENTION_DELTA_LANES), heads, n]);
    launch.output(&delta).input(dy).input(y).int(tq).int(heads).int(c / heads).launch()?;
    Ok(delta)
}

impl Shape {
    /// The kernels for heads of this size; none for wider ones than they keep.
    fn kernels(&self) -> Option<&'static Kernels> {
        KERNELS.iter().find(|kernels| self.size <= kernels.size)
    }

    /// Slices of the queries that the gradients of k and v are summed up in side by side, where keys are too few to keep a
    /// GPU busy: those of a text. It depends on the sizes alone, and so do results.
    fn slices(&self, block: Block, dtype: DType) -> usize {
        let blocks = self.tk.div_ceil(block.rows()) * self.heads * self.n;
        let whole_packs = (self.heads * self.size).is_multiple_of(pack(dtype));
        let most = if self.causal || !whole_packs { 1 } else { self.tq / LEAST_QUERIES };
        (ENOUGH_BLOCKS / blocks.max(1)).min(most).max(1)
    }

    /// Blocks that take these rows of `kept` tensors in so many samples, `held` of them in registers.
    fn over<'a>(
        &self,
        launch: Launcher<'a>,
        [rows, samples]: [usize; 2],
        block: Block,
        kept: usize,
        held: usize,
    ) -> Launcher<'a> {
        let launch = launch.grid([rows.div_ceil(block.rows()), self.heads, samples]).block(block.warps * 32);
        launch.dynamic_shared(block.shared_bytes(kept, held))
    }

    /// The number of heads and their size.
    fn heads<'a>(&self, launch: Launcher<'a>) -> Launcher<'a> {
        launch.int(self.heads).int(self.size)
    }
}
