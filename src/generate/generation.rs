//! One batch of images: its settings, and the way from text states to pixels.

use image::RgbImage;
use serde_json::Value;

use super::denoise::sample_posterior;
use super::{Conditions, Denoising, Guidance, Settings, StableDiffusion, decode, pipeline_config};
use crate::autograd::Tape;
use crate::data::preprocess::{Crop, Preprocess};
use crate::diffusion::{Sampler, sampler};
use crate::error::{Error, Result};
use crate::formats;
use crate::lora::gate::{Mixture, Rows};
use crate::nn::{AutoencoderKl, UNet};
use crate::ops;
use crate::tensor::Tensor;
use crate::tensor::random::{self, Stream};

/// Everything that decides an image besides the model and the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// One of selma's names or a class of diffusers; none for the model's own.
    pub scheduler: Option<String>,
    pub steps: usize,
    pub guidance: Guidance,
    /// None for what the family takes as a missing one.
    pub negative: Option<String>,
    /// Height and width in pixels.
    pub size: (usize, usize),
    pub clip_skip: usize,
    pub seed: u64,
}

/// The networks that a batch runs through, and what the model's scheduler says.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    pub unet: &'a UNet,
    pub vae: &'a AutoencoderKl,
    /// `scheduler_config.json`.
    pub scheduler: &'a Value,
    pub is_xl: bool,
}

/// An image to start from instead of noise, as the VAE sees it.
pub struct Start {
    /// `[h, w, c]` f32 each.
    mean: Vec<f32>,
    log_variance: Vec<f32>,
    /// Share of the schedule that runs.
    pub strength: f64,
}

/// A batch that is ready to run.
pub struct Batch<'a> {
    pub networks: Networks<'a>,
    /// Of all its images; each has its own seed and negative prompt.
    pub generation: &'a Generation,
    /// Seed and index of each image: they alone decide its noise.
    pub noise: Vec<(u64, u64)>,
    pub positive: Conditions,
    pub negative: Conditions,
    pub start: Option<&'a Start>,
    /// As [`Denoising::mixture`].
    pub mixture: Option<(&'a Mixture, Rows)>,
}

impl Start {
    /// Crops and resizes `image` to `size` (height and width in pixels), and encodes it.
    ///
    /// # Errors
    /// [`Error::Failed`] for an image that is far too narrow; where the device has no room.
    pub fn new(model: &StableDiffusion, image: &RgbImage, size: (usize, usize), strength: f64) -> Result<Self> {
        let cover = Preprocess { width: size.1 as u32, height: size.0 as u32, crop: Crop::Center, flip: false };
        let place = cover.crop_box((image.height(), image.width()), 0, 0, 0)?;
        let pixels = place.apply(image).with_shape(&[1, size.0, size.1, 3]);
        let (mean, log_variance) = model.vae.encode(&Tape::off(), &pixels.cast(model.dtype))?;
        Ok(Self {
            mean: mean.to_cpu()?.reals::<f32>().into_owned(),
            log_variance: log_variance.to_cpu()?.reals::<f32>().into_owned(),
            strength,
        })
    }
}

impl Generation {
    /// `settings` as they are for `model`: what they leave out is the model's own.
    pub fn new(settings: &Settings, seed: u64, model: &StableDiffusion) -> Self {
        let side = model.unet.config.sample_size * model.vae.config.downscale();
        Self {
            scheduler: settings.scheduler.clone(),
            steps: settings.steps,
            guidance: Guidance {
                scale: settings.guidance.unwrap_or(Guidance::default_scale(model.is_xl())),
                rescale: settings.guidance_rescale,
            },
            negative: settings.negative.clone(),
            size: (settings.height.unwrap_or(side), settings.width.unwrap_or(side)),
            clip_skip: settings.clip_skip,
            seed,
        }
    }

    /// Whether images of both can be in one batch.
    pub fn fits(&self, other: &Self) -> bool {
        let all_but_own = |g: &Self| (g.scheduler.clone(), g.steps, g.guidance, g.size, g.clip_skip);
        all_but_own(self) == all_but_own(other) && self.negative.is_some() == other.negative.is_some()
    }

    /// Checks every setting before the first image is generated. `strength` is that of an image to start from.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option that is out of range.
    pub fn check(&self, model: &StableDiffusion, strength: Option<f64>) -> Result<()> {
        self.check_for(model.vae.config.downscale(), &model.scheduler, model.is_xl())?;
        if let Some(strength) = strength.filter(|strength| !(*strength > 0.0 && *strength <= 1.0)) {
            return Err(Error::Usage(format!("--strength {strength}: expected more than 0 and at most 1")));
        }
        let layers = model.text.encoders.iter().map(|e| e.model.config.num_hidden_layers);
        let layers = layers.min().unwrap_or(0).saturating_sub(usize::from(model.is_xl()));
        if self.clip_skip >= layers {
            let most = layers.saturating_sub(1);
            return Err(Error::Usage(format!(
                "--clip-skip {}: this model's text encoders can skip at most {most}",
                self.clip_skip
            )));
        }
        self.network_calls(model.networks(), strength).map(drop)
    }

