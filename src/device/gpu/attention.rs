//! Launches of `attention.cu` and `attention_backward.cu`. Heads that are too wide for them: `wide_attention.rs`.

use super::Buffer;
use super::argument::MOST_SHARED_BYTES;
use super::buffer::expect;
use super::launch::Launcher;
use super::table::{Kernel, kernels};
use crate::dtype::DType;
use crate::error::{Error, Result};

pub(super) const OP: &str = "attention";

/// The shape of an attention of `q` `[n, tq, heads * size]` to `k` and `v` `[n, tk, heads * size]`. With `causal`, row `i`
/// sees keys `0..=i`.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub n: usize,
    pub tq: usize,
    pub tk: usize,
    pub heads: usize,
    pub size: usize,
    pub causal: bool,
}

/// What the backward pass reads: the inputs, and what the forward pass gave.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    pub q: &'a Buffer,
    pub k: &'a Buffer,
    pub v: &'a Buffer,
    pub y: &'a Buffer,
    /// f32 `[n, heads, tq]`.
    pub log_sums: &'a Buffer,
}

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

impl Attention {
    /// The result, like `q`, and the logarithm of each row's sum of exponentials, f32 `[n, heads, tq]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where lengths do not fit, or a head has more channels than there is a kernel for.
    pub fn forward(&self, q: &Buffer, k: &Buffer, v: &Buffer) -> Result<[Buffer; 2]> {
        let kernels = self.check(q, k, v)?;
        let gpu = q.gpu();
        let y = gpu.buffer(q.dtype(), q.len())?;
        let log_sums = gpu.buffer(DType::F32, self.n * self.heads * self.tq)?;
        let launch = gpu.kernel(kernels.forward, q.dtype());
        let launch = self.over(launch, self.tq, kernels.size, 1, q.dtype());
        let launch = launch.output(&y).output(&log_sums).input(q).input(k).input(v);
        self.sizes(launch.int(self.tq).int(self.tk)).int(self.causal.into()).launch()?;
        Ok([y, log_sums])
    }

    /// Whether a head is too wide for the kernels that keep no scores.
    pub fn is_wide(&self) -> bool {
        self.size > KERNELS[KERNELS.len() - 1].size
    }

    /// The gradients of q, k and v.
    pub fn backward(&self, dy: &Buffer, saved: Saved<'_>) -> Result<[Buffer; 3]> {
        let Saved { q, k, v, y, log_sums } = saved;
        let kernels = self.check(q, k, v)?;
        let rows = self.n * self.heads * self.tq;
        expect(OP, &[("dy", dy, q.len()), ("y", y, q.len()), ("log_sums", log_sums, rows)])?;
        let (gpu, dtype) = (q.gpu(), q.dtype());
        let delta = gpu.buffer(DType::F32, rows)?;
        let threads = kernels::ATTENTION_THREADS;
        let launch = gpu.kernel(&kernels::ATTENTION_BACKWARD_DELTA, dtype).block(threads);
        let launch = launch.grid([self.tq.div_ceil(threads / 32), self.heads, self.n]);
        self.sizes(launch.output(&delta).input(dy).input(y).int(self.tq)).launch()?;

        let dq = gpu.buffer(dtype, q.len())?;
        let launch = self.over(gpu.kernel(kernels.backward_q, dtype), self.tq, kernels.size, 2, dtype);
        let launch = launch.output(&dq).input(dy).input(q).input(k).input(v).input(log_sums).input(&delta);
        self.sizes(launch.int(self.tq).int(self.tk)).int(self.causal.into()).launch()?;

        let (dk, dv) = (gpu.buffer(dtype, k.len())?, gpu.buffer(dtype, v.len())?);
        let launch = self.over(gpu.kernel(kernels.backward_kv, dtype), self.tk, kernels.size, 2, dtype);
        let launch = launch.output(&dk).output(&dv).input(dy).input(q).input(k).input(v);
        let launch = launch.input(log_sums).input(&delta);
        self.sizes(launch.int(self.tq).int(self.tk)).int(self.causal.into()).launch()?;
        Ok([dq, dk, dv])
    }

    fn check(&self, q: &Buffer, k: &Buffer, v: &Buffer) -> Result<&'static Kernels> {
        let Self { n, tq, tk, heads, size, .. } = *self;
        let keys = n * tk * heads * size;
        expect(OP, &[("q", q, n * tq * heads * size), ("k", k, keys), ("v", v, keys)])?;
        let kernels = KERNELS.iter().find(|kernels| size <= kernels.size && size * tk > 0);
        let most = KERNELS[KERNELS.len() - 1].size;
        kernels.ok_or_else(|| {
            let sentence = format!("{tk} keys in heads of {size} channels; expected some, and up to {most} channels");
            Error::shape(OP, sentence)
        })
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

    fn sizes<'a>(&self, launch: Launcher<'a>) -> Launcher<'a> {
        launch.int(self.heads).int(self.size)
    }
}
