//! `selma convert`: a LoRA from one layout to another.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::error::Result;
use crate::lora::save::{self, Layout};
use crate::lora::{base, load, provenance};

/// Write a LoRA in another layout.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// A LoRA in any layout: a file, or a folder that holds one.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The layout to write.
    #[arg(long, value_enum)]
    to: Layout,
    /// Where the result goes: a file; for peft a new folder, or a file in .safetensors.
    #[arg(long)]
    out: PathBuf,
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
  selma convert pytorch_lora_weights.safetensors --to kohya --out style.safetensors";

impl Convert {
    /// Reads, converts and writes the LoRA.
    ///
    /// # Errors
    /// For a LoRA that cannot be read or written in that layout.
    pub fn run(mut self, common: &Common) -> Result<()> {
        input::check([("FILE", Some(self.file.as_path()))])?;
        self.overwrite.check_unused(&self.out)?;
        save::check(self.to, &self.out)?;
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
        save::write(self.to, &self.out, &loaded.expert, modules.as_ref(), &metadata)?;
        let (modules, rank) = (loaded.expert.len(), loaded.expert.max_rank());
        if common.json {
            let out = self.out.display().to_string();
            outjson!(serde_json::json!({ "out": out, "modules": modules, "rank": rank, "metadata": metadata }));
        } else {
            outln!("{}: {modules} modules, rank up to {rank}", self.out.display());
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
