//! A gate's file: `gate.weight` `[T, width]` and `gate.bias` `[T]`, shared by all layers, or `gate.LAYER.weight` and
//! `gate.LAYER.bias` for each; the header says which experts it was trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Gate;
use crate::error::{Error, Result};
use crate::formats::digest;
use crate::formats::safetensors::{self, Safetensors};
use crate::tensor::Tensor;

/// The key of the header's list of experts.
const EXPERTS: &str = "selma.experts";

/// An expert that a gate belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its file name, without folders.
    pub file: String,
    pub sha256: String,
}

/// The gates of all layers.
#[derive(Clone, Debug)]
pub enum Gates {
    Shared(Gate),
    /// By the layer's name, such as `down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k`.
    Layers(BTreeMap<String, Gate>),
}

/// A gate and its experts.
#[derive(Clone, Debug)]
pub struct GateFile {
    pub experts: Vec<Origin>,
    pub gates: Gates,
}

impl Origin {
    /// Of a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(path: &Path) -> Result<Self> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file, sha256: digest::file(path)? })
    }
}

impl Gates {
    /// The gate of a layer, if there is one.
    pub fn of(&self, layer: &str) -> Option<&Gate> {
        match self {
            Gates::Shared(gate) => Some(gate),
            Gates::Layers(gates) => gates.get(layer),
        }
    }

    /// Each gate once, in a fixed order.
    pub fn all(&self) -> Vec<&Gate> {
        match self {
            Gates::Shared(gate) => vec![gate],
            Gates::Layers(gates) => gates.values().collect(),
        }
    }
}

impl GateFile {
    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, more: &BTreeMap<String, String>) -> Result<()> {
        let mut tensors = Vec::new();
        let mut put = |prefix: &str, gate: &Gate| {
            let [weight, bias] = gate.tensors();
            tensors.extend([(format!("{prefix}.weight"), weight), (format!("{prefix}.bias"), bias)]);
        };
        match &self.gates {
            Gates::Shared(gate) => put("gate", gate),
            Gates::Layers(gates) => gates.iter().for_each(|(layer, gate)| put(&format!("gate.{layer}"), gate)),
        }
        let mut metadata = more.clone();
        metadata.insert(EXPERTS.into(), serde_json::json!(self.experts).to_string());
        safetensors::write(path, &tensors, &metadata)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::File`] naming the key that is missing, or the tensor that is no gate's.
    pub fn read(path: &Path) -> Result<Self> {
        let file = Safetensors::open(path)?;
        let list = file.metadata().get(EXPERTS);
        let experts: Option<Vec<Origin>> = list.and_then(|text| serde_json::from_str(text).ok());
        let experts = experts.filter(|experts| !experts.is_empty()).ok_or_else(|| {
            let message =
                format!("no list of experts (`{EXPERTS}`) in its header; expected a file of `selma merge --gate`");
            Error::file(path, message)
        })?;
        let mut tensors: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for name in file.names() {
            let parts = name.strip_suffix(".weight").map(|layer| (layer, 0));
            let parts = parts.or(name.strip_suffix(".bias").map(|layer| (layer, 1)));
            let layer = parts.and_then(|(layer, which)| match layer {
                "gate" => Some(("", which)),
                layer => layer.strip_prefix("gate.").map(|layer| (layer, which)),
            });
            let Some((layer, which)) = layer else {
                return Err(Error::file(path, format!("`{name}` is no tensor of a gate")));
            };
            let tensor = file.weight(name)?;
            if !tensor.is_finite() {
                return Err(Error::file(path, format!("`{name}` holds NaN or infinity")));
            }
            tensors.entry(layer.into()).or_default()[which] = Some(tensor);
        }
        let mut gates = BTreeMap::new();
        for (layer, pair) in tensors {
            let [Some(weight), Some(bias)] = pair else {
                return Err(Error::file(path, format!("the gate `{layer}` lacks its weight or its bias")));
            };
            let gate = Gate::new(&weight, &bias).map_err(|e| Error::file(path, format!("the gate `{layer}`: {e}")))?;
            if gate.experts() != experts.len() {
                let message =
                    format!("the gate `{layer}` is for {} experts; expected {}", gate.experts(), experts.len());
                return Err(Error::file(path, message));
            }
            gates.insert(layer, gate);
        }
        let gates = match (gates.len(), gates.remove("")) {
            (0, _) => return Err(Error::file(path, "no gate in it")),
            (1, Some(shared)) => Gates::Shared(shared),
            (_, Some(_)) => return Err(Error::file(path, "has a gate for all layers beside those of layers")),
            (_, None) => Gates::Layers(gates),
        };
        Ok(Self { experts, gates })
    }

    /// The experts' files beside the gate.
    pub fn beside(&self, gate: &Path) -> Vec<PathBuf> {
        self.experts.iter().map(|expert| gate.with_file_name(&expert.file)).collect()
    }

    /// Finds out whether `loras` are the experts that the gate was trained on, in their order.
    ///
    /// # Errors
    /// [`Error::File`] naming the first LoRA that is another.
    pub fn check(&self, gate: &Path, loras: &[PathBuf]) -> Result<()> {
        let names: Vec<&str> = self.experts.iter().map(|expert| expert.file.as_str()).collect();
        let wanted = format!("give the LoRAs of the gate in their order: {}", names.join(", "));
        if loras.len() != self.experts.len() {
            let message =
                format!("was trained on {} experts, and {} LoRAs are given; {wanted}", names.len(), loras.len());
            return Err(Error::file(gate, message));
        }
        for (number, (expert, lora)) in (1..).zip(self.experts.iter().zip(loras)) {
            let given = Origin::of(lora)?;
            if given.sha256 != expert.sha256 {
                let short = |hash: &str| hash.chars().take(12).collect::<String>();
                let message = format!(
                    "its expert {number} is {} (SHA-256 {}...), and {} is another file ({}...); {wanted}",
                    expert.file,
                    short(&expert.sha256),
                    lora.display(),
                    short(&given.sha256)
                );
                return Err(Error::file(gate, message));
            }
        }
        Ok(())
    }
}
