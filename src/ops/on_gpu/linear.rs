//! Linear layers.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::Buffer;
use crate::device::gpu::matmul::{Epilogue, Layout, Pair, matmul, matmul_geglu, matmul_transposed};
use crate::device::gpu::sums::sum_rows;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::linear`, or `ops::add_linear` without a branch; the result has `shape`.
pub fn linear(
    tape: &Tape,
    onto: Option<&Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    let (out, width) = (weight.shape()[0], weight.shape()[1]);
    let rows = x.len() / width.max(1);
    let (x_memory, w) = (of(x)?, of(weight)?);
    let (bias_memory, onto_memory) = (bias.map(of).transpose()?, onto.map(of).transpose()?);
    let epilogue = Epilogue { bias: bias_memory.as_ref(), residual: onto_memory.as_ref(), ..Epilogue::default() };
    let y = matmul([rows, out], Layout::Transposed, pair(&x_memory, &w, width), None, epilogue)?;
    let y = Tensor::on_gpu(y, shape);
    record(tape, onto, x, weight, bias, &y)?;
    Ok(y)
}

/// Records a layer whose result is there.
pub(super) fn record(
    tape: &Tape,
    onto: Option<&Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    let (out, width) = (weight.shape()[0], weight.shape()[1]);
    let rows = x.len() / width.max(1);
    let (x_memory, w) = (of(x)?, of(weight)?);
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (saved, x_shape) = (tape.wants(weight).then_some(x_memory), x.shape().to_vec());
    tape.record("linear", [Some(x), Some(weight), bias, onto], y, move |upper, wants| {
        let dy = of(upper)?;
        let mut gradients = [const { None }; 4];
        if wants[0] {
            let dx = matmul([rows, width], Layout::Plain, pair(&dy, &w, out), None, Epilogue::default())?;
            gradients[0] = Some(Tensor::on_gpu(dx, &x_shape));
        }
        if let Some(x) = &saved {
            gradients[1] = Some(Tensor::on_gpu(matmul_transposed(&dy, x, [out, width, rows])?, &[out, width]));
        }
        if wants[2] {
            gradients[2] = Some(Tensor::on_gpu(sum_rows(&dy, rows, out)?, &[out]));
        }
        gradients[3] = wants[3].then(|| upper.clone());
        Ok(gradients)
    });
    Ok(())
}

/// As `ops::linear_geglu` where nobody wants a gradient; the result has `shape`.
pub fn linear_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    let (out, width) = (weight.shape()[0], weight.shape()[1]);
    let rows = x.len() / width.max(1);
    let bias = bias.map(of).transpose()?;
    let y = matmul_geglu(&of(x)?, &of(weight)?, bias.as_ref(), [rows, out / 2, width])?;
    Ok(Tensor::on_gpu(y, shape))
}

pub(super) fn pair<'a>(a: &'a Buffer, b: &'a Buffer, k: usize) -> Pair<'a> {
    Pair { a, b, k }
}
