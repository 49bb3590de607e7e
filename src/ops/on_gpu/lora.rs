//! Linear layers with a LoRA branch.

use super::linear::pair;
use super::of;
use crate::autograd::Tape;
use crate::device::gpu::matmul::{Epilogue, Layout, matmul, matmul_transposed};
use crate::device::gpu::sums::sum_rows;
use crate::device::gpu::{Buffer, elementwise};
use crate::error::Result;
use crate::ops::linear::shaped;
use crate::ops::lora::{Branch, Plan};
use crate::tensor::{DType, Tensor};

/// The sizes of a layer `[rows, width]` to `[rows, out]` and its branch.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub rows: usize,
    pub width: usize,
    pub out: usize,
    pub rank: usize,
}

/// As `ops::lora_linear` or `ops::add_linear` in the order of `plan`. `h = x A^T` and its gradient are rounded to the
/// storage type, since tensor cores multiply them, and so is a merged weight.
pub fn lora_linear(
    tape: &Tape,
    onto: Option<&Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    branch: Branch<'_>,
    plan: Plan,
) -> Result<Tensor> {
    let layer = Layer { onto, x, weight, bias, branch };
    let factors = Factors::new(layer)?;
    let Shape { rows, width, out, rank } = factors.sizes;
    let (x_memory, w) = (of(x)?, of(weight)?);
    let (bias_memory, onto_memory) = (bias.map(of).transpose()?, onto.map(of).transpose()?);
    let epilogue = Epilogue { bias: bias_memory.as_ref(), residual: onto_memory.as_ref(), ..Epilogue::default() };
    let made = if plan.merged { Made::Merged(factors.merged(&w)?) } else { Made::Beside(factors.h(&x_memory)?) };
    let (first, second) = match &made {
        Made::Merged(merged) => (pair(&x_memory, merged, width), None),
        Made::Beside(h) => (pair(&x_memory, &w, width), Some(pair(h, &factors.b, rank))),
    };
    let y = matmul([rows, out], Layout::Transposed, first, second, epilogue)?;
    let y = Tensor::on_gpu(y, &shaped(x, out));
    record(tape, layer, factors, made, plan, &y)?;
    Ok(y)
}

/// What enters a layer.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub onto: Option<&'a Tensor>,
    pub x: &'a Tensor,
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub branch: Branch<'a>,
}

/// What the forward pass made of a branch.
pub(super) enum Made {
    /// `W + scale B A`.
    Merged(Buffer),
    /// `scale x A^T`.
    Beside(Buffer),
}

/// Records a layer whose result is there.
pub(super) fn record(
    tape: &Tape,
    layer: Layer<'_>,
    factors: Factors,
    made: Made,
    plan: Plan,
    y: &Tensor,
) -> Result<()> {
    let Layer { onto, x, weight, bias, branch: Branch { a, b, .. } } = layer;
    let Shape { rows, width, out, rank } = factors.sizes;
    let (x_memory, w) = (of(x)?, of(weight)?);
    let (merged, h) = match made {
        Made::Merged(merged) => (Some(merged), None),
        Made::Beside(h) => (None, Some(h)),
    };
    let inputs = [Some(x), Some(weight), Some(a), Some(b), bias, onto];
    let wants_factors = tape.wants(a) || tape.wants(b);
    let saved = (tape.wants(weight) || wants_factors).then_some(x_memory);
    let h = h.filter(|_| tape.wants(b) && !plan.projected);
    let merged = merged.filter(|_| tape.wants(x));
    let x_shape = x.shape().to_vec();
    tape.record("lora_linear", inputs, y, move |upper, wants| {
        let dy = of(upper)?;
        let mut gradients = [const { None }; 6];
        let beside = wants[0] && merged.is_none();
        let dh = if beside || (wants[2] && !plan.projected) { Some(factors.dh(&dy)?) } else { None };
        if wants[0] {
            let first = pair(&dy, merged.as_ref().unwrap_or(&w), out);
            let second = dh.as_ref().filter(|_| beside);
            let second = second.map(|dh| pair(dh, &factors.a, rank));
            let dx = matmul([rows, width], Layout::Plain, first, second, Epilogue::default())?;
            gradients[0] = Some(Tensor::on_gpu(dx, &x_shape));
        }
        if let Some(x) = &saved {
            let whole = if wants[1] || (wants_factors && plan.projected) {
                Some(matmul_transposed(&dy, x, [out, width, rows])?)
            } else {
                None
            };
            let [da, db] = match (&whole, plan.projected) {
                (Some(whole), true) => factors.projected(whole, [wants[2], wants[3]])?,
                _ => factors.gradients(&dy, x, dh.filter(|_| wants[2]), h, wants[3])?,
            };
            gradients[1] = whole.filter(|_| wants[1]).map(|dw| Tensor::on_gpu(dw, &[out, width]));
            gradients[2] = da.map(|da| Tensor::on_gpu(da, &[rank, width]));
            gradients[3] = db.map(|db| Tensor::on_gpu(db, &[out, rank]));
        }
        if wants[4] {
            gradients[4] = Some(Tensor::on_gpu(sum_rows(&dy, rows, out)?, &[out]));
        }
        gradients[5] = wants[5].then(|| upper.clone());
        Ok(gradients)
    });
    Ok(())
}

