//! Prompts to text states, as the diffusers pipelines make them.

use std::path::Path;

use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::embeddings::Embedding;
use crate::formats::model_dir::ModelDir;
use crate::lora::gate;
use crate::nn::{ClipInput, ClipOutput, ClipText, Param};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// What the UNet is told about a batch: text states `[n, 77, d]` and, for SDXL, the pooled text `[n, p]`.
#[derive(Clone)]
pub struct Conditions {
    pub context: Tensor,
    pub pooled: Option<Tensor>,
}

impl Conditions {
    /// With more text states after these; the pooled text stays.
    ///
    /// # Errors
    /// Where shapes do not fit, or the device has no room.
    pub(super) fn followed_by(self, tape: &Tape, more: &Tensor) -> Result<Self> {
        let ([n, length, width], [_, others, _]) = (self.context.dims("encode")?, more.dims("encode")?);
        let flat = |t: &Tensor| ops::reshape(tape, t, &[n, t.len() / n]);
        let joined = ops::concat_channels(tape, &flat(&self.context)?, &flat(more)?)?;
        Ok(Self { context: ops::reshape(tape, &joined, &[n, length + others, width])?, pooled: self.pooled })
    }

    /// In the place of those of text encoders that are still to read their texts.
    pub fn pending(is_xl: bool) -> Self {
        let nothing = Tensor::zeros(&[1], DType::F32);
        Self { context: nothing.clone(), pooled: is_xl.then_some(nothing) }
    }

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

/// What the encoders of a model read of a batch of prompts: window after window, of each encoder.
pub struct TextInput(Vec<ClipInput>);

impl TextInput {
    /// All tensors, always in the same order.
    pub fn tensors(&mut self) -> Vec<&mut Tensor> {
        self.0.iter_mut().flat_map(ClipInput::tensors).collect()
    }
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
    pub fn to(&self, device: &Device) -> Result<()> {
        self.encoders.iter().try_for_each(|encoder| encoder.model.to(device))
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
        self.encode_window(&Tape::off(), prompts, second, clip_skip, None)
    }

    /// Adds tokens with embeddings of their own to every encoder, after those that were added before.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that there is already; [`Error::Failed`] for embeddings that do not fit the encoders.
    pub fn add(&mut self, embeddings: &[Embedding], dtype: DType) -> Result<()> {
        let count = self.encoders.len();
        if let Some(embedding) = embeddings.iter().find(|embedding| embedding.rows.len() != count) {
            let message = format!(
                "`{}` has embeddings for {} text encoders, and this model has {count}; it is of another family",
                embedding.token,
                embedding.rows.len()
            );
            return Err(Error::Failed(message));
        }
        for (number, encoder) in self.encoders.iter_mut().enumerate() {
            let width = encoder.model.config.hidden_size;
            let old = encoder.model.added().map(|rows| rows.get().to_cpu()).transpose()?;
            let mut rows: Vec<f32> = old.map_or(Vec::new(), |rows| rows.reals::<f32>().into_owned());
            for embedding in embeddings {
                let own = &embedding.rows[number];
                if own.shape()[1] != width {
                    let message = format!(
                        "`{}` has {} values a vector, and this model's text encoder {width}; it is of another family",
                        embedding.token,
                        own.shape()[1]
                    );
                    return Err(Error::Failed(message));
                }
                let first = encoder.tokenizer.add_token(&embedding.token, own.shape()[0])?;
                let expected = encoder.model.config.vocab_size + rows.len() / width;
                if first != expected as i64 {
                    let message = format!(
                        "the tokenizer gives `{}` the id {first}, and the text encoder has {expected} rows before it",
                        embedding.token
                    );
                    return Err(Error::Failed(message));
                }
                rows.extend_from_slice(&own.reals::<f32>());
            }
            let rows = Tensor::from_reals(rows.clone(), &[rows.len() / width, width], dtype);
            let rows = rows.to(&encoder.model.device())?;
            encoder.model.set_added(Some(Param::new("added_tokens", rows)));
        }
        Ok(())
    }

    /// Encodes prompts of any length: in `parts` windows of at most 75 tokens each (see `data::windows`), whose states
    /// `[n, 77, d]` follow one another; shorter prompts end in windows of the empty text. The pooled text is the first
    /// window's. With one part a prompt that is too long is cut.
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_long(&self, prompts: &[String], clip_skip: usize, parts: usize) -> Result<Conditions> {
        self.encode_on(&Tape::off(), prompts, clip_skip, parts)
    }

    /// The same on a tape, for embeddings of added tokens that are trained.
    ///
    /// # Errors
    /// As [`TextEncoders::encode`].
    pub fn encode_on(&self, tape: &Tape, prompts: &[String], clip_skip: usize, parts: usize) -> Result<Conditions> {
        if parts == 1 {
            return self.encode_window(tape, prompts, None, clip_skip, None);
        }
        let mut all = self.encode_window(tape, prompts, None, clip_skip, Some(0))?;
        for part in 1..parts {
            let next = self.encode_window(tape, prompts, None, clip_skip, Some(part))?.context;
            all = all.followed_by(tape, &next)?;
        }
        Ok(all)
    }

