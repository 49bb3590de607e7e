//! The settings of a training run: one list of fields for the command line, TOML files and the resolved `config.toml` that
//! is written beside the result.

use std::path::{Path, PathBuf};

use super::loss::{HuberSchedule, LossType};
use super::lr_schedule::Shape;
use crate::data::preprocess::Crop;
use crate::error::{Error, Result};
use crate::settings::{Keys, check, settings};

mod choices;
mod derived;
mod modules;
mod optimizer;
mod ranges;
pub use choices::{Format, Prediction, SavePrecision, TrainOn};
pub use modules::Chosen;
use modules::{block_lr, block_rank};
pub use optimizer::Optimizer;
use ranges::{
    alpha_background, betas, bucket_steps, caption_separator, lora_order, output_name, parse_betas, precision,
    resolution, targets,
};

/// The groups of `selma train --help`.
pub(crate) const DATA: &str = "Model and data";
pub(crate) const FILES: &str = "Files and states";
const LORA: &str = "LoRA";
const STEPS: &str = "Steps and learning rate";
const OPTIMIZER: &str = "Optimizer";
pub(crate) const IMAGES: &str = "Images";
const CAPTIONS: &str = "Captions";
const LOSS: &str = "Noise and loss";
const SEEN: &str = "Validation and sample images";