    /// Checks size, steps, guidance and scheduler for a model that is not loaded: its VAE makes a latent of `factor` pixels a
    /// side, and `scheduler` is its `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option that is out of range.
    pub fn check_for(&self, factor: usize, scheduler: &Value, is_xl: bool) -> Result<()> {
        const LARGEST: usize = 1 << 14;
        const MOST_STEPS: usize = 10_000;
        let fits = |side: usize| side > 0 && side <= LARGEST && side.is_multiple_of(factor);
        if !fits(self.size.0) || !fits(self.size.1) {
            return Err(Error::Usage(format!(
                "--height {} --width {}: expected multiples of {factor} up to {LARGEST}",
                self.size.0, self.size.1
            )));
        }
        if self.steps == 0 || self.steps > MOST_STEPS {
            let message = format!("--steps {}: expected 1 to {MOST_STEPS}", self.steps);
            return Err(Error::Usage(message));
        }
        for (name, value) in [("guidance", self.guidance.scale), ("guidance-rescale", self.guidance.rescale)] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::Usage(format!("--{name} {value}: expected a number that is not negative")));
            }
        }
        self.sampler(scheduler, is_xl).map(drop)
    }

    /// Calls of the UNet for one batch.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown scheduler, or a `strength` that leaves no step to run.
    pub fn network_calls(&self, networks: Networks, strength: Option<f64>) -> Result<usize> {
        let sampler = self.sampler(networks.scheduler, networks.is_xl)?;
        Ok(sampler.timesteps().len() - self.first_step(sampler.as_ref(), strength)?)
    }

    fn sampler(&self, scheduler: &Value, is_xl: bool) -> Result<Box<dyn Sampler>> {
        let own = || {
            let message = "the model's scheduler_config.json has no _class_name; name a scheduler by --scheduler";
            scheduler["_class_name"].as_str().ok_or_else(|| Error::Usage(message.into()))
        };
        let name = match &self.scheduler {
            Some(name) => name,
            None => own()?,
        };
        sampler::from_config(name, &pipeline_config(scheduler, is_xl), self.steps)
    }

    /// 0 for text to image; the later, the weaker the strength.
    fn first_step(&self, sampler: &dyn Sampler, strength: Option<f64>) -> Result<usize> {
        let Some(strength) = strength else {
            return Ok(0);
        };
        let kept = ((self.steps as f64 * strength) as usize).min(self.steps);
        let first = (self.steps - kept) * sampler.order();
        if kept == 0 || first >= sampler.timesteps().len() {
            return Err(Error::Usage(format!(
                "--strength {strength}: none of {} steps would run; use more steps or a higher strength",
                self.steps
            )));
        }
        Ok(first)
    }
}

impl Batch<'_> {
    /// As [`Batch::pixels`]: latents, and images.
    ///
    /// # Errors
    /// As [`Batch::pixels`]; [`Error::Failed`] where the model's numbers are not finite.
    pub fn run(self, seen: impl FnMut() -> Result<()>) -> Result<(Tensor, Vec<RgbImage>)> {
        let first = self.noise.first().map_or(0, |(_, index)| *index);
        let (latents, pixels) = self.pixels(seen)?;
        if !pixels.is_finite() {
            let what = if latents.is_finite() { "the VAE" } else { "the UNet" };
            return Err(Error::Failed(format!(
                "{what} gave NaN or infinity for the images from index {first} on; try --precision f32, other steps or \
                 guidance, or for the VAE another one by --vae"
            )));
        }
        Ok((latents, formats::image::from_tensor(&pixels)?))
    }

    /// Runs the sampler and decodes, one image for each entry of `noise`: latents `[n, h, w, c]`, and pixels
    /// `[n, height, width, 3]` in f32, not yet clamped to [-1, 1]. `seen` is called after each step and may stop the work by an
    /// error.
    ///
    /// # Errors
    /// Those of [`Generation::network_calls`] and `seen`; where the device has no room.
    pub fn pixels(self, mut seen: impl FnMut() -> Result<()>) -> Result<(Tensor, Tensor)> {
        let Self { networks, generation, noise, positive, negative, start, mixture } = self;
        let sampler = generation.sampler(networks.scheduler, networks.is_xl)?;
        let vae = networks.vae;
        let (height, width) = generation.size;
        let factor = vae.config.downscale();
        let shape = [noise.len(), height / factor, width / factor, vae.config.latent_channels];
        let normals = |stream: Stream, step: usize| {
            let len = shape[1..].iter().product();
            let values = noise.iter().flat_map(|&(seed, index)| random::normals(seed, stream, index, step as u64, len));
            Tensor::new(values.collect(), &shape)
        };
        let first = generation.first_step(sampler.as_ref(), start.map(|start| start.strength))?;
        let latents = match start {
            None => ops::combine(&[(sampler.init_noise_sigma(), &normals(Stream::Latents, 0))])?,
            Some(start) => {
                let all = |values: &[f32]| Tensor::new(values.repeat(noise.len()), &shape);
                let (mean, log_variance) = (all(&start.mean), all(&start.log_variance));
                let image = sample_posterior(vae, &mean, &log_variance, &normals(Stream::Posterior, 0))?;
                sampler.add_noise_at(first, &image, &normals(Stream::Latents, 0))?
            }
        };
        let guidance = generation.guidance;
        let size = generation.size;
        let mut denoising = Denoising { unet: networks.unet, sampler, guidance, positive, negative, size, mixture };
        let fresh = |i: usize, _: &Tensor| Ok(normals(Stream::Sampler, i));
        let latents = denoising.run(first, latents, fresh, |_, _| seen())?;
        let pixels = decode(vae, &latents)?;
        Ok((latents, pixels))
    }
}
