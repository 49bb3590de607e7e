//! The LoRA files of a run: NAME.safetensors is the newest, NAME-NNNNNNNN.safetensors those of earlier saved steps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::{Format, TrainConfig};
use crate::data::examples::Examples;
use crate::error::{Error, Result};
use crate::lora::save::{self, Layout};
use crate::lora::{BaseModules, Expert, base, provenance};
use crate::tensor::DType;

/// What files in diffusers' layout say of their training: not how it was done, which `config.toml` beside them says.
const IN_DIFFUSERS: [&str; 7] = [
    "ss_sd_model_name",
    "ss_learning_rate",
    "ss_max_train_steps",
    "ss_num_train_images",
    "ss_num_reg_images",
    "ss_optimizer",
    "modelspec.trigger_phrase",
];

/// Where and how LoRAs are written.
pub struct SavedLoras {
    result: PathBuf,
    layout: Layout,
    dtype: DType,
    /// LoRAs of earlier steps that are kept.
    keep: usize,
    /// The model's layers, for kohya's names and to tell its family.
    base: BaseModules,
    metadata: BTreeMap<String, String>,
}

impl SavedLoras {
    /// # Errors
    /// [`Error::File`] where the model's headers cannot be read.
    pub fn new(config: &TrainConfig, examples: &Examples) -> Result<Self> {
        let model = Path::new(&config.model);
        let kohya = config.format == Format::Kohya;
        Ok(Self {
            result: config.result(),
            layout: if kohya { Layout::Kohya } else { Layout::Diffusers },
            dtype: config.save_precision.dtype(),
            keep: config.kept_loras(),
            base: base::modules(model)?,
            metadata: {
                let mut metadata = examples.provenance();
                if !kohya {
                    metadata.retain(|key, _| IN_DIFFUSERS.contains(&key.as_str()));
                }
                // As in sd-scripts, of all steps: equal LoRAs are equal files.
                metadata.insert("modelspec.title".into(), config.output_name.clone());
                metadata.insert("selma.targets".into(), config.targets.join(","));
                metadata.extend(provenance::prediction(model)?);
                metadata.extend(provenance::base_model(model)?);
                metadata
            },
        })
    }

    /// The LoRA of the newest saved step.
    pub fn result(&self) -> &Path {
        &self.result
    }

    /// Writes the LoRA of `step` to `path`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, expert: Expert, step: u64) -> Result<()> {
        let mut metadata = self.metadata.clone();
        metadata.insert("selma.step".into(), step.to_string());
        metadata.insert("ss_steps".into(), step.to_string());
        save::write(self.layout, path, &expert.stored_as(self.dtype), Some(&self.base), &metadata)
    }

    /// Writes the LoRA of `step` beside those of earlier steps, and removes the oldest beyond those that are kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_step(&self, expert: Expert, step: u64) -> Result<()> {
        if self.keep == 0 {
            return Ok(());
        }
        let path = self.result.with_file_name(format!("{}-{step:08}.safetensors", self.name()));
        self.write(&path, expert, step)?;
        let steps = self.steps()?;
        for old in &steps[..steps.len().saturating_sub(self.keep)] {
            std::fs::remove_file(old).map_err(|e| Error::io(old, e))?;
        }
        Ok(())
    }

    /// The LoRAs of earlier steps, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn steps(&self) -> Result<Vec<PathBuf>> {
        let folder = self.result.parent().unwrap_or(Path::new(""));
        let start = format!("{}-", self.name());
        let is_step = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(".safetensors"));
            number.is_some_and(|number| number.len() == 8 && number.bytes().all(|b| b.is_ascii_digit()))
        };
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_step).collect();
        paths.sort();
        Ok(paths)
    }

    fn name(&self) -> String {
        self.result.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}
