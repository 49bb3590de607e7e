//! The sampling loop with classifier-free guidance.

use super::{Conditions, StableDiffusion};
use crate::autograd::Tape;
use crate::diffusion::Sampler;
use crate::diffusion::guidance::guide;
use crate::error::Result;
use crate::lora::gate::{Mixture, Rows};
use crate::nn::{AddedConditions, AutoencoderKl, UNet};
use crate::ops::{self, Combination};
use crate::tensor::{DType, Tensor};

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): on where `scale` is above 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    pub scale: f64,
    /// Lin et al. 2023, arXiv:2305.08891, section 3.4; 0 is off.
    pub rescale: f64,
}

impl Guidance {
    /// The default scale of diffusers' pipelines: 5.0 for SDXL, 7.5 for Stable Diffusion 1 and 2.
    pub fn default_scale(is_xl: bool) -> f64 {
        if is_xl { 5.0 } else { 7.5 }
    }
}

/// One batch on its way from noise to latents, which stay on the network's device until the last step is done.
pub struct Denoising<'a> {
    pub unet: &'a UNet,
    pub sampler: Box<dyn Sampler>,
    pub guidance: Guidance,
    pub positive: Conditions,
    pub negative: Conditions,
    /// Height and width of the image in pixels (SDXL's size conditions).
    pub size: (usize, usize),
    /// Experts whose shares differ from row to row: of the guided batch, its negative half first.
    pub mixture: Option<(&'a Mixture, Rows)>,
}

impl Denoising<'_> {
    /// Runs steps `start..` on `latents` `[n, h, w, c]`, which already have the scale (or noise) of that step. `noise`
    /// is asked for step i's fresh noise where the sampler wants some; `seen` gets the latents after each step.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where conditions or latents do not fit the network; the errors of `noise` and `seen`; where
    /// the device has no room.
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
            let output = self.predict(&tape, &input, &times, &conditions.context, added.as_ref())?;
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

    /// What the UNet makes of a batch, rows of different shares one after the other.
    fn predict(
        &self,
        tape: &Tape,
        input: &Tensor,
        times: &[f32],
        context: &Tensor,
        added: Option<&AddedConditions>,
    ) -> Result<Tensor> {
        let Some((mixture, rows)) = &self.mixture else {
            return self.unet.forward(tape, input, times, context, added);
        };
        if let [(set, _)] = rows.runs[..] {
            mixture.set(rows, set);
            return self.unet.forward(tape, input, times, context, added);
        }
        let (mut first, mut all) = (0, None);
        for &(set, count) in &rows.runs {
            let part = |t: &Tensor| {
                let row = t.len() / t.shape()[0];
                t.view(first * row, &[&[count], &t.shape()[1..]].concat())
            };
            let added = added.map(|added| AddedConditions {
                text_embeds: part(&added.text_embeds),
                time_ids: part(&added.time_ids),
            });
            mixture.set(rows, set);
            let times = &times[first..first + count];
            let output = self.unet.forward(tape, &part(input), times, &part(context), added.as_ref())?;
            all = Some(match &all {
                None => output,
                Some(before) => stack(before, &output)?,
            });
            first += count;
        }
        Ok(all.expect("a batch has rows"))
    }

    fn added_conditions(&self, pooled: &Tensor, rows: usize) -> AddedConditions {
        let (height, width) = (self.size.0 as f32, self.size.1 as f32);
        let ids = [height, width, 0.0, 0.0, height, width].repeat(rows);
        AddedConditions { text_embeds: pooled.clone(), time_ids: Tensor::new(ids, &[rows, 6]) }
    }
}

/// Decodes latents `[n, h, w, c]`, as the sampler left them, to images `[n, 8h, 8w, 3]` in f32, not yet clamped to [-1, 1].
///
/// # Errors
/// [`crate::Error::Shape`] for latents of another channel count than the VAE's; where the device has no room.
pub fn decode(vae: &AutoencoderKl, latents: &Tensor) -> Result<Tensor> {
    let unscaled = ops::combine(&[(1.0 / vae.config.scaling_factor, latents)])?;
    Ok(vae.decode(&Tape::off(), &unscaled)?.to_cpu()?.cast(DType::F32))
}

/// Samples the VAE's posterior with unit `noise`, scaled as the UNet wants it; all f32 `[n, h, w, c]`.
///
/// # Errors
/// Where the device cannot copy `mean` or `logvar` to the host.
pub(super) fn sample_posterior(vae: &AutoencoderKl, mean: &Tensor, logvar: &Tensor, noise: &Tensor) -> Result<Tensor> {
    let factor = vae.config.scaling_factor as f32;
    let shape = mean.shape();
    let (mean, logvar) = (mean.to_cpu()?, logvar.to_cpu()?);
    let (mean, logvar, noise) = (mean.reals::<f32>(), logvar.reals::<f32>(), noise.reals::<f32>());
    let sample = |((m, l), n): ((&f32, &f32), &f32)| factor * (m + (0.5 * l).exp() * n);
    let values: Vec<f32> = mean.iter().zip(logvar.iter()).zip(noise.iter()).map(sample).collect();
    Ok(Tensor::new(values, shape))
}

impl StableDiffusion {
    /// As [`fn@decode`].
    ///
    /// # Errors
    /// As [`fn@decode`].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        decode(&self.vae, latents)
    }

    /// As `sample_posterior` of this model's VAE.
    ///
    /// # Errors
    /// As `sample_posterior`.
    pub fn latents(&self, mean: &Tensor, logvar: &Tensor, noise: &Tensor) -> Result<Tensor> {
        sample_posterior(&self.vae, mean, logvar, noise)
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
