//! A micro-batch of examples, with everything that is drawn for it.

use std::ops::Range;

use super::Examples;
use crate::data::batch::{MicroBatch, Noise};
use crate::data::kept_latents;
use crate::data::latent_cache::TextStates;
use crate::data::loader::Item;
use crate::data::preprocess::CropBox;
use crate::error::{Error, Result};
use crate::generate::Conditions;
use crate::nn::AddedConditions;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};

/// What makes text states of captions in place of the frozen encoders.
pub type EncodeTexts<'a> = &'a dyn Fn(&[String]) -> Result<Conditions>;

impl Examples {
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
        let (mut texts, mut time_ids, mut map) = (Vec::new(), Vec::new(), [0; 3]);
        let (mut weights, mut captions) = (Vec::new(), Vec::new());
        for (position, item) in &items {
            let position = *position;
            let crop_box = self.crop_box(item)?;
            let (drawn, [rows, columns, channels]) = self.latents_of(item, &crop_box, position)?;
            latents.extend(drawn);
            let sample = &self.dataset.samples()[self.sample(item)];
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
            map = [rows, columns, channels];
        }
        let n = items.len();
        let batch = |values: Vec<f32>| Tensor::new(values, &[n, map[0], map[1], map[2]]).cast(self.dtype);
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

    /// Latents of the visit at `position`, drawn from the posterior of its crop, and their rows, columns and channels.
    fn latents_of(&mut self, item: &Item, crop_box: &CropBox, position: u64) -> Result<(Vec<f32>, [usize; 3])> {
        let index = self.sample(item);
        let (sample, image) = (&self.dataset.samples()[index], &self.images[index]);
        let posterior = match &self.latents {
            Some(_) => kept_latents::posterior(sample)?,
            None => self.encoders.posterior(sample, image, crop_box, self.ahead)?,
        };
        let &[rows, columns, channels] = posterior.mean.shape() else {
            return Err(Error::shape("batch", format!("latents {:?}", posterior.mean)));
        };
        let (mean, std) = (posterior.mean.reals::<f32>(), posterior.std.reals::<f32>());
        let unit = random::normals(self.config.seed, Stream::Posterior, position, 0, mean.len());
        let values = mean.iter().zip(std.iter()).zip(&unit);
        Ok((values.map(|((m, s), n)| self.scaling_factor * (m + s * n)).collect(), [rows, columns, channels]))
    }

    /// One text as the UNet is told about it, `[1, 77, d]`.
    ///
    /// # Errors
    /// What the text encoders say where the text is not cached.
    pub fn conditions(&mut self, text: &str) -> Result<Conditions> {
        Ok(conditions(&[self.encoders.text(text, true)?], self.dtype))
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
