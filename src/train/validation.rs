//! The loss of images that are not trained on, at noise and timesteps that are always the same: where it rises while the
//! training loss falls, the run learns its images by heart.

use std::path::Path;

use super::metrics::Metrics;
use super::step::Objective;
use super::texts::TrainedTexts;
use crate::autograd::Tape;
use crate::data::examples::{EncodeTexts, Examples};
use crate::error::Result;
use crate::nn::UNet;

/// Timesteps at which each image is judged, spread evenly over those that are trained at.
const TIMESTEPS: usize = 4;

/// The held-out images of a run.
pub struct Validation {
    examples: Examples,
    timesteps: Vec<usize>,
    records: Metrics,
}

impl Validation {
    /// Of `examples` in batches of one, which are prepared. Records go to the file `path`, which is cut back to `step`.
    ///
    /// # Errors
    /// As [`Metrics::resume`].
    pub fn new(examples: Examples, trained: std::ops::Range<u32>, path: &Path, step: u64) -> Result<Self> {
        let length = f64::from(trained.end - trained.start);
        let middle = |i: usize| trained.start as usize + ((i as f64 + 0.5) / TIMESTEPS as f64 * length) as usize;
        // A run that was killed before its first state measures step 0 again.
        let records = if step == 0 { Metrics::create(path)? } else { Metrics::resume(path, step)? };
        Ok(Self { examples, timesteps: (0..TIMESTEPS).map(middle).collect(), records })
    }

    /// The mean loss of all images, which is recorded as that after `step` steps. Captions are encoded by `texts` where those
    /// are trained.
    ///
    /// # Errors
    /// Whatever is wrong with an image, the network, or the disk.
    pub fn measure(
        &mut self,
        objective: &Objective,
        unet: &UNet,
        texts: Option<&TrainedTexts>,
        step: u64,
    ) -> Result<f64> {
        let encode = texts.map(|texts| move |captions: &[String]| texts.encode(&Tape::off(), captions));
        let encode = encode.as_ref().map(|encode| encode as EncodeTexts<'_>);
        let mut sum = 0.0;
        let count = self.examples.len() as u64;
        for number in 0..count {
            for &timestep in &self.timesteps {
                let mut batch = self.examples.batch_with(number, 0..1, encode)?;
                batch.timesteps = vec![timestep];
                sum += objective.measure(unet, &batch)?;
            }
        }
        let loss = sum / (count * TIMESTEPS as u64) as f64;
        self.records.append(step, &[("loss", loss)])?;
        self.records.flush()?;
        Ok(loss)
    }
}
