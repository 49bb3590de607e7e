//! Training examples: pictures and captions as the frozen encoders see them, and everything that is drawn for them.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::data::dataset::Dataset;
use crate::data::latent_cache::TextStates;
use crate::data::loader::{Item, Loader};
use crate::data::preprocess::{Crop, Placement, Preprocess};
use crate::error::{Error, Result};
use crate::generate::Conditions;
use crate::nn::AddedConditions;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::config::TrainConfig;
use crate::train::encoders::Encoders;
use crate::train::identity;
use crate::train::latents;
use crate::train::manifest::Manifest;
use crate::train::pictures::{self, Picture};
use crate::train::step::{MicroBatch, Noise};
use crate::train::watcher::Watcher;

/// Latents that are encoded ahead may take this much of the disk, whatever the crops; beyond it only datasets with at
/// most two crops a picture are.
const AHEAD_BYTES: usize = 4 << 30;

/// The dataset of a run behind its cache.
pub struct Examples {
    dataset: Dataset,
    pictures: Vec<Picture>,
    preprocess: Preprocess,
    loader: Loader,
    config: TrainConfig,
    encoders: Encoders,
    /// What latents are multiplied by for the UNet.
    scaling_factor: f32,
    /// Bytes of one picture's posterior.
    posterior_bytes: usize,
    dtype: DType,
    /// Bytes of latents that are encoded ahead even if random crops make them many.
    pub ahead_bytes: usize,
    ahead: bool,
    /// The latents beside the images are learnt from: the hash of all of them.
    latents: Option<String>,
}

