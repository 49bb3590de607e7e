//! The layout of sd-scripts, with the metadata that its readers look at.
//!
//! Sources: sd-scripts `networks/lora.py`, `library/train_util.py` (metadata, hashes), `library/sai_model_spec.py`; Stability
//! AI's ModelSpec 1.0.1.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{commonest, like_convolution, number, times};
use crate::error::{Error, Result};
use crate::formats::digest::hex;
use crate::formats::safetensors;
use crate::lora::base::BaseModules;
use crate::lora::expert::{Along, Expert, Magnitude, is_norm};
use crate::lora::families::Family;
use crate::lora::{inspect, sgm};
use crate::tensor::{DType, Tensor};

/// Writes underscored names, `.alpha` tensors, `ss_` metadata and hashes. SDXL UNets get their LDM block names, as
/// sd-scripts writes them. `base` tells the model's blocks; without it the published families' are assumed. An `extra` key
/// `modelspec.prediction_type` of `v` marks the LoRA of a v-prediction model.
///
/// One alpha serves the whole file, the rest is folded into `lora_up`: diffusers mis-scales kohya files whose alphas differ.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn kohya(path: &Path, expert: &Expert, base: Option<&BaseModules>, extra: &BTreeMap<String, String>) -> Result<()> {
    let family = inspect::family_on(expert, base);
    let two_encoders = family == Some(Family::Sdxl) || base.is_some_and(|b| b.contains_key("text_encoder_2"));
    let layout = two_encoders.then(|| match base.and_then(|b| b.get("unet")) {
        Some(unet) => sgm::Layout::of(unet.keys().map(String::as_str)),
        None => sgm::Layout::of(Family::Sdxl.modules()["unet"].keys().map(String::as_str)),
    });
    let prefix = |component: &str| match (component, two_encoders) {
        ("unet", _) => "lora_unet",
        ("text_encoder_2", _) => "lora_te2",
        (_, true) => "lora_te1",
        (_, false) => "lora_te",
    };
    let alpha = commonest(expert.iter().map(|(_, _, f)| f.alpha));
    let mut tensors = Vec::new();
    for (component, module, factors) in expert.iter() {
        let ldm = layout.as_ref().filter(|_| component == "unet").and_then(|l| l.ldm_name(module));
        let stem = format!("{}_{}", prefix(component), ldm.as_deref().unwrap_or(module).replace('.', "_"));
        let up = times(&factors.b, factors.alpha / alpha);
        tensors.push((format!("{stem}.alpha"), Tensor::full(&[], alpha, DType::F32)));
        tensors.push((format!("{stem}.lora_down.weight"), factors.a.clone()));
        tensors.push((format!("{stem}.lora_up.weight"), like_convolution(up, factors)));
        if let Some(Magnitude { values, along }) = &factors.magnitude {
            let mut shape = vec![1; factors.a.shape().len()];
            shape[usize::from(*along == Along::Inputs)] = values.len();
            tensors.push((format!("{stem}.dora_scale"), values.with_shape(&shape)));
        }
    }
    for (component, name, vector) in expert.vectors() {
        let (module, last) = name.rsplit_once('.').unwrap_or((name, "weight"));
        let ldm = layout.as_ref().filter(|_| component == "unet").and_then(|l| l.ldm_name(module));
        let stem = format!("{}_{}", prefix(component), ldm.as_deref().unwrap_or(module).replace('.', "_"));
        let role = match (is_norm(name), last) {
            (true, "weight") => "w_norm",
            (true, _) => "b_norm",
            (false, _) => "diff_b",
        };
        tensors.push((format!("{stem}.{role}"), vector.clone()));
    }
    let mut metadata = extra.clone();
    metadata.insert("format".into(), "pt".into());
    network(expert, family, alpha, &mut metadata);
    hashes(&tensors, &mut metadata).map_err(|e| Error::io(path, e))?;
    model_spec(path, family, &mut metadata);
    safetensors::write(path, &tensors, &metadata)
}

/// What managers of LoRAs show of a file in any layout: sd-scripts' keys of the network, and ModelSpec's.
pub(super) fn describe(
    path: &Path,
    expert: &Expert,
    base: Option<&BaseModules>,
    metadata: &mut BTreeMap<String, String>,
) {
    let family = inspect::family_on(expert, base);
    let alpha = commonest(expert.iter().map(|(_, _, f)| f.alpha));
    network(expert, family, alpha, metadata);
    // The factors have other names than those that sd-scripts' module makes.
    metadata.remove("ss_network_args");
    model_spec(path, family, metadata);
}

