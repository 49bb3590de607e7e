//! LoRAs and optimizers as a case records them.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::lora::LoraFactors;
use crate::lora::attach;
use crate::nn::{Layer, Param, UNet, Visitor};
use crate::ops::optimizer::AdamW;
use crate::tensor::{DType, Tensor};
use crate::verify::case::Case;

/// Attaches the recorded factors of the UNet in `lora.init`: their parameters, and their names.
pub(super) fn recorded_loras(case: &Case, unet: &mut UNet, dtype: DType) -> Result<(Vec<Param>, Vec<String>)> {
    recorded_of(case, "unet", dtype, &mut |f| unet.visit(f))
}

/// The same of any network, whose layers `visit` hands out.
pub(in crate::verify) fn recorded_of(
    case: &Case,
    component: &str,
    dtype: DType,
    visit: &mut dyn FnMut(&mut Visitor),
) -> Result<(Vec<Param>, Vec<String>)> {
    let start = format!("lora.init.{component}.");
    let scale = case.f64("alpha")? / case.f64("rank")?;
    let mut factors: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
    for name in case.tensors.names().filter_map(|name| name.strip_prefix(&start)) {
        let tensor = case.tensor(&format!("{start}{name}"))?;
        if let Some(module) = name.strip_suffix(".lora_A.weight") {
            factors.entry(module.into()).or_default().0 = Some(tensor);
        } else if let Some(module) = name.strip_suffix(".lora_B.weight") {
            factors.entry(module.into()).or_default().1 = Some(tensor);
        }
    }
    let (mut params, mut names, mut found) = (Vec::new(), Vec::new(), 0);
    let mut failure = None;
    visit(&mut |mut layer| {
        if let Some((Some(down), Some(up))) = factors.get(layer.name()) {
            found += 1;
            let at = format!("{component}.{}", layer.name());
            match recorded_one(case, &at, &mut layer, (down, up), scale, dtype) {
                Ok(these) => {
                    names.extend(
                        ["lora_A", "lora_B", "lora_magnitude_vector"][..these.len()]
                            .iter()
                            .map(|role| format!("{at}.{role}.weight")),
                    );
                    params.extend(these);
                }
                Err(e) => failure = Some(case.error(format!("lora.init of {at}: {e}"))),
            }
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    if found != factors.len() {
        return Err(case.error(format!("{found} of {} LoRA modules fit the model", factors.len())));
    }
    Ok((params, names))
}

/// A and B of one layer, and with DoRA the lengths of its rows.
fn recorded_one(
    case: &Case,
    at: &str,
    layer: &mut Layer<'_>,
    (down, up): (&Tensor, &Tensor),
    scale: f64,
    dtype: DType,
) -> Result<Vec<Param>> {
    // B of a convolution is recorded as a 1x1 convolution.
    let up = match *up.shape() {
        [outputs, rank, 1, 1] => up.with_shape(&[outputs, rank]),
        _ => up.clone(),
    };
    let factors = LoraFactors::new(down.clone(), up, scale)?;
    let mut params = attach::branch(layer, &factors.a, &factors.b, scale, dtype)?.to_vec();
    let lengths = format!("lora.init.{at}.lora_magnitude_vector.weight");
    if case.tensors.contains(&lengths) {
        params.push(attach::decompose(layer, Some(&case.tensor(&lengths)?), dtype)?);
    }
    Ok(params)
}

/// The learning rate of key `lr`, and the recorded optimizer.
pub(in crate::verify) fn recorded_adamw(case: &Case, lr: &str) -> Result<(f64, Box<AdamW>)> {
    let optimizer = &case.json["optimizer"];
    let number = |v: &serde_json::Value| v.as_f64().ok_or_else(|| case.error("`optimizer`: expected numbers"));
    let adamw = AdamW {
        betas: (number(&optimizer["betas"][0])?, number(&optimizer["betas"][1])?),
        eps: number(&optimizer["eps"])?,
        weight_decay: number(&optimizer["weight_decay"])?,
    };
    Ok((number(&optimizer[lr])?, Box::new(adamw)))
}
