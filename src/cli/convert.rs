//! `selma convert`: a LoRA or a model from one layout to another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::generate::convert;
use crate::lora::save::{self, Layout};
use crate::lora::{base, load, provenance};
use crate::train::config::SavePrecision;

/// Write a LoRA or a model in another layout.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// A LoRA in any layout: a file, or a folder that holds one. A model: a folder of diffusers' layout, or a checkpoint.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The layout to write.
    #[arg(long, value_enum)]
    to: Target,
    /// Where the result goes: a file; for peft a new folder, or a file in .safetensors; for model-folder a new folder.
    #[arg(long)]
    out: PathBuf,
    /// Numbers of the written file: f32, f16 or bf16 [default: f32; of a model, those that it has]
    #[arg(long, value_parser = SavePrecision::parse)]
    save_precision: Option<SavePrecision>,
    /// The model that the LoRA belongs to; needed where its blocks are not those of SD 1.x, SD 2.x or SDXL.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Warn of tensors that fit nothing instead of refusing the file.
    #[arg(long)]
    allow_unused: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

const EXAMPLES: &str = "\
Examples:
  selma convert pytorch_lora_weights.safetensors --to kohya --out style.safetensors
  selma convert ./sd15 --to single-file --save-precision f16 --out sd15.safetensors
  selma convert sd15.safetensors --to model-folder --out ./sd15";

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// A LoRA: `unet.P.lora_A.weight`, alpha in the header
    Diffusers,
    /// A LoRA: `lora_unet_P.lora_down.weight` with `.alpha` tensors: sd-scripts, ComfyUI, webui
    Kohya,
    /// A LoRA: an adapter folder for peft; with a name in .safetensors, its tensors in one file
    Peft,
    /// A model: one file in the layout of CompVis and Stability, for ComfyUI and webui
    #[value(alias = "checkpoint")]
    SingleFile,
    /// A model: a folder in the layout of diffusers
    #[value(alias = "folder")]
    ModelFolder,
}

impl Target {
    /// The layout of a LoRA; none for a model.
    fn of_lora(self) -> Option<Layout> {
        match self {
            Target::Diffusers => Some(Layout::Diffusers),
            Target::Kohya => Some(Layout::Kohya),
            Target::Peft => Some(Layout::Peft),
            Target::SingleFile | Target::ModelFolder => None,
        }
    }
}

impl Convert {
    /// Reads, converts and writes the LoRA.
    ///
    /// # Errors
    /// For a LoRA that cannot be read or written in that layout.
    pub fn run(mut self, common: &Common) -> Result<()> {
        input::check([("FILE", Some(self.file.as_path()))])?;
        self.overwrite.check_unused(&self.out)?;
        let Some(layout) = self.to.of_lora() else {
            return self.convert_model(common);
        };
        save::check(layout, &self.out)?;
        if let Some(model) = &mut self.model {
            *model = common.model(model)?;
        }
        let modules = self.model.as_deref().map(base::modules).transpose()?;
        let loaded = load(&self.file, modules.as_ref(), self.allow_unused)?;
        loaded.warnings().for_each(|w| common.note(format!("warning: {w}")));
        let mut metadata = carried_over(&loaded.metadata);
        if let Some(model) = &self.model {
            metadata.extend(provenance::prediction(model)?);
        }
        let (count, rank, contents) = (loaded.expert.len(), loaded.expert.max_rank(), loaded.expert.contents());
        let (norms, biases) = loaded.expert.norms_and_biases();
        let expert = match self.save_precision {
            Some(precision) => loaded.expert.stored_as(precision.dtype()),
            None => loaded.expert,
        };
        save::write(layout, &self.out, &expert, modules.as_ref(), &metadata)?;
        if common.json {
            let out = self.out.display().to_string();
            outjson!(serde_json::json!({
                "out": out, "modules": count, "norms": norms, "biases": biases, "rank": rank, "metadata": metadata,
            }));
        } else {
            outln!("{}: {contents}", self.out.display());
        }
        Ok(())
    }

    fn convert_model(self, common: &Common) -> Result<()> {
        let dtype = self.save_precision.map(SavePrecision::dtype);
        let tensors = match (self.to, self.file.is_dir()) {
            (Target::SingleFile, true) => {
                convert::to_single_file(&self.file, &self.out, dtype, &mut |text| common.note(text))?
            }
            (Target::ModelFolder, false) => convert::to_folder(&self.file, &self.out, dtype)?,
            (_, true) => {
                let message = "is a folder already; --to single-file makes one file of it";
                return Err(Error::file(&self.file, message));
            }
            (_, false) => {
                let message = "is a file already; --to model-folder makes a folder of it";
                return Err(Error::file(&self.file, message));
            }
        };
        if common.json {
            outjson!(serde_json::json!({ "out": self.out.display().to_string(), "tensors": tensors }));
        } else {
            outln!("{}: {tensors} tensors", self.out.display());
        }
        Ok(())
    }
}

/// What a file says of its making stays; what it says of its own layout, ranks and bytes is written anew or left out.
fn carried_over(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let of_the_file = |key: &str| {
        let exact = ["format", "lora_adapter_metadata", "modelspec.hash_sha256", "modelspec.title"];
        let endings = [".lora_alpha", ".use_rslora"];
        exact.contains(&key)
            || key.starts_with("sshs_")
            || key.starts_with("ss_network_")
            || endings.iter().any(|ending| key.ends_with(ending))
    };
    (metadata.iter()).filter(|(key, _)| !of_the_file(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}
