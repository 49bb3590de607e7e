//! Attention of one head that is too wide for the kernels that keep no scores: matrix products, and `softmax.cu` between
//! them. All of it is in f32, and for so many queries at a time that their scores take at most 64 MiB.

use super::Buffer;
use super::attention::{Attention, OP};
use super::buffer::expect;
use super::elementwise::cast;
use super::matmul::{Epilogue, Layout, Pair, matmul, matmul_into, matmul_transposed};
use super::optimizer::accumulate;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Scores that are in memory at once.
const SCORES: usize = 16 << 20;

/// Queries `first..first + rows` of a sample.
#[derive(Clone, Copy)]
struct Block {
    sample: usize,
    first: usize,
    rows: usize,
}

impl Attention {
    /// The result for one wide head, like q, of q, k and v.
    ///
    /// # Errors
    /// [`Error::Shape`] for several heads or a causal mask, which no model has with such heads.
    pub fn forward_wide(&self, inputs: &[Buffer; 3]) -> Result<Buffer> {
        let [q, k, v] = self.widened(inputs)?;
        let y = q.gpu().buffer(DType::F32, q.len())?;
        for block in self.blocks() {
            let p = self.probabilities(&q, &k, block)?;
            let (into, values) = (self.queries(&y, block), self.keys(&v, block));
            let (size, sums) = ([block.rows, self.size], pair(&p, &values, self.tk));
            matmul_into(&into, size, Layout::Plain, sums, None, Epilogue::default())?;
        }
        stored(y, inputs[0].dtype())
    }

    /// The gradients of q, k and v from `dy`, like them. The probabilities are made anew.
    ///
    /// # Errors
    /// As [`Attention::forward_wide`].
    pub fn backward_wide(&self, dy: &Buffer, inputs: &[Buffer; 3]) -> Result<[Buffer; 3]> {
        let Self { tk, size, .. } = *self;
        let [q, k, v] = self.widened(inputs)?;
        expect(OP, &[("dy", dy, q.len())])?;
        let (gpu, dy) = (q.gpu(), wide(dy)?);
        let dq = gpu.buffer(DType::F32, q.len())?;
        let (dk, dv) = (gpu.buffer(DType::F32, k.len())?, gpu.buffer(DType::F32, v.len())?);
        dk.clear()?;
        dv.clear()?;
        for block in self.blocks() {
            let Block { rows, .. } = block;
            let (queries, dy) = (self.queries(&q, block), self.queries(&dy, block));
            let (keys, values) = (self.keys(&k, block), self.keys(&v, block));
            let p = self.probabilities(&q, &k, block)?;
            accumulate(&self.keys(&dv, block), &matmul_transposed(&p, &dy, [tk, size, rows])?)?;

            let dp = pair(&dy, &values, size);
            let ds = matmul([rows, tk], Layout::Transposed, dp, None, Epilogue::default())?;
            let launch = gpu.kernel(&kernels::SOFTMAX_ROWS_BACKWARD, DType::F32);
            let launch = launch.grid([rows, 1, 1]).block(kernels::SOFTMAX_THREADS);
            launch.update(&ds).input(&p).int(tk).float(self.scale()).launch()?;
            let (into, sums) = (self.queries(&dq, block), pair(&ds, &keys, tk));
            matmul_into(&into, [rows, size], Layout::Plain, sums, None, Epilogue::default())?;
            accumulate(&self.keys(&dk, block), &matmul_transposed(&ds, &queries, [tk, size, rows])?)?;
        }
        let dtype = inputs[0].dtype();
        Ok([stored(dq, dtype)?, stored(dk, dtype)?, stored(dv, dtype)?])
    }

    /// q, k and v in f32.
    fn widened(&self, [q, k, v]: &[Buffer; 3]) -> Result<[Buffer; 3]> {
        let Self { n, tq, tk, size, .. } = *self;
        if self.heads != 1 || self.causal || tk == 0 {
            let message =
                format!("{self:?}: heads of that many channels must be single and see some keys, all of them");
            return Err(Error::shape(OP, message));
        }
        let keys = n * tk * size;
        expect(OP, &[("q", q, n * tq * size), ("k", k, keys), ("v", v, keys)])?;
        Ok([wide(q)?, wide(k)?, wide(v)?])
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let Self { n, tq, tk, .. } = *self;
        let at_once = (SCORES / tk).clamp(1, tq.max(1));
        let of_sample = move |sample| {
            (0..tq).step_by(at_once).map(move |first| Block { sample, first, rows: at_once.min(tq - first) })
        };
        (0..n).flat_map(of_sample)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// `[rows, tk]` of the queries of a block.
    fn probabilities(&self, q: &Buffer, k: &Buffer, block: Block) -> Result<Buffer> {
        let scaled = Epilogue { alpha: self.scale(), ..Epilogue::default() };
        let (queries, keys) = (self.queries(q, block), self.keys(k, block));
        let products = pair(&queries, &keys, self.size);
        let scores = matmul([block.rows, self.tk], Layout::Transposed, products, None, scaled)?;
        let launch = q.gpu().kernel(&kernels::SOFTMAX_ROWS, DType::F32);
        let launch = launch.grid([block.rows, 1, 1]).block(kernels::SOFTMAX_THREADS);
        launch.update(&scores).int(self.tk).launch()?;
        Ok(scores)
    }

    /// The rows of a block in something like q.
    fn queries(&self, x: &Buffer, Block { sample, first, rows }: Block) -> Buffer {
        x.view((sample * self.tq + first) * self.size, rows * self.size)
    }

    /// All rows of a block's sample in something like k.
    fn keys(&self, x: &Buffer, block: Block) -> Buffer {
        x.view(block.sample * self.tk * self.size, self.tk * self.size)
    }
}

fn pair<'a>(a: &'a Buffer, b: &'a Buffer, k: usize) -> Pair<'a> {
    Pair { a, b, k }
}

/// The values in f32.
fn wide(x: &Buffer) -> Result<Buffer> {
    match x.dtype() {
        DType::F32 => Ok(x.clone()),
        _ => cast(x, DType::F32),
    }
}

/// The values in the storage type again.
fn stored(x: Buffer, dtype: DType) -> Result<Buffer> {
    if dtype == DType::F32 { Ok(x) } else { cast(&x, dtype) }
}
