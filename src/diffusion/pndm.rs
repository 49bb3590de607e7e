//! Pseudo-numerical methods (Liu et al. 2022, arXiv:2202.09778): linear multistep, after Runge-Kutta or a repeated
//! second step.

use super::config::SchedulerConfig;
use super::prediction::Prediction;
use super::sampler::{Run, Sampler};
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::{Error, Result};
use crate::ops::{Combination, evaluate};
use crate::tensor::Tensor;

pub(super) struct Pndm {
    run: Run,
    /// How many of the timesteps are Runge-Kutta evaluations.
    runge_kutta: usize,
    stride: i64,
    calls: usize,
    /// The latest outputs, oldest first, at most three.
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
            (t[..1].iter().copied().chain(repeated).chain(t[1..].iter().copied()).collect(), 0)
        } else {
            if steps < 4 {
                return Err(Error::Usage("pndm with Runge-Kutta steps takes at least 4 steps".into()));
            }
            // The first four timesteps and the points half a stride above them, each inner point twice.
            let half = (stride / 2) as f64;
            let points: Vec<f64> = t[..4].iter().flat_map(|&t| [t + half, t]).skip(1).collect();
            let twice: Vec<f64> = points.iter().flat_map(|&p| [p, p]).collect();
            let runge_kutta = twice.len() - 2;
            (twice[1..twice.len() - 1].iter().chain(&t[3..]).copied().collect(), runge_kutta)
        };
        Ok(Self {
            run: Run { config, schedule, timesteps, sigmas: vec![] },
            runge_kutta,
            stride,
            calls: 0,
            outputs: vec![],
            sum: None,
            start: None,
        })
    }

    /// Equation 11: from timestep `t` to `previous` with the given output.
    fn transfer(&self, sample: &Combination, output: &Combination, t: i64, previous: i64) -> Result<Combination> {
        let table = &self.run.schedule.alphas_cumprod;
        let at = |t: i64| {
            let a = if t >= 0 { table.get(t as usize).copied() } else { Some(table[0]) };
            a.ok_or_else(|| Error::Usage(format!("pndm reaches timestep {t}, outside the schedule: use other steps")))
        };
        let a = at(t)?;
        let b = if previous < 0 && self.run.config.set_alpha_to_one { 1.0 } else { at(previous)? };
        let of_sample = (b / a).sqrt();
        let of_noise = -(b - a) / (a * (1.0 - b).sqrt() + (a * (1.0 - a) * b).sqrt());
        Ok(match self.run.config.prediction {
            Prediction::V => {
                Combination::sum(&[(of_sample + of_noise * (1.0 - a).sqrt(), sample), (of_noise * a.sqrt(), output)])
            }
            _ => Combination::sum(&[(of_sample, sample), (of_noise, output)]),
        })
    }

    /// Evaluation `call` of the Runge-Kutta steps, four of which make a step.
    fn runge_kutta_step(&mut self, call: usize, at: i64, output: &Combination, sample: &Tensor) -> Result<Tensor> {
        let previous = at - if call % 2 == 1 { 0 } else { self.stride / 2 };
        let t = self.run.timesteps[call / 4 * 4] as i64;
        let weight = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0][call % 4];
        let (is_first, is_last) = (call.is_multiple_of(4), call % 4 == 3);
        if is_first {
            self.start = Some(sample.clone());
        }
        let sum = match &self.sum {
            Some(sum) => Combination::sum(&[(1.0, &Combination::of(sum)), (weight, output)]),
            None => Combination::sum(&[(weight, output)]),
        };
        let start = Combination::of(self.start.as_ref().unwrap_or(sample));
        let next = self.transfer(&start, if is_last { &sum } else { output }, t, previous)?;
        let [next, sum, output] = evaluate([&next, &sum, output])?;
        if is_first {
            self.outputs.push(output);
        }
        self.sum = (!is_last).then_some(sum);
        Ok(next)
    }

    /// The linear multistep slope of the newest output and at most three before it.
    fn slope(&self, output: &Combination) -> Combination {
        let older: Vec<Combination> = self.outputs.iter().map(Combination::of).collect();
        match older.as_slice() {
            [] => output.clone(),
            [b] => Combination::sum(&[(1.5, output), (-0.5, b)]),
            [c, b] => Combination::sum(&[(23.0 / 12.0, output), (-16.0 / 12.0, b), (5.0 / 12.0, c)]),
            [.., d, c, b] => {
                Combination::sum(&[(55.0 / 24.0, output), (-59.0 / 24.0, b), (37.0 / 24.0, c), (-9.0 / 24.0, d)])
            }
        }
    }
}

impl Sampler for Pndm {
    fn run(&self) -> &Run {
        &self.run
    }

    fn step(&mut self, i: usize, output: &Combination, sample: &Tensor, _noise: Option<&Tensor>) -> Result<Tensor> {
        let call = self.calls;
        self.calls += 1;
        if call < self.runge_kutta {
            return self.runge_kutta_step(call, self.run.timesteps[i] as i64, output, sample);
        }
        let t = self.run.timesteps[i] as i64;
        if let (1, [e]) = (call, self.outputs.as_slice()) {
            // The repeated timestep: the first step again, with the mean of both slopes.
            let slope = Combination::sum(&[(0.5, output), (0.5, &Combination::of(e))]);
            let start = Combination::of(&self.start.take().unwrap_or_else(|| sample.clone()));
            return self.transfer(&start, &slope, t + self.stride, t)?.tensor();
        }
        if call == 0 {
            self.start = Some(sample.clone());
        }
        let next = self.transfer(&Combination::of(sample), &self.slope(output), t, t - self.stride)?;
        let [next, output] = evaluate([&next, output])?;
        let surplus = self.outputs.len().saturating_sub(2);
        self.outputs.drain(..surplus);
        self.outputs.push(output);
        Ok(next)
    }
}
