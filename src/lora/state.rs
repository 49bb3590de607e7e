//! A state of `selma train` read as a LoRA: the values of all layers lie one after the other in one tensor, and the header
//! says which layers they are.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attach::in_files;
use super::expert::{Along, Expert, LoraFactors};
use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::tensor::{DType, Tensor};

/// The key of the header under which the layers are listed.
pub const LAYERS: &str = "selma.layers";
/// What is trained; a running average of it, where there is one, is what the run saves as its LoRA.
const VALUES: [&str; 2] = ["average", "master"];

/// One layer in a state.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateLayer {
    #[serde(default = "unet", skip_serializing_if = "is_unet")]
    pub component: String,
    pub module: String,
    /// alpha / rank.
    pub scale: f64,
    /// Shape of A in memory: `[r, in]` or `[r, kh, kw, in]`.
    pub a: Vec<usize>,
    /// Shape of B: `[out, r]`.
    pub b: Vec<usize>,
    /// Whether DoRA's lengths of the rows follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub magnitude: bool,
}

fn unet() -> String {
    "unet".into()
}

fn is_unet(component: &str) -> bool {
    component == "unet"
}

/// The header's list of layers.
pub fn describe(layers: &[StateLayer]) -> String {
    serde_json::to_string(layers).expect("names and numbers are JSON")
}

/// The LoRA in a state; `None` for another file.
///
/// # Errors
/// [`Error::File`] where list and values do not fit each other, or a value is not finite.
pub fn expert(file: &Safetensors) -> Result<Option<Expert>> {
    let Some(list) = file.metadata().get(LAYERS) else {
        return Ok(None);
    };
    let refuse =
        |why: String| Error::file(file.path(), format!("`{LAYERS}` in its header {why}; the state is damaged"));
    let layers: Vec<StateLayer> =
        serde_json::from_str(list).map_err(|e| refuse(format!("is not a list of layers: {e}")))?;
    let name = VALUES.iter().find(|name| file.shape(name).is_some());
    let values = file.tensor(name.ok_or_else(|| refuse("stands beside no values".into()))?)?;
    if values.dtype() != DType::F32 || !values.is_finite() {
        return Err(refuse("stands beside values that are not finite numbers".into()));
    }
    let mut rest: &[f32] = values.data();
    let mut next = |shape: &[usize]| {
        let len = shape.iter().try_fold(1_usize, |len, &side| len.checked_mul(side));
        let (head, tail) = rest.split_at_checked(len?)?;
        rest = tail;
        Some(Tensor::new(head.to_vec(), shape))
    };
    let mut expert = Expert::default();
    for StateLayer { component, module, scale, a, b, magnitude } in &layers {
        let short = || refuse(format!("has more values than there are: {module}"));
        let (a, b) = (next(a).ok_or_else(short)?, next(b).ok_or_else(short)?);
        let alpha = scale * a.shape().first().copied().unwrap_or(0) as f64;
        let layer =
            LoraFactors::new(in_files(&a), b, alpha).map_err(|e| refuse(format!("has a wrong layer {module}: {e}")))?;
        let layer = match magnitude {
            false => layer,
            true => {
                let lengths = next(&[layer.outputs()]).ok_or_else(short)?;
                layer.with_magnitude(lengths, Along::Outputs).map_err(|e| refuse(e.to_string()))?
            }
        };
        expert.insert(component, module, layer);
    }
    match rest.is_empty() {
        true => Ok(Some(expert)),
        false => Err(refuse("has fewer values than there are".into())),
    }
}

/// Checks that every layer of `expert` is one of the model's.
///
/// # Errors
/// [`Error::File`] naming the first one that is not.
pub fn check(path: &Path, expert: &Expert, base: &super::BaseModules) -> Result<()> {
    for (component, module, factors) in expert.iter() {
        let shape = base.get(component).and_then(|modules| modules.get(module));
        if shape.is_none_or(|shape| *shape != factors.weight_shape()) {
            let message = format!("{module} of shape {:?} is not in this model", factors.weight_shape());
            return Err(Error::file(path, message));
        }
    }
    Ok(())
}
