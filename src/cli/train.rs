//! `selma train`: one LoRA expert from a folder of captioned pictures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::cli::terminal::Terminal;
use crate::cli::{Common, parse_precision};
use crate::data::preprocess::Crop;
use crate::device::memory;
use crate::error::{Error, Result};
use crate::train::config::{Optimizer, Prediction, TrainConfig};
use crate::train::trainer::Trainer;
use crate::train::watcher::Watcher;

/// Train one LoRA expert.
#[derive(clap::Args)]
pub struct Train {
    /// A TOML file with any of these settings (`config.toml` of an earlier run); options given here come on top.
    #[arg(long)]
    config: Option<PathBuf>,
    /// selma-sd or selma-sdxl: the settings of the SELMA paper, with other options on top.
    #[arg(long, conflicts_with = "config")]
    preset: Option<String>,
    /// shapes (the model inside this binary), a folder in the layout of diffusers, a single-file checkpoint, or an id of
    /// the Hugging Face hub (org/name).
    #[arg(long, alias = "pretrained-model-name-or-path")]
    model: Option<String>,
    /// Folder of another VAE for the model.
    #[arg(long, alias = "pretrained-vae-model-name-or-path")]
    vae: Option<PathBuf>,
    /// Pictures with `metadata.jsonl` or with `.txt` captions beside them.
    #[arg(long, alias = "train-data-dir")]
    data: Option<PathBuf>,
    /// Folder for `lora.safetensors`, records and states.
    #[arg(long, alias = "output-dir")]
    out: Option<PathBuf>,
    /// Go on from the newest state in --out.
    #[arg(long, alias = "resume-from-checkpoint")]
    resume: bool,
    /// Rank of every pair of factors (default: 128).
    #[arg(long, alias = "network-dim")]
    rank: Option<usize>,
    /// The update is scaled by alpha / rank (default: the rank).
    #[arg(long, alias = "network-alpha", allow_negative_numbers = true)]
    alpha: Option<f64>,
    /// Dotted suffixes of module names, or attention, attention+ff, all-linear, conv (default: to_q,to_k,to_v,to_out.0).
    #[arg(long, value_delimiter = ',')]
    targets: Option<Vec<String>>,
    /// Optimizer steps (default: 5000).
    #[arg(long, alias = "max-train-steps")]
    steps: Option<u64>,
    /// Samples of a micro-batch (default: 16).
    #[arg(long, alias = "train-batch-size")]
    batch_size: Option<usize>,
    /// Micro-batches of a step (default: 4).
    #[arg(long, alias = "gradient-accumulation-steps")]
    grad_accum: Option<usize>,
    /// Learning rate (default: 3e-4).
    #[arg(long, alias = "learning-rate", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// constant, linear, cosine, cosine-restarts or polynomial (default: constant). Steps that f16 skips do not count.
    #[arg(long, alias = "lr-scheduler")]
    lr_schedule: Option<String>,
    /// Steps over which the learning rate rises from 0 (default: 0).
    #[arg(long, alias = "lr-warmup-steps")]
    warmup: Option<u64>,
    /// adamw, or adamw8bit, which keeps both moments in 8 bits a value: a quarter of their memory (default: adamw).
    #[arg(long, alias = "optimizer-type")]
    optimizer: Option<String>,
    /// AdamW's, decoupled (default: 1e-2).
    #[arg(long, alias = "adam-weight-decay", allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// AdamW's two, with a comma between them (default 0.9,0.999).
    #[arg(long, value_delimiter = ',')]
    betas: Option<Vec<f64>>,
    /// AdamW's (default: 1e-8).
    #[arg(long, alias = "adam-epsilon", allow_negative_numbers = true)]
    eps: Option<f64>,
    /// Largest norm of the gradient; 0 turns clipping off (default: 1).
    #[arg(long, allow_negative_numbers = true)]
    max_grad_norm: Option<f64>,
    /// Pixels of a side (default: the model's).
    #[arg(long)]
    resolution: Option<u32>,
    /// random or center (default: random).
    #[arg(long)]
    crop: Option<String>,
    /// auto (what the model's scheduler says), epsilon or v_prediction.
    #[arg(long, alias = "prediction-type")]
    prediction: Option<String>,
    /// Min-SNR weighting with this gamma (default: off).
    #[arg(long, alias = "min-snr-gamma", allow_negative_numbers = true)]
    snr_gamma: Option<f64>,
    /// A shift of the noise, one a channel and picture, of this deviation (default: 0).
    #[arg(long, allow_negative_numbers = true)]
    noise_offset: Option<f64>,
    /// Share of captions replaced by the empty one (default: 0).
    #[arg(long, allow_negative_numbers = true)]
    caption_dropout: Option<f64>,
    /// Do not mirror pictures.
    #[arg(long)]
    no_flip: bool,
    /// Recompute whole blocks in the backward pass: a third more work for less memory.
    #[arg(long, alias = "gradient-checkpointing")]
    checkpointing: bool,
    /// How the products of the LoRA are ordered (default: auto): auto, the cheapest that loses nothing; factored; merged,
    /// into W + BA for outputs and gradients of inputs, which in 16 bits rounds small updates away; projected, dA and dB
    /// from the gradient of the whole weight; merged-projected.
    #[arg(long)]
    lora_order: Option<String>,
    /// Steps between saved states (default: 500).
    #[arg(long, alias = "checkpointing-steps")]
    save_every: Option<u64>,
    /// Saved states that are kept (default: 20).
    #[arg(long, alias = "checkpoints-total-limit")]
    keep: Option<usize>,
    /// Steps between sample pictures, which go to samples/ (default: none).
    #[arg(long, alias = "sample-every-n-steps")]
    sample_every: Option<u64>,
    /// What the sample pictures show; as often as wanted.
    #[arg(long, alias = "validation-prompt")]
    sample_prompt: Option<Vec<String>>,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Train {
    pub fn run(self, common: &Common) -> Result<()> {
        let (vocab, resume) = (self.vocab.clone(), self.resume);
        let mut config = self.resolve()?;
        config.model = common.model(Path::new(&config.model))?.display().to_string();
        config.seed = common.given_seed.unwrap_or(config.seed);
        if common.precision != "auto" {
            config.precision.clone_from(&common.precision);
        }
        let device = common.device()?;
        let dtype = parse_precision(&config.precision, &device)?;
        config.precision = dtype.name().into();
        let mut terminal = Terminal::new(common)?;
        let mut trainer = Trainer::new(config.clone(), vocab.as_deref(), &device, dtype, resume, &mut terminal)?;
        let (values, modules) = trainer.trained();
        terminal.note(&format!(
            "training {values} values in {modules} modules, rank {}, scale {}, on {} pictures; gradients are clipped to {}",
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
                "lora": config.out.join("lora.safetensors"), "samples": samples, "seconds": seconds,
                "peak_bytes": peak, "planned_bytes": planned,
            });
            if let Some((usage, planned)) = on_gpu {
                summary["device_peak_bytes"] = usage.peak.into();
                summary["device_planned_bytes"] = planned.into();
            }
            println!("{summary}");
        } else {
            println!("{}", config.out.join("lora.safetensors").display());
        }
        common.note(format!("{samples} samples, {:.2} a second", samples as f64 / seconds));
        if let Some(usage) = usage {
            common.note(format!(
                "peak memory: {} of {} planned; {} now, without files",
                memory::human(usage.peak),
                memory::human(planned),
                memory::human(usage.anonymous)
            ));
        }
        if let Some((usage, planned)) = on_gpu {
            common.note(format!(
                "peak memory on the device: {} of {} planned; {} were taken for it",
                memory::human(usage.peak),
                memory::human(planned),
                memory::human(usage.reserved)
            ));
        }
        Ok(())
    }

