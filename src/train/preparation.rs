//! All of a run but its steps: settings, data and model are opened and checked, and the frozen encoders have done their
//! work. Little is kept in memory.

mod parts;

use std::path::{Path, PathBuf};

use super::checkpoint::{self, RunIdentity, State};
use super::config::TrainConfig;
use super::folder::OutputFolder;
use super::plan::{Adapted, Plans};
use super::samples::{self as sample_images, SampledModel, Samples};
use super::step::Objective;
use super::texts::TrainedTexts;
use super::timing::Timing;
use super::tokens::TokenSettings;
use super::watcher::Watcher;
use crate::data::captions::Captions;
use crate::data::dataset::Dataset;
use crate::data::encoders::Encoders;
use crate::data::examples::Examples;
use crate::data::{images, survey};
use crate::device::Device;
use crate::diffusion::Prediction;
use crate::error::{Error, Result};
use crate::formats::model_dir::{Family, ModelDir};
use crate::lora::{Expert, base};
use crate::nn::{Config, UNet, UNetConfig, VaeConfig};
use crate::tensor::{DType, release_pool};
use parts::{extend, fits, identify, objective, sampled_texts, samples, start, vae_folder};

/// A run that is ready for its first step, or for the one after the state that it goes on from.
pub struct Preparation {
    pub(super) config: TrainConfig,
    pub(super) folder: OutputFolder,
    pub(super) plans: Plans,
    pub(super) examples: Examples,
    pub(super) objective: Objective,
    pub(super) run: RunIdentity,
    pub(super) state: Option<State>,
    /// The LoRA that a new run starts from.
    pub(super) start: Option<Expert>,
    pub(super) samples: Option<Samples>,
    /// Held-out images.
    pub(super) validation: Option<Examples>,
    pub(super) device: Device,
    pub(super) dtype: DType,
    unet_folder: PathBuf,
    vocab: Option<PathBuf>,
    /// Windows that every caption is encoded in.
    windows: usize,
}

impl Preparation {
    /// Opens data and model, says what memory the run will take, encodes what it needs, and with `resume` finds the
    /// newest state in the output folder. The UNet is not loaded.
    ///
    /// # Errors
    /// Whatever is wrong with model, data, targets or output folder, or too little memory, before anything is computed;
    /// [`Error::Interrupted`] where the watcher says stop meanwhile.
    pub fn new(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        resume: bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let ask = Ask { resume, announced: true, dry: false, tokens: None };
        Ok(Self::prepare(config, vocab, device, dtype, ask, watcher)?.expect("a run that is meant"))
    }

    /// As [`Preparation::new`], of a run that learns tokens.
    ///
    /// # Errors
    /// As [`Preparation::new`]; [`Error::Usage`] for settings that do not go with new tokens, and captions without any.
    pub fn with_tokens(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        resume: bool,
        tokens: &TokenSettings,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let ask = Ask { resume, announced: true, dry: false, tokens: Some(tokens) };
        Ok(Self::prepare(config, vocab, device, dtype, ask, watcher)?.expect("a run that is meant"))
    }

    /// Opens and checks all that [`Preparation::new`] does before it writes anything, and says what the run would do: the
    /// images by size, the captions, memory, files and time. `tokens`: of a run that learns them.
    ///
    /// # Errors
    /// As [`Preparation::with_tokens`].
    pub fn dry_run(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        tokens: Option<&TokenSettings>,
        watcher: &mut dyn Watcher,
    ) -> Result<()> {
        let ask = Ask { resume: true, announced: true, dry: true, tokens };
        Self::prepare(config, vocab, device, dtype, ask, watcher).map(|_| ())
    }

    /// As [`Preparation::new`] with `resume`, of a run after another one of the same model: what memory it will take has been
    /// said.
    ///
    /// # Errors
    /// As [`Preparation::new`].
    pub fn another(
        config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let ask = Ask { resume: true, announced: false, dry: false, tokens: None };
        Ok(Self::prepare(config, vocab, device, dtype, ask, watcher)?.expect("a run that is meant"))
    }

