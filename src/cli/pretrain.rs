//! `selma pretrain`: the built-in model from nothing, or on from what there is.

use std::path::PathBuf;
use std::time::Instant;

use crate::cli::Common;
use crate::cli::terminal::Terminal;
use crate::error::{Error, Result};
use crate::pretrain::Pretraining;
use crate::shapes::careless::Careless;
use crate::tensor::DType;

/// Train a model of the built-in kind from nothing: VAE, text encoder, both networks on exact captions, then on careless ones.
///
/// --careless-steps 0 makes the model of exact captions alone. assets/shapes/README.md in the sources says how the
/// model in this binary was made.
#[derive(clap::Args)]
pub struct Pretrain {
    /// The model: shapes.
    model: String,
    /// Folder for the model, in the layout of diffusers, and for states and records.
    #[arg(long, alias = "output-dir")]
    out: PathBuf,
    /// Start from this model (shapes, or the --out of another run) and run only the stage of careless captions.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["vae_steps", "text_steps", "steps", "refinements", "refining_steps"])]
    from: Option<PathBuf>,
    /// Go on from the newest state in --out.
    #[arg(long)]
    resume: bool,
    /// Optimizer steps of the VAE.
    #[arg(long, default_value_t = Pretraining::VAE_STEPS)]
    vae_steps: u64,
    /// Captioned images that text encoder and UNet learn from.
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
    /// How careless captions err, as NAME=SHARE with a comma between: relations, counts, sizes, swaps (of two things'
    /// colours), colours (of a single thing), any-colours, backgrounds; omitted and generic leave words out.
    #[arg(long, default_value = Pretraining::CARELESS, value_name = "SHARES")]
    careless: String,
    /// Optimizer steps on careless captions, the last stage; 0 leaves it out.
    #[arg(long, default_value_t = Pretraining::CARELESS_STEPS)]
    careless_steps: u64,
    /// Highest learning rate of that stage.
    #[arg(long, default_value_t = Pretraining::CARELESS_LR)]
    careless_lr: f64,
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
            from: self.from.map(|from| common.model(&from)).transpose()?,
            device: common.device()?,
            seed: common.seed(),
            vae_steps: self.vae_steps,
            pairs: self.pairs,
            text_steps: self.text_steps,
            steps: self.steps,
            refinements: self.refinements,
            refining_steps: self.refining_steps,
            careless: Careless::parse(&self.careless)?,
            careless_steps: self.careless_steps,
            careless_lr: self.careless_lr,
            save_every: self.save_every,
        };
        let mut terminal = Terminal::new(common)?;
        let begin = Instant::now();
        run.run(self.resume, &mut terminal)?;
        terminal.finish();
        common.note_memory(&run.device);
        common.note(format!("{:.1} minutes", begin.elapsed().as_secs_f64() / 60.0));
        if !common.json {
            outln!("{}", run.out.display());
        }
        Ok(())
    }
}
