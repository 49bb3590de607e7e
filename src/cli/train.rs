//! `selma train`: one LoRA expert from a folder of captioned images.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::cli::terminal::Terminal;
use crate::cli::tokens::{self, TokenOptions};
use crate::cli::{Common, parse_precision};
use crate::device::memory;
use crate::error::Result;
use crate::train::config::{DATA, FILES, IMAGES, TrainConfig, TrainOptions};
use crate::train::folder::OutputFolder;
use crate::train::preparation::Preparation;
use crate::train::tokens::TokenSettings;
use crate::train::trainer::Trainer;
use crate::train::watcher::Watcher;

/// Train one LoRA expert.
#[derive(clap::Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub struct Train {
    /// A TOML file with any of these settings (`config.toml` of an earlier run); options given here come on top.
    #[arg(long, help_heading = FILES)]
    config: Option<PathBuf>,
    /// selma-sd or selma-sdxl: the settings of the SELMA paper, with other options on top.
    #[arg(long, conflicts_with = "config", help_heading = FILES)]
    preset: Option<String>,
    /// Go on from the newest state in --out.
    #[arg(long, visible_alias = "resume-from-checkpoint", help_heading = FILES)]
    resume: bool,
    #[command(flatten)]
    options: TrainOptions,
    /// The same as --flip=false.
    #[arg(long, help_heading = IMAGES)]
    no_flip: bool,
    /// Check data, model and settings, say what the run would do and take, and end there. Nothing is written.
    #[arg(long, help_heading = FILES)]
    dry_run: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long, help_heading = DATA)]
    vocab: Option<PathBuf>,
    #[command(flatten)]
    tokens: TokenOptions,
}

const USAGE: &str =
    "selma train --model <MODEL> --data <DIR|TOML> --out <DIR> [OPTIONS]\n       selma train --config <TOML> [OPTIONS]";

const EXAMPLES: &str = "\
Examples:
  selma train --model ./sd15 --data ./photos --out my-lora --rank 16 --steps 1000 --lr 1e-4
  selma train --model ./sd15 --data ./photos --out my-lora --dry-run
  selma train --config my-lora/config.toml --resume
  selma train --model ./sdxl --data dataset.toml --out my-lora --preset selma-sdxl --train-text-encoder";

impl Train {
    pub fn run(self, common: &Common) -> Result<()> {
        let (vocab, resume, dry_run) = (self.vocab.clone(), self.resume, self.dry_run);
        let (mut config, tokens) = self.resolve()?;
        OutputFolder::check_unused(&config)?;
        if let (Some(tokens), false) = (tokens.clone(), dry_run) {
            return tokens::train(config, tokens, vocab.as_deref(), resume, common);
        }
        config.model = common.model(Path::new(&config.model))?.display().to_string();
        config.seed = common.given_seed.unwrap_or(config.seed);
        if common.precision != "auto" {
            config.precision.clone_from(&common.precision);
        }
        let device = common.device()?;
        let dtype = parse_precision(&config.precision, &device)?;
        config.precision = dtype.name().into();
        let mut terminal = Terminal::new(common)?;
        if dry_run {
            return Preparation::dry_run(config, vocab.as_deref(), &device, dtype, tokens.as_ref(), &mut terminal);
        }
        let mut trainer = Trainer::new(config.clone(), vocab.as_deref(), &device, dtype, resume, &mut terminal)?;
        let (values, modules) = trainer.trained();
        terminal.note(&format!(
            "training {values} values in {modules} modules, rank {}, scale {}, on {} images; gradients are clipped to {}",
            config.rank,
            config.scale(),
            trainer.samples(),
            config.max_grad_norm
        ));
        let (begin, first) = (Instant::now(), trainer.step());
        terminal.begin(first, config.steps);
        trainer.run(&mut terminal)?;
        terminal.finish();
        let seconds = begin.elapsed().as_secs_f64();
        let samples = (config.steps - first) * (config.batch_size * config.grad_accum) as u64;
        let planned = trainer.plans().host.peak();
        let on_gpu = trainer.plans().gpu.as_ref();
        let on_gpu = on_gpu.map(|(gpu, plan)| (gpu.usage(), plan.peak()));
        let usage = memory::usage();
        if common.json {
            let peak = usage.map(|usage| usage.peak);
            let mut summary = json!({
                "lora": config.result(), "samples": samples, "seconds": seconds,
                "peak_bytes": peak, "planned_bytes": planned,
            });
            if let Some((usage, planned)) = on_gpu {
                summary["device_peak_bytes"] = usage.peak.into();
                summary["device_planned_bytes"] = planned.into();
            }
            outjson!(summary);
        } else {
            outln!("{}", config.result().display());
        }
        common.note(format!("{samples} samples, {:.2} a second", samples as f64 / seconds));
        if let Some(usage) = usage {
            common.note(format!(
                "peak memory: {} of {} planned; {} now, without files",
                memory::format_bytes(usage.peak),
                memory::format_bytes(planned),
                memory::format_bytes(usage.anonymous)
            ));
        }
        if let Some((usage, planned)) = on_gpu {
            common.note(format!(
                "peak memory on the device: {} of {} planned; {} were taken for it",
                memory::format_bytes(usage.peak),
                memory::format_bytes(planned),
                memory::format_bytes(usage.reserved)
            ));
        }
        Ok(())
    }

    fn resolve(self) -> Result<(TrainConfig, Option<TokenSettings>)> {
        let mut config = match (&self.config, &self.preset) {
            (Some(path), _) => TrainConfig::read(path)?,
            (None, Some(name)) => TrainConfig::preset(name)?,
            (None, None) => TrainConfig::default(),
        };
        config.flip &= !self.no_flip;
        self.options.resolve(&mut config);
        config.validate()?;
        let tokens = self.tokens.settings(&config)?;
        Ok((config, tokens))
    }
}
