//! Prompts to text states, as the diffusers pipelines make them.

use std::path::Path;

use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::nn::{ClipOutput, ClipText};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// What the UNet is told about a batch: text states `[n, 77, d]` and, for SDXL, the pooled text `[n, p]`.
#[derive(Clone)]
pub struct Conditions {
    pub context: Tensor,
    pub pooled: Option<Tensor>,
}

impl Conditions {
    /// The same shapes with nothing in them.
    ///
    /// # Errors
    /// Where the device of these has no room.
    pub fn zeros(&self) -> Result<Self> {
        let zeros = |t: &Tensor| Tensor::zeros(t.shape(), t.dtype()).to(&t.device());
        Ok(Self { context: zeros(&self.context)?, pooled: self.pooled.as_ref().map(zeros).transpose()? })
    }
}

/// A model's text encoders: one, or two in SDXL.
pub struct TextEncoders {
    pub encoders: Vec<TextEncoder>,
    /// SDXL: a missing negative prompt is all zeros, not the empty string.
    pub force_zeros_for_empty_prompt: bool,
}

/// A tokenizer and the encoder that reads its ids.
pub struct TextEncoder {
    pub tokenizer: Tokenizer,
    pub model: ClipText,
}

impl TextEncoders {
    /// Loads the encoders of a model; vocabularies come from `vocab` where given, else from its tokenizer folders.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(files: &ModelDir, vocab: Option<&Path>, dtype: DType) -> Result<Self> {
        let encoder = |tokenizer: &Path, model: &Path| -> Result<TextEncoder> {
            Ok(TextEncoder {
                tokenizer: Tokenizer::load_with_vocab(tokenizer, vocab.unwrap_or(tokenizer))?,
                model: ClipText::load(model, dtype)?,
            })
        };
        let mut encoders = vec![encoder(&files.tokenizer, &files.text_encoder)?];
        if let (Some(tokenizer), Some(model)) = (&files.tokenizer_2, &files.text_encoder_2) {
            encoders.push(encoder(tokenizer, model)?);
        }
        Ok(Self { encoders, force_zeros_for_empty_prompt: files.force_zeros_for_empty_prompt })
    }

    /// Brings the encoders to `device`, where they then compute.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn place(&self, device: &Device) -> Result<()> {
        self.encoders.iter().try_for_each(|encoder| encoder.model.place(device))
    }

    pub fn is_xl(&self) -> bool {
        self.encoders.len() == 2
    }

    /// Encodes prompts (`second`: for the second encoder, where it gets other words). With `clip_skip` k the states of an
    /// earlier layer are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] where the encoder has no layer left.
    pub fn encode(&self, prompts: &[String], second: Option<&[String]>, clip_skip: usize) -> Result<Conditions> {
        self.encode_window(prompts, second, clip_skip, None)
    }

    /// Encodes prompts of any length: in `parts` windows of at most 75 tokens each (see `data::windows`), whose states
    /// `[n, 77, d]` follow one another; shorter prompts end in windows of the empty text. The pooled text is the first
    /// window's. With one part a prompt that is too long is cut.
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_long(&self, prompts: &[String], clip_skip: usize, parts: usize) -> Result<Conditions> {
        if parts == 1 {
            return self.encode(prompts, None, clip_skip);
        }
        let mut all = self.encode_window(prompts, None, clip_skip, Some(0))?;
        for part in 1..parts {
            let next = self.encode_window(prompts, None, clip_skip, Some(part))?.context;
            let ([n, length, width], [_, more, _]) = (all.context.dims("encode")?, next.dims("encode")?);
            let flat = |t: &Tensor| t.with_shape(&[n, t.len() / n]);
            let joined = ops::concat_channels(&Tape::off(), &flat(&all.context), &flat(&next))?;
            all.context = joined.with_shape(&[n, length + more, width]);
        }
        Ok(all)
    }

    /// How many parts [`TextEncoders::encode_long`] needs for a prompt: 1 where it fits.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn parts(&self, prompt: &str) -> Result<usize> {
        let mut parts = 1;
        for encoder in &self.encoders {
            parts = parts.max(encoder.tokenizer.windows(prompt)?);
        }
        Ok(parts)
    }

    fn encode_window(
        &self,
        prompts: &[String],
        second: Option<&[String]>,
        clip_skip: usize,
        window: Option<usize>,
    ) -> Result<Conditions> {
        let tape = Tape::off();
        let first = self.encoders[0].run(prompts, window)?;
        let layers = first.hidden_states.len() - 1;
        if clip_skip >= layers {
            let message = format!("--clip-skip {clip_skip}: the text encoder has {layers} layers");
            return Err(Error::Usage(message));
        }
        if !self.is_xl() {
            let context = match clip_skip {
                0 => first.last_hidden_state,
                k => self.encoders[0].model.final_layer_norm(&tape, from_end(&first, k + 1))?,
            };
            return Ok(Conditions { context, pooled: None });
        }
        let other = self.encoders[1].run(second.unwrap_or(prompts), window)?;
        let depth = clip_skip + 2;
        let context = ops::concat_channels(&tape, from_end(&first, depth), from_end(&other, depth))?;
        Ok(Conditions { context, pooled: other.text_embeds })
    }

    /// The unconditional half of guidance: `negative`, or what the family takes for a missing one. Never skips layers.
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_negative(
        &self,
        negative: Option<&[String]>,
        second: Option<&[String]>,
        positive: &Conditions,
    ) -> Result<Conditions> {
        match negative {
            Some(prompts) => self.encode(prompts, second, 0),
            None if self.is_xl() && self.force_zeros_for_empty_prompt => positive.zeros(),
            None => self.encode(&vec![String::new(); positive.context.shape()[0]], None, 0),
        }
    }
}

impl TextEncoder {
    /// `window`: of texts of any length; none: what fits of them.
    fn run(&self, prompts: &[String], window: Option<usize>) -> Result<ClipOutput> {
        let mut ids = Vec::new();
        for prompt in prompts {
            let encoded = match window {
                Some(window) => self.tokenizer.encode_window(prompt, window)?,
                None => self.tokenizer.encode(prompt)?,
            };
            ids.extend(encoded.ids);
        }
        let length = ids.len() / prompts.len().max(1);
        self.model.forward(&Tape::off(), &Tensor::new(ids, &[prompts.len(), length]))
    }
}

/// `hidden_states[-depth]`.
fn from_end(output: &ClipOutput, depth: usize) -> &Tensor {
    let states = &output.hidden_states;
    &states[states.len().saturating_sub(depth)]
}
