//! Training examples: what the frozen encoders say about pictures and captions, computed once and kept on disk.

use std::path::{Path, PathBuf};

use crate::autograd::Tape;
use crate::data::dataset::Dataset;
use crate::data::latent_cache::{Key, LatentCache, Posterior, TextStates};
use crate::data::loader::{Item, Loader};
use crate::data::preprocess::{Placement, Preprocess};
use crate::error::{Error, Result};
use crate::formats::image;
use crate::nn::AddedConditions;
use crate::pipeline::StableDiffusion;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::config::TrainConfig;
use crate::train::step::MicroBatch;

/// The dataset of a run behind its cache.
pub struct Examples {
    dataset: Dataset,
    preprocess: Preprocess,
    cache: LatentCache,
    loader: Loader,
    config: TrainConfig,
    /// What tells these encoders from others, for cache keys.
    vae_identity: String,
    text_identity: String,
}

impl Examples {
    /// Opens the dataset and the cache `cache_dir`. `vae` is the VAE's folder, `side` the training resolution in pixels.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open(config: &TrainConfig, vae: &Path, side: u32, dtype: DType, cache_dir: &Path) -> Result<Self> {
        let dataset = Dataset::open(&config.data)?;
        let loader = Loader::new(dataset.len(), config.batch_size, config.seed)?;
        let model = Path::new(&config.model);
        let text = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"].map(|name| model.join(name));
        Ok(Self {
            loader,
            preprocess: Preprocess {
                width: side,
                height: side,
                crop: config.crop,
                flip: config.flip,
            },
            cache: LatentCache::open(cache_dir)?,
            config: config.clone(),
            vae_identity: identity(&[vae.into()], dtype)?,
            text_identity: identity(&text, dtype)?,
            dataset,
        })
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cache entries that were found damaged and made again.
    pub fn damaged(&self) -> usize {
        self.cache.damaged()
    }

    /// Micro-batch `number` of the run with everything drawn: posterior sample, noise and timestep depend on the seed and
    /// the position in the run alone.
    pub fn batch(&mut self, model: &StableDiffusion, number: u64, train_timesteps: u32) -> Result<MicroBatch> {
        let items = self.loader.batch(number);
        let (mut latents, mut noise, mut timesteps) = (Vec::new(), Vec::new(), Vec::new());
        let (mut context, mut pooled, mut time_ids) = (Vec::new(), Vec::new(), Vec::new());
        let (mut map, mut states) = (Vec::new(), Vec::new());
        for (offset, item) in items.iter().enumerate() {
            let position = number * items.len() as u64 + offset as u64;
            let (placement, posterior) = self.posterior(model, item)?;
            let len = posterior.mean.len();
            let draw = |stream| random::normals(self.config.seed, stream, position, 0, len);
            let (mean, std) = (posterior.mean.reals::<f32>(), posterior.std.reals::<f32>());
            let factor = model.vae.config.scaling_factor as f32;
            let sample = draw(Stream::Posterior);
            latents.extend(
                mean.iter()
                    .zip(std.iter())
                    .zip(&sample)
                    .map(|((m, s), n)| factor * (m + s * n)),
            );
            noise.extend(self.offset_noise(draw(Stream::Noise), posterior.mean.shape(), position));
            timesteps.push(random::below(self.config.seed, Stream::Timestep, position, 0, train_timesteps) as usize);
            let dropped = self.loader.drops_caption(position, self.config.caption_dropout);
            let caption = if dropped {
                ""
            } else {
                &self.dataset.samples()[item.index].caption
            };
            let text = self.text(model, caption)?;
            context.extend_from_slice(&text.context.reals::<f32>());
            pooled.extend(text.pooled.iter().flat_map(|p| p.reals::<f32>().into_owned()));
            time_ids.extend(placement.time_ids());
            (map, states) = (posterior.mean.shape().to_vec(), text.context.shape().to_vec());
        }
        let n = items.len();
        let batch = |values: Vec<f32>, shape: &[usize]| Tensor::new(values, &[&[n], shape].concat()).cast(model.dtype);
        let added = (!pooled.is_empty()).then(|| AddedConditions {
            text_embeds: batch(pooled.clone(), &[pooled.len() / n]),
            time_ids: Tensor::new(time_ids, &[n, 6]),
        });
        Ok(MicroBatch {
            latents: batch(latents, &map),
            noise: batch(noise, &map),
            timesteps,
            context: batch(context, &states),
            added,
        })
    }

    /// Adds one number a channel, `noise_offset` strong (crosslabs.org, "Diffusion With Offset Noise", 2023).
    fn offset_noise(&self, mut noise: Vec<f32>, shape: &[usize], position: u64) -> Vec<f32> {
        let strength = self.config.noise_offset as f32;
        if strength != 0.0 {
            let channels = shape[shape.len() - 1];
            let offsets = random::normals(self.config.seed, Stream::Noise, position, 1, channels);
            for pixel in noise.chunks_mut(channels) {
                pixel.iter_mut().zip(&offsets).for_each(|(x, o)| *x += strength * o);
            }
        }
        noise
    }

    fn posterior(&self, model: &StableDiffusion, item: &Item) -> Result<(Placement, Posterior)> {
        let path = &self.dataset.samples()[item.index].image;
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let picture = image::decode(&bytes, path)?;
        let size = (picture.height(), picture.width());
        let placement = self
            .preprocess
            .place(size, self.config.seed, item.index as u64, item.epoch)
            .map_err(|e| Error::file(path, e.to_string()))?;
        let key = Key::posterior(&bytes, &placement.identity(), &self.vae_identity);
        if let Some(posterior) = self.cache.posterior(&key)? {
            return Ok((placement, posterior));
        }
        let pixels = placement.apply(&picture);
        let shape = [&[1], pixels.shape()].concat();
        let (mean, logvar) = model
            .vae
            .encode(&Tape::off(), &pixels.with_shape(&shape).cast(model.dtype))?;
        let one = mean.shape()[1..].to_vec();
        let std = logvar.reals::<f32>().iter().map(|l| (0.5 * l).exp()).collect();
        let posterior = Posterior {
            mean: mean.cast(DType::F32).with_shape(&one),
            std: Tensor::new(std, &one),
        };
        self.cache.put_posterior(&key, &posterior)?;
        Ok((placement, posterior))
    }

    fn text(&self, model: &StableDiffusion, caption: &str) -> Result<TextStates> {
        let key = Key::text(caption, &self.text_identity);
        if let Some(states) = self.cache.text(&key)? {
            return Ok(states);
        }
        let conditions = model.encode(&[caption.to_owned()], None, 0)?;
        let one = |t: &Tensor| t.cast(DType::F32).with_shape(&t.shape()[1..]);
        let states = TextStates {
            context: one(&conditions.context),
            pooled: conditions.pooled.as_ref().map(one),
        };
        self.cache.put_text(&key, &states)?;
        Ok(states)
    }
}

/// SHA-256 of the named component folders' files, so that other weights never meet these entries.
fn identity(folders: &[PathBuf], dtype: DType) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for folder in folders.iter().filter(|f| f.is_dir()) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|e| Error::io(folder, e))?;
        files.sort();
        for file in files.iter().filter(|f| f.is_file()) {
            let mut reader = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            std::io::copy(&mut reader, &mut HashWriter(&mut hash)).map_err(|e| Error::io(file, e))?;
        }
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{digest} {}", dtype.name()))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