    fn prepare(
        mut config: TrainConfig,
        vocab: Option<&Path>,
        device: &Device,
        dtype: DType,
        Ask { resume, announced, dry, tokens }: Ask<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Option<Self>> {
        config.validate()?;
        tokens.map_or(Ok(()), |tokens| tokens.check(&config, dtype))?;
        let files = ModelDir::open(Path::new(&config.model))?;
        files.notes.iter().for_each(|note| watcher.note(note));
        let vae_folder = vae_folder(&config, &files)?;
        let mut scheduler = Config::open(&files.scheduler.join("scheduler_config.json"))?.into_value();
        if let Some(name) = config.prediction.in_scheduler() {
            scheduler["prediction_type"] = name.into();
        }
        if config.zero_snr {
            scheduler["rescale_betas_zero_snr"] = true.into();
        }
        let objective = objective(&config, &scheduler)?;
        config.timesteps(objective.schedule.alphas_cumprod.len() as u32)?;
        if config.zero_snr && objective.prediction == Prediction::Epsilon {
            watcher.note(
                "warning: with --zero-snr the last timestep is pure noise, from which epsilon says nothing of the image; \
                 train a model of v-prediction, or give --prediction v_prediction",
            );
        }
        let unet = UNetConfig::parse(&Config::open(&files.unet.join("config.json"))?)?;
        let vae = VaeConfig::standing_in(&vae_folder, &files.vae)?;
        fits(&files, &unet, &vae)?;
        let mut dataset = Dataset::read(&config.data, &config.reading())?;
        if let Some(regular) = &config.reg_data {
            dataset.add_regularisation(regular, &config.reading())?;
        }
        config.agree_with(&dataset.asked)?;
        let held_out = match (&config.validation_data, config.validation_split) {
            (Some(dir), _) => Some(Dataset::read(dir, &config.reading())?.plain()),
            (None, share) if share > 0.0 => Some(dataset.hold_out(share, config.seed)?.plain()),
            _ => None,
        };
        let default = unet.sample_size * vae.downscale();
        let side = config.resolution.map_or(default, |side| side as usize);
        let is_xl = files.family == Family::StableDiffusionXl;
        let asked = sample_images::asked(&config, side, is_xl)?;
        sample_images::check(&asked, &config, vae.downscale(), &scheduler, is_xl)?;

        let images = images::survey(&dataset, watcher)?;
        let buckets = config.buckets(side as u32, images.iter().all(|image| image.size.0 == image.size.1))?;
        let fits = survey::fits(&dataset, &images, buckets.as_ref())?;
        let transparent = images.iter().filter(|image| image.alpha).count();
        if transparent > 0 && config.alpha_background.is_none() && !config.masked_loss {
            watcher.note(&format!(
                "{} of {} images have an alpha channel: transparent pixels are learnt in the colours that they hide; \
                 --alpha-background white fills them, --masked-loss leaves them out",
                transparent,
                images.len()
            ));
        }
        if announced {
            dataset.notes.iter().for_each(|note| watcher.note(note));
            survey::table(&dataset, &images, &fits, side as u32).iter().for_each(|line| watcher.note(line));
        }
        let modules = base::modules(&files.root)?;
        let start = config.network_weights.as_deref().map(|file| start(&config, file, &modules)).transpose()?;
        if let Some(start) = &start {
            config.rank = start.max_rank();
            config.dora |= start.is_decomposed();
            watcher.note(&format!("starting from {} LoRA layers of rank up to {}", start.len(), config.rank));
        }
        if let Some(tokens) = tokens {
            let samples = dataset.samples().iter();
            tokens.check_captions(
                samples.flat_map(|s| s.captions.iter().map(|text| (s.image.as_path(), text.as_str()))),
            )?;
        }
        let captions = Captions::survey(&dataset, &files, vocab)?;
        captions.notes(config.long_prompts).iter().for_each(|note| watcher.note(note));
        let windows = if config.long_prompts { captions.windows } else { 1 };
        sample_images::notes(&asked, &captions, windows)?.iter().for_each(|note| watcher.note(note));
        let text = (windows * captions.window, dataset.captions_vary());
        let largest = images.iter().map(|image| image.decoding(side as u32)).max().unwrap_or(0);
        let layers = Adapted::new(&config, start.as_ref(), &modules, text, largest)?;
        let layers = match tokens {
            Some(tokens) => layers.with_tokens(tokens, &files)?,
            None => layers,
        };
        let plans = Plans::new(&config, &layers, &files, &vae_folder, (&unet, &vae), (side, &asked), device, dtype)?;
        if dry {
            plans.lines()?.iter().for_each(|line| watcher.note(line));
            plans.check(&config)?;
            let timing = Timing { config: &config, files: &files, vocab, unet: &unet, windows, device, dtype };
            let latent = [side.div_ceil(vae.downscale()); 2];
            watcher.note(&timing.line(&objective, latent, tokens.is_some(), start.as_ref())?);
            return Ok(None);
        }
        // What is wrong with the command leaves no folder behind.
        let mut folder = OutputFolder::open(&config.out)?;
        let states = checkpoint::list(&folder.states())?;
        if !states.is_empty() && !resume {
            let message = "holds the state of an earlier run; go on with it by --resume, or choose another --out";
            return Err(Error::file(&config.out, message));
        }
        folder.keep_kernels(device, states.is_empty() && !resume)?;
        if announced {
            plans.lines()?.iter().for_each(|line| watcher.note(line));
        }
        plans.check(&config)?;
        let cache = config.latents_cache.clone().unwrap_or_else(|| folder.join("cache"));
        let mut encoders = Encoders::new(&files, &vae_folder, vocab, device, dtype, &cache)?;
        encoders.windows = windows;
        encoders.background = config.background();
        let latent = side.div_ceil(vae.downscale());
        let latent = [latent, latent, vae.latent_channels];
        let factor = vae.scaling_factor;
        let mut examples =
            Examples::open(&config, dataset, (images, fits), encoders, side as u32, latent, factor, watcher)?;
        let list = folder.states().join("data.jsonl");
        match states.is_empty() {
            true => examples.manifest().write(&list)?,
            false => examples.manifest().check(&list)?,
        }
        let run = identify(&config, &files, &scheduler, &examples, dtype)?;
        let state = match states.last() {
            Some(newest) => Some(State::open(newest, &run)?),
            None => None,
        };
        let first = state.as_ref().map_or(0, |state| state.step);
        if let Some(state) = &state {
            extend(state, &config, watcher)?;
        }
        let accumulated = config.grad_accum as u64;
        examples.prepare(first * accumulated..config.steps * accumulated, &sampled_texts(&asked), watcher)?;
        let validation = match held_out {
            None => None,
            Some(dataset) => {
                let images = images::survey(&dataset, watcher)?;
                let fits = survey::fits(&dataset, &images, buckets.as_ref())?;
                let mut encoders = Encoders::new(&files, &vae_folder, vocab, device, dtype, &cache)?;
                encoders.windows = windows;
                encoders.background = config.background();
                let (plain, count) = (config.of_validation(), dataset.len() as u64);
                watcher.note(&format!("{count} images are held out for validation"));
                let mut held =
                    Examples::open(&plain, dataset, (images, fits), encoders, side as u32, latent, factor, watcher)?;
                held.prepare(0..count, &[], watcher)?;
                Some(held)
            }
        };
        let samples = match config.sample_every {
            0 => None,
            _ => {
                let zeros_for_empty = files.force_zeros_for_empty_prompt;
                let model = SampledModel { scheduler, is_xl, vae_folder, own_vae: files.vae.clone(), dtype };
                Some(samples(&config, asked, zeros_for_empty, model, &mut examples)?)
            }
        };

        Ok(Some(Self {
            unet_folder: files.unet,
            config,
            folder,
            plans,
            examples,
            objective,
            run,
            state,
            start,
            samples,
            validation,
            device: device.clone(),
            dtype,
            vocab: vocab.map(PathBuf::from),
            windows,
        }))
    }

    /// The network that is trained, on the device of the run. Runs of one model can share it, one after the other.
    ///
    /// # Errors
    /// As [`UNet::load`].
    pub fn load_unet(&self) -> Result<UNet> {
        let unet = UNet::load(&self.unet_folder, self.dtype)?;
        unet.to(&self.device)?;
        release_pool();
        Ok(unet)
    }

    /// The text encoders, where they are trained.
    ///
    /// # Errors
    /// As [`TrainedTexts::load`].
    pub(super) fn load_texts(&self) -> Result<Option<TrainedTexts>> {
        if !self.config.train_text_encoder {
            return Ok(None);
        }
        let vocab = self.vocab.as_deref();
        TrainedTexts::load(&self.config, vocab, self.windows, &self.device, self.dtype).map(Some)
    }
}

/// What a caller wants of a preparation.
#[derive(Clone, Copy)]
struct Ask<'a> {
    resume: bool,
    /// Whether to say what is planned.
    announced: bool,
    /// To end before anything is written.
    dry: bool,
    tokens: Option<&'a TokenSettings>,
}
