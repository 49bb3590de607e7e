//! How far a prediction is off: the square of the difference, or a distance that grows more slowly, so that a few bad pixels
//! weigh less. Names and formulas are those of kohya's sd-scripts (`get_huber_threshold_if_needed`, `conditional_loss`).

use crate::diffusion::NoiseSchedule;
use crate::error::Result;
use crate::ops::Distance;
use crate::settings::named;

/// What is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LossType {
    /// The square
    L2,
    /// 2 c (sqrt(x^2 + c^2) - c): the square near 0, the absolute value far from it
    Huber,
    /// 2 (sqrt(x^2 + c^2) - c)
    SmoothL1,
}

named!(LossType, "loss-type");

/// How the c of a sample follows from its timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HuberSchedule {
    /// (1 - c) / (1 + sigma)^2 + c: 1 without noise, c in pure noise
    Snr,
    /// c^(t / T), times the scale
    Exponential,
    /// c, times the scale
    Constant,
}

named!(HuberSchedule, "huber-schedule");

/// The distance of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    pub kind: LossType,
    pub schedule: HuberSchedule,
    pub c: f64,
    pub scale: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Self { kind: LossType::L2, schedule: HuberSchedule::Snr, c: 0.1, scale: 1.0 }
    }
}

impl Loss {
    pub fn distance(&self) -> Distance {
        match self.kind {
            LossType::L2 => Distance::Squared,
            LossType::Huber => Distance::Huber,
            LossType::SmoothL1 => Distance::SmoothL1,
        }
    }

    /// Where the distance bends, for each timestep.
    ///
    /// # Errors
    /// For a timestep that the schedule does not have.
    pub fn bends(&self, schedule: &NoiseSchedule, timesteps: &[usize]) -> Result<Vec<f32>> {
        let bend = |&t: &usize| -> Result<f32> {
            let alpha = schedule.alpha(t)?;
            let share = t as f64 / schedule.alphas_cumprod.len() as f64;
            let c = match self.schedule {
                HuberSchedule::Snr => {
                    let sigma = ((1.0 - alpha) / alpha).sqrt();
                    (1.0 - self.c) / (1.0 + sigma).powi(2) + self.c
                }
                HuberSchedule::Exponential => self.c.powf(share) * self.scale,
                HuberSchedule::Constant => self.c * self.scale,
            };
            Ok(c as f32)
        };
        timesteps.iter().map(bend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::SchedulerConfig;
    use crate::diffusion::config::Class;

    /// By sd-scripts' formulas, in Python's floats, for Stable Diffusion's schedule.
    #[test]
    fn bends_are_those_of_the_scripts() {
        let config = serde_json::json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
        let schedule = NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &config).unwrap()).unwrap();
        let bends = |schedule_of_c, scale| {
            let loss = Loss { kind: LossType::Huber, schedule: schedule_of_c, c: 0.1, scale };
            loss.bends(&schedule, &[0, 250, 999]).unwrap()
        };
        for (got, expected) in [
            (bends(HuberSchedule::Snr, 1.0), [0.949_709_9, 0.412_963_57, 0.103_691_29]),
            (bends(HuberSchedule::Exponential, 2.0), [2.0, 1.124_682_7, 0.200_461_05]),
            (bends(HuberSchedule::Constant, 2.0), [0.2, 0.2, 0.2]),
        ] {
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() <= 2e-6 * expected, "{got}, expected {expected}");
            }
        }
    }
}
