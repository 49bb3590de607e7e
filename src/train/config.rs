//! The settings of a training run: one list of fields for the command line, TOML files and the resolved `config.toml` that
//! is written beside the result.

use std::path::{Path, PathBuf};

use super::lr_schedule::{LrSchedule, Shape};
use crate::data::preprocess::Crop;
use crate::error::{Error, Result};
use crate::ops::LoraOrder;
use crate::settings::{Keys, check, settings};

mod choices;
pub use choices::{Optimizer, Prediction, TrainOn};

settings! {
    /// Every setting of `selma train`, under its option's name.
    pub struct TrainConfig, TrainOptions {
        /// shapes (the model inside this binary), a folder in the layout of diffusers, a single-file checkpoint, or an id
        /// of the Hugging Face hub (org/name).
        #[arg(long, alias = "pretrained-model-name-or-path")]
        #[aside]
        model: String = String::new(),
        /// Folder of another VAE for the model.
        #[arg(long, alias = "pretrained-vae-model-name-or-path")]
        #[aside]
        vae: PathBuf,
        /// Images with `metadata.jsonl` or with `.txt` captions beside them.
        #[arg(long, alias = "train-data-dir")]
        #[aside]
        data: PathBuf = PathBuf::new(),
        /// Folder for `lora.safetensors`, records and states.
        #[arg(long, alias = "output-dir")]
        #[aside]
        out: PathBuf = PathBuf::new(),
        /// Rank of every LoRA layer.
        #[arg(long, alias = "network-dim")]
        rank: usize = 128 => check::at_least_1,
        /// The update is scaled by alpha / rank (default: the rank).
        #[arg(long, aliases = ["network-alpha", "lora-alpha"])]
        alpha: f64 => check::positive,
        /// Dotted suffixes of module names, or attention, attention+ff, all-linear, conv.
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String> = ["to_q", "to_k", "to_v", "to_out.0"].map(String::from).into() => targets,
        /// Optimizer steps.
        #[arg(long, alias = "max-train-steps")]
        steps: u64 = 5000 => check::at_least_1,
        /// Samples of a micro-batch.
        #[arg(long, alias = "train-batch-size")]
        batch_size: usize = 16 => check::at_least_1,
        /// Micro-batches of a step.
        #[arg(long, alias = "gradient-accumulation-steps")]
        grad_accum: usize = 4 => check::at_least_1,
        /// Learning rate.
        #[arg(long, alias = "learning-rate")]
        lr: f64 = 3e-4 => check::positive,
        /// Learning rate after the warm-up. Steps that f16 skips do not count.
        #[arg(long, alias = "lr-scheduler")]
        lr_schedule: Shape = Shape::Constant,
        /// Steps over which the learning rate rises from 0.
        #[arg(long, alias = "lr-warmup-steps")]
        warmup: u64 = 0,
        /// The optimizer.
        #[arg(long, alias = "optimizer-type")]
        optimizer: Optimizer = Optimizer::Adamw,
        /// Decoupled weight decay.
        #[arg(long, alias = "adam-weight-decay")]
        weight_decay: f64 = 1e-2 => check::not_negative,
        /// Decay of AdamW's running means, of the gradient and of its square: beta1,beta2.
        #[arg(long, value_parser = parse_betas)]
        betas: [f64; 2] = [0.9, 0.999] => betas,
        /// AdamW's epsilon.
        #[arg(long, alias = "adam-epsilon")]
        eps: f64 = 1e-8 => check::positive,
        /// Largest norm of the gradient. 0: gradients are not clipped.
        #[arg(long)]
        max_grad_norm: f64 = 1.0 => check::not_negative,
        /// Learn from the images, or from the latents that the run kept beside images of the same VAE: less work, and nothing
        /// is lost on the way through the VAE. Not with --flip or another resolution.
        #[arg(long)]
        train_on: TrainOn = TrainOn::Auto,
        /// Pixels of a side (default: the model's).
        #[arg(long)]
        resolution: u32 => resolution,
        /// Where an image is cropped to the training size.
        #[arg(long)]
        crop: Crop = Crop::Random,
        /// Mirror images at random.
        #[arg(long, aliases = ["random-flip", "flip-aug"])]
        flip: bool = true,
        /// What the network predicts; auto: what the model's scheduler says.
        #[arg(long, alias = "prediction-type")]
        prediction: Prediction = Prediction::Auto,
        /// Gamma of the min-SNR weighting (default: no weighting).
        #[arg(long, alias = "min-snr-gamma")]
        snr_gamma: f64 => check::positive,
        /// Standard deviation of one number that is added to the noise of each channel of an image.
        #[arg(long)]
        noise_offset: f64 = 0.0 => check::not_negative,
        /// Share of captions that are replaced by the empty one.
        #[arg(long, alias = "caption-dropout-rate")]
        caption_dropout: f64 = 0.0 => check::share,
        /// Lowest timestep that is trained at. At low ones a model learns how smooth images are: what it would learn there
        /// from its own images is their flaws.
        #[arg(long)]
        min_timestep: u32 = 0,
        /// Timesteps from here on are not trained at (default: all of the model's schedule, mostly 1000).
        #[arg(long)]
        max_timestep: u32,
        /// Decay of an exponential moving average of the LoRA, which is then the result, such as 0.99; early steps forget
        /// faster. 0: the result is the last step's.
        #[arg(long, alias = "ema-decay")]
        ema: f64 = 0.0 => check::below_1,
        /// Recompute whole blocks in the backward pass: a third more work for less memory.
        #[arg(long, alias = "gradient-checkpointing")]
        checkpointing: bool = false,
        /// How the products of the LoRA are ordered: auto, the cheapest that loses nothing; factored; merged, into W + BA
        /// for outputs and gradients of inputs, which in 16 bits rounds small updates away; projected, dA and dB from the
        /// gradient of the whole weight; merged-projected.
        #[arg(long)]
        lora_order: String = "auto".into() => lora_order,
        /// Steps between saved states.
        #[arg(long, aliases = ["checkpointing-steps", "save-every-n-steps"])]
        #[aside]
        save_every: u64 = 500 => check::at_least_1,
        /// Number of the newest saved states that are kept.
        #[arg(long, alias = "checkpoints-total-limit")]
        #[aside]
        keep: usize = 20 => check::at_least_1,
        /// Steps between sample images, which go to samples/. 0: none.
        #[arg(long, alias = "sample-every-n-steps")]
        #[aside]
        sample_every: u64 = 0,
        /// Prompt of a sample image. Can be given several times.
        #[arg(long, alias = "validation-prompt")]
        #[aside]
        sample_prompt: Vec<String> = Vec::new(),
        /// Seed of everything that is drawn.
        #[arg(skip)]
        seed: u64 = 42,
        /// Number format of weights and activations: auto, f32, bf16 or f16.
        #[arg(skip)]
        precision: String = "auto".into() => precision,
    }
}

