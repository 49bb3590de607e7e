//! What text encoder and UNet learn from: captions as token ids, images as latents.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Pretraining;
use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::image;
use crate::formats::safetensors::{self, Safetensors};
use crate::nn::AutoencoderKl;
use crate::ops;
use crate::shapes::model::{LATENT_CHANNELS, LATENT_SIDE};
use crate::shapes::vocabulary::tokenizer;
use crate::shapes::{SIDE, Skill, Split, render};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::watcher::Watcher;

/// Images encoded at once.
const BATCH: usize = 64;
/// Values of one image's latents.
pub(super) const LATENT_LEN: usize = LATENT_SIDE * LATENT_SIDE * LATENT_CHANNELS;

/// The skill of pair `i`, and its index there: equal shares of all skills.
pub(super) fn example(i: usize) -> (Skill, u64) {
    (Skill::ALL[i % Skill::ALL.len()], i as u64)
}

/// Captions as ids `[n, 77]` and images as latents `[n, 16, 16, 4]`, scaled to a mean square of 1.
pub(super) struct Pairs {
    pub ids: Vec<i64>,
    /// Ids of one caption.
    pub length: usize,
    /// The ids of the empty caption.
    pub empty: Vec<i64>,
    pub latents: Vec<f32>,
    /// What the VAE's latents were multiplied by.
    pub scaling_factor: f64,
    /// Tells these pairs from others.
    pub identity: String,
}

impl Pairs {
    /// Renders and encodes the pairs, or takes the latents that an earlier run of the same settings left. They are multiplied
    /// by `scaling_factor`; `None`: by what gives them a mean square of 1.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the watcher says stop; [`Error::Io`] where the latents cannot be kept.
    pub fn encode(
        run: &Pretraining,
        vae: &AutoencoderKl,
        scaling_factor: Option<f64>,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let examples: Vec<(Skill, u64)> = (0..run.pairs).map(example).collect();
        let identity = identity_of(run, vae)?;
        let mut latents = match kept(run, &identity) {
            Some(latents) => latents,
            None => {
                let latents = encode(run, vae, &examples, watcher)?;
                keep(run, &identity, &latents)?;
                latents
            }
        };
        let square = latents.iter().map(|&z| f64::from(z) * f64::from(z)).sum::<f64>() / latents.len() as f64;
        // Four digits, as configurations of published models have.
        let scaling_factor = scaling_factor.unwrap_or_else(|| (1e4 / square.sqrt()).round() / 1e4);
        latents.iter_mut().for_each(|z| *z *= scaling_factor as f32);

        let tokenizer = tokenizer()?;
        let prompt = |&(skill, i): &(Skill, u64)| skill.prompt(Split::Train, run.seed, i).caption;
        let captions: Vec<String> = examples.par_iter().map(prompt).collect();
        let mut ids = Vec::with_capacity(captions.len() * tokenizer.max_length());
        for caption in &captions {
            ids.extend(tokenizer.encode(caption)?.ids);
        }
        Ok(Self {
            ids,
            length: tokenizer.max_length(),
            empty: tokenizer.encode("")?.ids,
            latents,
            scaling_factor,
            identity,
        })
    }

    pub fn len(&self) -> usize {
        self.latents.len() / LATENT_LEN
    }
}

/// Pixels of examples of the world.
pub(super) mod pixels {
    use super::*;

    /// The images of the numbered examples, `[n, 64, 64, 3]` in [-1, 1].
    pub fn batch(seed: u64, examples: &[(Skill, u64)]) -> Result<Tensor> {
        let one = |&(skill, i): &(Skill, u64)| -> Result<Tensor> {
            let (_, scene) = skill.scene(Split::Train, seed, i)?;
            Ok(image::to_tensor(&render(&scene)))
        };
        let images: Vec<Tensor> = examples.par_iter().map(one).collect::<Result<_>>()?;
        let values = images.iter().flat_map(|p| p.data::<f32>()).copied().collect();
        Ok(Tensor::new(values, &[examples.len(), SIDE as usize, SIDE as usize, 3]))
    }
}

/// Unscaled latents, one draw from the posterior of each image.
fn encode(
    run: &Pretraining,
    vae: &AutoencoderKl,
    examples: &[(Skill, u64)],
    watcher: &mut dyn Watcher,
) -> Result<Vec<f32>> {
    let tape = Tape::off();
    let mut latents = Vec::with_capacity(examples.len() * LATENT_LEN);
    for (batch, examples) in examples.chunks(BATCH).enumerate() {
        watcher.prepared("images encoded", batch * BATCH, run.pairs);
        if watcher.stopped() {
            let message = "stopped while images were encoded; the same command with --resume goes on";
            return Err(Error::Interrupted(message.into()));
        }
        let moments = vae.moments(&tape, &pixels::batch(run.seed, examples)?)?;
        let draw = |&(_, i): &(Skill, u64)| random::normals(run.seed, Stream::Posterior, i + 1, 0, LATENT_LEN);
        let noise = examples.iter().flat_map(draw).collect();
        let shape = [examples.len(), LATENT_SIDE, LATENT_SIDE, LATENT_CHANNELS];
        let noise = Tensor::new(noise, &shape).to(&run.device)?;
        let drawn = ops::posterior_sample(&tape, &moments, &noise)?;
        latents.extend_from_slice(drawn.to_cpu()?.data::<f32>());
    }
    Ok(latents)
}

/// Of what the latents are made: settings, and the VAE's weights.
fn identity_of(run: &Pretraining, vae: &AutoencoderKl) -> Result<String> {
    let values = vae.parameters().iter().map(|p| p.get().to_cpu());
    let values: Vec<Tensor> = values.collect::<Result<_>>()?;
    let weights: Vec<u8> = values.iter().flat_map(|t| t.bytes()).copied().collect();
    let weights = content_hash::of_bytes(&weights);
    let all = format!("{} {} equal shares {weights}", run.seed, run.pairs);
    Ok(content_hash::of_bytes(all.as_bytes()))
}

const LATENTS: &str = "latents";

fn keep(run: &Pretraining, identity: &str, latents: &[f32]) -> Result<()> {
    let latents = Tensor::new(latents.to_vec(), &[latents.len() / LATENT_LEN, LATENT_LEN]);
    let checksum = content_hash::of_bytes(latents.bytes());
    let entries = [("selma.data", identity.into()), ("selma.sha256", checksum)];
    let metadata = BTreeMap::from(entries.map(|(key, value)| (key.to_string(), value)));
    safetensors::write(&path(run), &[(LATENTS.into(), latents)], &metadata)
}

/// The latents of an earlier run; `None` where they are missing, damaged, or of other settings: they are made again.
fn kept(run: &Pretraining, identity: &str) -> Option<Vec<f32>> {
    let file = Safetensors::open(&path(run)).ok()?;
    let said = |key: &str| file.metadata().get(key).map(String::as_str);
    let latents = file.tensor(LATENTS).ok()?;
    let whole = said("selma.sha256") == Some(&content_hash::of_bytes(latents.bytes()));
    let ours = said("selma.data") == Some(identity) && latents.dtype() == DType::F32;
    (whole && ours).then(|| latents.data::<f32>().to_vec())
}

fn path(run: &Pretraining) -> std::path::PathBuf {
    run.out.join("state").join("latents.safetensors")
}
