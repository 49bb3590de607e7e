//! Pseudo-numerical methods (Liu et al. 2022, arXiv:2202.09778): linear multistep, after Runge-Kutta or a repeated
//! second step.

use super::config::SchedulerConfig;
use super::prediction::Prediction;
use super::sampler::Sampler;
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

pub(super) struct Pndm {
    config: SchedulerConfig,
    schedule: NoiseSchedule,
    timesteps: Vec<f64>,
    /// How many of the timesteps are Runge-Kutta evaluations.
    runge_kutta: usize,
    stride: i64,
    calls: usize,
    /// The latest outputs, oldest first.
    outputs: Vec<Tensor>,
    /// The weighted sum of a Runge-Kutta step so far.
    sum: Option<Tensor>,
    start: Option<Tensor>,
}

impl Pndm {
    pub(super) fn new(config: SchedulerConfig, schedule: NoiseSchedule, steps: usize) -> Result<Self> {
        let t = timesteps::spaced(&config, steps, false)?;
        let stride = (config.num_train_timesteps / steps) as i64;
        let (timesteps, runge_kutta) = if config.skip_prk_steps {
            let repeated = t.get(1).copied();
            (
                t[..1]
                    .iter()
                    .copied()
                    .chain(repeated)
                    .chain(t[1..].iter().copied())
                    .collect(),
                0,
            )
        } else {
            if steps < 4 {
                return Err(Error::Usage(
                    "pndm with Runge-Kutta steps takes at least 4 steps".into(),
                ));
            }
            // The first four timesteps and the points half a stride above them, each inner point twice.
            let half = (stride / 2) as f64;
            let points: Vec<f64> = t[..4].iter().flat_map(|&t| [t + half, t]).skip(1).collect();
            let twice: Vec<f64> = points.iter().flat_map(|&p| [p, p]).collect();
            let runge_kutta = twice.len() - 2;
            (
                twice[1..twice.len() - 1].iter().chain(&t[3..]).copied().collect(),
                runge_kutta,
            )
        };
        Ok(Self {
            config,
            schedule,
            timesteps,
            runge_kutta,
            stride,
            calls: 0,
            outputs: vec![],
            sum: None,
            start: None,
        })
    }

    /// Equation 11: from timestep `t` to `previous` with the given output.
    fn transfer(&self, sample: &Tensor, output: &Tensor, t: i64, previous: i64) -> Result<Tensor> {
        let table = &self.schedule.alphas_cumprod;
        let at = |t: i64| {
            let a = if t >= 0 {
                table.get(t as usize).copied()
            } else {
                Some(table[0])
            };
            a.ok_or_else(|| {
                Error::Usage(format!(
                    "pndm reaches timestep {t}, outside the schedule: use other steps"
                ))
            })
        };
        let a = at(t)?;
        let b = if previous < 0 && self.config.set_alpha_to_one {
            1.0
        } else {
            at(previous)?
        };
        let of_sample = (b / a).sqrt();
        let of_noise = -(b - a) / (a * (1.0 - b).sqrt() + (a * (1.0 - a) * b).sqrt());
        match self.config.prediction {
            Prediction::V => ops::combine(&[
                (of_sample + of_noise * (1.0 - a).sqrt(), sample),
                (of_noise * a.sqrt(), output),
            ]),
            _ => ops::combine(&[(of_sample, sample), (of_noise, output)]),
        }
    }

    fn runge_kutta_step(&mut self, i: usize, output: &Tensor, sample: &Tensor) -> Result<Tensor> {
        let back = if self.calls % 2 == 1 { 0 } else { self.stride / 2 };
        let previous = self.timesteps[i] as i64 - back;
        let t = self.timesteps[self.calls / 4 * 4] as i64;
        let weight = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0][self.calls % 4];
        if self.calls.is_multiple_of(4) {
            self.outputs.push(output.clone());
            self.start = Some(sample.clone());
        }
        let sum = match self.sum.take() {
            Some(sum) => ops::combine(&[(1.0, &sum), (weight, output)])?,
            None => ops::combine(&[(weight, output)])?,
        };
        let start = self.start.clone().unwrap_or_else(|| sample.clone());
        let slope = if self.calls % 4 == 3 { &sum } else { output };
        let next = self.transfer(&start, slope, t, previous)?;
        if self.calls % 4 != 3 {
            self.sum = Some(sum);
        }
        Ok(next)
    }
}

impl Sampler for Pndm {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    fn step(&mut self, i: usize, output: &Tensor, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        if self.calls < self.runge_kutta {
            let next = self.runge_kutta_step(i, output, sample)?;
            self.calls += 1;
            return Ok(next);
        }
        let mut t = self.timesteps[i] as i64;
        let mut previous = t - self.stride;
        let mut sample = sample.clone();
        if self.calls == 1 {
            // The repeated timestep: the first step again, with the mean of both slopes.
            (t, previous) = (t + self.stride, t);
        } else {
            let surplus = self.outputs.len().saturating_sub(3);
            self.outputs.drain(..surplus);
            self.outputs.push(output.clone());
        }
        let slope = match self.outputs.as_slice() {
            [e] if self.calls == 1 => {
                sample = self.start.take().unwrap_or(sample);
                ops::combine(&[(0.5, output), (0.5, e)])?
            }
            [e] => {
                self.start = Some(sample.clone());
                e.clone()
            }
            [b, a] => ops::combine(&[(1.5, a), (-0.5, b)])?,
            [c, b, a] => ops::combine(&[(23.0 / 12.0, a), (-16.0 / 12.0, b), (5.0 / 12.0, c)])?,
            [.., d, c, b, a] => {
                ops::combine(&[(55.0 / 24.0, a), (-59.0 / 24.0, b), (37.0 / 24.0, c), (-9.0 / 24.0, d)])?
            }
            [] => output.clone(),
        };
        self.calls += 1;
        self.transfer(&sample, &slope, t, previous)
    }
}