fn parse_betas(text: &str) -> Result<[f64; 2], String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let pair = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    pair.ok_or_else(|| "expected two numbers, such as 0.9,0.999".into())
}

fn betas(name: &str, values: &[f64; 2]) -> Result<()> {
    values.iter().try_for_each(|value| check::below_1(name, value))
}

fn targets(name: &str, values: &[String]) -> Result<()> {
    check::require(!values.is_empty(), name, &"empty", "at least one module suffix")
}

/// Eight pixels are one latent.
fn resolution(name: &str, side: &u32) -> Result<()> {
    let ok = (8..=8192).contains(side) && side.is_multiple_of(8);
    check::require(ok, name, side, "a multiple of 8 up to 8192")
}

fn lora_order(_: &str, order: &str) -> Result<()> {
    LoraOrder::parse(order).map(|_| ()).ok_or_else(|| unknown_order(order))
}

fn unknown_order(order: &str) -> Error {
    let names = LoraOrder::NAMES.map(|(name, _)| name).join(", ");
    Error::Usage(format!("lora-order is {order}, expected one of {names}"))
}

fn precision(name: &str, value: &str) -> Result<()> {
    let known = ["auto", "f32", "bf16", "f16"].contains(&value);
    check::require(known, name, &value, "auto, f32, bf16 or f16")
}

