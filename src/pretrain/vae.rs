//! The VAE: images through the encoder, a draw from the posterior, the decoder, and back.

use super::Pretraining;
use super::latents::pixels;
use super::stage::{Recipe, Stage, StepOutput};
use crate::autograd::Tape;
use crate::error::Result;
use crate::formats::content_hash;
use crate::nn::AutoencoderKl;
use crate::ops;
use crate::shapes::Skill;
use crate::shapes::model::{LATENT_CHANNELS, LATENT_SIDE, vae_config};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::checkpoint::RunIdentity;
use crate::train::watcher::Watcher;

pub(super) const STAGE: &str = "vae";
const BATCH: usize = 16;
/// Weight of the divergence of a latent (nats) beside the mean squared error of a channel of a pixel: enough to keep
/// latents near the normal distribution, too little to be seen in the images.
const KL_WEIGHT: f64 = 1e-4;

/// Trains the VAE, or reads it from the state of a finished training.
pub(super) fn train(run: &Pretraining, watcher: &mut dyn Watcher) -> Result<AutoencoderKl> {
    // The factor is measured when the latents are there.
    let config = vae_config(1.0);
    let identity = RunIdentity {
        settings: format!("seed = {}\nvae-steps = {}\n", run.seed, run.vae_steps),
        model: content_hash::of_bytes(config.to_string().as_bytes()),
        data: String::new(),
    };
    let vae = AutoencoderKl::initial(config, run.seed, DType::F32)?;
    vae.to(&run.device)?;
    let recipe = Recipe {
        stage: STAGE.into(),
        what: "steps of the VAE",
        steps: run.vae_steps,
        lr: 2e-3,
        warmup: 50,
        weight_decay: 0.0,
        average: 0.995,
    };
    let mut stage = Stage::open(run, recipe, vae.parameters().to_vec(), identity)?;
    let compute = |leaves: &[Tensor], step| compute(run.seed, BATCH, &vae, leaves, step);
    stage.run(watcher, compute, || Ok(()))?;
    Ok(vae)
}

/// Step `step` on the next `batch` images.
pub(super) fn compute(
    seed: u64,
    batch: usize,
    vae: &AutoencoderKl,
    leaves: &[Tensor],
    step: u64,
) -> Result<StepOutput> {
    let first = step * batch as u64;
    let skill = |i: u64| Skill::ALL[(i % Skill::ALL.len() as u64) as usize];
    let images: Vec<_> = (first..first + batch as u64).map(|i| (skill(i), i)).collect();
    let shape = [batch, LATENT_SIDE, LATENT_SIDE, LATENT_CHANNELS];
    let noise = random::normals(seed, Stream::Posterior, 0, step, shape.iter().product());
    let device = vae.device();
    let pixels = pixels::batch(seed, &images)?.to(&device)?; // [n, 64, 64, 3]
    let noise = Tensor::new(noise, &shape).to(&device)?;
    let weights = Tensor::full(&[batch], 1.0, DType::F32).to(&device)?;

    let tape = Tape::watching(leaves);
    let moments = vae.moments(&tape, &pixels)?; // [n, 16, 16, 8]
    let latents = ops::posterior_sample(&tape, &moments, &noise)?;
    let decoded = vae.decode(&tape, &latents)?;
    let error = ops::weighted_mse(&tape, &decoded, &pixels, &weights)?;
    let divergence = ops::kl_divergence(&tape, &moments)?;
    let loss = ops::add(&tape, &error, &ops::scale(&tape, &divergence, KL_WEIGHT)?)?;
    let told = [("loss", &loss), ("mse", &error), ("kl", &divergence)];
    let told = told.map(|(name, value)| Ok((name, value.to_cpu()?.item())));
    let losses = told.into_iter().collect::<Result<_>>()?;
    let gradients = tape.backward(&loss)?;
    Ok(StepOutput { gradients, losses })
}
