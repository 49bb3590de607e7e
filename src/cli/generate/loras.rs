//! The LoRAs of a picture.

use std::path::{Path, PathBuf};

use crate::cli::Common;
use crate::cli::merge::parse_lora;
use crate::error::Result;
use crate::lora;
use crate::pipeline::StableDiffusion;

/// A LoRA file and its strength.
pub struct Strength {
    pub path: PathBuf,
    pub scale: f64,
}

/// Reads `FILE[:SCALE]` arguments; a folder means the LoRA in it.
///
/// # Errors
/// As [`parse_lora`] and [`lora::file::resolve`].
pub fn parse(arguments: &[String]) -> Result<Vec<Strength>> {
    let resolve = |argument: &String| {
        let (path, scale) = parse_lora(argument)?;
        let (path, scale) = (lora::file::resolve(&path)?, scale.unwrap_or(1.0));
        Ok(Strength { path, scale })
    };
    arguments.iter().map(resolve).collect()
}

/// Puts all of them onto the model that was loaded from `base`.
///
/// # Errors
/// As [`lora::load`] and [`StableDiffusion::apply`].
pub fn apply(
    loras: &[Strength],
    base: &Path,
    allow_unused: bool,
    model: &mut StableDiffusion,
    common: &Common,
) -> Result<()> {
    if loras.is_empty() {
        return Ok(());
    }
    let base = lora::base::modules(base)?;
    let mut experts = Vec::new();
    for Strength { path, scale } in loras {
        let loaded = lora::load(path, Some(&base), allow_unused)?;
        loaded.warnings().for_each(|warning| common.note(warning));
        let modules = loaded.expert.len();
        common.note(format!("{}: {modules} modules applied at {scale}", path.display()));
        experts.push(loaded.expert.scaled(*scale));
    }
    model.apply(&experts)
}
