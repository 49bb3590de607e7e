//! `selma pretrain`: the built-in model from nothing.

use std::path::PathBuf;
use std::time::Instant;

use crate::cli::Common;
use crate::cli::terminal::Terminal;
use crate::error::{Error, Result};
use crate::pretrain::Pretraining;
use crate::tensor::DType;

/// Train the built-in model from nothing. With the defaults and seed 42 it becomes the one in this binary.
#[derive(clap::Args)]
pub struct Pretrain {
    /// The model: shapes.
    model: String,
    /// Folder for the model, in the layout of diffusers, and for states and records.
    #[arg(long, alias = "output-dir")]
    out: PathBuf,
    /// Go on from the newest state in --out.
    #[arg(long)]
    resume: bool,
    /// Optimizer steps of the VAE.
    #[arg(long, default_value_t = Pretraining::VAE_STEPS)]
    vae_steps: u64,
    /// Captioned pictures that text encoder and UNet learn from.
    #[arg(long, default_value_t = Pretraining::PAIRS)]
    pairs: usize,
    /// Optimizer steps of the text encoder alone.
    #[arg(long, default_value_t = Pretraining::TEXT_STEPS)]
    text_steps: u64,
    /// Optimizer steps of text encoder and UNet after that.
    #[arg(long, default_value_t = Pretraining::STEPS)]
    steps: u64,
    /// How often both are refined after those, from a lower rate.
    #[arg(long, default_value_t = Pretraining::REFINEMENTS)]
    refinements: u64,
    /// Optimizer steps of each refinement.
    #[arg(long, default_value_t = Pretraining::REFINING_STEPS)]
    refining_steps: u64,
    /// Steps between saved states; at each the model in --out is the one of that step.
    #[arg(long, default_value_t = 250)]
    save_every: u64,
}

impl Pretrain {
    pub fn run(self, common: &Common) -> Result<()> {
        if self.model != "shapes" {
            let message = format!("no built-in model {}: expected shapes", self.model);
            return Err(Error::Usage(message));
        }
        if common.precision != "auto" && common.precision()? != DType::F32 {
            return Err(Error::Unavailable("pretraining in 16 bits".into()));
        }
        let run = Pretraining {
            out: self.out,
            device: common.device()?,
            seed: common.seed(),
            vae_steps: self.vae_steps,
            pairs: self.pairs,
            text_steps: self.text_steps,
            steps: self.steps,
            refinements: self.refinements,
            refining_steps: self.refining_steps,
            save_every: self.save_every,
        };
        let mut terminal = Terminal::new(common)?;
        let begin = Instant::now();
        run.run(self.resume, &mut terminal)?;
        terminal.finish();
        common.note_memory(&run.device);
        common.note(format!("{:.1} minutes", begin.elapsed().as_secs_f64() / 60.0));
        if !common.json {
            println!("{}", run.out.display());
        }
        Ok(())
    }
}
