//! Linear layers with a LoRA branch.

mod order;

use super::elementwise::add;
use super::linear::{check, fitting, multiplied, multiply, shaped, weight_gradient, with_bias};
use super::on_gpu;
use crate::autograd::Tape;
use crate::device::Device;
use crate::device::cpu::gemm::{Gemm, Matrix, Pair, sum_of_products, sum_rows};
use crate::dispatch;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, buffer, recycle};
pub(in crate::ops) use order::Plan;
pub use order::{LoraOrder, LoraSizes};

const OP: &str = "lora_linear";

/// What a layer has besides its weight: `scale (x A^T) B^T`, `a` `[r, in]`, `b` `[out, r]`. Several experts at once are
/// one `a` and one `b` with the ranks stacked and the scales folded into `b`.
#[derive(Clone, Copy)]
pub struct Branch<'a> {
    pub a: &'a Tensor,
    pub b: &'a Tensor,
    pub scale: f64,
    pub order: LoraOrder,
}

/// `x W^T + b + scale (x A^T) B^T` (Hu et al. 2021, arXiv:2106.09685): `x` `[.., in]`, `weight` `[out, in]`, `bias`
/// `[out]` -> `[.., out]`.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit.
pub fn lora_linear(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Branch<'_>,
) -> Result<Tensor> {
    lora_linear_onto(tape, None, x, weight, bias, branch)
}

pub(in crate::ops) fn lora_linear_onto(
    tape: &Tape,
    onto: Option<&Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Branch<'_>,
) -> Result<Tensor> {
    let plan = planned(tape, x, weight, bias, branch)?;
    if x.device() != Device::Cpu {
        let onto = fitting(OP, onto, x, &shaped(x, weight.shape()[0]))?;
        return on_gpu::lora_linear(tape, onto, x, weight, bias, branch, plan);
    }
    let y = dispatch!(x.dtype(), T => on_cpu::<T>(tape, x, weight, bias, branch, plan))?;
    onto.map_or(Ok(y.clone()), |onto| add(tape, onto, &y))
}

/// Checks what enters a layer, and says in which order its products are made.
pub(in crate::ops) fn planned(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Branch<'_>,
) -> Result<Plan> {
    let Branch { a, b, order, .. } = branch;
    let [out, width] = weight.dims(OP)?;
    let (rows, _) = check(OP, x, width, out, bias)?;
    let [rank, a_width] = a.dims(OP)?;
    if a_width != width || b.shape() != [out, rank] {
        return Err(Error::shape(
            OP,
            format!(
                "a {:?} and b {:?} do not fit a weight of shape [{out}, {width}]; expected [rank, {width}] and [{out}, rank]",
                a.shape(),
                b.shape()
            ),
        ));
    }
    let inputs: Vec<&Tensor> = [x, weight, a, b].into_iter().chain(bias).collect();
    on_gpu::holds(OP, &inputs)?;
    let sizes =
        LoraSizes { rows, width, out, rank, wants_dx: tape.wants(x), wants_factors: tape.wants(a) || tape.wants(b) };
    Ok(order.taken(&sizes, &x.device(), x.dtype()).plan(&sizes, x.dtype()))
}

