//! The text encoders of a run that trains them: captions are encoded where the gradient can see it.

use std::path::Path;

use super::config::TrainConfig;
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::formats::model_dir::ModelDir;
use crate::generate::{Conditions, TextEncoders, TextInput};
use crate::tensor::DType;

/// Text encoders, and how they read captions.
pub struct TrainedTexts {
    pub encoders: TextEncoders,
    /// Windows that every caption is encoded in.
    windows: usize,
    /// SDXL: a missing negative prompt is all zeros.
    zeros_for_empty: bool,
}

impl TrainedTexts {
    /// Loads the text encoders of a run's model to its device.
    ///
    /// # Errors
    /// As [`TextEncoders::load`]; where the device has no room.
    pub fn load(
        config: &TrainConfig,
        vocab: Option<&Path>,
        windows: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let files = ModelDir::open(Path::new(&config.model))?;
        let encoders = TextEncoders::load(&files, vocab, dtype)?;
        encoders.to(device)?;
        let zeros_for_empty = encoders.is_xl() && encoders.force_zeros_for_empty_prompt;
        Ok(Self { encoders, windows, zeros_for_empty })
    }

    /// Captions as the UNet is told about them.
    ///
    /// # Errors
    /// As [`TextEncoders::encode_on`].
    pub fn encode(&self, tape: &Tape, captions: &[String]) -> Result<Conditions> {
        self.encoders.encode_on(tape, captions, 0, self.windows)
    }

    /// What the encoders read of captions.
    ///
    /// # Errors
    /// As [`TextEncoders::input`].
    pub fn input(&self, captions: &[String]) -> Result<TextInput> {
        self.encoders.input(captions, self.windows)
    }

    /// A prompt and its negative prompt.
    ///
    /// # Errors
    /// As [`TextEncoders::encode_on`].
    pub fn of_sample(&self, prompt: &str, negative: Option<&str>) -> Result<(Conditions, Conditions)> {
        let tape = Tape::off();
        let positive = self.encode(&tape, &[prompt.to_owned()])?;
        let negative = match (negative, self.zeros_for_empty) {
            (None, true) => positive.zeros()?,
            (negative, _) => self.encode(&tape, &[negative.unwrap_or_default().to_owned()])?,
        };
        Ok((positive, negative))
    }
}
