//! Pictures of prompts: text to image, and image to image, for one batch.

use image::RgbImage;

use super::{Conditions, Denoising, Guidance, StableDiffusion, pipeline_config};
use crate::autograd::Tape;
use crate::data::preprocess::{Crop, Preprocess};
use crate::diffusion::{Sampler, sampler};
use crate::error::{Error, Result};
use crate::formats;
use crate::ops;
use crate::tensor::Tensor;
use crate::tensor::random::{self, Stream};

/// One picture to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Decides the noise, whatever the batch it is drawn in.
    pub index: u64,
    pub prompt: String,
    /// How many texts of 77 tokens the prompt is read as; all jobs of a batch have the same.
    pub parts: usize,
}

/// A picture to start from instead of noise, as the VAE sees it.
pub struct Start {
    /// `[h, w, c]` f32 each.
    mean: Vec<f32>,
    log_variance: Vec<f32>,
    /// Share of the schedule that runs.
    pub strength: f64,
}

/// What decides pictures besides the model and the prompts.
pub struct Drawing<'a> {
    pub model: &'a StableDiffusion,
    /// One of selma's names or a class of diffusers; none for the model's own.
    pub scheduler: Option<&'a str>,
    pub steps: usize,
    pub guidance: Guidance,
    /// None for what the family takes as a missing one.
    pub negative: Option<&'a str>,
    /// Height and width in pixels.
    pub size: (usize, usize),
    pub clip_skip: usize,
    pub seed: u64,
    pub start: Option<Start>,
}

impl Start {
    /// Cuts and resizes `picture` to `size` (height and width in pixels), and encodes it.
    ///
    /// # Errors
    /// [`Error::Failed`] for a picture that is far too narrow; [`Error::Usage`] for a strength outside of (0, 1].
    pub fn new(model: &StableDiffusion, picture: &RgbImage, size: (usize, usize), strength: f64) -> Result<Self> {
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Error::Usage(format!("--strength {strength}: expected more than 0 and at most 1")));
        }
        let cover = Preprocess { width: size.1 as u32, height: size.0 as u32, crop: Crop::Center, flip: false };
        let place = cover.place((picture.height(), picture.width()), 0, 0, 0)?;
        let pixels = place.apply(picture).with_shape(&[1, size.0, size.1, 3]);
        let (mean, log_variance) = model.vae.encode(&Tape::off(), &pixels.cast(model.dtype))?;
        Ok(Self {
            mean: mean.to_cpu()?.reals::<f32>().into_owned(),
            log_variance: log_variance.to_cpu()?.reals::<f32>().into_owned(),
            strength,
        })
    }
}