fn on_cpu<T: Gemm>(
    tape: &Tape,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Branch<'_>,
    plan: Plan,
) -> Result<Tensor> {
    let Branch { a, b, scale, .. } = branch;
    let (out, width, rank, dtype) = (weight.shape()[0], weight.shape()[1], a.shape()[0], x.dtype());
    let rows = x.len() / width.max(1);
    // The weight of y and dx, and what stands beside it.
    let (whole, h) = if plan.merged {
        (merged::<T>(weight, a, b, scale), None)
    } else {
        (weight.clone(), Some(hidden::<T>(x, a, scale)))
    };
    let y = {
        let (x_data, w, b) = (x.reals::<T>(), whole.reals::<T>(), b.reals::<T>());
        let (x_lines, w) = (Matrix::lines(&x_data, rows, width), Matrix::lines(&w, out, width));
        let beside = h.as_ref().map(|h| Matrix::lines(h.data::<T>(), rows, rank));
        let b = Matrix::lines(&b, out, rank);
        let mut pairs: Vec<Pair<'_, T>> = Vec::new();
        pairs.push((&x_lines, &w));
        if let Some(h) = &beside {
            pairs.push((h, &b));
        }
        let mut y = buffer::<T>(rows * out);
        with_bias(bias, |output| sum_of_products(&pairs, output, &mut y));
        Tensor::from_reals(y, &shaped(x, out), dtype)
    };
    let inputs = [Some(x), Some(weight), Some(a), Some(b), bias];
    let saved = [weight, a, b].iter().any(|t| tape.wants(t)).then(|| x.clone());
    let h = h.filter(|_| tape.wants(b) && !plan.projected);
    let (a, b, stored, shape) = (a.clone(), b.clone(), weight.dtype(), x.shape().to_vec());
    tape.record(OP, inputs, &y, move |dy, wants| {
        let dy = dy.reals::<T>();
        let dy_lines = Matrix::lines(&dy, rows, out);
        let mut gradients = [const { None }; 5];
        let beside = wants[0] && !plan.merged;
        // scale dy B, the gradient of x A^T.
        let dh = (beside || (wants[2] && !plan.projected)).then(|| {
            let mut dh = multiplied::<T>(&[(&dy_lines, &Matrix::steps(&b.reals::<T>(), out, rank))]);
            multiply(&mut dh, scale);
            dh
        });
        if wants[0] {
            let (w, a) = (whole.reals::<T>(), a.reals::<T>());
            let (w, a) = (Matrix::steps(&w, out, width), Matrix::steps(&a, rank, width));
            let dh = dh.as_ref().filter(|_| beside).map(|dh| Matrix::lines(dh, rows, rank));
            let mut pairs: Vec<Pair<'_, T>> = Vec::new();
            pairs.push((&dy_lines, &w));
            if let Some(dh) = &dh {
                pairs.push((dh, &a));
            }
            gradients[0] = Some(Tensor::from_reals(multiplied::<T>(&pairs), &shape, dtype));
        }
        if let Some(x) = &saved {
            let x_data = x.reals::<T>();
            let projects = plan.projected && (wants[2] || wants[3]);
            let dw = (wants[1] || projects).then(|| weight_gradient(&dy, &x_data, out, width, stored));
            if let (true, Some(dw)) = (projects, &dw) {
                let [da, db] = projected::<T>(dw, &a, &b, scale);
                (gradients[2], gradients[3]) = (wants[2].then_some(da), wants[3].then_some(db));
            } else {
                if let (true, Some(dh)) = (wants[2], &dh) {
                    gradients[2] = Some(weight_gradient(dh, &x_data, rank, width, a.dtype()));
                }
                if wants[3] {
                    let h = h.unwrap_or_else(|| hidden::<T>(x, &a, scale));
                    gradients[3] = Some(weight_gradient(&dy, h.data::<T>(), out, rank, b.dtype()));
                }
            }
            gradients[1] = dw.filter(|_| wants[1]);
        }
        dh.into_iter().for_each(recycle);
        if wants[4] {
            gradients[4] = Some(Tensor::from_reals(sum_rows::<T>(&dy, out), &[out], dtype.accumulator()));
        }
        Ok(gradients)
    });
    Ok(y)
}

/// `scale x A^T`, `[rows, rank]` in the type of the arithmetic: the forward pass and the gradient of B both want it so.
fn hidden<T: Gemm>(x: &Tensor, a: &Tensor, scale: f64) -> Tensor {
    let (rank, width) = (a.shape()[0], a.shape()[1]);
    let rows = x.len() / width.max(1);
    let (x, a) = (x.reals::<T>(), a.reals::<T>());
    let mut h = multiplied::<T>(&[(&Matrix::lines(&x, rows, width), &Matrix::lines(&a, rank, width))]);
    multiply(&mut h, scale);
    Tensor::new(h, &[rows, rank])
}

/// `W + scale B A`, stored as the weight is.
fn merged<T: Gemm>(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
    let (out, width, rank) = (weight.shape()[0], weight.shape()[1], a.shape()[0]);
    let (a, b) = (a.reals::<T>(), b.reals::<T>());
    let mut sum = multiplied::<T>(&[(&Matrix::lines(&b, out, rank), &Matrix::steps(&a, rank, width))]);
    multiply(&mut sum, scale);
    sum.iter_mut().zip(weight.reals::<T>().iter()).for_each(|(s, &w)| *s += w);
    Tensor::from_reals(sum, weight.shape(), weight.dtype())
}

/// `dA = scale B^T dW` and `dB = scale dW A^T`.
fn projected<T: Gemm>(dw: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> [Tensor; 2] {
    let (out, width, rank) = (dw.shape()[0], dw.shape()[1], a.shape()[0]);
    let dw = dw.reals::<T>();
    let mut scaled = b.reals::<T>().into_owned();
    multiply(&mut scaled, scale);
    let da = weight_gradient(&scaled, &dw, rank, width, a.dtype());
    let mut db = multiplied::<T>(&[(&Matrix::lines(&dw, out, width), &Matrix::lines(&a.reals::<T>(), rank, width))]);
    multiply(&mut db, scale);
    [da, Tensor::from_reals(db, &[out, rank], b.dtype().accumulator())]
}
