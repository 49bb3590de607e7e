//! The gradients of a layer with a LoRA.

use super::gpu::FACTORS;
use super::{Branch, Inputs, LoraLayer, Order, cpu, gpu};
use crate::autograd::{Later, Made, Tape};
use crate::device::Device;
use crate::error::Result;
use crate::ops::linear::source_gradient;
use crate::ops::matmul::sizes;
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

/// What the gradients read, each kept only where one does.
pub(in crate::ops) struct Saved {
    device: Device,
    order: Order,
    /// The layer's weight, or the merged one.
    pub whole: Tensor,
    weight_dtype: DType,
    pub a: Tensor,
    pub b: Tensor,
    pub scale: f64,
    x: Option<Tensor>,
    h: Option<Tensor>,
    between: Option<Tensor>,
}

impl Inputs<'_> {
    /// Keeps what the gradients of a layer read whose result is there.
    pub fn saved(self, tape: &Tape, device: Device, order: Order, branch: Branch) -> Saved {
        let Self { source, weight, lora: LoraLayer { a, b, scale, .. }, .. } = self;
        let x = [weight, a, b].iter().any(|t| tape.wants(t)).then(|| source.x.clone());
        let (whole, h) = match branch {
            Branch::Merged(merged) if tape.wants(source.recorded()) => (merged, None),
            Branch::Beside(h) if tape.wants(b) && !order.projected => (weight.clone(), Some(h)),
            _ => (weight.clone(), None),
        };
        let between = source.between.cloned();
        let (weight_dtype, a, b) = (weight.dtype(), a.clone(), b.clone());
        Saved { device, order, whole, weight_dtype, a, b, scale, x, h, between }
    }
}

impl Saved {
    /// The gradients of x, plus `onto`, weight, a, b, bias and residual, where wanted. `dh`, the gradient of `scale x A^T`, may
    /// be there already.
    pub fn gradients(
        self,
        dy: &Tensor,
        wants: [bool; 6],
        onto: Option<Tensor>,
        dh: Option<Tensor>,
    ) -> Made<[Option<Tensor>; 6]> {
        let [wants_x, wants_weight, wants_a, wants_b, wants_bias, wants_residual] = wants;
        let beside = wants_x && !self.order.merged;
        let factors = (wants_a || wants_b) && !self.order.projected;
        // On a GPU the gradients of the factors wait for those of other layers.
        let waits = factors && self.device != Device::Cpu;
        let needs_dh = dh.is_none() && (beside || (factors && wants_a && !waits));
        let made = needs_dh.then(|| on!(self.device, hidden_gradient(dy, &self.b, self.scale))).transpose()?;
        let dh = dh.or(made);
        let mut gradients = [const { None }; 6];
        if wants_x {
            let second = dh.as_ref().filter(|_| beside).map(|dh| [dh, &self.a]);
            let between = self.between.as_ref();
            gradients[0] = Some(source_gradient(&self.device, dy, &self.whole, second, between, onto)?);
        }
        if wants_bias {
            gradients[4] = Some(sum_rows(dy, sizes(dy))?);
        }
        gradients[5] = wants_residual.then(|| dy.clone());
        let later = self.of_parameters(dy, dh, [wants_weight, wants_a, wants_b], &mut gradients)?;
        Ok((gradients, later.into_iter().collect()))
    }

    /// Those of weight, a and b.
    fn of_parameters(
        self,
        dy: &Tensor,
        dh: Option<Tensor>,
        [wants_weight, wants_a, wants_b]: [bool; 3],
        gradients: &mut [Option<Tensor>; 6],
    ) -> Result<Option<Later>> {
        let Self { device, order, a, b, scale, .. } = self;
        let Some(x) = self.x else { return Ok(None) };
        let projects = order.projected && (wants_a || wants_b);
        let dw = (wants_weight || projects).then(|| on!(device, weight_gradient(dy, &x, self.weight_dtype)));
        let dw = dw.transpose()?;
        gradients[1] = dw.clone().filter(|_| wants_weight);
        if let Some(dw) = dw.filter(|_| projects) {
            [gradients[2], gradients[3]] = on!(device, projected(&dw, &a, &b, scale, [wants_a, wants_b]))?;
            return Ok(None);
        }
        let h = wants_b.then(|| self.h.map_or_else(|| on!(device, hidden(&x, &a, scale)), Ok)).transpose()?;
        let dh = dh.filter(|_| wants_a);
        if device != Device::Cpu && (wants_a || wants_b) {
            let b = (wants_a && dh.is_none()).then_some(b);
            let from = vec![Some(x), Some(dy.clone()), dh, b, h];
            return Ok(Some(Later { kind: &FACTORS, inputs: vec![2, 3], from, factor: scale }));
        }
        gradients[2] = dh.map(|dh| on!(device, weight_gradient(&dh, &x, a.dtype()))).transpose()?;
        gradients[3] = h.map(|h| on!(device, weight_gradient(dy, &h, b.dtype()))).transpose()?;
        Ok(None)
    }
}
