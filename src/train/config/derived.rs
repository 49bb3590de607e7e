//! What follows from the settings: in the terms of those who need them.

use std::path::PathBuf;

use super::ranges::{bucket_steps, colour, resolution, unknown_order};
use super::{TrainConfig, TrainOn};
use crate::data::buckets::Buckets;
use crate::data::dataset::{Asked, Reading, Subset, Variation};
use crate::data::noise::NoiseSettings;
use crate::data::preprocess::Crop;
use crate::error::{Error, Result};
use crate::ops::LoraOrder;
use crate::settings::check;
use crate::train::loss::Loss;
use crate::train::lr_schedule::LrSchedule;

/// Below this resolution images are cropped to a square unless buckets are asked for.
const SHORTEST_WITH_BUCKETS: u32 = 256;

impl TrainConfig {
    /// # Errors
    /// [`Error::Usage`] for an order that is none.
    pub fn lora_order(&self) -> Result<LoraOrder> {
        LoraOrder::parse(&self.lora_order).ok_or_else(|| unknown_order(&self.lora_order))
    }

    /// The given alpha, or the rank.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// alpha / rank: what B·A is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale_of(self.rank)
    }

    /// The same of a module of another rank.
    pub fn scale_of(&self, rank: usize) -> f64 {
        self.alpha.map_or(1.0, |alpha| alpha / rank as f64)
    }

    /// How a difference counts.
    pub fn loss(&self) -> Loss {
        Loss { kind: self.loss_type, schedule: self.huber_schedule, c: self.huber_c, scale: self.huber_scale }
    }

    /// How noise is made.
    pub fn noise(&self) -> NoiseSettings {
        let levels = self.multires_noise_iterations;
        NoiseSettings {
            seed: self.seed,
            offset: self.noise_offset,
            multires: (levels > 0).then_some((levels, self.multires_noise_discount)),
            perturbation: self.ip_noise_gamma,
        }
    }

    /// What is put behind transparent pixels.
    pub fn background(&self) -> Option<[u8; 3]> {
        colour(self.alpha_background.as_deref()?)
    }

    /// Whether images are held out.
    pub fn validates(&self) -> bool {
        self.validation_split > 0.0 || self.validation_data.is_some()
    }

    /// The settings under which held-out images are seen: one by one, without chance.
    pub fn of_validation(&self) -> Self {
        Self {
            batch_size: 1,
            crop: Crop::Center,
            flip: false,
            noise_offset: 0.0,
            multires_noise_iterations: 0,
            ip_noise_gamma: 0.0,
            masked_loss: false,
            mask_data: None,
            train_on: TrainOn::Pixels,
            ..self.clone()
        }
    }

    /// The timesteps of a schedule of so many that are trained at.
    ///
    /// # Errors
    /// [`Error::Usage`] for bounds that the schedule does not have.
    pub fn timesteps(&self, schedule: u32) -> Result<std::ops::Range<u32>> {
        let end = self.max_timestep.unwrap_or(schedule);
        let expected = format!("at most {schedule}, the timesteps of the model's schedule");
        check::require(end <= schedule, "max-timestep", &end, &expected)?;
        let expected = format!("below {end}");
        check::require(self.min_timestep < end, "min-timestep", &self.min_timestep, &expected)?;
        Ok(self.min_timestep..end)
    }

    /// How --data is read.
    pub fn reading(&self) -> Reading {
        Reading {
            caption_column: self.caption_column.clone(),
            caption_extension: self.caption_extension.clone(),
            subset: Subset {
                repeats: self.repeats,
                variation: Variation {
                    shuffle: self.shuffle_caption,
                    separator: self.caption_separator.clone(),
                    keep_tokens: self.keep_tokens,
                    dropout: self.caption_dropout,
                    tag_dropout: self.tag_dropout,
                    ..Variation::default()
                },
                ..Subset::default()
            },
        }
    }

    /// The buckets of a run at `side` pixels; none where all images are cropped to a square. `all_square`: whether the
    /// images are.
    ///
    /// # Errors
    /// [`Error::Usage`] for steps that the resolution has no room for.
    pub fn buckets(&self, side: u32, all_square: bool) -> Result<Option<Buckets>> {
        if !self.buckets.unwrap_or(!all_square && side >= SHORTEST_WITH_BUCKETS) {
            return Ok(None);
        }
        if side < self.bucket_steps || (self.bucket_upscale && side < self.bucket_min) {
            let message = format!(
                "resolution is {side}: buckets need at least bucket-steps ({}) and, with --bucket-upscale, bucket-min ({})",
                self.bucket_steps, self.bucket_min
            );
            return Err(Error::Usage(message));
        }
        let longest = self.bucket_max.unwrap_or((2 * side).max(1024));
        Ok(Some(Buckets::new(side, self.bucket_steps, self.bucket_upscale, self.bucket_min, longest)))
    }

    /// Takes over what a dataset file asks of the run, where the run's own settings leave it open.
    ///
    /// # Errors
    /// [`Error::Usage`] where both say something, and not the same.
    pub fn agree_with(&mut self, asked: &Asked) -> Result<()> {
        let defaults = Self::default();
        if asked.resolution.is_some() && self.resolution.is_none() {
            self.resolution = asked.resolution;
            resolution("resolution", &asked.resolution.unwrap_or_default())?;
        }
        self.buckets = self.buckets.or(asked.buckets);
        self.bucket_max = self.bucket_max.or(asked.bucket_max);
        let open = |mine: &mut u32, theirs: Option<u32>, default: u32| {
            *mine = theirs.filter(|_| *mine == default).unwrap_or(*mine);
        };
        open(&mut self.bucket_min, asked.bucket_min, defaults.bucket_min);
        open(&mut self.bucket_steps, asked.bucket_steps, defaults.bucket_steps);
        self.bucket_upscale |= asked.bucket_upscale.unwrap_or(false);
        bucket_steps("bucket_reso_steps", &self.bucket_steps)?;
        let crop = asked.random_crop.map(|random| if random { Crop::Random } else { Crop::Center });
        if crop.is_some_and(|crop| self.crop != defaults.crop && self.crop != crop) {
            return Err(Error::Usage(
                "--crop and the dataset file's random_crop do not agree; leave --crop out".into(),
            ));
        }
        self.crop = crop.unwrap_or(self.crop);
        if asked.flip == Some(true) && !self.flip {
            return Err(Error::Usage("flip_aug is true in the dataset file; leave --no-flip out".into()));
        }
        self.flip = asked.flip.unwrap_or(self.flip);
        self.masked_loss |= asked.alpha_mask.unwrap_or(false);
        let same = |name: &str, mine: Option<u64>, theirs: Option<u64>| match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine != theirs => {
                let message =
                    format!("{name} is {theirs} in the dataset file and {mine} in this run; give --{name} {theirs}");
                Err(Error::Usage(message))
            }
            _ => Ok(()),
        };
        same("resolution", self.resolution.map(u64::from), asked.resolution.map(u64::from))?;
        same("batch-size", Some(self.batch_size as u64), asked.batch_size.map(|size| size as u64))
    }

    /// The learning rate of every step.
    pub fn schedule(&self) -> LrSchedule {
        let schedule = LrSchedule::new(self.lr_schedule, self.lr, self.warmup, self.steps);
        LrSchedule { cycles: self.lr_cycles, power: self.lr_power, ..schedule }
    }

    /// The LoRA of the newest saved step.
    pub fn result(&self) -> PathBuf {
        self.out.join(format!("{}.safetensors", self.output_name))
    }

    /// How many LoRAs of earlier steps are kept.
    pub fn kept_loras(&self) -> usize {
        self.keep_loras.unwrap_or(self.keep)
    }
}