    /// What the encoders read of prompts, in `parts` windows as for [`TextEncoders::encode_long`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`] and [`ClipText::input`].
    pub fn input(&self, prompts: &[String], parts: usize) -> Result<TextInput> {
        let mut all = Vec::new();
        for part in 0..parts {
            let window = (parts > 1).then_some(part);
            for encoder in &self.encoders {
                all.push(encoder.model.input(&encoder.ids(prompts, window)?)?);
            }
        }
        Ok(TextInput(all))
    }

    /// The states of an input that is where the encoders are, as [`TextEncoders::encode_on`] gives those of its prompts; nothing
    /// comes from the host.
    ///
    /// # Errors
    /// As [`ClipText::forward_input`].
    pub fn encode_input(&self, tape: &Tape, input: &TextInput) -> Result<Conditions> {
        let mut all: Option<Conditions> = None;
        for part in input.0.chunks(self.encoders.len()) {
            let output = self.encoders[0].model.forward_input(tape, &part[0])?;
            let (context, pooled) = self.chosen(tape, 0, output, 0)?;
            let states = match self.encoders.get(1) {
                None => Conditions { context, pooled },
                Some(second) => {
                    let output = second.model.forward_input(tape, &part[1])?;
                    let (others, pooled) = self.chosen(tape, 1, output, 0)?;
                    Conditions { context: ops::concat_channels(tape, &context, &others)?, pooled }
                }
            };
            all = Some(match all {
                None => states,
                Some(before) => before.followed_by(tape, &states.context)?,
            });
        }
        all.ok_or_else(|| Error::shape("encode", "no window of text"))
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

    /// The mean of a prompt's states `[t, d]` over its own tokens, in its `parts` windows.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn pooled(&self, prompt: &str, states: &Tensor, parts: usize) -> Result<Vec<f64>> {
        let tokenizer = &self.encoders[0].tokenizer;
        let ids = |window| match parts {
            1 => tokenizer.encode(prompt),
            _ => tokenizer.encode_window(prompt, window),
        };
        let ids: Vec<Vec<i64>> = (0..parts).map(|window| Ok(ids(window)?.ids)).collect::<Result<_>>()?;
        let [_, width] = states.dims("gate")?;
        Ok(gate::pooled(&states.to_cpu()?.reals::<f64>(), width, &ids, tokenizer.end()))
    }

    fn encode_window(
        &self,
        tape: &Tape,
        prompts: &[String],
        second: Option<&[String]>,
        clip_skip: usize,
        window: Option<usize>,
    ) -> Result<Conditions> {
        let ids = self.encoders[0].ids(prompts, window)?;
        let (context, pooled) = self.states(tape, 0, ids, clip_skip)?;
        if !self.is_xl() {
            return Ok(Conditions { context, pooled });
        }
        let ids = self.encoders[1].ids(second.unwrap_or(prompts), window)?;
        let (others, pooled) = self.states(tape, 1, ids, clip_skip)?;
        Ok(Conditions { context: ops::concat_channels(tape, &context, &others)?, pooled })
    }

    /// What encoder number `number` adds to the text states `[n, 77, d]` of these ids, and the pooled text where it gives one.
    ///
    /// # Errors
    /// [`Error::Usage`] where the encoder has no layer left.
    pub(super) fn states(
        &self,
        tape: &Tape,
        number: usize,
        ids: Tensor,
        clip_skip: usize,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let output = self.encoders[number].model.forward(tape, &ids)?;
        self.chosen(tape, number, output, clip_skip)
    }

    /// Of what encoder number `number` gives, that which the UNet is told: as [`TextEncoders::states`].
    fn chosen(
        &self,
        tape: &Tape,
        number: usize,
        output: ClipOutput,
        clip_skip: usize,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let encoder = &self.encoders[number].model;
        let layers = output.hidden_states.len() - 1;
        if number == 0 && clip_skip >= layers {
            let message = format!("--clip-skip {clip_skip}: the text encoder has {layers} layers");
            return Err(Error::Usage(message));
        }
        if self.is_xl() {
            let pooled = if number == 1 { output.text_embeds.clone() } else { None };
            return Ok((from_end(&output, clip_skip + 2).clone(), pooled));
        }
        let context = match clip_skip {
            0 => output.last_hidden_state,
            k => encoder.final_layer_norm(tape, from_end(&output, k + 1))?,
        };
        Ok((context, None))
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
    fn ids(&self, prompts: &[String], window: Option<usize>) -> Result<Tensor> {
        let mut ids = Vec::new();
        for prompt in prompts {
            let encoded = match window {
                Some(window) => self.tokenizer.encode_window(prompt, window)?,
                None => self.tokenizer.encode(prompt)?,
            };
            ids.extend(encoded.ids);
        }
        let length = ids.len() / prompts.len().max(1);
        Ok(Tensor::new(ids, &[prompts.len(), length]))
    }
}

/// `hidden_states[-depth]`.
fn from_end(output: &ClipOutput, depth: usize) -> &Tensor {
    let states = &output.hidden_states;
    &states[states.len().saturating_sub(depth)]
}