settings! {
    /// Every setting of `selma train`, under its option's name.
    pub struct TrainConfig, TrainOptions {
        /// shapes (the model inside this binary), a folder in the layout of diffusers, a single-file checkpoint, or an id
        /// of the Hugging Face hub (org/name).
        #[arg(long, visible_alias = "pretrained-model-name-or-path", help_heading = DATA)]
        #[aside]
        model: String = String::new(),
        /// Folder of another VAE for the model.
        #[arg(long, visible_alias = "pretrained-vae-model-name-or-path", help_heading = DATA)]
        #[aside]
        vae: PathBuf,
        /// Folder of images with `metadata.jsonl`, `metadata.csv` or captions beside them; or a dataset TOML of kohya's
        /// scripts.
        #[arg(long, visible_aliases = ["train-data-dir", "dataset-config"], help_heading = DATA)]
        #[aside]
        data: PathBuf = PathBuf::new(),
        /// Folder of regularisation images, which show the class and not the subject. They are visited as often as all
        /// others together.
        #[arg(long, visible_aliases = ["reg-data-dir", "class-data-dir"], help_heading = DATA)]
        #[aside]
        reg_data: PathBuf,
        /// Weight of regularisation images in the loss.
        #[arg(long, help_heading = DATA)]
        prior_loss_weight: f64 = 1.0 => check::not_negative,
        /// Column of the captions in a metadata file [default: text, caption or prompt].
        #[arg(long, help_heading = DATA)]
        #[aside]
        caption_column: String,
        /// Ending of caption files [default: .txt and .caption].
        #[arg(long, help_heading = DATA)]
        #[aside]
        caption_extension: String,
        /// Visits of every image in an epoch.
        #[arg(long, visible_alias = "dataset-repeats", help_heading = DATA)]
        repeats: u32 = 1 => check::at_least_1,
        /// Folder for `lora.safetensors`, records and states.
        #[arg(long, visible_alias = "output-dir", help_heading = FILES)]
        #[aside]
        out: PathBuf = PathBuf::new(),
        /// Rank of every LoRA layer.
        #[arg(long, visible_alias = "network-dim", help_heading = LORA)]
        rank: usize = 128 => check::at_least_1,
        /// The update is scaled by alpha / rank [default: the rank].
        #[arg(long, visible_aliases = ["network-alpha", "lora-alpha"], help_heading = LORA)]
        alpha: f64 => check::positive,
        /// Dotted suffixes of module names, or attention, attention+ff, all-linear, conv.
        #[arg(long, value_delimiter = ',', help_heading = LORA)]
        targets: Vec<String> = ["to_q", "to_k", "to_v", "to_out.0"].map(String::from).into() => targets,
        /// Ranks of some modules: PATTERN=RANK, such as mid_block=16 or up_blocks.1.attentions.*.transformer_blocks=4, where the
        /// dotted parts of PATTERN follow one another in the module's path and * is any part. The last one that matches counts;
        /// rank 0 trains nothing there.
        #[arg(long, value_delimiter = ',', help_heading = LORA)]
        block_rank: Vec<String> = Vec::new() => block_rank,
        /// Train DoRA: beside each LoRA layer the length of every row of its weight.
        #[arg(long, visible_aliases = ["use-dora", "dora-wd"], help_heading = LORA)]
        dora: bool = false,
        /// Train LoRA layers in the text encoders too. Captions are then encoded anew at every step.
        #[arg(long, help_heading = LORA)]
        train_text_encoder: bool = false,
        /// The modules of the text encoders that get LoRA layers, as for --targets. all-linear is what kohya's scripts train.
        #[arg(long, value_delimiter = ',', help_heading = LORA)]
        text_encoder_targets: Vec<String> = ["q_proj", "k_proj", "v_proj", "out_proj"].map(String::from).into() => targets,
        /// Optimizer steps.
        #[arg(long, visible_alias = "max-train-steps", help_heading = STEPS)]
        steps: u64 = 5000 => check::at_least_1,
        /// Samples of a micro-batch.
        #[arg(long, visible_alias = "train-batch-size", help_heading = STEPS)]
        batch_size: usize = 16 => check::at_least_1,
        /// Micro-batches of a step.
        #[arg(long, visible_alias = "gradient-accumulation-steps", help_heading = STEPS)]
        grad_accum: usize = 4 => check::at_least_1,
        /// Learning rate [default: 3e-4; of Prodigy 1].
        #[arg(long, visible_alias = "learning-rate", help_heading = STEPS)]
        lr: f64 = 3e-4 => check::positive,
        /// Learning rate of the text encoders' LoRA layers [default: --lr]. It follows the same schedule.
        #[arg(long, help_heading = STEPS)]
        text_encoder_lr: f64 => check::positive,
        /// Learning rate of B over that of A (LoRA+), such as 16.
        #[arg(long, visible_alias = "loraplus-lr-ratio", help_heading = STEPS)]
        lora_plus_ratio: f64 = 1.0 => check::positive,
        /// Learning rates of some modules: PATTERN=LR, or PATTERN=xFACTOR for a multiple of what they would have; PATTERN as for
        /// --block-rank.
        #[arg(long, value_delimiter = ',', help_heading = STEPS)]
        block_lr: Vec<String> = Vec::new() => block_lr,
        /// Learning rate after the warm-up. Steps that f16 skips do not count.
        #[arg(long, visible_alias = "lr-scheduler", help_heading = STEPS)]
        lr_schedule: Shape = Shape::Constant,
        /// Half waves of the schedule cosine-restarts.
        #[arg(long, visible_aliases = ["lr-num-cycles", "lr-scheduler-num-cycles"], help_heading = STEPS)]
        lr_cycles: f64 = 1.0 => check::positive,
        /// Exponent of the schedule polynomial.
        #[arg(long, visible_alias = "lr-scheduler-power", help_heading = STEPS)]
        lr_power: f64 = 1.0 => check::positive,
        /// Steps over which the learning rate rises from 0.
        #[arg(long, visible_alias = "lr-warmup-steps", help_heading = STEPS)]
        warmup: u64 = 0,
        /// The optimizer.
        #[arg(long, visible_alias = "optimizer-type", help_heading = OPTIMIZER)]
        optimizer: Optimizer = Optimizer::AdamW,
        /// Settings of the optimizer by the names of its package: KEY=VALUE, several at once or one by one. Prodigy has d_coef,
        /// d0, growth_rate, use_bias_correction, safeguard_warmup and beta3; SGD momentum and nesterov; Adafactor
        /// scale_parameter, relative_step, warmup_init, clip_threshold, decay_rate, beta1 and eps; all but SGD and Adafactor
        /// betas; all weight_decay.
        #[arg(long, num_args = 1.., help_heading = OPTIMIZER)]
        optimizer_args: Vec<String> = Vec::new(),
        /// Decoupled weight decay [default: 0.01; of other optimizers than AdamW 0].
        #[arg(long, visible_alias = "adam-weight-decay", help_heading = OPTIMIZER)]
        weight_decay: f64 = 1e-2 => check::not_negative,
        /// Decay of the running means of the gradient and of its square: beta1,beta2 [default: 0.9,0.999; of Lion 0.9,0.99].
        #[arg(long, value_parser = parse_betas, help_heading = OPTIMIZER)]
        betas: [f64; 2] = [0.9, 0.999] => betas,
        /// Epsilon of AdamW, Prodigy and schedule-free AdamW.
        #[arg(long, visible_alias = "adam-epsilon", help_heading = OPTIMIZER)]
        eps: f64 = 1e-8 => check::positive,
        /// Largest norm of the gradient. 0: gradients are not clipped.
        #[arg(long, help_heading = OPTIMIZER)]
        max_grad_norm: f64 = 1.0 => check::not_negative,
        /// Learn from the images, or from the latents that the run kept beside images of the same VAE: less work, and nothing
        /// is lost on the way through the VAE. Not with --flip or another resolution.
        #[arg(long, help_heading = DATA)]
        train_on: TrainOn = TrainOn::Auto,
        /// Folder for encoded images and captions, which runs can share, at the same time too [default: cache/ in --out]. What is
        /// there for the same content and the same encoders is taken.
        #[arg(long, help_heading = DATA)]
        #[aside]
        latents_cache: PathBuf,
        /// Pixels of a side [default: the model's].
        #[arg(long, help_heading = IMAGES)]
        resolution: u32 => resolution,
        /// Bring images to sizes of about the same number of pixels, each near its own proportions [default: on where
        /// images are not square and the resolution is 256 or more].
        #[arg(long, visible_alias = "enable-bucket", help_heading = IMAGES)]
        buckets: bool,
        /// Enlarge images that are smaller than their bucket.
        #[arg(long, help_heading = IMAGES)]
        bucket_upscale: bool = false,
        /// The sides of buckets are multiples of this.
        #[arg(long, visible_alias = "bucket-reso-steps", help_heading = IMAGES)]
        bucket_steps: u32 = 64 => bucket_steps,
        /// Shortest side of a bucket, with --bucket-upscale.
        #[arg(long, visible_alias = "min-bucket-reso", help_heading = IMAGES)]
        bucket_min: u32 = 256 => check::at_least_1,
        /// Longest side of a bucket, with --bucket-upscale [default: 1024, or twice the resolution where that is more].
        #[arg(long, visible_alias = "max-bucket-reso", help_heading = IMAGES)]
        bucket_max: u32 => check::at_least_1,
        /// Where an image is cropped to the training size.
        #[arg(long, help_heading = IMAGES)]
        crop: Crop = Crop::Random,
        /// Mirror images at random.
        #[arg(long, visible_aliases = ["random-flip", "flip-aug"], help_heading = IMAGES)]
        flip: bool = true,
        /// What the network predicts; auto: what the model's scheduler says.
        #[arg(long, visible_alias = "prediction-type", help_heading = LOSS)]
        prediction: Prediction = Prediction::Auto,
        /// Rescale the noise schedule so that the last timestep is pure noise. The network then has to predict v.
        #[arg(long, visible_aliases = ["zero-terminal-snr", "rescale-betas-zero-snr"], help_heading = LOSS)]
        zero_snr: bool = false,
        /// Gamma of the min-SNR weighting [default: no weighting].
        #[arg(long, visible_alias = "min-snr-gamma", help_heading = LOSS)]
        snr_gamma: f64 => check::positive,
        /// Distance between the prediction and its target.
        #[arg(long, help_heading = LOSS)]
        loss_type: LossType = LossType::L2,
        /// How the c of huber and smooth-l1 follows from the noise.
        #[arg(long, help_heading = LOSS)]
        huber_schedule: HuberSchedule = HuberSchedule::Snr,
        /// c of huber and smooth-l1, in pure noise.
        #[arg(long, help_heading = LOSS)]
        huber_c: f64 = 0.1 => check::positive,
        /// Factor of c, with the schedules exponential and constant.
        #[arg(long, help_heading = LOSS)]
        huber_scale: f64 = 1.0 => check::positive,
        /// Standard deviation of one number that is added to the noise of each channel of an image.
        #[arg(long, help_heading = LOSS)]
        noise_offset: f64 = 0.0 => check::not_negative,
        /// Levels of lower resolution that the noise is made of, such as 6. 0: plain noise.
        #[arg(long, help_heading = LOSS)]
        multires_noise_iterations: usize = 0,
        /// What each of these levels is multiplied by, compared with the one before.
        #[arg(long, help_heading = LOSS)]
        multires_noise_discount: f64 = 0.3 => check::positive,
        /// The network sees noise to which other noise, this strong, was added; what it is to predict stays.
        #[arg(long, visible_alias = "input-perturbation", help_heading = LOSS)]
        ip_noise_gamma: f64 = 0.0 => check::not_negative,
        /// Learn from the opaque parts of images alone.
        #[arg(long, visible_alias = "alpha-mask", help_heading = IMAGES)]
        masked_loss: bool = false,
        /// Folder of masks, an image for each image, of its name: white is learnt, black is not.
        #[arg(long, visible_alias = "conditioning-data-dir", help_heading = IMAGES)]
        #[aside]
        mask_data: PathBuf,
        /// Colour behind transparent pixels: white, black or #rrggbb. Without it the colours that they hide are learnt.
        #[arg(long, help_heading = IMAGES)]
        alpha_background: String => alpha_background,
        /// Folder of images that are not trained on. Their loss, at noise and timesteps that are always the same, goes to
        /// validation.jsonl and TensorBoard: where it rises, the run learns by heart.
        #[arg(long, help_heading = SEEN)]
        #[aside]
        validation_data: PathBuf,
        /// Share of the images in --data that are held out for it.
        #[arg(long, help_heading = SEEN)]
        validation_split: f64 = 0.0 => check::below_1,
        /// Steps between two measurements of it [default: --save-every].
        #[arg(long, visible_alias = "validate-every-n-steps", help_heading = SEEN)]
        #[aside]
        validate_every: u64 => check::at_least_1,
        /// Share of captions that are replaced by the empty one.
        #[arg(long, visible_alias = "caption-dropout-rate", help_heading = CAPTIONS)]
        caption_dropout: f64 = 0.0 => check::share,
        /// Lowest timestep that is trained at. At low ones a model learns how smooth images are: what it would learn there
        /// from its own images is their flaws.
        #[arg(long, help_heading = LOSS)]
        min_timestep: u32 = 0,
        /// Timesteps from here on are not trained at [default: all of the model's schedule, mostly 1000].
        #[arg(long, help_heading = LOSS)]
        max_timestep: u32,
        /// Decay of an exponential moving average of the LoRA, which is then the result, such as 0.99; early steps forget
        /// faster. 0: the result is the last step's.
        #[arg(long, visible_alias = "ema-decay", help_heading = STEPS)]
        ema: f64 = 0.0 => check::below_1,
        /// Put the tags of a caption into another order at each visit.
        #[arg(long, help_heading = CAPTIONS)]
        shuffle_caption: bool = false,
        /// Tags at the beginning of a caption that stay there.
        #[arg(long, help_heading = CAPTIONS)]
        keep_tokens: usize = 0,
        /// What stands between the tags of a caption.
        #[arg(long, help_heading = CAPTIONS)]
        caption_separator: String = ",".into() => caption_separator,
        /// Share of tags that are left out at each visit.
        #[arg(long, visible_alias = "caption-tag-dropout-rate", help_heading = CAPTIONS)]
        tag_dropout: f64 = 0.0 => check::share,
        /// Encode a caption of more than 75 tokens in several windows, as `selma generate --long-prompts` does. Without it
        /// the rest of such a caption is cut off.
        #[arg(long, help_heading = CAPTIONS)]
        long_prompts: bool = false,
        /// Recompute whole blocks in the backward pass: a third more work for less memory.
        #[arg(long, visible_alias = "gradient-checkpointing", help_heading = STEPS)]
        checkpointing: bool = false,
        /// How the products of the LoRA are ordered: auto, the cheapest that loses nothing; factored; merged, into W + BA
        /// for outputs and gradients of inputs, which in 16 bits rounds small updates away; projected, dA and dB from the
        /// gradient of the whole weight; merged-projected.
        #[arg(long, help_heading = LORA)]
        lora_order: String = "auto".into() => lora_order,
        /// LoRA file to start from, in any layout. Its layers, ranks and alphas take the place of --targets, --rank and
        /// --alpha.
        #[arg(long, help_heading = LORA)]
        #[aside]
        network_weights: PathBuf,
        /// Name of the LoRA files, without ending. That of step 500 is NAME-00000500.safetensors.
        #[arg(long, help_heading = FILES)]
        #[aside]
        output_name: String = "lora".into() => output_name,
        /// Layout of the LoRA files.
        #[arg(long, help_heading = FILES)]
        #[aside]
        format: Format = Format::Diffusers,
        /// Number format of the LoRA files.
        #[arg(long, help_heading = FILES)]
        #[aside]
        save_precision: SavePrecision = SavePrecision::F32,
        /// Steps between saved states, each with its LoRA.
        #[arg(long, visible_aliases = ["checkpointing-steps", "save-every-n-steps"], help_heading = FILES)]
        #[aside]
        save_every: u64 = 500 => check::at_least_1,
        /// Number of the newest states that are kept, and of the newest LoRAs.
        #[arg(long, visible_alias = "checkpoints-total-limit", help_heading = FILES)]
        #[aside]
        keep: usize = 20 => check::at_least_1,
        /// Number of the newest LoRAs of earlier steps that are kept, where it is another than that of states. 0: only the
        /// newest one is there, as NAME.safetensors.
        #[arg(long, help_heading = FILES)]
        #[aside]
        keep_loras: usize,
        /// Steps between sample images, which go to samples/. 0: none.
        #[arg(long, visible_alias = "sample-every-n-steps", help_heading = SEEN)]
        #[aside]
        sample_every: u64 = 0,
        /// Prompt of a sample image. Can be given several times.
        #[arg(long, visible_alias = "validation-prompt", help_heading = SEEN)]
        #[aside]
        sample_prompt: Vec<String> = Vec::new(),
        /// File of prompts of sample images, as `selma generate --prompts` reads it: one a line, with kohya's --n --d --s --l --w
        /// --h behind it, or records with their negative, seed, steps, guidance, width, height and scheduler.
        #[arg(long, help_heading = SEEN)]
        #[aside]
        sample_prompts: PathBuf,
        /// Seed of everything that is drawn.
        #[arg(skip)]
        seed: u64 = 42,
        /// Number format of weights and activations: auto, f32, bf16 or f16.
        #[arg(skip)]
        precision: String = "auto".into() => precision,
    }
}

