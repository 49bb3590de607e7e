//! Training examples: images and captions as the frozen encoders see them, and everything that is drawn for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use crate::data::batch::{MicroBatch, Noise};
use crate::data::buckets::Fit;
use crate::data::dataset::Dataset;
use crate::data::encoders::Encoders;
use crate::data::images::{self, ImageFile};
use crate::data::kept_latents;
use crate::data::latent_cache::TextStates;
use crate::data::loader::{Item, Loader};
use crate::data::manifest::Manifest;
use crate::data::masks::Masks;
use crate::data::noise::NoiseSettings;
use crate::data::preprocess::{Crop, CropBox, Preprocess};
use crate::data::rng::{Purpose, Rng};
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::generate::Conditions;
use crate::nn::AddedConditions;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::config::TrainConfig;
use crate::train::provenance;
use crate::train::watcher::Watcher;

/// Latents that are encoded ahead may take this much of the disk, whatever the crops; beyond it only datasets with at
/// most two crops an image are.
const AHEAD_BYTES: usize = 4 << 30;

/// What makes text states of captions in place of the frozen encoders.
pub type EncodeTexts<'a> = &'a dyn Fn(&[String]) -> Result<Conditions>;

/// The dataset of a run behind its cache.
pub struct Examples {
    dataset: Dataset,
    images: Vec<ImageFile>,
    /// What becomes of each image, where there are buckets.
    fits: Vec<Option<Fit>>,
    preprocess: Preprocess,
    /// The sample of each visit of an epoch.
    visits: Vec<u32>,
    loader: Loader,
    config: TrainConfig,
    encoders: Encoders,
    /// What latents are multiplied by for the UNet.
    scaling_factor: f32,
    /// Bytes of one image's posterior.
    posterior_bytes: usize,
    dtype: DType,
    /// Bytes of latents that are encoded ahead even if random crops make them many.
    pub ahead_bytes: usize,
    ahead: bool,
    /// Whether the forms of captions that vary are encoded ahead.
    texts_ahead: bool,
    noise: NoiseSettings,
    masks: Option<Masks>,
    /// The latents beside the images are learnt from: the hash of all of them.
    latents: Option<String>,
}

