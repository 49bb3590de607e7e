//! Several linear layers of one input.

use super::{Source, check, linear, record};
use crate::autograd::{Later, Made, Tape};
use crate::device::Device;
use crate::error::Result;
use crate::ops::lora::{self, LoraLayer, lora_linear};
use crate::ops::matmul::gpu_group::{MOST, products_group, products_in_sum, products_of_each};
use crate::ops::matmul::shaped;
use crate::tensor::{Tensor, device_of};

const OP: &str = "linear_group";

/// [`linear`] or [`lora_linear`] of one `x` `[.., in]` for each of several layers without bias: a weight `[out, in]`, and
/// the LoRA that the layer has besides. On a GPU up to eight neighbours are one launch, where weights and LoRAs are of one
/// shape and scale, and one more launch for the LoRAs; the bytes are those of one after the other. So is the gradient of x, which
/// is rounded once.
///
/// # Errors
/// [`crate::Error::Shape`] where the shapes do not fit or the tensors are on several devices; what a GPU says.
pub fn linear_group(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<LoraLayer<'_>>)]) -> Result<Vec<Tensor>> {
    let one = |&(weight, lora): &(&Tensor, Option<LoraLayer<'_>>)| match lora {
        None => linear(tape, x, weight, None),
        Some(lora) => lora_linear(tape, x, weight, None, lora),
    };
    let mut results = Vec::with_capacity(layers.len());
    for group in layers.chunk_by(alike).flat_map(|group| group.chunks(MOST)) {
        // Only a GPU gains by it: a launch of one layer would leave much of it idle.
        match at_once(tape, x, group)? {
            Some(ys) => results.extend(ys),
            None => results.extend(group.iter().map(one).collect::<Result<Vec<_>>>()?),
        }
    }
    Ok(results)
}

/// Whether two layers can go together.
fn alike(
    (weight, lora): &(&Tensor, Option<LoraLayer<'_>>),
    (other, others): &(&Tensor, Option<LoraLayer<'_>>),
) -> bool {
    let kind =
        |lora: &Option<LoraLayer<'_>>| lora.map(|lora| (lora.a.shape().to_vec(), lora.scale.to_bits(), lora.order));
    weight.shape() == other.shape() && kind(lora) == kind(others)
}

/// The results of layers that are alike, on a GPU.
fn at_once(tape: &Tape, x: &Tensor, layers: &[(&Tensor, Option<LoraLayer<'_>>)]) -> Result<Option<Vec<Tensor>>> {
    if layers.len() < 2 || x.is_empty() {
        return Ok(None);
    }
    let weights: Vec<&Tensor> = layers.iter().map(|(weight, _)| *weight).collect();
    let loras: Vec<LoraLayer<'_>> = layers.iter().filter_map(|(_, lora)| *lora).collect();
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
    let layers = layers.into_iter().zip(branches);
    if order.merged || !tape.wants(x) {
        layers.zip(&ys).for_each(|((layer, branch), y)| layer.record(tape, device.clone(), order, branch, y));
        return Ok(Some(ys));
    }
    let inputs = |layer: &lora::Inputs<'_>| [layer.weight, layer.lora.a, layer.lora.b].map(|t| t.clone());
    let (inputs, saved): (Vec<_>, Vec<_>) =
        layers.map(|(layer, branch)| (inputs(&layer), layer.saved(tape, device.clone(), order, branch))).unzip();
    let inputs: Vec<Option<&Tensor>> = [x].into_iter().chain(inputs.iter().flatten()).map(Some).collect();
    tape.record_many(OP, &inputs, &ys, move |dy, wants, onto| gradients(saved, dy, wants, onto));
    Ok(Some(ys))
}

/// The gradients of x, plus `onto`, and of the weight, a and b of each layer: that of x in one product, if all layers are part
/// of it, where it is rounded once.
fn gradients(
    layers: Vec<lora::Saved>,
    dy: &[Option<Tensor>],
    wants: &[bool],
    onto: Option<Tensor>,
) -> Made<Vec<Option<Tensor>>> {
    let (wants_x, of_layers) = (wants[0], wants[1..].as_chunks::<3>().0);
    let whole: Option<Vec<&Tensor>> = dy.iter().map(Option::as_ref).collect();
    let (mut dx, mut dh) = (onto, vec![None; layers.len()]);
    if let Some(dy) = &whole {
        let hidden: Vec<_> = dy.iter().zip(&layers).map(|(dy, layer)| [*dy, &layer.b]).collect();
        let made = products_of_each(&hidden, layers[0].scale)?;
        let first: Vec<_> = dy.iter().zip(&layers).map(|(dy, layer)| [*dy, &layer.whole]).collect();
        let second: Vec<_> = made.iter().zip(&layers).map(|(dh, layer)| [dh, &layer.a]).collect();
        dx = Some(products_in_sum(&first, &second, dx.as_ref())?);
        dh = made.into_iter().map(Some).collect();
    }
    let alone = wants_x && whole.is_none();
    let (mut gradients, mut waiting) = (Vec::new(), Vec::new());
    for (i, (layer, dh)) in layers.into_iter().zip(dh).enumerate() {
        let [weight, a, b] = of_layers[i];
        let Some(dy) = &dy[i] else {
            gradients.extend([const { None }; 3]);
            continue;
        };
        let onto = dx.take_if(|_| alone);
        let ([own_dx, weight, a, b, ..], later) = layer.gradients(dy, [alone, weight, a, b, false, false], onto, dh)?;
        dx = dx.or(own_dx);
        gradients.extend([weight, a, b]);
        // Its inputs follow x and those of the layers before.
        let moved = |later: Later| Later { inputs: later.inputs.iter().map(|input| input + 3 * i).collect(), ..later };
        waiting.extend(later.into_iter().map(moved));
    }
    gradients.insert(0, dx);
    Ok((gradients, waiting))
}

/// The result of each layer of `x`, `[.., out]`, in `y` `[layers, rows, out]`.
fn apart(y: &Tensor, x: &Tensor) -> Vec<Tensor> {
    let [layers, _, out] = *y.shape() else { unreachable!("a result of a group") };
    let shape = shaped(x, out);
    let len: usize = shape.iter().product();
    (0..layers).map(|i| y.view(i * len, &shape)).collect()
}
