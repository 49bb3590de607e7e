//! ImageReward from its published files, with its tokenizer.

use std::path::Path;

use super::blip::{Layout, TEXT_LENGTH, settings};
use super::files::Files;
use super::layout;
use crate::autograd::Tape;
use crate::data::word_piece::WordPiece;
use crate::device::Device;
use crate::error::Result;
use crate::nn::ImageReward;
use crate::nn::bert::CrossStates;
use crate::tensor::{DType, Tensor};

/// What ImageReward's head is standardised with.
const REWARD_MEAN: f64 = 0.167_173_628_300_524_26;
const REWARD_STD: f64 = 1.033_339_496_605_407_2;

pub struct Reward {
    pub model: ImageReward,
    pub tokenizer: WordPiece,
    /// SHA-256 of the weights.
    pub hash: String,
}

impl Reward {
    /// From a folder or file, on `device`, with matrices in `dtype`.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming what is missing or does not fit; what the device says.
    pub fn load(place: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let files = Files::find(place)?;
        let weights = files.open(layout::blip, dtype)?;
        let model = ImageReward::load(weights.clone(), &settings(&files, &weights, Layout::Original, None)?)?;
        model.to(device)?;
        Ok(Self { model, tokenizer: files.word_pieces()?, hash: files.hash()? })
    }

    /// A prompt's ids without padding, which would not be seen, and the number of pieces that were cut.
    ///
    /// # Errors
    /// As [`WordPiece::encode_padded`].
    pub fn ids(&self, prompt: &str) -> Result<(Vec<i64>, usize)> {
        let padded = self.tokenizer.encode_padded(prompt, TEXT_LENGTH)?;
        let length = padded.mask.iter().filter(|&&m| m == 1).count();
        Ok((padded.ids[..length].to_vec(), padded.dropped))
    }

    /// What the text encoder attends to of one image's states `[1, l, d]`: for all prompts.
    ///
    /// # Errors
    /// What the device says.
    pub fn seen(&self, states: &Tensor) -> Result<CrossStates> {
        self.model.text_encoder.cross_states(&Tape::off(), states)
    }

    /// The first token's state `[1, c]`.
    ///
    /// # Errors
    /// What the device says.
    pub fn text_cls(&self, ids: &[i64], seen: &CrossStates) -> Result<Tensor> {
        self.model.text_cls(&Tape::off(), &Tensor::new(ids.to_vec(), &[1, ids.len()]), seen)
    }

    /// The head's values of `[n, c]` states before they are standardised.
    ///
    /// # Errors
    /// What the device says.
    pub fn heads(&self, text_cls: &Tensor) -> Result<Vec<f64>> {
        Ok(self.model.head.forward(&Tape::off(), text_cls)?.to_cpu()?.reals::<f64>().into_owned())
    }

    /// The reward of a head's value.
    pub fn standardised(head: f64) -> f64 {
        (head - REWARD_MEAN) / REWARD_STD
    }

    /// The reward of one image `[1, h, w, 3]` for each of these prompts.
    ///
    /// # Errors
    /// What the device says.
    pub fn rewards(&self, pixels: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let seen = self.seen(&self.model.vision.forward(&Tape::off(), pixels)?)?;
        let one = |prompt: &&str| {
            let (ids, _) = self.ids(prompt)?;
            Ok(Self::standardised(self.heads(&self.text_cls(&ids, &seen)?)?[0]))
        };
        prompts.iter().map(one).collect()
    }
}