impl Examples {
    /// Reads the pictures of `dataset` once. `side` is the training resolution in pixels, `latent` the shape of one
    /// picture's latents.
    ///
    /// # Errors
    /// As [`pictures::survey`].
    pub fn open(
        config: &TrainConfig,
        dataset: Dataset,
        encoders: Encoders,
        side: u32,
        latent: [usize; 3],
        scaling_factor: f64,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let pictures = pictures::survey(&dataset, watcher)?;
        Ok(Self {
            latents: latents::usable(config, &dataset, &pictures, &encoders.vae_files, side, latent, watcher)?,
            pictures,
            loader: Loader::new(dataset.len(), config.batch_size, config.seed)?,
            dataset,
            preprocess: Preprocess { width: side, height: side, crop: config.crop, flip: config.flip },
            config: config.clone(),
            scaling_factor: scaling_factor as f32,
            posterior_bytes: 2 * size_of::<f32>() * latent.iter().product::<usize>(),
            dtype: encoders.dtype,
            encoders,
            ahead_bytes: AHEAD_BYTES,
            ahead: false,
        })
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of everything that is learnt from.
    pub fn identity(&self) -> String {
        let images = pictures::identity(&self.dataset, &self.pictures);
        match &self.latents {
            None => images,
            Some(latents) => identity::of_bytes(format!("{images} {latents}").as_bytes()),
        }
    }

    /// The list of everything that is learnt from.
    pub fn manifest(&self) -> Manifest {
        Manifest::new(&self.config.data, &self.dataset, &self.pictures)
    }

    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// Encodes what the micro-batches `numbers` and the texts `more` need, as far as it is not in the cache, and drops
    /// the encoders. Pictures are left for the steps, and the VAE is then loaded for them, where random crops would fill
    /// the disk with latents that are used once.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the watcher says stop; whatever is wrong with a picture or an encoder.
    pub fn prepare(&mut self, numbers: Range<u64>, more: &[String], watcher: &mut dyn Watcher) -> Result<()> {
        let mut captions: BTreeSet<String> = self.dataset.samples().iter().map(|s| s.caption.clone()).collect();
        captions.extend(more.iter().cloned());
        if self.config.caption_dropout > 0.0 {
            captions.insert(String::new());
        }
        for (i, caption) in captions.iter().enumerate() {
            go_on(watcher)?;
            self.encoders.text(caption)?;
            watcher.prepared("captions encoded", i + 1, captions.len());
        }
        self.encoders.forget();
        if self.latents.is_some() {
            return Ok(());
        }

        let crops = self.crops(numbers)?;
        let few = self.config.crop == Crop::Center || crops.len() <= 2 * self.len();
        self.ahead = few || crops.len() * self.posterior_bytes <= self.ahead_bytes;
        if !self.ahead {
            watcher.note("the random crops are encoded as they come: there are too many of them to be kept");
            return Ok(());
        }
        if !few {
            watcher.note(&format!(
                "{} different crops of {} pictures are encoded first; --crop center needs at most two a picture",
                crops.len(),
                self.len()
            ));
        }
        for (i, (index, placement)) in crops.iter().enumerate() {
            go_on(watcher)?;
            let (sample, picture) = (&self.dataset.samples()[*index], &self.pictures[*index]);
            self.encoders.posterior(sample, picture, placement, true)?;
            watcher.prepared("pictures encoded", i + 1, crops.len());
        }
        self.encoders.forget();
        Ok(())
    }

    /// The different crops in the micro-batches `numbers`, each with its picture's index.
    fn crops(&mut self, numbers: Range<u64>) -> Result<Vec<(usize, Placement)>> {
        let batch = self.config.batch_size as u64;
        let (mut seen, mut crops) = (BTreeSet::new(), Vec::new());
        for position in numbers.start * batch..numbers.end * batch {
            let item = self.loader.item(position);
            let placement = self.placement(&item)?;
            if seen.insert((item.index, placement.crop, placement.flipped)) {
                crops.push((item.index, placement));
            }
        }
        Ok(crops)
    }

    fn placement(&self, item: &Item) -> Result<Placement> {
        let size = self.pictures[item.index].size;
        self.preprocess
            .place(size, self.config.seed, item.index as u64, item.epoch)
            .map_err(|e| Error::file(&self.dataset.samples()[item.index].image, e.to_string()))
    }

    /// Micro-batch `number` of the run with everything drawn, or said how: posterior sample, noise and timestep depend on the seed and
    /// the position in the run alone.
    pub fn batch(&mut self, number: u64, train_timesteps: Range<u32>) -> Result<MicroBatch> {
        let items = self.loader.batch(number);
        let (mut latents, mut offset_noise, mut timesteps) = (Vec::new(), Vec::new(), Vec::new());
        let (mut texts, mut time_ids, mut map) = (Vec::new(), Vec::new(), Vec::new());
        for (offset, item) in items.iter().enumerate() {
            let position = number * items.len() as u64 + offset as u64;
            let placement = self.placement(item)?;
            let (sample, picture) = (&self.dataset.samples()[item.index], &self.pictures[item.index]);
            let posterior = match &self.latents {
                Some(_) => latents::posterior(sample)?,
                None => self.encoders.posterior(sample, picture, &placement, self.ahead)?,
            };
            let len = posterior.mean.len();
            let draw = |stream| random::normals(self.config.seed, stream, position, 0, len);
            let (mean, std) = (posterior.mean.reals::<f32>(), posterior.std.reals::<f32>());
            let factor = self.scaling_factor;
            let unit = draw(Stream::Posterior);
            let values = mean.iter().zip(std.iter()).zip(&unit);
            latents.extend(values.map(|((m, s), n)| factor * (m + s * n)));
            if self.config.noise_offset != 0.0 {
                offset_noise.extend(self.offset_noise(draw(Stream::Noise), posterior.mean.shape(), position));
            }
            let within = random::below(self.config.seed, Stream::Timestep, position, 0, train_timesteps.len() as u32);
            timesteps.push((train_timesteps.start + within) as usize);
            let dropped = self.loader.drops_caption(position, self.config.caption_dropout);
            texts.push(self.encoders.text(if dropped { "" } else { &sample.caption })?);
            time_ids.extend(placement.time_ids());
            map = posterior.mean.shape().to_vec();
        }
        let n = items.len();
        let batch = |values: Vec<f32>| Tensor::new(values, &[&[n], map.as_slice()].concat()).cast(self.dtype);
        let conditions = conditions(&texts, self.dtype);
        Ok(MicroBatch {
            latents: batch(latents),
            noise: if self.config.noise_offset == 0.0 {
                Noise::Drawn { seed: self.config.seed, positions: (number * n as u64..).take(n).collect() }
            } else {
                Noise::Given(batch(offset_noise))
            },
            timesteps,
            context: conditions.context,
            added: conditions
                .pooled
                .map(|text_embeds| AddedConditions { text_embeds, time_ids: Tensor::new(time_ids, &[n, 6]) }),
        })
    }

    /// One text as the UNet is told about it, `[1, 77, d]`.
    pub fn conditions(&mut self, text: &str) -> Result<Conditions> {
        Ok(conditions(&[self.encoders.text(text)?], self.dtype))
    }

    /// Adds one number a channel, `noise_offset` strong (crosslabs.org, "Diffusion With Offset Noise", 2023).
    fn offset_noise(&self, mut noise: Vec<f32>, shape: &[usize], position: u64) -> Vec<f32> {
        let strength = self.config.noise_offset as f32;
        let channels = shape[shape.len() - 1];
        let offsets = random::normals(self.config.seed, Stream::Noise, position, 1, channels);
        for pixel in noise.chunks_mut(channels) {
            pixel.iter_mut().zip(&offsets).for_each(|(x, o)| *x += strength * o);
        }
        noise
    }
}

/// Several texts as one batch.
fn conditions(texts: &[TextStates], dtype: DType) -> Conditions {
    let stack = |states: Vec<&Tensor>| {
        let values = states.iter().flat_map(|t| t.reals::<f32>().into_owned()).collect();
        Tensor::new(values, &[&[states.len()], states[0].shape()].concat()).cast(dtype)
    };
    let pooled: Vec<&Tensor> = texts.iter().filter_map(|text| text.pooled.as_ref()).collect();
    Conditions {
        context: stack(texts.iter().map(|text| &text.context).collect()),
        pooled: (!pooled.is_empty()).then(|| stack(pooled)),
    }
}

fn go_on(watcher: &dyn Watcher) -> Result<()> {
    match watcher.stopped() {
        false => Ok(()),
        true => Err(Error::Interrupted(
            "stopped before the first step; the same command goes on, and what was encoded is kept".into(),
        )),
    }
}