impl Drawing<'_> {
    /// Finds out whether these settings can be drawn at all, before the first picture.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option that is out of range.
    pub fn check(&self) -> Result<()> {
        const LARGEST: usize = 1 << 14;
        const MOST_STEPS: usize = 10_000;
        let factor = self.model.vae.config.downscale();
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
        let layers = self.model.text.encoders.iter().map(|e| e.model.config.num_hidden_layers);
        let layers = layers.min().unwrap_or(0).saturating_sub(usize::from(self.model.is_xl()));
        if self.clip_skip >= layers {
            let most = layers.saturating_sub(1);
            return Err(Error::Usage(format!(
                "--clip-skip {}: this model's text encoders can skip at most {most}",
                self.clip_skip
            )));
        }
        self.first_step(self.sampler()?.as_ref()).map(drop)
    }

    /// Calls of the network for one picture.
    ///
    /// # Errors
    /// As [`Drawing::check`].
    pub fn calls(&self) -> Result<usize> {
        let sampler = self.sampler()?;
        Ok(sampler.timesteps().len() - self.first_step(sampler.as_ref())?)
    }

    fn sampler(&self) -> Result<Box<dyn Sampler>> {
        let own = || {
            let message = "the model's scheduler_config.json has no _class_name; name a scheduler by --scheduler";
            let class = self.model.scheduler["_class_name"].as_str();
            class.ok_or_else(|| Error::Usage(message.into()))
        };
        let name = match self.scheduler {
            Some(name) => name,
            None => own()?,
        };
        let config = pipeline_config(&self.model.scheduler, self.model.is_xl());
        sampler::from_config(name, &config, self.steps)
    }

    /// 0 for text to image; the later, the weaker the strength.
    fn first_step(&self, sampler: &dyn Sampler) -> Result<usize> {
        let Some(start) = &self.start else {
            return Ok(0);
        };
        let kept = ((self.steps as f64 * start.strength) as usize).min(self.steps);
        let first = self.steps - kept;
        if kept == 0 || first >= sampler.timesteps().len() {
            return Err(Error::Usage(format!(
                "--strength {}: not one of {} steps is left to draw; use more steps or a higher strength",
                start.strength, self.steps
            )));
        }
        Ok(first)
    }

    /// One picture a job. `seen` is called after each step and may stop the work by an error.
    ///
    /// # Errors
    /// As [`Drawing::check`]; [`Error::Failed`] where the model's numbers are not finite.
    pub fn draw(&self, jobs: &[Job], mut seen: impl FnMut() -> Result<()>) -> Result<Vec<RgbImage>> {
        let (positive, negative) = self.conditions(jobs)?;
        let sampler = self.sampler()?;
        let config = &self.model.vae.config;
        let (height, width) = (self.size.0 / config.downscale(), self.size.1 / config.downscale());
        let shape = [jobs.len(), height, width, config.latent_channels];
        let noise = |stream: Stream, step: usize| {
            let len = shape[1..].iter().product();
            let values = jobs.iter().flat_map(|job| random::normals(self.seed, stream, job.index, step as u64, len));
            Tensor::new(values.collect(), &shape)
        };
        let first = self.first_step(sampler.as_ref())?;
        let latents = match &self.start {
            None => ops::combine(&[(sampler.init_noise_sigma(), &noise(Stream::Latents, 0))])?,
            Some(start) => {
                let all = |values: &[f32]| Tensor::new(values.repeat(jobs.len()), &shape);
                let (mean, log_variance) = (all(&start.mean), all(&start.log_variance));
                let picture = self.model.latents(&mean, &log_variance, &noise(Stream::Posterior, 0))?;
                sampler.add_noise_at(first, &picture, &noise(Stream::Latents, 0))?
            }
        };
        let mut denoising =
            Denoising { unet: &self.model.unet, sampler, guidance: self.guidance, positive, negative, size: self.size };
        let fresh = |i: usize, _: &Tensor| Ok(noise(Stream::Sampler, i));
        let latents = denoising.run(first, latents, fresh, |_, _| seen())?;
        let pixels = self.model.decode(&latents)?;
        if !pixels.is_finite() {
            let what = if latents.is_finite() { "the VAE" } else { "the UNet" };
            return Err(Error::Failed(format!(
                "{what} gave NaN or infinity for the prompts from number {} on; try --precision f32, other steps or \
                 guidance, or for the VAE another one by --vae",
                jobs.first().map_or(0, |job| job.index)
            )));
        }
        formats::image::from_tensor(&pixels)
    }

    fn conditions(&self, jobs: &[Job]) -> Result<(Conditions, Conditions)> {
        let text = &self.model.text;
        let prompts: Vec<String> = jobs.iter().map(|job| job.prompt.clone()).collect();
        let parts = jobs.iter().map(|job| job.parts).max().unwrap_or(1);
        let negative = self.negative.map(|text| vec![text.to_owned(); jobs.len()]);
        if parts <= 1 {
            let positive = text.encode(&prompts, None, self.clip_skip)?;
            let negative = text.encode_negative(negative.as_deref(), None, &positive)?;
            return Ok((positive, negative));
        }
        let positive = text.encode_long(&prompts, self.clip_skip, parts)?;
        let negative = match negative {
            None if text.is_xl() && text.force_zeros_for_empty_prompt => text.encode_negative(None, None, &positive)?,
            negative => {
                let negative = negative.unwrap_or_else(|| vec![String::new(); jobs.len()]);
                text.encode_long(&negative, 0, parts)?
            }
        };
        Ok((positive, negative))
    }
}