impl TrainOptions {
    /// Puts the options that are given on top of `config`; another optimizer brings its defaults.
    pub fn resolve(self, config: &mut TrainConfig) {
        if let Some(optimizer) = self.optimizer {
            config.change_optimizer(optimizer);
        }
        self.apply(config);
    }
}

impl TrainConfig {
    /// The settings of the SELMA paper's scripts, except that gradients are clipped: the script for SD means to and does
    /// not, because its list of parameters is used up by then.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn preset(name: &str) -> Result<Self> {
        let sd = Self { resolution: Some(512), buckets: Some(false), ..Self::default() };
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
        let mut base = self.clone();
        if let Some(toml::Value::String(name)) = others.get("optimizer") {
            base.change_optimizer(Optimizer::parse(name)?);
        }
        let mut table: toml::Table = base.to_toml()?.parse().expect("it was just written");
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
        self.optimizer(&[])?;
        self.check_rates()?;
        self.check_texts()?;
        let once = self.validation_split == 0.0 || self.validation_data.is_none();
        check::require(once, "validation-split", &self.validation_split, "0 beside validation-data")?;
        let free = self.ema == 0.0 || !self.optimizer.averages();
        check::require(free, "ema", &self.ema, "0: schedule-free AdamW averages by itself")?;
        let expected = format!("at most steps ({})", self.steps);
        check::require(self.warmup <= self.steps, "warmup", &self.warmup, &expected)?;
        let last = self.max_timestep.unwrap_or(u32::MAX);
        let expected = format!("below max-timestep ({last})");
        check::require(self.min_timestep < last, "min-timestep", &self.min_timestep, &expected)?;
        let sampling = self.sample_every == 0 || !self.sample_prompt.is_empty() || self.sample_prompts.is_some();
        let expected = "a prompt here or a file of prompts as sample-prompts, because sample-every is set";
        check::require(sampling, "sample-prompt", &"empty", expected)
    }
}