/// The keys that sd-scripts keeps even where no metadata is wanted.
fn network(expert: &Expert, family: Option<Family>, alpha: f64, metadata: &mut BTreeMap<String, String>) {
    let v_prediction = metadata.get("modelspec.prediction_type").is_some_and(|p| p == "v");
    let mut ranks = expert.iter().map(|(_, _, f)| f.rank());
    let first = ranks.next().unwrap_or(0);
    let rank = match ranks.all(|r| r == first) {
        true => first.to_string(),
        false => "Dynamic".into(),
    };
    if let Some(family) = family {
        let version = match (family.kohya_version(), v_prediction) {
            (version @ ("sd_v1" | "sd_v2"), true) => format!("{version}_v"),
            (version, _) => version.into(),
        };
        metadata.insert("ss_base_model_version".into(), version);
        let v2 = if family == Family::Sd2 { "True" } else { "False" };
        metadata.insert("ss_v2".into(), v2.into());
    }
    metadata.entry("ss_v2".into()).or_insert("False".into());
    metadata.insert("ss_network_module".into(), "networks.lora".into());
    metadata.insert("ss_network_dim".into(), rank);
    metadata.insert("ss_network_alpha".into(), number(alpha).to_string());
    metadata.insert("ss_network_args".into(), network_args(expert, alpha));
}

/// `conv_dim` is what makes sd-scripts build modules for 3x3 convolutions when it goes on training such a file.
fn network_args(expert: &Expert, alpha: f64) -> String {
    let large = |shape: &[usize]| matches!(*shape, [_, _, h, w] if h * w > 1);
    let ranks: Vec<usize> = (expert.iter()).filter(|(_, _, f)| large(f.a.shape())).map(|(_, _, f)| f.rank()).collect();
    match ranks.iter().max() {
        Some(rank) => {
            serde_json::json!({ "conv_alpha": number(alpha).to_string(), "conv_dim": rank.to_string() }).to_string()
        }
        None => "{}".into(),
    }
}

/// `sshs_model_hash` and `sshs_legacy_hash`, of a serialisation whose metadata is the `ss_` keys alone, and ModelSpec's
/// hash of the tensors.
fn hashes(tensors: &[(String, Tensor)], metadata: &mut BTreeMap<String, String>) -> io::Result<()> {
    let training: BTreeMap<String, String> = (metadata.iter())
        .filter(|(key, _)| key.starts_with("ss_"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut hasher = Hasher::default();
    safetensors::emit(&mut hasher, tensors, &training)?;
    let (body, window) = (hex(hasher.body.finalize()), hex(hasher.window.finalize()));
    metadata.insert("sshs_legacy_hash".into(), window[..8].into());
    metadata.insert("modelspec.hash_sha256".into(), format!("0x{body}"));
    metadata.insert("sshs_model_hash".into(), body);
    Ok(())
}

/// Where the legacy hash looks: one block at 1 MiB. Smaller files all have the hash of nothing.
const WINDOW: std::ops::Range<usize> = 0x10_0000..0x11_0000;

/// Hashes what is written instead of storing it.
#[derive(Default)]
struct Hasher {
    position: usize,
    header: usize,
    body: Sha256,
    window: Sha256,
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.position == 0
            && let Ok(length) = bytes.try_into()
        {
            self.header = 8 + u64::from_le_bytes(length) as usize;
        }
        let end = self.position + bytes.len();
        let part = |from: usize, to: usize| {
            let at = |x: usize| x.clamp(self.position, end) - self.position;
            &bytes[at(from)..at(to)]
        };
        self.body.update(part(self.header, usize::MAX));
        self.window.update(part(WINDOW.start, WINDOW.end));
        self.position = end;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The keys of ModelSpec that need no clock. What the caller knows better is left alone. A file that cannot say its architecture
/// does not claim to follow the specification, and has a title for those who list it.
fn model_spec(path: &Path, family: Option<Family>, metadata: &mut BTreeMap<String, String>) {
    let title = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    metadata.entry("modelspec.title".into()).or_insert(title);
    let Some(family) = family else { return };
    let v_prediction = metadata.get("modelspec.prediction_type").is_some_and(|p| p == "v");
    let (architecture, implementation) = match (family, v_prediction) {
        (Family::Sd1, _) => ("stable-diffusion-v1/lora", "diffusers"),
        (Family::Sd2, false) => ("stable-diffusion-v2-512/lora", "diffusers"),
        (Family::Sd2, true) => ("stable-diffusion-v2-768-v/lora", "diffusers"),
        (Family::Sdxl, _) => ("stable-diffusion-xl-v1-base/lora", "https://github.com/Stability-AI/generative-models"),
    };
    metadata.insert("modelspec.sai_model_spec".into(), "1.0.1".into());
    metadata.insert("modelspec.architecture".into(), architecture.into());
    metadata.insert("modelspec.implementation".into(), implementation.into());
}
