//! `selma merge --gate`: the options of the gated merge, and its training.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::terminal::Terminal;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::lora;
use crate::tensor::DType;
use crate::train::config::TrainConfig;
use crate::train::gate::{GateSettings, GateTrainer, Outcome};
use crate::train::preparation::Preparation;

#[derive(clap::Args)]
#[command(next_help_heading = "Gated merge")]
pub struct GateOptions {
    /// Train a gate that weighs the LoRAs for each prompt, from the mean of its text states; `selma generate --gate` uses it.
    /// The LoRAs stay as they are.
    #[arg(long, requires_all = ["model", "data"], conflicts_with_all = ["into", "method", "rank", "max_error", "density", "compat", "layout"])]
    gate: bool,
    /// Images with captions that the gate is trained on, as of `selma train`: those that the LoRAs were trained on.
    #[arg(long, value_name = "DIR", requires = "gate")]
    data: Option<PathBuf>,
    /// A gate for each layer instead of one for all.
    #[arg(long, requires = "gate")]
    per_layer: bool,
    /// Steps of the gate's training.
    #[arg(long, default_value_t = 200, requires = "gate")]
    steps: u64,
    /// Texts of a step.
    #[arg(long, default_value_t = 8, requires = "gate")]
    batch_size: usize,
    /// Learning rate of the gate.
    #[arg(long, default_value_t = 1e-3, requires = "gate")]
    lr: f64,
    /// Weight of the balance term, which is 0 where all LoRAs are used alike and T - 1 where one of T has all.
    #[arg(long, default_value_t = 0.01, requires = "gate", allow_negative_numbers = true)]
    balance: f64,
    /// Pixels of a side [default: the model's].
    #[arg(long, requires = "gate")]
    resolution: Option<u32>,
    /// Read captions longer than 75 tokens whole.
    #[arg(long, requires = "gate")]
    long_prompts: bool,
    /// Go on with a training that was stopped.
    #[arg(long, requires = "gate")]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long, value_name = "DIR", requires = "gate")]
    vocab: Option<PathBuf>,
}

impl GateOptions {
    /// Whether a gate is asked for.
    pub fn asked(&self) -> bool {
        self.gate
    }

    /// Trains the gate of `loras` on `model` (a folder or file) and writes it to `out`. What a stopped training needs is kept
    /// in a folder beside it until then.
    ///
    /// # Errors
    /// Those of [`Preparation::new`] and [`GateTrainer`].
    pub fn run(&self, loras: &[PathBuf], model: &Path, out: &Path, allow_unused: bool, common: &Common) -> Result<()> {
        if loras.len() < 2 {
            return Err(Error::Usage("--gate: a gate weighs two LoRAs or more; give --lora for each".into()));
        }
        if !(self.balance >= 0.0 && self.balance.is_finite()) {
            return Err(Error::Usage(format!("--balance {}: expected a number that is not negative", self.balance)));
        }
        input::check([("--data", self.data.as_deref()), ("--vocab", self.vocab.as_deref())])?;
        let dtype = common.precision()?;
        if dtype == DType::F16 {
            return Err(Error::Usage("--precision f16: a gate is trained in f32 or bf16".into()));
        }
        let modules = lora::base::modules(model)?;
        let mut loaded = Vec::new();
        for path in loras {
            let lora = lora::load(path, Some(&modules), allow_unused)?;
            lora.warnings().for_each(|w| common.note(format!("warning: {w}")));
            loaded.push(lora);
        }
        let mut folder = out.as_os_str().to_owned();
        folder.push(".training");
        let folder = PathBuf::from(folder);
        let config = TrainConfig {
            model: model.display().to_string(),
            data: self.data.clone().unwrap_or_default(),
            out: folder.clone(),
            rank: loaded.iter().map(|lora| lora.expert.max_rank()).sum(),
            steps: self.steps,
            batch_size: 1,
            grad_accum: self.batch_size,
            lr: self.lr,
            weight_decay: 0.0,
            resolution: self.resolution,
            buckets: Some(false),
            long_prompts: self.long_prompts,
            seed: common.seed(),
            precision: dtype.name().into(),
            ..TrainConfig::default()
        };
        let device = common.device()?;
        let mut terminal = Terminal::new(common)?;
        let vocab = self.vocab.as_deref();
        let prepared = Preparation::new(config, vocab, &device, dtype, self.resume, &mut terminal)?;
        let settings = GateSettings { balance: self.balance, per_layer: self.per_layer };
        let mut trainer = GateTrainer::new(prepared, &loaded, settings, vocab, self.resume)?;
        common.note(format!("training {} values of a gate over {} LoRAs", trainer.trained(), loras.len()));
        terminal.begin(trainer.step(), self.steps);
        let Outcome { file, loss, balance, shares } = trainer.run(&mut terminal)?;
        terminal.finish();
        atomic::check(out)?;
        file.write(out, &Default::default())?;
        drop(trainer);
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        if common.json {
            outjson!(json!({"out": out, "loss": loss, "balance": balance, "shares": shares}));
            return Ok(());
        }
        let percent: Vec<String> = shares.iter().map(|share| format!("{:.1} %", 100.0 * share)).collect();
        outln!("{}: mean shares of the last step {}, balance {balance:.4}", out.display(), percent.join(", "));
        Ok(())
    }
}
