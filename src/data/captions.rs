//! What is known of the captions of a dataset before training: how long they are.

use std::path::Path;

use super::dataset::Dataset;
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::formats::model_dir::ModelDir;

/// Captions that are named; of more, only their number.
const NAMED: usize = 3;

/// The lengths of all captions, in the tokens of a model.
pub struct Captions {
    /// Tokens of a window, start and end included: 77.
    pub window: usize,
    /// Windows that the longest caption takes.
    pub windows: usize,
    /// Image and tokens of every caption that takes more than one window.
    pub long: Vec<(String, usize)>,
    /// Tokens of a caption that fit into one window.
    pub capacity: usize,
    all: usize,
    tokenizers: Vec<Tokenizer>,
}

impl Captions {
    /// Counts the tokens of every caption. With two text encoders the longer count of both is taken.
    ///
    /// # Errors
    /// As [`Tokenizer::load_with_vocab`].
    pub fn survey(dataset: &Dataset, files: &ModelDir, vocab: Option<&Path>) -> Result<Self> {
        let folders = std::iter::once(&files.tokenizer).chain(&files.tokenizer_2);
        let tokenizers = folders.map(|folder| Tokenizer::load_with_vocab(folder, vocab.unwrap_or(folder)));
        let tokenizers = tokenizers.collect::<Result<Vec<_>>>()?;
        let capacity = tokenizers.iter().map(Tokenizer::capacity).min().unwrap_or(1);
        let mut longest = 0;
        let mut long = Vec::new();
        for sample in dataset.samples() {
            let mut tokens = 0;
            for caption in &sample.captions {
                let caption = dataset.subset(sample).variation.whole(caption);
                // No token is shorter than a byte.
                if caption.len() > capacity {
                    tokens = tokens.max(count(&tokenizers, &caption)?);
                }
            }
            longest = longest.max(tokens);
            if tokens > capacity {
                long.push((sample.name(), tokens));
            }
        }
        let window = tokenizers.iter().map(Tokenizer::max_length).max().unwrap_or(0);
        let windows = longest.div_ceil(capacity).max(1);
        Ok(Self { window, windows, long, capacity, all: dataset.len(), tokenizers })
    }

    /// The tokens of another text of this model.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn tokens(&self, text: &str) -> Result<usize> {
        count(&self.tokenizers, text)
    }

    /// What to say of long captions: that they are cut, or that they are encoded in windows.
    pub fn notes(&self, long_prompts: bool) -> Vec<String> {
        if self.long.is_empty() {
            return Vec::new();
        }
        let named: Vec<String> =
            self.long.iter().take(NAMED).map(|(name, tokens)| format!("{name} ({tokens} tokens)")).collect();
        let more = match self.long.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (count, all, capacity, named) = (self.long.len(), self.all, self.capacity, named.join(", "));
        vec![match long_prompts {
            true => format!(
                "{count} of {all} captions have more than {capacity} tokens: all are encoded in {} windows",
                self.windows
            ),
            false => format!(
                "warning: {count} of {all} captions have more than {capacity} tokens, and the rest is cut off: \
                 {named}{more}; --long-prompts uses all of it"
            ),
        }]
    }
}

/// The tokens of a text, by the tokenizer that gives most.
fn count(tokenizers: &[Tokenizer], text: &str) -> Result<usize> {
    let counts: Vec<usize> =
        tokenizers.iter().map(|tokenizer| Ok(tokenizer.tokens(text)?.len())).collect::<Result<_>>()?;
    Ok(counts.into_iter().max().unwrap_or(0))
}
