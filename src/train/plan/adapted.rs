//! What a run trains.

use crate::error::Result;
use crate::formats::model_dir::ModelDir;
use crate::lora::{BaseModules, Expert};
use crate::nn::{ClipConfig, Config};
use crate::train::config::{Chosen, TrainConfig};
use crate::train::tokens::TokenSettings;

/// What is trained, and on how long texts.
pub struct Adapted {
    /// What gets a LoRA layer.
    pub chosen: Vec<Chosen>,
    /// Values of all layers.
    pub trained: usize,
    /// Tokens of a caption: 77 a window.
    pub text: usize,
    /// Whether text encoders stay in memory for captions that vary.
    pub texts_vary: bool,
    /// Bytes that the largest image takes while it is decoded and scaled.
    pub image: u64,
    /// Values of embeddings that are learned.
    pub rows: usize,
}

impl Adapted {
    /// The layers of `start`, or those that the settings ask for, in the model whose `modules` have these shapes.
    ///
    /// # Errors
    /// As [`TrainConfig::chosen`].
    pub fn new(
        config: &TrainConfig,
        start: Option<&Expert>,
        modules: &BaseModules,
        (text, texts_vary): (usize, bool),
        image: u64,
    ) -> Result<Self> {
        let chosen = config.chosen(start, modules)?;
        let values = |chosen: &Chosen| {
            let shape = modules.get(chosen.component).and_then(|modules| modules.get(&chosen.module));
            let lengths = |shape: &Vec<usize>| if config.dora { shape[0] } else { 0 };
            shape.map_or(0, |shape| chosen.rank * (shape[0] + shape[1..].iter().product::<usize>()) + lengths(shape))
        };
        Ok(Self { trained: chosen.iter().map(values).sum(), chosen, text, texts_vary, image, rows: 0 })
    }

    /// The same of a run that learns tokens, which may train no layer.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a text encoder that cannot be read.
    pub fn with_tokens(mut self, tokens: &TokenSettings, files: &ModelDir) -> Result<Self> {
        if !tokens.lora {
            (self.chosen, self.trained) = (Vec::new(), 0);
        }
        for config in text_configs(files)? {
            self.rows += tokens.tokens.len() * tokens.vectors * config.hidden_size;
        }
        Ok(self)
    }

    /// Whether text encoders take part in training.
    pub(super) fn trains_texts(&self) -> bool {
        self.rows > 0 || self.chosen.iter().any(|chosen| chosen.component != "unet")
    }

    /// The modules of the UNet.
    pub(super) fn of_unet(&self) -> impl Iterator<Item = &Chosen> {
        self.chosen.iter().filter(|chosen| chosen.component == "unet")
    }
}

/// The configurations of a model's text encoders.
pub(super) fn text_configs(files: &ModelDir) -> Result<Vec<ClipConfig>> {
    let folders = std::iter::once(&files.text_encoder).chain(&files.text_encoder_2);
    folders.map(|folder| ClipConfig::parse(&Config::open(&folder.join("config.json"))?)).collect()
}
