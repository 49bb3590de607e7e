//! How long a run will take: the time of one timed sample, times all of them.

use std::path::Path;
use std::time::{Duration, Instant};

use super::branches::Branches;
use super::config::TrainConfig;
use super::parameters::FlatParameters;
use super::step::Objective;
use super::texts::TrainedTexts;
use crate::autograd::Tape;
use crate::data::batch::{MicroBatch, Noise};
use crate::device::Device;
use crate::error::Result;
use crate::formats::model_dir::ModelDir;
use crate::lora::Expert;
use crate::nn::{AddedConditions, UNet, UNetConfig};
use crate::tensor::{DType, Tensor, release_pool};

/// A first sample that takes longer is taken for what all take; else a second one is timed, when memory is there.
const LONG: Duration = Duration::from_secs(20);
/// Tokens of a window.
const TOKENS: usize = 77;

/// What is timed.
pub(super) struct Timing<'a> {
    pub config: &'a TrainConfig,
    pub files: &'a ModelDir,
    pub vocab: Option<&'a Path>,
    pub unet: &'a UNetConfig,
    pub windows: usize,
    pub device: &'a Device,
    pub dtype: DType,
}

impl Timing<'_> {
    /// The sentence that tells the time. Networks are loaded for it; data are zeros. `latent`: height and width. With
    /// `through_texts` the gradient goes through the text encoders.
    ///
    /// # Errors
    /// As [`UNet::load`], and where a device has no room.
    pub fn line(
        &self,
        objective: &Objective,
        latent: [usize; 2],
        through_texts: bool,
        start: Option<&Expert>,
    ) -> Result<String> {
        // One sample tells on a CPU. A GPU is only busy with a whole micro-batch.
        let batch = if *self.device == Device::Cpu { 1 } else { self.config.batch_size };
        let mut unet = UNet::load(&self.files.unet, self.dtype)?;
        unet.to(self.device)?;
        unet.set_checkpointing(self.config.checkpointing);
        let trained = self.config.train_text_encoder || through_texts;
        let load = || TrainedTexts::load(self.config, self.vocab, self.windows, self.device, self.dtype);
        let mut texts = trained.then(load).transpose()?;
        let encoders = texts.as_mut().map(|texts| &mut texts.encoders).filter(|_| self.config.train_text_encoder);
        let branches = Branches::attach(self.config, start, &mut unet, encoders, self.dtype)?;
        let optimizer = |shapes: &[Vec<usize>]| self.config.optimizer(shapes);
        let mut flat = FlatParameters::grouped(branches.params(), &branches.lr_factors(), self.dtype, optimizer)?;
        let mut taken = Duration::ZERO;
        for _ in 0..2 {
            let begin = Instant::now();
            self.micro_batch(objective, &unet, texts.as_ref(), &mut flat, (batch, latent))?;
            taken = begin.elapsed();
            if taken > LONG {
                break;
            }
        }
        drop((flat, branches, texts, unet));
        release_pool();
        let samples = self.config.steps * (self.config.batch_size * self.config.grad_accum) as u64;
        let each = taken.as_secs_f64() / batch as f64;
        Ok(format!(
            "estimated time: {} for {samples} samples at {} each, as one micro-batch of {batch} took now; encoding, samples and \
             validation come on top",
            spoken(each * samples as f64),
            spoken(each)
        ))
    }

    fn micro_batch(
        &self,
        objective: &Objective,
        unet: &UNet,
        texts: Option<&TrainedTexts>,
        flat: &mut FlatParameters,
        (n, [h, w]): (usize, [usize; 2]),
    ) -> Result<()> {
        let tape = Tape::watching(&flat.leaves());
        let zeros = |shape: &[usize]| Tensor::zeros(shape, self.dtype);
        let width = self.unet.cross_attention_dim.first().copied().unwrap_or(0);
        let (mut context, mut pooled) = (zeros(&[n, self.windows * TOKENS, width]), None);
        if let Some(added) = &self.unet.added {
            pooled = Some(zeros(&[n, added.input_dim.saturating_sub(6 * added.time_dim)]));
        }
        if let Some(texts) = texts {
            let states = texts.encode(&tape, &vec!["a caption".to_owned(); n])?;
            (context, pooled) = (states.context, states.pooled);
        }
        let batch = MicroBatch {
            latents: zeros(&[n, h, w, self.unet.in_channels]),
            noise: Noise::Drawn { seed: self.config.seed, positions: (0..n as u64).collect() },
            timesteps: vec![self.config.min_timestep as usize; n],
            weights: vec![1.0; n],
            mask: None,
            context: context.clone(),
            added: pooled
                .map(|text_embeds| AddedConditions { text_embeds, time_ids: Tensor::zeros(&[n, 6], DType::F32) }),
        };
        let mut prepared = objective.prepare(&batch)?;
        for tensor in prepared.tensors() {
            *tensor = tensor.to(self.device)?;
        }
        let context = context.to(self.device)?;
        let computed = objective.differentiate_on(tape, unet, &prepared, &context, 1.0, flat.loss_scale())?;
        flat.accumulate(&computed.gradients)?;
        // Waits for the device.
        computed.loss.to_cpu().map(|_| ())
    }
}

/// Seconds in the unit that says most.
fn spoken(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
