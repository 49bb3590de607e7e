//! The interface of the samplers, and how one is made from a scheduler's configuration.

use serde_json::Value;

use super::config::{Class, SchedulerConfig};
use super::names::Name;
use super::schedule::NoiseSchedule;
use super::sigmas::Levels;
use super::{
    ddim, ddpm, deis, dpm_sde, dpm_singlestep, dpm_solver, euler, euler_ancestral, heun, kdpm2, lcm, lms, pndm,
};
use super::{sigmas, tcd, unipc};
use crate::error::{Error, Result};
use crate::ops::{self, Combination};
use crate::tensor::{DType, Tensor};

/// What every sampling run has.
pub struct Run {
    pub(super) config: SchedulerConfig,
    pub(super) schedule: NoiseSchedule,
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f64>,
}

impl Run {
    pub(super) fn in_sigma(config: SchedulerConfig, schedule: NoiseSchedule, levels: Levels) -> Self {
        Self { config, schedule, timesteps: levels.timesteps, sigmas: levels.sigmas }
    }
}

/// One sampling run. Step `i` belongs to `timesteps()[i]`; a run may start at a later step (image to image), but then
/// visits every step in order, since multistep methods remember earlier outputs.
pub trait Sampler: Send {
    fn run(&self) -> &Run;

    /// What the network is given at each step; may be fractional.
    fn timesteps(&self) -> &[f64] {
        &self.run().timesteps
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.run().schedule
    }

    /// Calls of the network that a step of the method takes: as many entries of `timesteps()`.
    fn order(&self) -> usize {
        1
    }

    /// Noise levels with the final one; empty where the method has none.
    fn sigmas(&self) -> &[f64] {
        &self.run().sigmas
    }

    /// What unit noise is multiplied by before the first step.
    fn init_noise_sigma(&self) -> f64 {
        match self.level(0) {
            Some(_) => sigmas::init_noise_sigma(&self.run().config, self.sigmas()),
            None => 1.0,
        }
    }

    /// How much of the noise each step of DDIM or TCD renews; the other methods have no such parameter.
    fn set_eta(&mut self, _eta: f64) {}

    /// Sigma at step `i` of the methods whose sample is `image + sigma * noise`.
    fn level(&self, _i: usize) -> Option<f64> {
        None
    }

    /// The sample as the network wants it at step `i`.
    ///
    /// # Errors
    /// Those of the device.
    fn scale_model_input(&self, i: usize, sample: &Tensor) -> Result<Tensor> {
        match self.level(i) {
            Some(sigma) => ops::combine(&[(sigmas::input_scale(sigma), sample)]),
            None => Ok(sample.clone()),
        }
    }

    /// Whether step `i` draws noise.
    fn needs_noise(&self, _i: usize) -> bool {
        false
    }

    /// The sample after step `i`, from the network's output at that step, which may still have to be put together (by
    /// guidance): that becomes part of the step.
    ///
    /// # Errors
    /// If a step that needs noise gets none, or the shapes differ.
    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor>;

    /// A clean image with the noise that belongs before step `i`.
    ///
    /// # Errors
    /// If the shapes differ; those of the device.
    fn add_noise_at(&self, i: usize, image: &Tensor, noise: &Tensor) -> Result<Tensor> {
        if let Some(sigma) = self.level(i) {
            return ops::combine(&[(1.0, image), (sigma, noise)]);
        }
        if let Some(&sigma) = self.sigmas().get(i) {
            let (alpha, sigma) = sigmas::alpha_sigma(sigma);
            return ops::combine(&[(alpha, image), (sigma, noise)]);
        }
        let a = self.schedule().alphas_cumprod[self.timesteps()[i] as usize];
        ops::combine(&[(a.sqrt(), image), ((1.0 - a).sqrt(), noise)])
    }
}

