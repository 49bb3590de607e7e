//! What the tensors of a file hold: shapes that fit, values that are numbers.

use std::path::Path;

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::lora::dense;
use crate::tensor::{DType, Tensor};

/// Brings both factors into the shapes of [`LoraFactors`], and checks them against the weight.
pub(super) fn fit(
    path: &Path,
    (down_key, down): (&str, Tensor),
    (up_key, up): (&str, Tensor),
    mid: Option<Tensor>,
    weight: Option<&Vec<usize>>,
) -> Result<(Tensor, Tensor)> {
    let wrong = |key: &str, shape: &[usize], expected: String| {
        let hint = "is the LoRA of another model family?";
        Error::file(path, format!("{key} has shape {shape:?}, expected {expected}; {hint}"))
    };
    let mut down = match mid {
        Some(mid) => dense::contract_mid(&down, &mid)
            .ok_or_else(|| wrong(down_key, down.shape(), format!("factors that fit lora_mid {:?}", mid.shape())))?,
        None => down,
    };
    let flat_up = |up: &Tensor| match *up.shape() {
        [o, r] | [o, r, 1, 1] => Some(up.with_shape(&[o, r])),
        _ => None,
    };
    let up = flat_up(&up).ok_or_else(|| wrong(up_key, up.shape(), "[out, rank] or [out, rank, 1, 1]".into()))?;
    let (outputs, rank) = (up.shape()[0], up.shape()[1]);
    if let Some(weight) = weight {
        // A 1x1 convolution and a linear layer take each other's factors.
        let (r, rest) = (down.shape().first().copied().unwrap_or(0), &weight[1..]);
        let squeezed = |shape: &[usize]| match *shape {
            [i, 1, 1] => vec![i],
            _ => shape.to_vec(),
        };
        let same = down.shape().len() > 1 && squeezed(&down.shape()[1..]) == squeezed(rest);
        if !same || r != rank {
            return Err(wrong(down_key, down.shape(), format!("[{rank}, {}]", join(rest))));
        }
        if outputs != weight[0] {
            return Err(wrong(up_key, up.shape(), format!("[{}, {rank}]", weight[0])));
        }
        let shape: Vec<usize> = std::iter::once(rank).chain(rest.iter().copied()).collect();
        down = down.with_shape(&shape);
    } else if !matches!(down.shape().len(), 2 | 4) || down.shape()[0] != rank {
        return Err(wrong(down_key, down.shape(), format!("[{rank}, in] beside an up factor {:?}", up.shape())));
    }
    Ok((down, up))
}

fn join(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

pub(in crate::lora) fn finite(file: &Safetensors, key: &str) -> Result<Tensor> {
    let tensor = file.weight(key)?.cast(DType::F32);
    if !tensor.is_finite() {
        return Err(Error::file(file.path(), format!("{key} holds values too large for f32")));
    }
    Ok(tensor)
}

pub(in crate::lora) fn scalar(file: &Safetensors, key: &str) -> Result<f64> {
    let tensor = file.tensor(key)?;
    if tensor.len() != 1 {
        let message = format!("{key} has shape {:?}, expected one number", tensor.shape());
        return Err(Error::file(file.path(), message));
    }
    let value = tensor.item();
    if !value.is_finite() || value == 0.0 {
        let message = format!("{key} is {value}: its module would have no effect or a broken one");
        return Err(Error::file(file.path(), message));
    }
    Ok(value)
}
