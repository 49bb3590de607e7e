//! Several linear layers of one input.

use super::{Source, check, linear, record};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::ops::lora::{self, LoraLayer, lora_linear};
use crate::ops::matmul::gpu_group::{MOST, products_group};
use crate::ops::matmul::shaped;
use crate::tensor::{Tensor, device_of};

const OP: &str = "linear_group";

/// [`linear`] or [`lora_linear`] of one `x` `[.., in]` for each of several layers without bias: a weight `[out, in]`, and
/// the LoRA that the layer has besides. On a GPU up to three of them are one launch, where weights and LoRAs are of one
/// shape and scale, and one more launch for the LoRAs; the bytes are those of one after the other.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn linear_group(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<LoraLayer<'_>>)]) -> Result<Vec<Tensor>> {
    // Only a GPU gains by it: a launch of one layer would leave much of it idle.
    if let Some(results) = at_once(tape, x, layers)? {
        return Ok(results);
    }
    let one = |&(weight, lora): &(&Tensor, Option<LoraLayer<'_>>)| match lora {
        None => linear(tape, x, weight, None),
        Some(lora) => lora_linear(tape, x, weight, None, lora),
    };
    layers.iter().map(one).collect()
}

/// The results of layers that can go together, on a GPU.
fn at_once(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<LoraLayer<'_>>)]) -> Result<Option<Vec<Tensor>>> {
    let weights: Vec<&Tensor> = layers.iter().map(|(weight, _)| *weight).collect();
    let loras: Vec<LoraLayer<'_>> = layers.iter().filter_map(|(_, lora)| *lora).collect();
    let alike = weights.windows(2).all(|pair| pair[0].shape() == pair[1].shape())
        && (loras.is_empty() || loras.len() == layers.len())
        && loras.windows(2).all(|pair| {
            let [first, second] = [&pair[0], &pair[1]].map(|lora| (lora.a.shape(), lora.scale, lora.order));
            first == second
        });
    if !alike || !(2..=MOST).contains(&layers.len()) || x.is_empty() {
        return Ok(None);
    }
    let all: Vec<&Tensor> = [x].into_iter().chain(weights.iter().copied()).collect();
    let device = device_of(OP, &all)?;
    if device == Device::Cpu {
        return Ok(None);
    }
    check(OP, x, weights[0], None, None)?;
    let source = Source { x, between: None };
    if loras.is_empty() {
        let ys = apart(&products_group((x, &weights), None, 1.0)?, x);
        weights.iter().zip(&ys).for_each(|(weight, y)| record(tape, device.clone(), source, weight, None, None, y));
        return Ok(Some(ys));
    }
    let layers = weights.iter().zip(&loras);
    let layers = layers.map(|(&weight, &lora)| lora::Inputs { source, weight, bias: None, residual: None, lora });
    let layers: Vec<lora::Inputs<'_>> = layers.collect();
    let orders = layers.iter().map(|layer| layer.check(tape)).collect::<Result<Vec<_>>>()?;
    let (order, scale) = (orders[0].1, loras[0].scale);
    // Layers of which some are trained and some are not may take different orders.
    if orders.iter().any(|(_, other)| *other != order) {
        return Ok(None);
    }
    let (a, b): (Vec<&Tensor>, Vec<&Tensor>) = loras.iter().map(|lora| (lora.a, lora.b)).unzip();
    let (y, branches): (_, Vec<_>) = if order.merged {
        let merged = weights.iter().zip(a).zip(b).map(|((weight, a), b)| lora::gpu::merged(weight, a, b, scale));
        let merged = merged.collect::<Result<Vec<_>>>()?;
        let y = products_group((x, &merged.iter().collect::<Vec<_>>()), None, 1.0)?;
        (y, merged.into_iter().map(lora::Branch::Merged).collect())
    } else {
        let h = products_group((x, &a), None, scale)?;
        let y = products_group((x, &weights), Some((&h, &b)), 1.0)?;
        (y, apart(&h, x).into_iter().map(lora::Branch::Beside).collect())
    };
    let ys = apart(&y, x);
    for ((layer, branch), y) in layers.into_iter().zip(branches).zip(&ys) {
        layer.record(tape, device.clone(), order, branch, y);
    }
    Ok(Some(ys))
}

/// The result of each layer of `x`, `[.., out]`, in `y` `[layers, rows, out]`.
fn apart(y: &Tensor, x: &Tensor) -> Vec<Tensor> {
    let [layers, _, out] = *y.shape() else { unreachable!("a result of a group") };
    let shape = shaped(x, out);
    let len: usize = shape.iter().product();
    (0..layers).map(|i| y.view(i * len, &shape)).collect()
}
