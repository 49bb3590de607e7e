//! Prompts to text states, as the diffusers pipelines make them.

use super::{StableDiffusion, TextEncoder};
use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::ClipOutput;
use crate::ops;
use crate::tensor::Tensor;

/// What the UNet is told about a batch: text states `[n, 77, d]` and, for SDXL, the pooled text `[n, p]`.
#[derive(Clone)]
pub struct Conditions {
    pub context: Tensor,
    pub pooled: Option<Tensor>,
}

impl StableDiffusion {
    /// Encodes prompts (`second`: for the second encoder, where it gets other words). With `clip_skip` k the states of an
    /// earlier layer are taken.
    pub fn encode(&self, prompts: &[String], second: Option<&[String]>, clip_skip: usize) -> Result<Conditions> {
        let tape = Tape::off();
        let first = self.encoders[0].run(prompts)?;
        if !self.is_xl() {
            let context = match clip_skip {
                0 => first.last_hidden_state,
                k => self.encoders[0]
                    .model
                    .final_layer_norm(&tape, from_end(&first, k + 1))?,
            };
            return Ok(Conditions { context, pooled: None });
        }
        let other = self.encoders[1].run(second.unwrap_or(prompts))?;
        let depth = clip_skip + 2;
        let context = ops::concat_channels(&tape, from_end(&first, depth), from_end(&other, depth))?;
        Ok(Conditions {
            context,
            pooled: other.text_embeds,
        })
    }

    /// The unconditional half of guidance: `negative`, or what the family takes for a missing one. Never skips layers.
    pub fn encode_negative(
        &self,
        negative: Option<&[String]>,
        second: Option<&[String]>,
        positive: &Conditions,
    ) -> Result<Conditions> {
        match negative {
            Some(prompts) => self.encode(prompts, second, 0),
            None if self.is_xl() && self.force_zeros_for_empty_prompt => {
                let zeros = |t: &Tensor| Tensor::zeros(t.shape(), t.dtype());
                Ok(Conditions {
                    context: zeros(&positive.context),
                    pooled: positive.pooled.as_ref().map(zeros),
                })
            }
            None => self.encode(&vec![String::new(); positive.context.shape()[0]], None, 0),
        }
    }
}

impl TextEncoder {
    fn run(&self, prompts: &[String]) -> Result<ClipOutput> {
        let mut ids = Vec::new();
        for prompt in prompts {
            ids.extend(self.tokenizer.encode(prompt)?.ids);
        }
        let length = ids.len() / prompts.len().max(1);
        self.model
            .forward(&Tape::off(), &Tensor::new(ids, &[prompts.len(), length]))
    }
}

/// `hidden_states[-depth]`.
fn from_end(output: &ClipOutput, depth: usize) -> &Tensor {
    let states = &output.hidden_states;
    &states[states.len().saturating_sub(depth)]
}
