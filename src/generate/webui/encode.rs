//! Weighted prompts to text states.

use super::attention::Fragment;
use super::windows::{Window, windows};
use crate::autograd::Tape;
use crate::error::Result;
use crate::generate::{Conditions, TextEncoders};
use crate::ops;
use crate::tensor::Tensor;

impl TextEncoders {
    /// How many windows a weighted prompt has.
    ///
    /// # Errors
    /// As [`crate::data::tokenizer::Tokenizer::tokens`].
    pub fn weighted_parts(&self, prompt: &[Fragment]) -> Result<usize> {
        let mut parts = 1;
        for encoder in &self.encoders {
            parts = parts.max(windows(prompt, &encoder.tokenizer)?.len());
        }
        Ok(parts)
    }

    /// As [`TextEncoders::encode_long`], of weighted prompts: in each window every state is multiplied by its token's weight,
    /// and then all of the window so that its mean is what it was.
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_weighted(&self, prompts: &[Vec<Fragment>], clip_skip: usize, parts: usize) -> Result<Conditions> {
        let tape = Tape::off();
        let mut all: Option<Conditions> = None;
        for part in 0..parts {
            let mut next: Option<Conditions> = None;
            for (number, encoder) in self.encoders.iter().enumerate() {
                let (mut ids, mut weights) = (Vec::new(), Vec::new());
                for prompt in prompts {
                    let window = windows(prompt, &encoder.tokenizer)?.get(part).cloned().unwrap_or_default();
                    let Window { ids: own, weights: of_ids } = window;
                    ids.extend(encoder.tokenizer.framed(&own).ids);
                    weights.push(of_ids);
                }
                let length = ids.len() / prompts.len().max(1);
                let (states, pooled) =
                    self.states(&tape, number, Tensor::new(ids, &[prompts.len(), length]), clip_skip)?;
                let states = weighted(&states, &weights)?;
                let context = match &next {
                    None => states,
                    Some(first) => ops::concat_channels(&tape, &first.context, &states)?,
                };
                next = Some(Conditions { context, pooled });
            }
            let Some(next) = next else { continue };
            all = Some(match all {
                None => next,
                Some(before) => before.followed_by(&tape, &next.context)?,
            });
        }
        all.map_or_else(|| self.encode(&[], None, clip_skip), Ok)
    }
}

/// States `[n, t, d]` with the weights of each row's tokens, which follow the start. Rows without weights stay as they are.
fn weighted(states: &Tensor, weights: &[Vec<f64>]) -> Result<Tensor> {
    if weights.iter().flatten().all(|weight| *weight == 1.0) {
        return Ok(states.clone());
    }
    let [n, tokens, width] = states.dims("encode")?;
    let mut values = states.to_cpu()?.reals::<f64>().into_owned();
    for (row, weights) in values.chunks_mut(tokens * width).zip(weights) {
        if weights.iter().all(|weight| *weight == 1.0) {
            continue;
        }
        let before: f64 = row.iter().sum();
        for (state, weight) in row.chunks_mut(width).skip(1).zip(weights) {
            state.iter_mut().for_each(|x| *x *= weight);
        }
        let after: f64 = row.iter().sum();
        // Weights that make the mean zero leave nothing to restore it by.
        if after != 0.0 {
            row.iter_mut().for_each(|x| *x *= before / after);
        }
    }
    Tensor::from_reals(values, &[n, tokens, width], states.dtype()).to(&states.device())
}
