//! Attaching LoRAs to the layers of a network, and reading them back.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::lora::expert::LoraFactors;
use crate::nn::{Layer, LoraWeights, Param};
use crate::ops::{self, LoraOrder};
use crate::tensor::{DType, Tensor};

/// Gives `layer` a branch from factors in the layout of files (`down` `[r, in]` or `[r, in, kh, kw]`, `up` `[out, r]`)
/// and returns its two parameters, A then B, on the device of its weight.
///
/// # Errors
/// [`Error::Failed`] naming the layer if the factors do not fit its weight.
pub fn branch(layer: &mut Layer<'_>, down: &Tensor, up: &Tensor, scale: f64, dtype: DType) -> Result<[Param; 2]> {
    let down = in_memory(down);
    let weight = weight_shape(layer);
    let fits = down.shape()[1..] == weight[1..] && *up.shape() == [weight[0], down.shape()[0]];
    if !fits {
        return Err(Error::Failed(format!(
            "LoRA of {}: down {:?} and up {:?} do not fit a weight of shape {weight:?}; is it for another model family?",
            layer.name(),
            down.shape(),
            up.shape()
        )));
    }
    let name = layer.name().to_owned();
    let device = weight_of(layer).device();
    let params = [
        Param::new(format!("{name}.lora_A.weight"), down.cast(dtype).to(&device)?),
        Param::new(format!("{name}.lora_B.weight"), up.cast(dtype).to(&device)?),
    ];
    let [a, b] = params.clone();
    let lora = Some(LoraWeights { a, b, scale, order: LoraOrder::Auto, magnitude: None });
    match layer {
        Layer::Linear(linear) => linear.lora = lora,
        Layer::Conv(conv) => conv.lora = lora,
    }
    Ok(params)
}

/// Says in which order the products of a linear layer's branch are made.
pub fn set_order(layer: &mut Layer<'_>, order: LoraOrder) {
    if let Layer::Linear(linear) = layer
        && let Some(branch) = &mut linear.lora
    {
        branch.order = order;
    }
}

/// Gives a layer's branch DoRA's lengths: `values` `[out]`, or those of its rows as they are. The parameter is on the device of
/// its weight.
///
/// # Errors
/// [`Error::Failed`] naming the layer where there are more or fewer than it has rows; what a GPU says.
pub fn decompose(layer: &mut Layer<'_>, values: Option<&Tensor>, dtype: DType) -> Result<Param> {
    let (name, weight) = (layer.name().to_owned(), weight_of(layer));
    let lora = match layer {
        Layer::Linear(linear) => linear.lora.as_mut(),
        Layer::Conv(conv) => conv.lora.as_mut(),
    };
    let Some(lora) = lora else { return Err(Error::Failed(format!("{name} has no LoRA that DoRA could go with"))) };
    let out = weight.shape()[0];
    let values = match values {
        Some(values) if values.len() == out => values.with_shape(&[out]),
        Some(values) => {
            return Err(Error::Failed(format!("DoRA of {name}: {} lengths for {out} rows", values.len())));
        }
        None => ops::dora_norm(&weight, &lora.a.get(), &lora.b.get(), lora.scale)?,
    };
    let magnitude = Param::new(format!("{name}.lora_magnitude_vector"), values.cast(dtype).to(&weight.device())?);
    lora.magnitude = Some(magnitude.clone());
    Ok(magnitude)
}

/// Takes a layer's branch off.
pub fn detach(layer: Layer<'_>) {
    match layer {
        Layer::Linear(linear) => linear.lora = None,
        Layer::Conv(conv) => conv.lora = None,
    }
}

