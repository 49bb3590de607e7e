//! How a run of new tokens begins: what goes with them, where their rows start, and the state that is gone on from.

use std::path::{Path, PathBuf};

use super::{Init, TokenSettings};
use crate::data::examples::Examples;
use crate::error::{Error, Result};
use crate::formats::embeddings::Embedding;
use crate::formats::safetensors::Safetensors;
use crate::generate::TextEncoders;
use crate::tensor::{DType, Tensor};
use crate::train::branches::Branches;
use crate::train::checkpoint::{self, RunIdentity, State};
use crate::train::config::{Optimizer, TrainConfig};
use crate::train::folder::OutputFolder;
use crate::train::parameters::FlatParameters;
use crate::train::saved::SavedLoras;

/// The token that Diff-Mix starts all classes from, in CLIP's vocabulary, and the word in smaller ones.
const DIFF_MIX_INIT: (i64, &str) = (42_170, "object");
/// The key of the settings in a state.
pub(super) const SETTINGS: &str = "selma.tokens";

impl TokenSettings {
    /// # Errors
    /// [`Error::Usage`] for settings that do not go with new tokens.
    pub fn check(&self, config: &TrainConfig, dtype: DType) -> Result<()> {
        let refuse = |what: &str| Err(Error::Usage(format!("{what}: not together with tokens that are learned")));
        if dtype == DType::F16 {
            return Err(Error::Usage("--precision f16: tokens are learned in f32 or bf16".into()));
        }
        if config.sample_every > 0 {
            return refuse("--sample-every");
        }
        if config.ema > 0.0 {
            return refuse("--ema");
        }
        if config.optimizer != Optimizer::AdamW || !config.optimizer_args.is_empty() {
            return refuse("--optimizer other than adamw, and --optimizer-args");
        }
        if config.train_text_encoder {
            return refuse("--train-text-encoder");
        }
        if config.validates() {
            return refuse("--validation-split and --validation-data");
        }
        if self.vectors == 0 || self.vectors > 64 {
            return Err(Error::Usage(format!("--vectors {}: expected 1 to 64", self.vectors)));
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::Usage(format!("--embedding-lr {}: expected a number above 0", self.lr)));
        }
        Ok(())
    }

    /// Checks that every caption has a token, and every token a caption.
    ///
    /// # Errors
    /// [`Error::File`] naming the image whose caption has none; [`Error::Usage`] naming a token that no caption has.
    pub fn check_captions<'a>(&self, captions: impl Iterator<Item = (&'a Path, &'a str)>) -> Result<()> {
        let mut unused: Vec<&String> = self.tokens.iter().collect();
        for (image, caption) in captions {
            let before = unused.len();
            unused.retain(|token| !caption.contains(token.as_str()));
            if unused.len() == before && !self.tokens.iter().any(|token| caption.contains(token.as_str())) {
                let message = format!(
                    "its caption `{caption}` has none of the tokens that are learned ({}); write them into the captions",
                    self.tokens.join(", ")
                );
                return Err(Error::file(image, message));
            }
        }
        match unused.first() {
            None => Ok(()),
            Some(token) => Err(Error::Usage(format!("no caption has the token {token}, so it cannot be learned"))),
        }
    }
}

/// The rows that every encoder begins with.
pub(super) fn initial(encoders: &TextEncoders, settings: &TokenSettings) -> Result<Vec<Embedding>> {
    let mut starts = Vec::new();
    for encoder in &encoders.encoders {
        let ids = match &settings.init {
            Init::Text(text) => encoder.tokenizer.tokens(text)?,
            Init::DiffMix => match DIFF_MIX_INIT {
                (id, _) if id < encoder.model.config.vocab_size as i64 => vec![id],
                (_, word) => encoder.tokenizer.tokens(word)?,
            },
        };
        if ids.is_empty() {
            return Err(Error::Usage("--init-word: expected a word to start from".into()));
        }
        let mut mean = vec![0.0; encoder.model.config.hidden_size];
        for &id in &ids {
            let row = encoder.model.token(id)?.to_cpu()?;
            mean.iter_mut().zip(row.reals::<f32>().iter()).for_each(|(m, x)| *m += x / ids.len() as f32);
        }
        starts.push(mean);
    }
    let rows = |start: &Vec<f32>| Tensor::new(start.repeat(settings.vectors), &[settings.vectors, start.len()]);
    let embedding = |token: &String| Embedding { token: token.clone(), rows: starts.iter().map(rows).collect() };
    Ok(settings.tokens.iter().map(embedding).collect())
}

/// Where the states of embeddings are.
pub(super) fn states(folder: &OutputFolder) -> PathBuf {
    folder.states().join("tokens")
}

/// Goes on from the newest state: that of the LoRA and the embeddings of the same step, or of embeddings alone.
pub(super) fn resume_from(
    folder: &OutputFolder,
    resume: bool,
    settings: &TokenSettings,
    run: &RunIdentity,
    lora_state: Option<&State>,
    rows: &mut FlatParameters,
    lora: &mut Option<(FlatParameters, Branches, SavedLoras)>,
) -> Result<()> {
    let saved = checkpoint::list(&states(folder))?;
    let wanted = match (&lora, lora_state) {
        (None, Some(_)) => {
            let message = "holds the state of a run that trains a LoRA; choose another --out";
            return Err(Error::file(folder.join(""), message));
        }
        // Nothing of the LoRA was saved yet.
        (Some(_), None) => return Ok(()),
        (Some(_), Some(state)) => saved.iter().find(|path| checkpoint::step_of(path) == Some(state.step)),
        (None, None) => saved.last(),
    };
    let Some(path) = wanted else {
        return match lora_state {
            None => Ok(()),
            Some(_) => {
                Err(Error::file(folder.join(""), "holds the state of a run without these tokens; choose another --out"))
            }
        };
    };
    if !resume {
        let message = "is the state of an earlier run; go on with it by --resume, or choose another --out";
        return Err(Error::file(path, message));
    }
    let file = Safetensors::open(path)?;
    if file.metadata().get(SETTINGS) != Some(&serde_json::json!(settings).to_string()) {
        let message =
            "this run began with other tokens or settings of theirs; resume with those, or choose another --out";
        return Err(Error::file(path, message));
    }
    State::open(path, run)?.restore(rows)?;
    if let (Some((flat, ..)), Some(state)) = (lora, lora_state) {
        state.restore(flat)?;
    }
    Ok(())
}

/// Windows that the longest caption needs.
pub(super) fn longest(encoders: &TextEncoders, examples: &Examples) -> Result<usize> {
    let mut most = 1;
    for (_, caption) in examples.all_captions() {
        most = most.max(encoders.parts(caption)?);
    }
    Ok(most)
}
