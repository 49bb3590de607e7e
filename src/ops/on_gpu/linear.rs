//! Linear layers, plain and with a LoRA branch.

use super::of;
use crate::autograd::Tape;
use crate::device::gpu::Buffer;
use crate::device::gpu::matmul::{Epilogue, Layout, Pair, matmul, matmul_transposed};
use crate::device::gpu::sums::sum_rows;
use crate::error::Result;
use crate::tensor::Tensor;

/// As `ops::linear` of `[rows, width]` to `[rows, out]`; the result has `shape`.
pub fn linear(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    rows: usize,
    shape: &[usize],
) -> Result<Tensor> {
    let (out, width) = (weight.shape()[0], weight.shape()[1]);
    let (x_memory, w) = (of(x)?, of(weight)?);
    let bias_memory = bias.map(of).transpose()?;
    let epilogue = Epilogue {
        bias: bias_memory.as_ref(),
        ..Epilogue::default()
    };
    let y = matmul(
        [rows, out],
        Layout::Transposed,
        pair(&x_memory, &w, width),
        None,
        epilogue,
    )?;
    let y = Tensor::on_gpu(y, shape);
    let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let wants: Vec<bool> = inputs.iter().map(|t| tape.wants(t)).collect();
    // Only the gradient of the weight reads `x`: a frozen layer does not keep it.
    let (saved, x_shape) = (wants[1].then_some(x_memory), x.shape().to_vec());
    tape.record("linear", &inputs, &y, move |dy| {
        let dy = of(dy)?;
        let mut gradients = vec![None; wants.len()];
        if wants[0] {
            let dx = matmul(
                [rows, width],
                Layout::Plain,
                pair(&dy, &w, out),
                None,
                Epilogue::default(),
            )?;
            gradients[0] = Some(Tensor::on_gpu(dx, &x_shape));
        }
        if let Some(x) = &saved {
            gradients[1] = Some(Tensor::on_gpu(
                matmul_transposed(&dy, x, [out, width, rows])?,
                &[out, width],
            ));
        }
        if wants.get(2) == Some(&true) {
            gradients[2] = Some(Tensor::on_gpu(sum_rows(&dy, rows, out)?, &[out]));
        }
        Ok(gradients)
    });
    Ok(y)
}

/// What a layer has besides its weight: `scale (x A^T) B^T`.
pub struct LoraBranch<'a> {
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    pub scale: f64,
}

/// As `ops::lora_linear` of `[rows, width]` to `[rows, out]`; the result has `shape`. `h = x A^T` and its gradient are
/// rounded to the storage type, since tensor cores multiply them.
pub fn lora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: LoraBranch<'_>,
    rows: usize,
    shape: &[usize],
) -> Result<Tensor> {
    let LoraBranch { a, b, scale } = branch;
    let (out, width, rank) = (weight.shape()[0], weight.shape()[1], a.shape()[0]);
    let (x_memory, w) = (of(x)?, of(weight)?);
    let (a_memory, b_memory) = (of(a)?, of(b)?);
    let bias_memory = bias.map(of).transpose()?;
    // Carries the scale: the forward pass and the gradient of b both want it so.
    let first = pair(&x_memory, &a_memory, width);
    let h = matmul([rows, rank], Layout::Transposed, first, None, scaled_by(scale))?;
    let epilogue = Epilogue {
        bias: bias_memory.as_ref(),
        ..Epilogue::default()
    };
    let (first, second) = (pair(&x_memory, &w, width), pair(&h, &b_memory, rank));
    let y = matmul([rows, out], Layout::Transposed, first, Some(second), epilogue)?;
    let y = Tensor::on_gpu(y, shape);
    let inputs: Vec<&Tensor> = [x, weight, a, b].into_iter().chain(bias).collect();
    let wants: Vec<bool> = inputs.iter().map(|t| tape.wants(t)).collect();
    let saved = (wants[1] || wants[2]).then_some(x_memory);
    let h = wants[3].then_some(h);
    let x_shape = x.shape().to_vec();
    tape.record("lora_linear", &inputs, &y, move |dy| {
        let dy = of(dy)?;
        let mut gradients = vec![None; wants.len()];
        if wants[0] || wants[2] {
            // scale dy B, the gradient of x A^T.
            let dh = matmul(
                [rows, rank],
                Layout::Plain,
                pair(&dy, &b_memory, out),
                None,
                scaled_by(scale),
            )?;
            if wants[0] {
                let (first, second) = (pair(&dy, &w, out), pair(&dh, &a_memory, rank));
                let dx = matmul([rows, width], Layout::Plain, first, Some(second), Epilogue::default())?;
                gradients[0] = Some(Tensor::on_gpu(dx, &x_shape));
            }
            if let (true, Some(x)) = (wants[2], &saved) {
                let da = matmul_transposed(&dh, x, [rank, width, rows])?;
                gradients[2] = Some(Tensor::on_gpu(da, &[rank, width]));
            }
        }
        if let (true, Some(x)) = (wants[1], &saved) {
            gradients[1] = Some(Tensor::on_gpu(
                matmul_transposed(&dy, x, [out, width, rows])?,
                &[out, width],
            ));
        }
        if let Some(h) = &h {
            gradients[3] = Some(Tensor::on_gpu(
                matmul_transposed(&dy, h, [out, rank, rows])?,
                &[out, rank],
            ));
        }
        if wants.get(4) == Some(&true) {
            gradients[4] = Some(Tensor::on_gpu(sum_rows(&dy, rows, out)?, &[out]));
        }
        Ok(gradients)
    });
    Ok(y)
}

fn pair<'a>(a: &'a Buffer, b: &'a Buffer, k: usize) -> Pair<'a> {
    Pair { a, b, k }
}

fn scaled_by(scale: f64) -> Epilogue<'static> {
    Epilogue {
        alpha: scale as f32,
        ..Epilogue::default()
    }
}