/// Applies several experts at once to the layer: ranks stacked, scales folded into B.
///
/// # Errors
/// [`Error::Failed`] naming the layer where the experts differ in shape or do not fit its weight.
pub fn stacked(layer: &mut Layer<'_>, experts: &[&LoraFactors], dtype: DType) -> Result<()> {
    let (Some(first), rank) = (experts.first(), experts.iter().map(|f| f.rank()).sum::<usize>()) else {
        return Ok(());
    };
    if experts.iter().any(|factors| factors.magnitude.is_some()) {
        let message = format!("LoRA of {}: it is DoRA, whose change is no product beside the weight", layer.name());
        return Err(Error::Failed(message));
    }
    let outputs = first.outputs();
    let mut shape = first.a.shape().to_vec();
    let mut down = Vec::new();
    let mut up = vec![0.0; outputs * rank];
    let mut column = 0;
    for factors in experts {
        if factors.a.shape()[1..] != shape[1..] || factors.outputs() != outputs {
            return Err(Error::Failed(format!("LoRAs of {} have different shapes", layer.name())));
        }
        down.extend_from_slice(&factors.a.reals::<f32>());
        let scale = factors.scale() as f32;
        for (o, row) in factors.b.reals::<f32>().chunks(factors.rank()).enumerate() {
            for (j, &x) in row.iter().enumerate() {
                up[o * rank + column + j] = scale * x;
            }
        }
        column += factors.rank();
    }
    shape[0] = rank;
    branch(layer, &Tensor::new(down, &shape), &Tensor::new(up, &[outputs, rank]), 1.0, dtype)?;
    Ok(())
}

/// `[out, in]`, or `[c_out, kh, kw, c_in]`.
pub fn weight_shape(layer: &Layer<'_>) -> Vec<usize> {
    weight_of(layer).shape().to_vec()
}

fn weight_of(layer: &Layer<'_>) -> Tensor {
    match layer {
        Layer::Linear(linear) => linear.weight.get(),
        Layer::Conv(conv) => conv.weight.get(),
    }
}

/// The layer's branch in the layout of files, with `alpha = scale * rank`.
///
/// # Errors
/// [`Error::Shape`] where the factors do not fit each other; what a GPU says.
pub fn factors(lora: &LoraWeights) -> Result<LoraFactors> {
    let (down, up) = (lora.a.get().to_cpu()?, lora.b.get().to_cpu()?);
    let rank = down.shape()[0] as f64;
    LoraFactors::new(in_files(&down), up, lora.scale * rank)
}

/// Branches for a whole network: every module of `modules` must be found, by `visit`, among its layers.
///
/// # Errors
/// [`Error::Failed`] naming a module that the network lacks, or whose weight the factors do not fit.
pub fn attach_all(
    modules: &BTreeMap<String, Vec<&LoraFactors>>,
    dtype: DType,
    visit: impl FnOnce(&mut dyn FnMut(Layer<'_>)),
) -> Result<()> {
    let (mut missing, mut failure): (BTreeSet<&String>, _) = (modules.keys().collect(), None);
    visit(&mut |mut layer| {
        if let Some(factors) = modules.get(layer.name()) {
            missing.remove(&layer.name().to_string());
            if let Err(e) = stacked(&mut layer, factors, dtype) {
                failure.get_or_insert(e);
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None => match missing.first() {
            None => Ok(()),
            Some(first) => Err(Error::Failed(format!(
                "{} of {} LoRA modules are no linear layer or convolution of this model, such as {first}",
                missing.len(),
                modules.len()
            ))),
        },
    }
}

/// `[r, c, kh, kw]` as `[r, kh, kw, c]`; linear factors as they are.
pub fn in_memory(down: &Tensor) -> Tensor {
    let &[r, c, kh, kw] = down.shape() else {
        return down.clone();
    };
    Tensor::new(transposed(&down.reals::<f32>(), r, c, kh * kw), &[r, kh, kw, c])
}

/// `[r, kh, kw, c]` as `[r, c, kh, kw]`; linear factors as they are.
pub fn in_files(down: &Tensor) -> Tensor {
    let &[r, kh, kw, c] = down.shape() else {
        return down.clone();
    };
    Tensor::new(transposed(&down.reals::<f32>(), r, kh * kw, c), &[r, c, kh, kw])
}

/// `[n, a, b]` as `[n, b, a]`.
pub(crate) fn transposed(x: &[f32], n: usize, a: usize, b: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for i in 0..n {
        for k in 0..b {
            y.extend((0..a).map(|j| x[(i * a + j) * b + k]));
        }
    }
    y
}
