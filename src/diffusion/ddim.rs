//! DDIM (Song et al. 2020, arXiv:2010.02502, equation 12).

use super::config::SchedulerConfig;
use super::sampler::{Run, Sampler, confine, required};
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::Result;
use crate::ops::Combination;
use crate::tensor::Tensor;

pub(super) struct Ddim {
    run: Run,
    stride: i64,
    eta: f64,
}

impl Ddim {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let timesteps = timesteps::spaced(&config, steps, false)?;
        let stride = (config.num_train_timesteps / steps) as i64;
        Ok(Self { run: Run { config, schedule, timesteps, sigmas: vec![] }, stride, eta: 0.0 })
    }
}

impl Sampler for Ddim {
    fn run(&self) -> &Run {
        &self.run
    }

    fn set_eta(&mut self, eta: f64) {
        self.eta = eta;
    }

    fn needs_noise(&self, _i: usize) -> bool {
        self.eta > 0.0
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let sample = &Combination::of(sample);
        let t = self.run.timesteps[i] as i64;
        let table = &self.run.schedule.alphas_cumprod;
        let a = table[t as usize];
        // A fixed stride back, whatever the spacing of the list.
        let previous = match t - self.stride {
            p if p >= 0 => table[p as usize],
            _ if self.run.config.set_alpha_to_one => 1.0,
            _ => table[0],
        };
        let (alpha, sigma) = (a.sqrt(), (1.0 - a).sqrt());
        let prediction = self.run.config.prediction;
        let image = confine(&self.run.config, prediction.image(output, sample, alpha, sigma))?;
        let epsilon = prediction.noise(output, sample, alpha, sigma);
        let variance = ((1.0 - previous) / (1.0 - a) * (1.0 - a / previous)).max(0.0);
        let deviation = self.eta * variance.sqrt();
        let direction = (1.0 - previous - deviation * deviation).max(0.0).sqrt();
        let noise = self.needs_noise(i).then(|| required(noise)).transpose()?;
        let mut terms = vec![(previous.sqrt(), &image), (direction, &epsilon)];
        terms.extend(noise.as_ref().map(|noise| (deviation, noise)));
        Combination::sum(&terms).tensor()
    }
}