    fn resolve(self) -> Result<TrainConfig> {
        let mut config = match (&self.config, &self.preset) {
            (Some(path), _) => TrainConfig::read(path)?,
            (None, Some(name)) => TrainConfig::preset(name)?,
            (None, None) => TrainConfig::default(),
        };
        macro_rules! take {
            ($($field:ident),*) => { $(if let Some(value) = self.$field { config.$field = value; })* };
        }
        take!(model, data, out, rank, targets, steps, batch_size, grad_accum, lr, warmup, weight_decay, max_grad_norm);
        take!(eps, noise_offset, caption_dropout, lora_order, save_every, keep, sample_every, sample_prompt);
        config.vae = self.vae.or(config.vae);
        config.alpha = self.alpha.or(config.alpha);
        config.resolution = self.resolution.or(config.resolution);
        config.snr_gamma = self.snr_gamma.or(config.snr_gamma);
        config.flip &= !self.no_flip;
        config.checkpointing |= self.checkpointing;
        if let Some(betas) = self.betas {
            config.betas = betas
                .try_into()
                .map_err(|given| Error::Usage(format!("--betas {given:?}: expected two numbers, such as 0.9,0.999")))?;
        }
        if let Some(name) = &self.crop {
            config.crop = Crop::parse(name)?;
        }
        if let Some(name) = &self.prediction {
            config.prediction = Prediction::parse(name)?;
        }
        if let Some(name) = &self.optimizer {
            config.optimizer = Optimizer::parse(name)?;
        }
        if let Some(name) = &self.lr_schedule {
            config.lr_schedule = crate::train::lr_schedule::Shape::parse(name)?;
        }
        config.validate()?;
        Ok(config)
    }
}
