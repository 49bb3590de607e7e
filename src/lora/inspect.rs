//! What is in a LoRA file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::base::BaseModules;
use super::dense;
use super::expert::Expert;
use super::families::Family;
use super::{file, state};
use crate::error::Result;
use crate::formats::digest;

/// What `selma inspect` prints of a LoRA.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub file: String,
    /// Of the whole file.
    pub sha256: String,
    pub family: Option<&'static str>,
    /// `diffusers`, `peft`, `kohya` or `LyCORIS`: by its keys.
    pub layout: &'static str,
    pub components: BTreeMap<String, ComponentSummary>,
    pub values: usize,
    /// 2-norm of all deltas together.
    pub norm: f64,
    pub metadata: BTreeMap<String, String>,
    pub unused: Vec<Unused>,
    /// Norms and biases that it changes.
    #[serde(skip_serializing_if = "is_zero")]
    pub vectors: usize,
    /// Of these, differences of norms and of biases.
    pub norms: usize,
    pub biases: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One component's modules.
#[derive(Debug, Serialize)]
pub struct ComponentSummary {
    pub modules: usize,
    /// Of these, with DoRA's lengths.
    #[serde(skip_serializing_if = "is_zero")]
    pub dora: usize,
    pub ranks: BTreeSet<usize>,
    pub alphas: Vec<f64>,
    pub scales: Vec<f64>,
    pub norm: f64,
    /// Frobenius norm of each module's delta.
    pub norms: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
pub struct Unused {
    pub key: String,
    pub reason: String,
}

/// Reads a LoRA and sums it up; what fits nothing is listed, not refused.
///
/// # Errors
/// Those of [`file::load`].
pub fn inspect(path: &Path) -> Result<Summary> {
    let loaded = file::load(path, None, true)?;
    let mut components = BTreeMap::new();
    for (component, modules) in &loaded.expert.components {
        let norms: BTreeMap<String, f64> = modules
            .par_iter()
            .map(|(module, f)| (module.clone(), dense::norm(&dense::product(&[(f.scale(), f)]))))
            .collect();
        let summary = ComponentSummary {
            modules: modules.len(),
            dora: modules.values().filter(|f| f.magnitude.is_some()).count(),
            ranks: modules.values().map(|f| f.rank()).collect(),
            alphas: distinct(modules.values().map(|f| f.alpha)),
            scales: distinct(modules.values().map(|f| f.scale())),
            norm: norms.values().map(|n| n * n).sum::<f64>().sqrt(),
            norms,
        };
        components.insert(component.clone(), summary);
    }
    let keys = || loaded.applied.keys();
    Ok(Summary {
        file: loaded.path.display().to_string(),
        sha256: digest::file(&loaded.path)?,
        family: family(&loaded.expert).map(Family::name),
        layout: match () {
            _ if loaded.metadata.contains_key(state::LAYERS) => "state of selma train",
            _ if keys().any(|k| [".hada_", ".lokr_", ".diff"].iter().any(|part| k.contains(part))) => "LyCORIS",
            _ if keys().any(|k| k.contains(".lora_down.") || k.contains(".lora_up.")) => "kohya",
            _ if keys().any(|k| k.starts_with("base_model.")) => "peft",
            _ => "diffusers",
        },
        vectors: loaded.expert.vectors().count(),
        norms: loaded.expert.norms_and_biases().0,
        biases: loaded.expert.norms_and_biases().1,
        values: loaded.expert.iter().map(|(_, _, f)| f.a.len() + f.b.len()).sum(),
        norm: components.values().map(|c| c.norm * c.norm).sum::<f64>().sqrt(),
        components,
        metadata: loaded.metadata,
        unused: loaded.unused.into_iter().map(|(key, reason)| Unused { key, reason }).collect(),
    })
}

/// The family by the width of the text condition, the second encoder, or the first encoder's width.
pub fn family(expert: &Expert) -> Option<Family> {
    if expert.components.contains_key("text_encoder_2") {
        return Some(Family::Sdxl);
    }
    let by_width = |width: usize| Family::ALL.into_iter().find(|f| f.context_width() == width);
    let context = expert.iter().find(|(component, module, _)| {
        *component == "unet" && (module.ends_with("attn2.to_k") || module.ends_with("attn2.to_v"))
    });
    if let Some((_, _, factors)) = context {
        return by_width(factors.inputs());
    }
    let encoder = expert.components.get("text_encoder")?;
    let (_, factors) = encoder.iter().find(|(module, _)| module.ends_with("q_proj"))?;
    // SD 1.x and SDXL share their first encoder; a file with SDXL's UNet has had its answer above.
    by_width(factors.inputs()).filter(|f| *f != Family::Sdxl)
}

/// The family of a LoRA; where its own modules do not tell, that of the model that it belongs to.
pub fn family_on(expert: &Expert, base: Option<&BaseModules>) -> Option<Family> {
    let of_base = |base: &BaseModules| {
        if base.contains_key("text_encoder_2") {
            return Some(Family::Sdxl);
        }
        let reads_text = |(module, _): &(&String, &Vec<usize>)| module.ends_with("attn2.to_k");
        let (_, shape) = base.get("unet")?.iter().find(reads_text)?;
        Family::ALL.into_iter().find(|family| shape.get(1) == Some(&family.context_width()))
    };
    family(expert).or_else(|| of_base(base?))
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}
