//! The sampling loop with classifier-free guidance.

use super::{Conditions, StableDiffusion};
use crate::autograd::Tape;
use crate::diffusion::Sampler;
use crate::diffusion::guidance::guide;
use crate::error::Result;
use crate::nn::{AddedConditions, AutoencoderKl, UNet};
use crate::ops::{self, Combination};
use crate::tensor::{DType, Tensor};

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): on where `scale` is above 1.
#[derive(Clone, Copy)]
pub struct Guidance {
    pub scale: f64,
    /// Lin et al. 2023, arXiv:2305.08891, section 3.4; 0 is off.
    pub rescale: f64,
}

/// One batch on its way from noise to latents, which stay on the network's device until the last step is done.
pub struct Denoising<'a> {
    pub unet: &'a UNet,
    pub sampler: Box<dyn Sampler>,
    pub guidance: Guidance,
    pub positive: Conditions,
    pub negative: Conditions,
    /// Height and width of the picture in pixels (SDXL's size conditions).
    pub size: (usize, usize),
}

impl Denoising<'_> {
    /// Runs steps `start..` on `latents` `[n, h, w, c]`, which already have the scale (or noise) of that step. `noise`
    /// is asked for step i's fresh noise where the sampler wants some; `seen` gets the latents after each step.
    pub fn run(
        &mut self,
        start: usize,
        mut latents: Tensor,
        mut noise: impl FnMut(usize, &Tensor) -> Result<Tensor>,
        mut seen: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let device = self.unet.device();
        latents = latents.to(&device)?;
        let samples = latents.shape()[0];
        let guided = self.guidance.scale > 1.0;
        let mut conditions = if guided { join(&self.negative, &self.positive)? } else { self.positive.clone() };
        conditions.context = conditions.context.to(&device)?;
        let rows = if guided { 2 * samples } else { samples };
        let added = conditions.pooled.as_ref().map(|pooled| self.added_conditions(pooled, rows));
        let timesteps = self.sampler.timesteps().to_vec();
        for (i, &timestep) in timesteps.iter().enumerate().skip(start) {
            let input = self.sampler.scale_model_input(i, &latents)?;
            let input = ops::cast(&input, self.unet.dtype())?;
            let input = if guided { stack(&input, &input)? } else { input };
            let times = vec![timestep as f32; rows];
            let tape = Tape::off();
            let output = self.unet.forward(&tape, &input, &times, &conditions.context, added.as_ref())?;
            let output = ops::cast(&output, DType::F32)?;
            let output = if guided {
                let shape = latents.shape();
                let (uncond, cond) = (output.view(0, shape), output.view(latents.len(), shape));
                guide(&uncond, &cond, self.guidance.scale, self.guidance.rescale)?
            } else {
                Combination::of(&output)
            };
            let fresh = if self.sampler.needs_noise(i) { Some(noise(i, &latents)?.to(&device)?) } else { None };
            latents = self.sampler.step(i, &output, &latents, fresh.as_ref())?;
            seen(i, &latents)?;
        }
        latents.to_cpu()
    }

    fn added_conditions(&self, pooled: &Tensor, rows: usize) -> AddedConditions {
        let (height, width) = (self.size.0 as f32, self.size.1 as f32);
        let ids = [height, width, 0.0, 0.0, height, width].repeat(rows);
        AddedConditions { text_embeds: pooled.clone(), time_ids: Tensor::new(ids, &[rows, 6]) }
    }
}

/// Latents as the sampler left them -> pictures `[n, h, w, 3]`, f32, not yet clamped to [-1, 1].
pub fn decode(vae: &AutoencoderKl, latents: &Tensor) -> Result<Tensor> {
    let unscaled = ops::combine(&[(1.0 / vae.config.scaling_factor, latents)])?;
    Ok(vae.decode(&Tape::off(), &unscaled)?.to_cpu()?.cast(DType::F32))
}

impl StableDiffusion {
    /// As [`fn@decode`].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        decode(&self.vae, latents)
    }

    /// A draw from the VAE's posterior with unit `noise`, scaled as the UNet wants it; f32 `[n, h, w, c]`.
    pub fn latents(&self, mean: &Tensor, logvar: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let factor = self.vae.config.scaling_factor as f32;
        let shape = mean.shape();
        let (mean, logvar) = (mean.to_cpu()?, logvar.to_cpu()?);
        let (mean, logvar, noise) = (mean.reals::<f32>(), logvar.reals::<f32>(), noise.reals::<f32>());
        let draw = |((m, l), n): ((&f32, &f32), &f32)| factor * (m + (0.5 * l).exp() * n);
        let values: Vec<f32> = mean.iter().zip(logvar.iter()).zip(noise.iter()).map(draw).collect();
        Ok(Tensor::new(values, shape))
    }
}

fn join(first: &Conditions, second: &Conditions) -> Result<Conditions> {
    let pooled = match (&first.pooled, &second.pooled) {
        (Some(a), Some(b)) => Some(stack(a, b)?),
        _ => None,
    };
    Ok(Conditions { context: stack(&first.context, &second.context)?, pooled })
}

/// Two batches as one.
fn stack(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    let flat = |t: &Tensor| t.with_shape(&[1, t.len()]);
    let joined = ops::concat_channels(&Tape::off(), &flat(first), &flat(second))?;
    let mut shape = first.shape().to_vec();
    shape[0] += second.shape()[0];
    Ok(joined.with_shape(&shape))
}