impl TrainConfig {
    /// The settings of the SELMA paper's scripts, except that gradients are clipped: the script for SD means to and does
    /// not, because its list of parameters is used up by then.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn preset(name: &str) -> Result<Self> {
        let sd = Self { resolution: Some(512), ..Self::default() };
        match name {
            "selma-sd" => Ok(sd),
            "selma-sdxl" => Ok(Self {
                resolution: Some(1024),
                batch_size: 4,
                grad_accum: 8,
                steps: 10_000,
                save_every: 2_000,
                ..sd
            }),
            _ => Err(Error::Usage(format!("preset {name}: expected selma-sd or selma-sdxl"))),
        }
    }

    /// Reads a TOML file; what it leaves out has its default. Values are not yet checked against each other, because
    /// options of the command line come on top: see [`TrainConfig::validate`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] as for [`TrainConfig::from_toml`], with the file's name.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::from_toml(&text).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
    }

    /// Parses TOML. Keys may have `_` for `-`, or the names of diffusers' and kohya's scripts.
    ///
    /// # Errors
    /// [`Error::Usage`] for a key that does not exist, with the closest one that does; for a key given twice; for a
    /// value of the wrong type.
    pub fn from_toml(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Usage(e.to_string()))?;
        Self::default().with(table)
    }

    /// These settings with others on top, given as for [`TrainConfig::from_toml`].
    ///
    /// # Errors
    /// As [`TrainConfig::from_toml`].
    pub fn with(&self, others: toml::Table) -> Result<Self> {
        let keys = Keys::new::<TrainOptions>(Self::FIELDS).with_alias("mixed-precision", "precision");
        let mut others = keys.canonical(others)?;
        if let Some(toml::Value::String(name)) = others.get_mut("precision") {
            // accelerate's words.
            match name.as_str() {
                "fp16" => *name = "f16".into(),
                "no" => *name = "f32".into(),
                _ => {}
            }
        }
        let mut table: toml::Table = self.to_toml()?.parse().expect("it was just written");
        table.extend(others);
        table.try_into().map_err(|e: toml::de::Error| Error::Usage(e.to_string().trim_end().to_string()))
    }

    /// The resolved settings as TOML: what [`TrainConfig::from_toml`] reads back to the same value.
    ///
    /// # Errors
    /// [`Error::Failed`] for a path that is not UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Failed(format!("the settings do not fit into config.toml: {e}")))
    }

    /// Checks every value, each alone and with the others.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first option that is out of its range, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let needed = [
            ("--model", self.model.is_empty()),
            ("--data", self.data.as_os_str() == ""),
            ("--out", self.out.as_os_str() == ""),
        ];
        let missing: Vec<&str> = needed.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name).collect();
        if !missing.is_empty() {
            let message = format!("missing: {} (options, or keys of a --config file)", missing.join(", "));
            return Err(Error::Usage(message));
        }
        self.check_ranges()?;
        let expected = format!("at most steps ({})", self.steps);
        check::require(self.warmup <= self.steps, "warmup", &self.warmup, &expected)?;
        let last = self.max_timestep.unwrap_or(u32::MAX);
        let expected = format!("below max-timestep ({last})");
        check::require(self.min_timestep < last, "min-timestep", &self.min_timestep, &expected)?;
        let sampling = self.sample_every == 0 || !self.sample_prompt.is_empty();
        check::require(sampling, "sample-prompt", &"empty", "a prompt, because sample-every is set")
    }

    /// # Errors
    /// [`Error::Usage`] for an order that is none.
    pub fn lora_order(&self) -> Result<LoraOrder> {
        LoraOrder::parse(&self.lora_order).ok_or_else(|| unknown_order(&self.lora_order))
    }

    /// The given alpha, or the rank.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// alpha / rank: what B·A is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }

    /// The timesteps of a schedule of so many that are trained at.
    ///
    /// # Errors
    /// [`Error::Usage`] for bounds that the schedule does not have.
    pub fn timesteps(&self, schedule: u32) -> Result<std::ops::Range<u32>> {
        let end = self.max_timestep.unwrap_or(schedule);
        let expected = format!("at most {schedule}, the timesteps of the model's schedule");
        check::require(end <= schedule, "max-timestep", &end, &expected)?;
        let expected = format!("below {end}");
        check::require(self.min_timestep < end, "min-timestep", &self.min_timestep, &expected)?;
        Ok(self.min_timestep..end)
    }

    /// The learning rate of every step.
    pub fn schedule(&self) -> LrSchedule {
        LrSchedule::new(self.lr_schedule, self.lr, self.warmup, self.steps)
    }
}
