//! The timesteps that a sampler visits (arXiv:2305.08891, table 2).

use super::config::{SchedulerConfig, Spacing};
use crate::error::{Error, Result};

/// `n` timesteps in descending order. Rounded to whole numbers unless `fractional`.
///
/// # Errors
/// [`Error::Usage`] for no steps, or more than the model was trained with.
pub fn spaced(config: &SchedulerConfig, n: usize, fractional: bool) -> Result<Vec<f64>> {
    let total = config.num_train_timesteps;
    check(total, n)?;
    Ok(match config.spacing {
        Spacing::Leading => {
            let ratio = total / n;
            (0..n).rev().map(|i| (i * ratio) as f64 + config.steps_offset as f64).collect()
        }
        Spacing::Trailing => trailing(total, total, n),
        Spacing::Linspace => {
            let values = linspace((total - 1) as f64, n);
            let cast = |x: f64| {
                if fractional { f64::from(x as f32) } else { x.round_ties_even() }
            };
            values.into_iter().rev().map(cast).collect()
        }
    })
}

/// As the multistep solvers do it: one point more, and the last one dropped. `last` limits the range from above.
///
/// # Errors
/// As [`spaced`].
pub fn spaced_for_solver(config: &SchedulerConfig, n: usize, last: usize) -> Result<Vec<f64>> {
    check(config.num_train_timesteps, n)?;
    Ok(match config.spacing {
        Spacing::Leading => {
            let ratio = last / (n + 1);
            (1..=n).rev().map(|i| (i * ratio) as f64 + config.steps_offset as f64).collect()
        }
        Spacing::Trailing => trailing(config.num_train_timesteps, last, n),
        Spacing::Linspace => {
            let values = linspace((last - 1) as f64, n + 1);
            values[1..].iter().rev().map(|x| x.round_ties_even()).collect()
        }
    })
}

/// The timesteps of consistency distillation, thinned out to `n`.
///
/// # Errors
/// [`Error::Usage`] for no steps, or more than the model was distilled with.
pub fn lcm(config: &SchedulerConfig, n: usize) -> Result<Vec<f64>> {
    let (total, origin) = (config.num_train_timesteps, config.original_inference_steps);
    check(total, n)?;
    if origin == 0 || origin > total || n > origin {
        return Err(Error::Usage(format!(
            "lcm takes at most original_inference_steps = {origin} of {total} steps, not {n}"
        )));
    }
    let k = total / origin;
    let at = |i: usize| {
        let index = (i as f64 * (origin as f64 / n as f64)).floor() as usize;
        ((origin - index) * k) as f64 - 1.0
    };
    Ok((0..n).map(at).collect())
}

fn check(total: usize, n: usize) -> Result<()> {
    if n == 0 || n > total {
        return Err(Error::Usage(format!("{n} sampling steps: use between 1 and {total}")));
    }
    Ok(())
}

fn trailing(total: usize, last: usize, n: usize) -> Vec<f64> {
    let ratio = total as f64 / n as f64;
    let count = (last as f64 / ratio).ceil() as usize;
    (0..count).map(|i| (last as f64 - i as f64 * ratio).round_ties_even() - 1.0).collect()
}

/// `numpy.linspace(0, end, n)`.
fn linspace(end: f64, n: usize) -> Vec<f64> {
    let step = end / (n.max(2) - 1) as f64;
    (0..n).map(|i| if n > 1 && i == n - 1 { end } else { i as f64 * step }).collect()
}
