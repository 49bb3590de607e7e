//! Attention of one head that is too wide for the kernels that keep no scores: matrix products, and `softmax.cu` between
//! them. All of it is in f32, and for so many queries at a time that their scores take at most 64 MiB.

use super::{OP, Shape};
use crate::device::gpu::table::kernels;
use crate::error::{Error, Result};
use crate::ops::elementwise::cast;
use crate::ops::matmul::gpu::{Epilogue, Layout, matmul_transposed, products, products_into};
use crate::ops::optimizer::add_up;
use crate::tensor::{DType, Tensor};

/// Scores that are in memory at once.
const SCORES: usize = 16 << 20;

/// Queries `first..first + rows` of a sample.
#[derive(Clone, Copy)]
struct Block {
    sample: usize,
    first: usize,
    rows: usize,
}

/// The result for one wide head, like q.
///
/// # Errors
/// [`Error::Shape`] for several heads or a causal mask, which no model has with such heads.
pub fn forward(shape: &Shape, inputs: [&Tensor; 3]) -> Result<Tensor> {
    let [q, k, v] = shape.widened(inputs)?;
    let y = q.empty_like()?;
    for block in shape.blocks() {
        let p = shape.probabilities(&q, &k, block)?;
        let (into, values) = (shape.queries(&y, block), shape.keys(&v, block));
        products_into(&into, Layout::Plain, [&p, &values], None, Epilogue::default())?;
    }
    cast(&y, inputs[0].dtype())
}

/// The gradients of q, k and v where wanted, like them. The probabilities are made anew.
pub fn backward(shape: &Shape, inputs: [&Tensor; 3], dy: &Tensor, wants: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
    let [q, k, v] = shape.widened(inputs)?;
    let dy = cast(dy, DType::F32)?;
    let gradients = [q.empty_like()?, zeros_like(&k)?, zeros_like(&v)?];
    let [dq, dk, dv] = &gradients;
    for block in shape.blocks() {
        let (queries, dy) = (shape.queries(&q, block), shape.queries(&dy, block));
        let (keys, values) = (shape.keys(&k, block), shape.keys(&v, block));
        let p = shape.probabilities(&q, &k, block)?;
        if wants[2] {
            add_up(&shape.keys(dv, block), &[&matmul_transposed(&p, &dy, DType::F32)?])?;
        }
        if !wants[0] && !wants[1] {
            continue;
        }
        let ds = products(Layout::Transposed, [&dy, &values], None, Epilogue::default())?;
        let launch = ds.kernel(&kernels::SOFTMAX_ROWS_BACKWARD)?;
        let launch = launch.grid([block.rows, 1, 1]).block(kernels::SOFTMAX_THREADS);
        launch.update(&ds).input(&p).int(shape.tk).float(shape.scale()).launch()?;
        if wants[0] {
            products_into(&shape.queries(dq, block), Layout::Plain, [&ds, &keys], None, Epilogue::default())?;
        }
        if wants[1] {
            add_up(&shape.keys(dk, block), &[&matmul_transposed(&ds, &queries, DType::F32)?])?;
        }
    }
    let mut wanted = [const { None }; 3];
    for (to, (gradient, wants)) in wanted.iter_mut().zip(gradients.iter().zip(wants)) {
        *to = wants.then(|| cast(gradient, inputs[0].dtype())).transpose()?;
    }
    Ok(wanted)
}

impl Shape {
    /// q, k and v in f32.
    fn widened(&self, inputs: [&Tensor; 3]) -> Result<[Tensor; 3]> {
        if self.heads != 1 || self.causal {
            let message =
                format!("{self:?}: on a GPU, heads of more than 160 channels must be single and see every key");
            return Err(Error::shape(OP, message));
        }
        let [q, k, v] = inputs.map(|x| cast(x, DType::F32));
        Ok([q?, k?, v?])
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let Self { n, tq, tk, .. } = *self;
        let at_once = (SCORES / tk).clamp(1, tq);
        let of_sample = move |sample| {
            (0..tq).step_by(at_once).map(move |first| Block { sample, first, rows: at_once.min(tq - first) })
        };
        (0..n).flat_map(of_sample)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// `[rows, tk]` of the queries of a block.
    fn probabilities(&self, q: &Tensor, k: &Tensor, block: Block) -> Result<Tensor> {
        let scaled = Epilogue { alpha: self.scale().into(), ..Epilogue::default() };
        let (queries, keys) = (self.queries(q, block), self.keys(k, block));
        let scores = products(Layout::Transposed, [&queries, &keys], None, scaled)?;
        let launch = scores.kernel(&kernels::SOFTMAX_ROWS)?;
        let launch = launch.grid([block.rows, 1, 1]).block(kernels::SOFTMAX_THREADS);
        launch.update(&scores).int(self.tk).launch()?;
        Ok(scores)
    }

    /// The rows of a block in something like q.
    fn queries(&self, x: &Tensor, Block { sample, first, rows }: Block) -> Tensor {
        x.view((sample * self.tq + first) * self.size, &[rows, self.size])
    }

    /// All rows of a block's sample in something like k.
    fn keys(&self, x: &Tensor, block: Block) -> Tensor {
        x.view(block.sample * self.tk * self.size, &[self.tk, self.size])
    }
}

fn zeros_like(x: &Tensor) -> Result<Tensor> {
    let zeros = x.gpu()?.buffer(x.dtype(), x.len())?;
    zeros.clear()?;
    Ok(Tensor::on_gpu(zeros, x.shape()))
}