impl Examples {
    /// `images` are those of `dataset`, with the bucket of each where there are buckets. `side` is the training resolution
    /// in pixels, `latent` the shape of one image's latents.
    ///
    /// # Errors
    /// As [`Loader::with_buckets`]; what keeps a run from latents that it is told to learn from.
    #[allow(clippy::too_many_arguments)]
    pub fn open(
        config: &TrainConfig,
        dataset: Dataset,
        (images, fits): (Vec<ImageFile>, Vec<Option<Fit>>),
        encoders: Encoders,
        side: u32,
        latent: [usize; 3],
        scaling_factor: f64,
        watcher: &mut dyn Watcher,
    ) -> Result<Self> {
        let latents = kept_latents::usable(config, &dataset, &images, &encoders.vae_files, side, latent, watcher)?;
        let masks = match &config.mask_data {
            Some(dir) => Some(Masks::open(dir, &dataset, &images)?),
            None => config.masked_loss.then_some(Masks::Alpha),
        };
        let visits = visits(&dataset);
        let mut buckets: BTreeMap<Option<(u32, u32)>, Vec<u32>> = BTreeMap::new();
        for (visit, &sample) in visits.iter().enumerate() {
            let bucket = fits[sample as usize].map(|fit| fit.bucket);
            buckets.entry(bucket).or_default().push(visit as u32);
        }
        Ok(Self {
            loader: Loader::with_buckets(buckets.into_values().collect(), config.batch_size, config.seed)?,
            visits,
            images,
            fits,
            dataset,
            preprocess: Preprocess { width: side, height: side, crop: config.crop, flip: config.flip },
            config: config.clone(),
            scaling_factor: scaling_factor as f32,
            posterior_bytes: 2 * size_of::<f32>() * latent.iter().product::<usize>(),
            dtype: encoders.dtype,
            encoders,
            ahead_bytes: AHEAD_BYTES,
            ahead: false,
            texts_ahead: true,
            noise: config.noise(),
            masks,
            latents,
        })
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hash of everything that is learnt from.
    pub fn content_hash(&self) -> String {
        let mut images = images::content_hash(&self.dataset, &self.images);
        if let Some(Masks::Files(_, masks)) = &self.masks {
            images = content_hash::of_bytes(format!("{images} masks {masks}").as_bytes());
        }
        match &self.latents {
            None => images,
            Some(latents) => content_hash::of_bytes(format!("{images} {latents}").as_bytes()),
        }
    }

    /// The list of everything that is learnt from.
    pub fn manifest(&self) -> Manifest {
        Manifest::new(&self.config.data, &self.dataset, &self.images)
    }

    /// What a LoRA in kohya's layout says of the run.
    pub fn provenance(&self) -> BTreeMap<String, String> {
        provenance::of_training(&self.config, &self.dataset, self.preprocess.width)
    }

    pub fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    /// Encodes what the micro-batches `numbers` and the texts `more` need, as far as it is not in the cache, and drops
    /// the encoders. Images are left for the steps, and the VAE is then loaded for them, where random crops would fill
    /// the disk with latents that are used once.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the watcher says stop; whatever is wrong with an image or an encoder.
    pub fn prepare(&mut self, numbers: Range<u64>, more: &[String], watcher: &mut dyn Watcher) -> Result<()> {
        match self.config.train_text_encoder {
            true => watcher.note("the text encoder is trained: captions are encoded anew at every step, none ahead"),
            false => self.prepare_texts(numbers.clone(), more, watcher)?,
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
                "{} different crops of {} images are encoded first; --crop center needs at most two an image",
                crops.len(),
                self.len()
            ));
        }
        for (i, (index, crop_box)) in crops.iter().enumerate() {
            go_on(watcher)?;
            let (sample, image) = (&self.dataset.samples()[*index], &self.images[*index]);
            self.encoders.posterior(sample, image, crop_box, true)?;
            watcher.prepared("images encoded", i + 1, crops.len());
        }
        self.encoders.forget();
        Ok(())
    }

    /// Encodes the texts that the micro-batches `numbers` need, and `more`.
    fn prepare_texts(&mut self, numbers: Range<u64>, more: &[String], watcher: &mut dyn Watcher) -> Result<()> {
        let mut captions: BTreeSet<String> = more.iter().cloned().collect();
        for sample in self.dataset.samples() {
            let variation = &self.dataset.subset(sample).variation;
            if variation.dropout > 0.0 {
                captions.insert(String::new());
            }
            if !variation.has_many_forms() {
                captions.extend(sample.captions.iter().map(|caption| variation.whole(caption)));
            }
        }
        self.encode_captions(&captions, watcher)?;
        if self.dataset.captions_vary() {
            let forms = self.forms(numbers);
            let bytes = self.encoders.text("", true)?.context.bytes().len();
            self.texts_ahead = forms.len() * bytes <= self.ahead_bytes;
            match self.texts_ahead {
                true => self.encode_captions(&forms, watcher)?,
                false => watcher.note("captions are encoded as they come: they have too many forms to be kept"),
            }
        }
        Ok(())
    }

    fn encode_captions(&mut self, captions: &BTreeSet<String>, watcher: &mut dyn Watcher) -> Result<()> {
        for (i, caption) in captions.iter().enumerate() {
            go_on(watcher)?;
            self.encoders.text(caption, true)?;
            watcher.prepared("captions encoded", i + 1, captions.len());
        }
        Ok(())
    }

    /// Every caption of the dataset, each with its image.
    pub fn all_captions(&self) -> impl Iterator<Item = (&Path, &str)> {
        let samples = self.dataset.samples().iter();
        samples.flat_map(|sample| sample.captions.iter().map(|text| (sample.image.as_path(), text.as_str())))
    }

    /// The captions of micro-batch `number`, as [`Examples::batch`] has their states.
    pub fn captions(&mut self, number: u64) -> Vec<String> {
        let positions = self.positions(number);
        positions.iter().map(|(position, item)| self.caption(*position, item)).collect()
    }

    /// The different captions in the micro-batches `numbers`.
    fn forms(&mut self, numbers: Range<u64>) -> BTreeSet<String> {
        let mut forms = BTreeSet::new();
        for number in numbers {
            for (position, item) in self.positions(number) {
                forms.insert(self.caption(position, &item));
            }
        }
        forms
    }

    /// The items of a micro-batch, each with its position in the run.
    fn positions(&mut self, number: u64) -> Vec<(u64, Item)> {
        let items = self.loader.batch(number);
        let first = number * items.len() as u64;
        (first..).zip(items).collect()
    }

    fn sample(&self, item: &Item) -> usize {
        self.visits[item.index] as usize
    }

    /// The caption of the visit at `position` of the run.
    fn caption(&self, position: u64, item: &Item) -> String {
        let sample = &self.dataset.samples()[self.sample(item)];
        let seed = self.config.seed;
        let chosen = match sample.captions.len() {
            1 => 0,
            count => Rng::new(seed, Purpose::Caption, position, 0).below(count as u64) as usize,
        };
        self.dataset.subset(sample).variation.at(&sample.captions[chosen], seed, position)
    }

    /// The different crops in the micro-batches `numbers`, each with its image's index.
    fn crops(&mut self, numbers: Range<u64>) -> Result<Vec<(usize, CropBox)>> {
        let (mut seen, mut crops) = (BTreeSet::new(), Vec::new());
        for number in numbers {
            for item in self.loader.batch(number) {
                let (sample, crop_box) = (self.sample(&item), self.crop_box(&item)?);
                if seen.insert((sample, crop_box.crop, crop_box.flipped)) {
                    crops.push((sample, crop_box));
                }
            }
        }
        Ok(crops)
    }

    fn crop_box(&self, item: &Item) -> Result<CropBox> {
        let sample = self.sample(item);
        let size = self.images[sample].size;
        if let Some(Fit { resized: (w, h), bucket: (width, height) }) = self.fits[sample] {
            let draw = [self.config.seed, item.index as u64, item.epoch];
            return Ok(self.preprocess.crop_within(size, (h, w), (height, width), draw));
        }
        self.preprocess
            .crop_box(size, self.config.seed, item.index as u64, item.epoch)
            .map_err(|e| Error::file(&self.dataset.samples()[sample].image, e.to_string()))
    }

    /// Micro-batch `number` of the run with everything drawn, or said how: posterior sample, noise and timestep depend on the seed and
    /// the position in the run alone.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Io`] where an image or a cached latent cannot be read any more; what the encoders say.
    pub fn batch(&mut self, number: u64, train_timesteps: Range<u32>) -> Result<MicroBatch> {
        self.batch_with(number, train_timesteps, None)
    }

    /// The same with text states from `encode`, which is given the captions, in the place of those of the frozen encoders.
    ///
    /// # Errors
    /// As [`Examples::batch`]; what `encode` says.
    pub fn batch_with(
        &mut self,
        number: u64,
        train_timesteps: Range<u32>,
        encode: Option<EncodeTexts<'_>>,
    ) -> Result<MicroBatch> {
        let items = self.positions(number);
        let (mut latents, mut noises, mut timesteps) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
        let mut mask = Vec::new();
        let (mut texts, mut time_ids, mut map) = (Vec::new(), Vec::new(), Vec::new());
        let (mut weights, mut captions) = (Vec::new(), Vec::new());
        for (position, item) in &items {
            let position = *position;
            let crop_box = self.crop_box(item)?;
            let (sample, image) = (&self.dataset.samples()[self.sample(item)], &self.images[self.sample(item)]);
            let posterior = match &self.latents {
                Some(_) => kept_latents::posterior(sample)?,
                None => self.encoders.posterior(sample, image, &crop_box, self.ahead)?,
            };
            let len = posterior.mean.len();
            let draw = |stream| random::normals(self.config.seed, stream, position, 0, len);
            let (mean, std) = (posterior.mean.reals::<f32>(), posterior.std.reals::<f32>());
            let factor = self.scaling_factor;
            let unit = draw(Stream::Posterior);
            let values = mean.iter().zip(std.iter()).zip(&unit);
            latents.extend(values.map(|((m, s), n)| factor * (m + s * n)));
            let &[rows, columns, channels] = posterior.mean.shape() else {
                return Err(Error::shape("batch", format!("latents {:?}", posterior.mean)));
            };
            if !self.noise.is_plain() {
                let drawn = self.noise.draw([rows, columns, channels], position);
                noises.iter_mut().zip(drawn).for_each(|(all, one)| all.extend(one));
            }
            if let Some(masks) = &self.masks {
                mask.extend(masks.at(sample, &crop_box, [rows, columns])?);
            }
            let within = random::below(self.config.seed, Stream::Timestep, position, 0, train_timesteps.len() as u32);
            timesteps.push((train_timesteps.start + within) as usize);
            let is_reg = self.dataset.subset(sample).is_reg;
            weights.push(if is_reg { self.config.prior_loss_weight } else { 1.0 });
            let caption = self.caption(position, item);
            match encode {
                Some(_) => captions.push(caption),
                None => texts.push(self.encoders.text(&caption, self.texts_ahead)?),
            }
            time_ids.extend(crop_box.time_ids());
            map = posterior.mean.shape().to_vec();
        }
        let n = items.len();
        let batch = |values: Vec<f32>| Tensor::new(values, &[&[n], map.as_slice()].concat()).cast(self.dtype);
        let conditions = match encode {
            Some(encode) => encode(&captions)?,
            None => conditions(&texts, self.dtype),
        };
        Ok(MicroBatch {
            latents: batch(latents),
            noise: if self.noise.is_plain() {
                Noise::Drawn { seed: self.config.seed, positions: (number * n as u64..).take(n).collect() }
            } else {
                let [noise, seen] = noises.map(batch);
                if self.noise.perturbation == 0.0 { Noise::Given(noise) } else { Noise::Perturbed { noise, seen } }
            },
            timesteps,
            weights,
            mask: self.masks.is_some().then(|| Tensor::new(mask, &[n, map[0], map[1]])),
            context: conditions.context,
            added: conditions
                .pooled
                .map(|text_embeds| AddedConditions { text_embeds, time_ids: Tensor::new(time_ids, &[n, 6]) }),
        })
    }

    /// One text as the UNet is told about it, `[1, 77, d]`.
    ///
    /// # Errors
    /// What the text encoders say where the text is not cached.
    pub fn conditions(&mut self, text: &str) -> Result<Conditions> {
        Ok(conditions(&[self.encoders.text(text, true)?], self.dtype))
    }
}

/// The sample of each visit of an epoch. Regularisation images are visited as often as the others together, in turn, as in
/// kohya's scripts.
fn visits(dataset: &Dataset) -> Vec<u32> {
    let of = |is_reg: bool| {
        let samples =
            dataset.samples().iter().enumerate().filter(move |(_, sample)| dataset.subset(sample).is_reg == is_reg);
        samples.map(move |(index, sample)| (index as u32, dataset.subset(sample).repeats as usize))
    };
    let mut visits: Vec<u32> = of(false).flat_map(|(index, repeats)| std::iter::repeat_n(index, repeats)).collect();
    let (wanted, mut regular) = (visits.len(), Vec::new());
    let mut first = true;
    while regular.len() < wanted && of(true).next().is_some() {
        for (index, repeats) in of(true) {
            if regular.len() < wanted {
                regular.extend(std::iter::repeat_n(index, if first { repeats } else { 1 }));
            }
        }
        first = false;
    }
    visits.extend(regular);
    visits
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