/// A branch's factors and the products with them.
pub(super) struct Factors {
    pub a: Buffer,
    pub b: Buffer,
    pub scale: f32,
    pub sizes: Shape,
}

impl Factors {
    pub fn new(layer: Layer<'_>) -> Result<Self> {
        let Layer { x, weight, branch, .. } = layer;
        let (out, width) = (weight.shape()[0], weight.shape()[1]);
        Ok(Self {
            a: of(branch.a)?,
            b: of(branch.b)?,
            scale: branch.scale as f32,
            sizes: Shape { rows: x.len() / width.max(1), width, out, rank: branch.a.shape()[0] },
        })
    }

    fn scaled(&self) -> Epilogue<'static> {
        Epilogue { alpha: self.scale, ..Epilogue::default() }
    }

    /// `W + scale B A`.
    pub fn merged(&self, w: &Buffer) -> Result<Buffer> {
        let Shape { width, out, rank, .. } = self.sizes;
        let epilogue = Epilogue { residual: Some(w), ..self.scaled() };
        matmul([out, width], Layout::Plain, pair(&self.b, &self.a, rank), None, epilogue)
    }

    /// `scale x A^T`: the forward pass and the gradient of B both want it so.
    fn h(&self, x: &Buffer) -> Result<Buffer> {
        let Shape { rows, width, rank, .. } = self.sizes;
        matmul([rows, rank], Layout::Transposed, pair(x, &self.a, width), None, self.scaled())
    }

    /// `scale dy B`, the gradient of `x A^T`.
    fn dh(&self, dy: &Buffer) -> Result<Buffer> {
        let Shape { rows, out, rank, .. } = self.sizes;
        matmul([rows, rank], Layout::Plain, pair(dy, &self.b, out), None, self.scaled())
    }

    /// `dA = dh^T x` where there is a dh, and `dB = dy^T h`; h is made anew where it was not kept.
    fn gradients(
        &self,
        dy: &Buffer,
        x: &Buffer,
        dh: Option<Buffer>,
        h: Option<Buffer>,
        wants_b: bool,
    ) -> Result<[Option<Buffer>; 2]> {
        let Shape { rows, width, out, rank } = self.sizes;
        let da = dh.map(|dh| matmul_transposed(&dh, x, [rank, width, rows])).transpose()?;
        if !wants_b {
            return Ok([da, None]);
        }
        let h = h.map_or_else(|| self.h(x), Ok)?;
        Ok([da, Some(matmul_transposed(dy, &h, [out, rank, rows])?)])
    }

    /// `dA = scale B^T dW` and `dB = scale dW A^T` of the f32 gradient dW, in f32.
    fn projected(&self, whole: &Buffer, [wants_a, wants_b]: [bool; 2]) -> Result<[Option<Buffer>; 2]> {
        let Shape { width, out, rank, .. } = self.sizes;
        let exact = |factor: &Buffer| match factor.dtype() {
            DType::F32 => Ok(factor.clone()),
            _ => elementwise::cast(factor, DType::F32),
        };
        let (mut da, mut db) = (None, None);
        if wants_a {
            let b = elementwise::scale(&exact(&self.b)?, self.scale)?;
            da = Some(matmul_transposed(&b, whole, [rank, width, out])?);
        }
        if wants_b {
            let a = exact(&self.a)?;
            let product = pair(whole, &a, width);
            db = Some(matmul([out, rank], Layout::Transposed, product, None, self.scaled())?);
        }
        Ok([da, db])
    }
}
