//! Noise levels `sigma = sqrt((1 - a) / a)` for the samplers that run in them.

use super::config::{Class, SchedulerConfig, Spacing};
use super::prediction::Prediction;
use super::schedule::NoiseSchedule;
use super::timesteps;
use crate::error::Result;

/// The noise levels of a sampling run, the final one included.
pub struct Levels {
    pub sigmas: Vec<f64>,
    pub timesteps: Vec<f64>,
}

/// The sigma of every training timestep, ascending, in f32 as the reference has them.
pub fn table(schedule: &NoiseSchedule) -> Vec<f64> {
    let sigma = |&a: &f64| f64::from(((1.0 - a as f32) / a as f32).sqrt());
    schedule.alphas_cumprod.iter().map(sigma).collect()
}

/// The value of the table at a possibly fractional timestep.
pub fn interpolate(table: &[f64], t: f64) -> f64 {
    let low = (t.max(0.0).floor() as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (table[high] - table[low]) * (t.clamp(0.0, (table.len() - 1) as f64) - low as f64)
}

/// Karras et al. 2022, arXiv:2206.00364, equation 5, with rho = 7.
pub fn karras(max: f64, min: f64, n: usize) -> Vec<f64> {
    let (high, low) = (max.powf(1.0 / 7.0), min.powf(1.0 / 7.0));
    (0..n).map(|i| (high + ramp(i, n) * (low - high)).powi(7)).collect()
}

/// Evenly spaced logarithms.
pub fn exponential(max: f64, min: f64, n: usize) -> Vec<f64> {
    (0..n).map(|i| (max.ln() + ramp(i, n) * (min.ln() - max.ln())).exp()).collect()
}

/// The fractional timestep of a sigma, linear in its logarithm. The table's logarithms are rounded to f32 as in the
/// reference, which decides where a result is cut to a whole number.
pub fn timestep(table: &[f64], sigma: f64) -> f64 {
    let log = |s: f64| f64::from((s as f32).ln());
    let wanted = sigma.max(1e-10).ln();
    let reached = table.partition_point(|&s| log(s) <= wanted);
    let low = reached.saturating_sub(1).min(table.len().saturating_sub(2));
    let (a, b) = (log(table[low]), log(table[(low + 1).min(table.len() - 1)]));
    let w = ((a - wanted) / (a - b)).clamp(0.0, 1.0);
    (1.0 - w) * low as f64 + w * (low + 1) as f64
}

/// What DPM-Solver and UniPC share: whole timesteps, and sigmas from the full table where they are respaced.
pub fn for_solver(config: &SchedulerConfig, table: &[f64], timesteps: Vec<f64>, n: usize, last: f64) -> Levels {
    let (min, max) = (table[0], table[table.len() - 1]);
    let (mut sigmas, timesteps) = if config.use_karras_sigmas || config.use_lu_lambdas || config.use_exponential_sigmas
    {
        let respaced = if config.use_karras_sigmas { karras(max, min, n) } else { exponential(max, min, n) };
        let whole = |&s: &f64| {
            let t = timestep(table, s);
            // The exponential spacing is cut, not rounded, in the reference.
            if config.use_karras_sigmas || config.use_lu_lambdas { t.round_ties_even() } else { t.trunc() }
        };
        let timesteps = respaced.iter().map(whole).collect();
        (respaced, timesteps)
    } else {
        (timesteps.iter().map(|&t| interpolate(table, t)).collect::<Vec<_>>(), timesteps)
    };
    sigmas.push(last);
    for s in &mut sigmas {
        *s = f64::from(*s as f32);
    }
    Levels { sigmas, timesteps }
}

/// What the samplers of k-diffusion share: `n` levels and a last one of 0, at possibly fractional timesteps. The
/// `log_linear` interpolation, which Euler alone has, gives `n + 1` levels before the last, as in diffusers.
///
/// # Errors
/// As [`timesteps::spaced`].
pub fn spaced(config: &SchedulerConfig, table: &[f64], n: usize) -> Result<Levels> {
    let mut timesteps = timesteps::spaced(config, n, true)?;
    let mut sigmas: Vec<f64> = if config.class == Class::Euler && config.interpolation_type == "log_linear" {
        exponential(table[table.len() - 1], table[0], n + 1)
    } else {
        timesteps.iter().map(|&t| interpolate(table, t)).collect()
    };
    if config.use_karras_sigmas || config.use_exponential_sigmas {
        let respace = if config.use_karras_sigmas { karras } else { exponential };
        sigmas = respace(sigmas[0], sigmas[sigmas.len() - 1], n);
        timesteps = sigmas.iter().map(|&s| f64::from(timestep(table, s) as f32)).collect();
    }
    sigmas.push(0.0);
    Ok(Levels { sigmas: sigmas.into_iter().map(|s| f64::from(s as f32)).collect(), timesteps })
}

/// The standard deviation that the sample `image + sigma * noise` starts with.
pub fn init_noise_sigma(config: &SchedulerConfig, sigmas: &[f64]) -> f64 {
    let max = sigmas.iter().copied().fold(0.0, f64::max);
    if config.spacing == Spacing::Leading { (max * max + 1.0).sqrt() } else { max }
}

/// Coefficients of (sample, output) in the derivative `(x - image) / sigma` of `x = image + sigma * noise`.
pub fn derivative(prediction: Prediction, sigma: f64) -> (f64, f64) {
    let square = sigma * sigma + 1.0;
    match prediction {
        Prediction::Epsilon => (0.0, 1.0),
        Prediction::Sample => (1.0 / sigma, -1.0 / sigma),
        Prediction::V => (sigma / square, 1.0 / square.sqrt()),
    }
}

/// Coefficients of (sample, output) in the clean image of `x = image + sigma * noise`.
pub fn image(prediction: Prediction, sigma: f64) -> (f64, f64) {
    let (of_sample, of_output) = derivative(prediction, sigma);
    (1.0 - sigma * of_sample, -sigma * of_output)
}

/// The ancestral step from one level to a lower one: the level that is stepped to, and that of the noise put back.
pub fn ancestral(from: f64, to: f64) -> (f64, f64) {
    let up = (to * to * (from * from - to * to) / (from * from)).max(0.0).sqrt().min(to);
    ((to * to - up * up).max(0.0).sqrt(), up)
}

/// What the network gets is the sample over this: it has a variance of 1.
pub fn input_scale(sigma: f64) -> f64 {
    1.0 / (sigma * sigma + 1.0).sqrt()
}

/// `(alpha, sigma)` of the variance-preserving process at the noise level `s`.
pub fn alpha_sigma(s: f64) -> (f64, f64) {
    let alpha = 1.0 / (s * s + 1.0).sqrt();
    (alpha, s * alpha)
}

fn ramp(i: usize, n: usize) -> f64 {
    if n > 1 { i as f64 / (n - 1) as f64 } else { 0.0 }
}
