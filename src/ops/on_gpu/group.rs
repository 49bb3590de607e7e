//! Several linear layers of one input in one launch, and their branches in one more.

use super::lora::{Factors, Layer, Made, Shape, record};
use super::{linear, of};
use crate::autograd::Tape;
use crate::device::gpu::Buffer;
use crate::device::gpu::matmul::{Group, matmul_group};
use crate::error::Result;
use crate::ops::linear::shaped;
use crate::ops::lora::{Branch, Plan};
use crate::tensor::Tensor;

/// As `ops::linear_group` of layers without branches, whose weights have one shape.
pub fn linear_group(tape: &Tape, x: &Tensor, weights: &[&Tensor]) -> Result<Vec<Tensor>> {
    let (out, width) = (weights[0].shape()[0], weights[0].shape()[1]);
    let stored: Vec<Buffer> = weights.iter().map(|weight| of(weight)).collect::<Result<_>>()?;
    let (a, b): (_, Vec<&Buffer>) = (of(x)?, stored.iter().collect());
    let y = matmul_group([x.len() / width.max(1), out], group(&a, &b, width), None, 1.0)?;
    let ys = results(&y, x, out);
    for (weight, y) in weights.iter().zip(&ys) {
        linear::record(tape, None, x, weight, None, y)?;
    }
    Ok(ys)
}

/// As `ops::linear_group` of layers whose weights and factors have one shape, and one scale; all in the order of `plan`.
pub fn lora_linear_group(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Branch<'_>)], plan: Plan) -> Result<Vec<Tensor>> {
    let layers = layers.iter().map(|&(weight, branch)| Layer { onto: None, x, weight, bias: None, branch });
    let layers: Vec<Layer<'_>> = layers.collect();
    let factors: Vec<Factors> = layers.iter().map(|layer| Factors::new(*layer)).collect::<Result<_>>()?;
    let (scale, Shape { rows, width, out, rank }) = (factors[0].scale, factors[0].sizes);
    let weights = layers.iter().map(|layer| of(layer.weight));
    let (a, weights): (Buffer, Vec<Buffer>) = (of(x)?, weights.collect::<Result<_>>()?);
    let (y, made): (Buffer, Vec<Made>) = if plan.merged {
        let merged = factors.iter().zip(&weights).map(|(factors, w)| factors.merged(w));
        let merged: Vec<Buffer> = merged.collect::<Result<_>>()?;
        let b: Vec<&Buffer> = merged.iter().collect();
        let y = matmul_group([rows, out], group(&a, &b, width), None, 1.0)?;
        (y, merged.into_iter().map(Made::Merged).collect())
    } else {
        let down: Vec<&Buffer> = factors.iter().map(|factors| &factors.a).collect();
        let h = matmul_group([rows, rank], group(&a, &down, width), None, scale)?;
        let (b, up): (Vec<&Buffer>, Vec<&Buffer>) = weights.iter().zip(factors.iter().map(|f| &f.b)).unzip();
        let y = matmul_group([rows, out], group(&a, &b, width), Some(group(&h, &up, rank)), 1.0)?;
        let parts = (0..layers.len()).map(|i| h.view(i * rows * rank, rows * rank));
        (y, parts.map(Made::Beside).collect())
    };
    let ys = results(&y, x, out);
    for (((layer, factors), made), y) in layers.into_iter().zip(factors).zip(made).zip(&ys) {
        record(tape, layer, factors, made, plan, y)?;
    }
    Ok(ys)
}

fn group<'a>(a: &'a Buffer, b: &'a [&'a Buffer], k: usize) -> Group<'a> {
    Group { a, b, k }
}

/// The result of each layer, `[.., out]`, in `y` `[layers, .., out]`.
fn results(y: &Buffer, x: &Tensor, out: usize) -> Vec<Tensor> {
    let shape = shaped(x, out);
    let len: usize = shape.iter().product();
    let starts = (0..y.len()).step_by(len.max(1));
    starts.map(|start| Tensor::on_gpu(y.view(start, len), &shape)).collect()
}
