//! `selma extract` and `selma resize`: LoRAs by singular values.

use std::path::PathBuf;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::lora::extract::extract;
use crate::lora::merge::{Method, Options, merge};
use crate::lora::save::Layout;
use crate::lora::svd::Cut;
use crate::lora::{base, load, provenance, save};

/// How many singular values are kept.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Rank {
    /// Rank of every module; lower where the module has less.
    #[arg(long, alias = "new-rank", alias = "dim")]
    rank: Option<usize>,
    /// Give each module the smallest rank whose relative error is at most this, above 0 and below 1.
    #[arg(long)]
    max_error: Option<f64>,
}

impl Rank {
    fn check(&self) -> Result<()> {
        match (self.rank, self.max_error) {
            (Some(0), _) => Err(Error::Usage("--rank 0: expected at least 1".into())),
            (_, Some(x)) if !(x > 0.0 && x < 1.0) => {
                Err(Error::Usage(format!("--max-error {x}: expected a number above 0 and below 1")))
            }
            _ => Ok(()),
        }
    }

    fn cut(&self) -> Cut {
        self.rank.map_or_else(|| Cut::MaxError(self.max_error.unwrap_or_default()), Cut::Rank)
    }
}

/// Make a LoRA of what a fine-tuned model changed of its base model.
#[derive(clap::Args)]
#[command(after_help = EXTRACT)]
pub struct Extract {
    /// The model that was fine-tuned: a diffusers folder or a checkpoint.
    #[arg(long, alias = "model-org", value_name = "MODEL")]
    base: PathBuf,
    /// What came of it.
    #[arg(long, alias = "model-tuned", value_name = "MODEL")]
    tuned: PathBuf,
    #[command(flatten)]
    rank: Rank,
    /// Output file.
    #[arg(long, alias = "save-to")]
    out: PathBuf,
    /// Layout of the result.
    #[arg(long, visible_alias = "to", value_enum, default_value = "diffusers")]
    layout: Layout,
    #[command(flatten)]
    overwrite: Overwrite,
}

const EXTRACT: &str = "\
Examples:
  selma extract --base sd15.safetensors --tuned style.safetensors --rank 32 --out style-lora.safetensors
  selma extract --base ./sdxl --tuned ./sdxl-style --max-error 0.3 --layout kohya --out style-lora.safetensors";

impl Extract {
    /// Extracts and writes the LoRA.
    ///
    /// # Errors
    /// For models that cannot be read or do not fit each other, and a result that is in the way.
    pub fn run(self, common: &Common) -> Result<()> {
        self.rank.check()?;
        self.overwrite.check_unused(&self.out)?;
        save::check(self.layout, &self.out)?;
        let (base, tuned) = (common.model(&self.base)?, common.model(&self.tuned)?);
        let extracted = extract(&base, &tuned, self.rank.cut())?;
        if let Some(first) = extracted.left_out.first() {
            let count = extracted.left_out.len();
            common.note(format!("{count} tensors that a LoRA does not change differ too, such as {first}"));
        }
        let metadata = provenance::prediction(&base)?.into_iter().collect();
        let modules = base::modules(&base)?;
        save::write(self.layout, &self.out, &extracted.expert, Some(&modules), &metadata)?;
        let (count, rank, error) = (extracted.expert.len(), extracted.expert.max_rank(), extracted.relative_error);
        match common.json {
            true => outjson!(serde_json::json!({
                "out": self.out, "modules": count, "rank": rank, "relative_error": error, "left_out": extracted.left_out,
            })),
            false => outln!("{}: {}, relative error {error:.2e}", self.out.display(), extracted.expert.contents()),
        }
        Ok(())
    }
}

/// Give a LoRA a lower rank.
#[derive(clap::Args)]
#[command(after_help = RESIZE)]
pub struct Resize {
    /// LoRA in any layout.
    file: PathBuf,
    #[command(flatten)]
    rank: Rank,
    /// Output file.
    #[arg(long, alias = "save-to")]
    out: PathBuf,
    /// Layout of the result.
    #[arg(long, visible_alias = "to", value_enum, default_value = "diffusers")]
    layout: Layout,
    /// The model that the LoRA belongs to; needed where its blocks are not those of SD 1.x, SD 2.x or SDXL.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

const RESIZE: &str = "\
Examples:
  selma resize style.safetensors --rank 16 --out small.safetensors
  selma resize style.safetensors --max-error 0.1 --out dynamic.safetensors";

impl Resize {
    /// Resizes and writes the LoRA.
    ///
    /// # Errors
    /// For a LoRA that cannot be read, and a result that is in the way.
    pub fn run(self, common: &Common) -> Result<()> {
        self.rank.check()?;
        input::check([("FILE", Some(self.file.as_path()))])?;
        self.overwrite.check_unused(&self.out)?;
        save::check(self.layout, &self.out)?;
        let model = self.model.as_deref().map(|model| common.model(model)).transpose()?;
        let modules = model.as_deref().map(base::modules).transpose()?;
        let loaded = load(&self.file, modules.as_ref(), false)?;
        let mut options = Options::new(Method::Svd);
        (options.rank, options.max_error) = (self.rank.rank, self.rank.max_error);
        let merged = merge(&[(&loaded.expert, 1.0)], &options)?;
        let mut metadata = provenance::of_merge(std::slice::from_ref(&loaded), &[1.0], &options)?;
        metadata.extend(provenance::errors(&merged));
        if let Some(model) = &model {
            metadata.extend(provenance::prediction(model)?);
        }
        save::write(self.layout, &self.out, &merged.expert, modules.as_ref(), &metadata)?;
        let (count, before, rank) = (merged.expert.len(), loaded.expert.max_rank(), merged.expert.max_rank());
        let error = merged.relative_error;
        match common.json {
            true => outjson!(serde_json::json!({
                "out": self.out, "modules": count, "rank": rank, "rank_before": before, "relative_error": error,
            })),
            false => outln!(
                "{}: {}; rank up to {before} before, relative error {error:.2e}",
                self.out.display(),
                merged.expert.contents()
            ),
        }
        Ok(())
    }
}
