//! The settings of a training run: defaults, a TOML file, what is allowed, and the resolved `config.toml` that is
//! written beside the result.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lr_schedule::{LrSchedule, Shape};
use crate::data::preprocess::Crop;
use crate::error::{Error, Result};
use crate::ops::LoraOrder;

mod keys;

/// What the network is trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// As the model's scheduler configuration says.
    Auto,
    Epsilon,
    VPrediction,
}

impl Prediction {
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Prediction::Auto),
            "epsilon" => Ok(Prediction::Epsilon),
            "v_prediction" | "v-prediction" => Ok(Prediction::VPrediction),
            _ => Err(Error::Usage(format!("prediction {name}: expected auto, epsilon or v_prediction"))),
        }
    }

    /// The name in scheduler configurations; none for what they say themselves.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Prediction::Auto => None,
            Prediction::Epsilon => Some("epsilon"),
            Prediction::VPrediction => Some("v_prediction"),
        }
    }
}

/// How parameters are updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    Adamw,
    /// AdamW with moments in 8 bits a value.
    Adamw8bit,
}

impl Optimizer {
    /// In any case of letters.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "adamw" => Ok(Optimizer::Adamw),
            "adamw8bit" => Ok(Optimizer::Adamw8bit),
            _ => Err(Error::Usage(format!("optimizer {name}: expected adamw or adamw8bit"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Optimizer::Adamw => "adamw",
            Optimizer::Adamw8bit => "adamw8bit",
        }
    }

    /// Bytes of both moments of one value; the scales of blocks add a hundredth.
    pub fn moment_bytes(self) -> usize {
        match self {
            Optimizer::Adamw => 2 * size_of::<f32>(),
            Optimizer::Adamw8bit => 2,
        }
    }
}

/// Every setting of `selma train`, under its option's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TrainConfig {
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<PathBuf>,
    pub data: PathBuf,
    pub out: PathBuf,
    pub rank: usize,
    /// The rank where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Dotted suffixes of module names, or one preset.
    pub targets: Vec<String>,
    /// Optimizer steps.
    pub steps: u64,
    /// Samples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub grad_accum: usize,
    pub lr: f64,
    pub lr_schedule: Shape,
    /// Steps.
    pub warmup: u64,
    pub optimizer: Optimizer,
    pub weight_decay: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// 0: no clipping.
    pub max_grad_norm: f64,
    /// Pixels of a side; the model's own where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<u32>,
    pub crop: Crop,
    pub flip: bool,
    pub prediction: Prediction,
    /// Min-SNR weighting, off where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snr_gamma: Option<f64>,
    pub noise_offset: f64,
    /// The share of captions replaced by the empty one.
    pub caption_dropout: f64,
    /// Recompute whole blocks in backward.
    pub checkpointing: bool,
    /// `auto`, or the ordering of the LoRA products to force.
    pub lora_order: String,
    /// Steps between saved states.
    pub save_every: u64,
    /// Saved states that are kept.
    pub keep: usize,
    /// Steps between sample pictures, 0 for none.
    pub sample_every: u64,
    pub sample_prompt: Vec<String>,
    pub seed: u64,
    pub precision: String,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: String::new(),
            vae: None,
            data: PathBuf::new(),
            out: PathBuf::new(),
            rank: 128,
            alpha: None,
            targets: ["to_q", "to_k", "to_v", "to_out.0"].map(String::from).into(),
            steps: 5000,
            batch_size: 16,
            grad_accum: 4,
            lr: 3e-4,
            lr_schedule: Shape::Constant,
            warmup: 0,
            optimizer: Optimizer::Adamw,
            weight_decay: 1e-2,
            betas: [0.9, 0.999],
            eps: 1e-8,
            max_grad_norm: 1.0,
            resolution: None,
            crop: Crop::Random,
            flip: true,
            prediction: Prediction::Auto,
            snr_gamma: None,
            noise_offset: 0.0,
            caption_dropout: 0.0,
            checkpointing: false,
            lora_order: "auto".into(),
            save_every: 500,
            keep: 20,
            sample_every: 0,
            sample_prompt: Vec::new(),
            seed: 42,
            precision: "auto".into(),
        }
    }
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
        let mut table: toml::Table = self.to_toml()?.parse().expect("it was just written");
        table.extend(keys::canonical(others)?);
        table.try_into().map_err(|e: toml::de::Error| Error::Usage(e.to_string().trim_end().to_string()))
    }

    /// The resolved settings as TOML: what [`TrainConfig::from_toml`] reads back to the same value.
    ///
    /// # Errors
    /// [`Error::Failed`] for a path that is not UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Failed(format!("the settings do not fit into config.toml: {e}")))
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the first option that is out of its range, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let require = |ok: bool, name: &str, got: &dyn std::fmt::Display, expected: &str| match ok {
            true => Ok(()),
            false => Err(Error::Usage(format!("{name} is {got}, expected {expected}"))),
        };
        let count = |name: &str, value: usize| require(value >= 1, name, &value, "at least 1");
        let positive = |name: &str, v: f64| require(v > 0.0 && v.is_finite(), name, &v, "a number above 0");
        let not_negative = |name: &str, v: f64| require(v >= 0.0 && v.is_finite(), name, &v, "0 or more");
        let fraction = |name: &str, v: f64| require((0.0..1.0).contains(&v), name, &v, "0 or more and below 1");

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
        count("rank", self.rank)?;
        count("batch-size", self.batch_size)?;
        count("grad-accum", self.grad_accum)?;
        count("keep", self.keep)?;
        require(self.steps >= 1, "steps", &self.steps, "at least 1")?;
        require(self.save_every >= 1, "save-every", &self.save_every, "at least 1")?;
        let expected = format!("at most steps ({})", self.steps);
        require(self.warmup <= self.steps, "warmup", &self.warmup, &expected)?;
        require(!self.targets.is_empty(), "targets", &"empty", "at least one module suffix")?;
        positive("lr", self.lr)?;
        positive("eps", self.eps)?;
        positive("alpha", self.alpha())?;
        positive("snr-gamma", self.snr_gamma.unwrap_or(1.0))?;
        not_negative("weight-decay", self.weight_decay)?;
        not_negative("max-grad-norm", self.max_grad_norm)?;
        not_negative("noise-offset", self.noise_offset)?;
        fraction("betas", self.betas[0])?;
        fraction("betas", self.betas[1])?;
        let dropout = self.caption_dropout;
        require((0.0..=1.0).contains(&dropout), "caption-dropout", &dropout, "from 0 to 1")?;
        if let Some(side) = self.resolution {
            // Eight pixels are one latent.
            let ok = (8..=8192).contains(&side) && side.is_multiple_of(8);
            require(ok, "resolution", &side, "a multiple of 8 up to 8192")?;
        }
        let sampling = self.sample_every == 0 || !self.sample_prompt.is_empty();
        require(sampling, "sample-prompt", &"empty", "a prompt, because sample-every is set")?;
        self.lora_order()?;
        let precisions = ["auto", "f32", "bf16", "f16"];
        let known = precisions.contains(&self.precision.as_str());
        require(known, "precision", &self.precision, "auto, f32, bf16 or f16")
    }

    /// # Errors
    /// [`Error::Usage`] for an order that is none.
    pub fn lora_order(&self) -> Result<LoraOrder> {
        LoraOrder::parse(&self.lora_order).ok_or_else(|| {
            let names = LoraOrder::NAMES.map(|(name, _)| name).join(", ");
            Error::Usage(format!("lora-order is {}, expected one of {names}", self.lora_order))
        })
    }

    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// alpha / rank: what B·A is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }

    pub fn schedule(&self) -> LrSchedule {
        LrSchedule::new(self.lr_schedule, self.lr, self.warmup, self.steps)
    }
}