/// Makes the sampler of a diffusers class name, or of one of the names of [`super::names`], which take the model's own
/// configuration and set what the name says.
///
/// # Errors
/// [`Error::Usage`] or [`Error::Unavailable`] naming the class, key or number of steps that cannot be used.
pub fn from_config(class: &str, config: &Value, steps: usize) -> Result<Box<dyn Sampler>> {
    let (class, config) = match Name::parse(class) {
        Some(name) => name.resolve(config)?,
        None => (Class::from_diffusers(class)?, config.clone()),
    };
    let config = SchedulerConfig::parse(class, &config)?;
    let schedule = NoiseSchedule::new(&config)?;
    if let Class::Ddpm | Class::Ddim | Class::Pndm | Class::Lcm = class {
        let last = schedule.alphas_cumprod.len() as i64;
        if config.steps_offset >= last {
            return Err(Error::Usage(format!("scheduler config: steps_offset = {}", config.steps_offset)));
        }
    }
    let sampler: Box<dyn Sampler> = match class {
        Class::Ddpm => Box::new(ddpm::Ddpm::new(config, schedule, steps)?),
        Class::Ddim => Box::new(ddim::Ddim::new(config, schedule, steps)?),
        Class::Pndm => Box::new(pndm::Pndm::new(config, schedule, steps)?),
        Class::Euler => Box::new(euler::Euler::new(config, schedule, steps)?),
        Class::EulerAncestral => Box::new(euler_ancestral::EulerAncestral::new(config, schedule, steps)?),
        Class::DpmSolver => Box::new(dpm_solver::DpmSolver::new(config, schedule, steps)?),
        Class::UniPc => Box::new(unipc::UniPc::new(config, schedule, steps)?),
        Class::Lcm => Box::new(lcm::Lcm::new(config, schedule, steps)?),
        Class::Heun => Box::new(heun::Heun::new(config, schedule, steps)?),
        Class::Kdpm2 => Box::new(kdpm2::Kdpm2::new(config, schedule, steps, false)?),
        Class::Kdpm2Ancestral => Box::new(kdpm2::Kdpm2::new(config, schedule, steps, true)?),
        Class::DpmSde => Box::new(dpm_sde::DpmSde::new(config, schedule, steps)?),
        Class::DpmSinglestep => Box::new(dpm_singlestep::DpmSinglestep::new(config, schedule, steps)?),
        Class::Lms => Box::new(lms::Lms::new(config, schedule, steps)?),
        Class::Deis => Box::new(deis::Deis::new(config, schedule, steps)?),
        Class::Tcd => Box::new(tcd::Tcd::new(config, schedule, steps)?),
    };
    let limit = sampler.schedule().alphas_cumprod.len() as f64;
    if let Some(t) = sampler.timesteps().iter().find(|&&t| !(0.0..limit).contains(&t)) {
        return Err(Error::Usage(format!(
            "{steps} sampling steps reach timestep {t}, outside 0 to {}: use fewer steps",
            limit - 1.0
        )));
    }
    Ok(sampler)
}

/// The noise of a step that needs some.
pub(super) fn required(noise: Option<&Tensor>) -> Result<Combination> {
    let noise = noise.ok_or_else(|| Error::Failed("this sampler's step draws noise, but none was passed".into()))?;
    Ok(Combination::of(noise))
}

/// Confines a predicted image, where the configuration asks for it.
pub(super) fn confine(config: &SchedulerConfig, image: Combination) -> Result<Combination> {
    if config.thresholding {
        threshold(config, &image)
    } else if config.clip_sample {
        Ok(image.limited(config.clip_sample_range))
    } else {
        Ok(image)
    }
}

/// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3) of `[n, ..]`, sample by sample: on the CPU,
/// wherever the image is, since it sorts.
pub(super) fn threshold(config: &SchedulerConfig, image: &Combination) -> Result<Combination> {
    let image = image.tensor()?;
    let n = image.shape().first().copied().unwrap_or(1).max(1);
    let mut values = image.to_cpu()?.reals::<f32>().into_owned();
    let len = values.len() / n;
    for sample in values.chunks_mut(len.max(1)) {
        let mut sizes: Vec<f32> = sample.iter().map(|x| x.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        let at = config.dynamic_thresholding_ratio.clamp(0.0, 1.0) * (sizes.len() - 1) as f64;
        let (low, high) = (sizes[at.floor() as usize], sizes[at.ceil() as usize]);
        let quantile = f64::from(low) + at.fract() * f64::from(high - low);
        let s = quantile.max(1.0).min(config.sample_max_value) as f32;
        for x in sample {
            *x = x.max(-s).min(s) / s;
        }
    }
    debug_assert_ne!(image.dtype(), DType::I64);
    let confined = Tensor::from_reals(values, image.shape(), image.dtype());
    Ok(Combination::of(&confined.to(&image.device())?))
}
