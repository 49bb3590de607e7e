//! Stage `merge`: the experts of all skills become one LoRA.

use std::path::Path;

use super::Run;
use super::plan::SELECTED;
use crate::error::{Error, Result};
use crate::lora::merge::{Method, merge};
use crate::lora::{Expert, base, load, provenance, save};
use crate::train::watcher::Watcher;

/// Where a merge is; `part` is empty for the plain one.
pub(super) fn folder(part: &str) -> String {
    match part {
        "" => "merge/plain".into(),
        part => format!("merge/{part}"),
    }
}

/// Writes `merge/plain/lora.safetensors`, or that of the selected experts.
///
/// # Errors
/// As [`merge`]; [`Error::Io`].
pub(super) fn merge_experts(run: &Run, part: &str, watcher: &mut dyn Watcher) -> Result<()> {
    let ending = if part.is_empty() { "" } else { SELECTED };
    let modules = base::modules(Path::new(&run.pipeline.experts.model))?;
    let mut loaded = Vec::new();
    for skill in &run.pipeline.skills {
        let path = run.folder.path(format!("experts/{}{ending}/lora.safetensors", skill.id));
        loaded.push(load(&path, Some(&modules), false)?);
    }
    let options = &run.pipeline.merge;
    let weight = match options.method {
        Method::Average => 1.0 / loaded.len() as f64,
        _ => 1.0,
    };
    let pairs: Vec<(&Expert, f64)> = loaded.iter().map(|lora| (&lora.expert, weight)).collect();
    let merged = merge(&pairs, options)?;
    let mut metadata = provenance::of_merge(&loaded, &vec![weight; loaded.len()], options)?;
    metadata.extend(provenance::errors(&merged));
    metadata.extend(provenance::prediction(Path::new(&run.pipeline.experts.model))?);
    let out = run.folder.path(folder(part));
    std::fs::create_dir_all(&out).map_err(|e| Error::io(&out, e))?;
    save::diffusers(&out.join("lora.safetensors"), &merged.expert, &metadata)?;
    watcher.note(&format!("{} experts as one LoRA: relative error {:.2e}", loaded.len(), merged.relative_error));
    Ok(())
}
