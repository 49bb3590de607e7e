//! The forward process: betas, their cumulative products, noising, and the signal-to-noise ratio.

use super::config::SchedulerConfig;
use super::prediction::Prediction;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::{Tensor, buffer};

/// How much of the image is left at each timestep. The table is made in f32, step by step as the reference does, since
/// the signal-to-noise ratio at the first timestep shows the rounding.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    pub alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The table of a scheduler, with the class's own treatment of a last entry of zero.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a `beta_schedule` that is not known.
    pub fn new(config: &SchedulerConfig) -> Result<Self> {
        let n = config.num_train_timesteps;
        let mut betas = match (&config.trained_betas, config.beta_schedule.as_str()) {
            (Some(trained), _) => trained.iter().map(|&b| b as f32).collect(),
            (None, "linear") => linspace(config.beta_start, config.beta_end, n),
            (None, "scaled_linear") => {
                let roots = linspace(config.beta_start.sqrt(), config.beta_end.sqrt(), n);
                roots.into_iter().map(|b| b * b).collect()
            }
            (None, "squaredcos_cap_v2") => cosine(n),
            (None, other) => {
                return Err(Error::Unavailable(format!("scheduler config: beta_schedule = {other:?}")));
            }
        };
        if betas.len() != n {
            return Err(Error::Usage(format!(
                "scheduler config: trained_betas has {} entries, num_train_timesteps is {n}",
                betas.len()
            )));
        }
        if config.rescale_betas_zero_snr {
            betas = rescale_zero_snr(&betas);
        }
        let mut alphas_cumprod: Vec<f64> = cumprod(&betas).into_iter().map(f64::from).collect();
        if config.rescale_betas_zero_snr && config.class.has_sigmas() {
            // Keeps the first sigma finite: 4096.
            alphas_cumprod[n - 1] = 2f64.powi(-24);
        }
        Ok(Self { alphas_cumprod })
    }

    /// `sqrt(a) * image + sqrt(1 - a) * noise` at one timestep for each of the `n` samples of `[n, ..]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tensors differ in shape or there is not one timestep a sample; [`Error::Failed`] for a timestep
    /// outside of the schedule.
    pub fn add_noise(&self, image: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mix(image, noise, timesteps, |a| (a.sqrt(), (1.0 - a).sqrt()))
    }

    /// `sqrt(a) * noise - sqrt(1 - a) * image`: the target of v-prediction.
    ///
    /// # Errors
    /// As [`NoiseSchedule::add_noise`].
    pub fn velocity(&self, image: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mix(image, noise, timesteps, |a| (-(1.0 - a).sqrt(), a.sqrt()))
    }

    /// The share of the image in the variance at a timestep.
    ///
    /// # Errors
    /// [`Error::Failed`] outside of the schedule.
    pub fn alpha(&self, timestep: usize) -> Result<f64> {
        let alpha = self.alphas_cumprod.get(timestep).copied();
        alpha.ok_or_else(|| {
            let steps = self.alphas_cumprod.len();
            Error::Failed(format!("timestep {timestep} is outside the schedule's {steps}"))
        })
    }

    /// `a / (1 - a)`.
    pub fn snr(&self, timestep: usize) -> f64 {
        let a = self.alphas_cumprod[timestep];
        a / (1.0 - a)
    }

    /// Loss weights `min(snr, gamma) / snr`, for v-prediction `min(snr, gamma) / (snr + 1)` (Hang et al. 2023,
    /// arXiv:2303.09556); 1 without a gamma.
    pub fn min_snr_weights(&self, timesteps: &[usize], gamma: Option<f64>, prediction: Prediction) -> Vec<f64> {
        let weight = |&t: &usize| {
            let (snr, Some(gamma)) = (self.snr(t), gamma) else {
                return 1.0;
            };
            match prediction {
                Prediction::V => snr.min(gamma) / (snr + 1.0),
                Prediction::Epsilon if snr == 0.0 => 1.0,
                Prediction::Epsilon => snr.min(gamma) / snr,
                Prediction::Sample => snr.min(gamma),
            }
        };
        timesteps.iter().map(weight).collect()
    }

    fn mix(&self, x: &Tensor, y: &Tensor, timesteps: &[usize], of: impl Fn(f64) -> (f64, f64)) -> Result<Tensor> {
        if x.shape() != y.shape() || x.shape().first() != Some(&timesteps.len()) {
            let message = format!("{} timesteps for {:?} and {:?}", timesteps.len(), x.shape(), y.shape());
            return Err(Error::shape("add_noise", message));
        }
        let len = x.len() / timesteps.len().max(1);
        let shape = [&[1], &x.shape()[1..]].concat();
        let mut mixed = buffer::<f32>(x.len());
        for (i, &t) in timesteps.iter().enumerate() {
            let (p, q) = of(self.alpha(t)?);
            let one = ops::combine(&[(p, &x.view(i * len, &shape)), (q, &y.view(i * len, &shape))])?;
            mixed[i * len..][..len].copy_from_slice(&one.reals::<f32>());
        }
        Ok(Tensor::from_reals(mixed, x.shape(), x.dtype()))
    }
}

/// `torch.linspace` in f32: counted from both ends.
fn linspace(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if n > 1 { (end - start) / (n - 1) as f32 } else { 0.0 };
    let at = |i: usize| {
        if i < n.div_ceil(2) { start + step * i as f32 } else { end - step * (n - 1 - i) as f32 }
    };
    (0..n).map(at).collect()
}

/// Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17.
fn cosine(n: usize) -> Vec<f32> {
    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (0..n).map(|i| (1.0 - bar((i + 1) as f64 / n as f64) / bar(i as f64 / n as f64)).min(0.999) as f32).collect()
}

fn cumprod(betas: &[f32]) -> Vec<f32> {
    // torch keeps the running product in f64 on the CPU.
    let mut product = 1f64;
    let next = |&b: &f32| {
        product *= f64::from(1.0 - b);
        product as f32
    };
    betas.iter().map(next).collect()
}

/// Lin et al. 2023, arXiv:2305.08891, algorithm 1: the last step carries no signal, the first is kept.
fn rescale_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumprod(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let bars: Vec<f32> = roots
        .iter()
        .map(|r| {
            let r = (r - last) * (first / (first - last));
            r * r
        })
        .collect();
    let alphas = std::iter::once(bars[0]).chain(bars.windows(2).map(|w| w[1] / w[0]));
    alphas.map(|a| 1.0 - a).collect()
}
