//! The LoRAs that images are generated with.

use std::path::{Path, PathBuf};

use super::StableDiffusion;
use crate::error::Result;
use crate::lora;

/// A LoRA file and its strength.
#[derive(Clone, Debug, PartialEq)]
pub struct Strength {
    pub path: PathBuf,
    pub scale: f64,
}

/// Puts all of them onto the model that was loaded from `base`, and tells `note` what was applied and what was not.
///
/// # Errors
/// As [`lora::load`] and [`StableDiffusion::apply`].
pub fn apply(
    loras: &[Strength],
    base: &Path,
    allow_unused: bool,
    model: &mut StableDiffusion,
    note: &mut dyn FnMut(String),
) -> Result<()> {
    if loras.is_empty() {
        return Ok(());
    }
    let base = lora::base::modules(base)?;
    let mut experts = Vec::new();
    for Strength { path, scale } in loras {
        let loaded = lora::load(path, Some(&base), allow_unused)?;
        loaded.warnings().for_each(&mut *note);
        note(format!("{}: {} applied at {scale}", path.display(), loaded.expert.contents()));
        experts.push(loaded.expert.scaled(*scale));
    }
    model.apply(&experts)
}
