//! The CLIP tokenizer: byte-pair encoding, 77 ids with start and end of text, as `transformers.CLIPTokenizer` builds it
//! from `vocab.json`, `merges.txt` and `tokenizer_config.json`.
//!
//! Source: transformers 5.23, models/clip/tokenization_clip.py.

mod parts;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};

use crate::data::{clip_vocabulary, windows};
use crate::error::{Error, Result};
use crate::formats::component::{self, in_checkpoint};
use crate::tensor::Tensor;

use parts::{max_length, normalizer, of_whole, parse_merges, pre_tokenizer, special_token, text_of};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Text to ids of fixed length.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: i64,
    end: i64,
    pad: i64,
    max_length: usize,
    /// Added tokens of several vectors, each with the tokens that it stands for.
    vectors: Vec<(String, String)>,
}

/// The ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// `max_length` ids: start of text, the text, end of text, padding.
    pub ids: Vec<i64>,
    /// Ids of the text that did not fit.
    pub dropped: usize,
}

/// The ids of several texts.
#[derive(Debug)]
pub struct EncodedBatch {
    /// `[n, max_length]` i64.
    pub ids: Tensor,
    /// How many of the texts were cut.
    pub overlong: usize,
}

impl Tokenizer {
    /// Loads a diffusers `tokenizer` folder.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing; [`Error::File`] if one is not what it should be.
    pub fn load(dir: &Path) -> Result<Self> {
        Self::load_with_vocab(dir, dir)
    }

    /// CLIP's own, whose vocabulary is part of this program.
    ///
    /// # Errors
    /// None that the vocabulary is known to cause.
    pub fn clip() -> Result<Self> {
        Self::new(clip_vocabulary::ids(), clip_vocabulary::MERGES, &Value::Null, Path::new("CLIP"))
    }

    /// Loads the configuration from `dir`, and `vocab.json` and `merges.txt` from `vocab_dir`, or where those are missing
    /// `tokenizer.json`: transformers from 5.0 on saves nothing else.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn load_with_vocab(dir: &Path, vocab_dir: &Path) -> Result<Self> {
        let config = component::json(&dir.join("tokenizer_config.json"))?;
        if in_checkpoint(vocab_dir).is_some() {
            // Checkpoints come without their vocabulary, which is CLIP's.
            return Self::new(clip_vocabulary::ids(), clip_vocabulary::MERGES, &config, vocab_dir);
        }
        let whole = vocab_dir.join("tokenizer.json");
        if !vocab_dir.join("vocab.json").exists() && whole.exists() {
            let (vocab, merges) = of_whole(&whole)?;
            return Self::from_texts(&vocab, &merges, &config, vocab_dir);
        }
        let vocab = text_of(&vocab_dir.join("vocab.json"))?;
        let merges = text_of(&vocab_dir.join("merges.txt"))?;
        Self::from_texts(&vocab, &merges, &config, vocab_dir)
    }

    /// Builds one from the texts of `vocab.json` and `merges.txt` and from the value of `tokenizer_config.json`. `from`
    /// is the folder that errors name.
    ///
    /// # Errors
    /// [`Error::File`] if the vocabulary is not an object of ids, a merge is not a pair of known symbols, or a special
    /// token is missing from the vocabulary.
    pub fn from_texts(vocab: &str, merges: &str, config: &Value, from: &Path) -> Result<Self> {
        let vocab_path = from.join("vocab.json");
        // Sorted, so that nothing depends on the order of a hash table.
        let vocab: BTreeMap<String, u32> = serde_json::from_str(vocab)
            .map_err(|e| Error::file(&vocab_path, format!("expected an object of token: id: {e}")))?;
        Self::new(vocab, merges, config, from)
    }

    fn new(vocab: BTreeMap<String, u32>, merges: &str, config: &Value, from: &Path) -> Result<Self> {
        let vocab_path = from.join("vocab.json");
        let merges_path = from.join("merges.txt");
        let config_path = from.join("tokenizer_config.json");
        let id_of = |token: &str| match vocab.get(token) {
            Some(&id) => Ok(i64::from(id)),
            None => Err(Error::file(&vocab_path, format!("no token `{token}`, which the tokenizer needs"))),
        };
        let special = |key: &str, default: &str| special_token(config, key, default);
        let bos = special("bos_token", START);
        let eos = special("eos_token", END);
        let unk = special("unk_token", END);
        let pad = special("pad_token", END);
        let [start, end, _, pad_id] =
            [id_of(&bos.content)?, id_of(&eos.content)?, id_of(&unk.content)?, id_of(&pad.content)?];
        let model = BPE::builder()
            .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), parse_merges(merges, &merges_path)?)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".into())
            .unk_token(unk.content.clone())
            .build()
            .map_err(|e| Error::file(&merges_path, format!("does not fit vocab.json: {e}")))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(normalizer()?));
        inner.with_pre_tokenizer(Some(pre_tokenizer()?));
        // The pad token is special like the others. With "!" as pad token (SD2, SDXL's second tokenizer) every "!" in a
        // text is therefore cut out and becomes the pad id.
        inner.add_special_tokens(&[bos, eos, unk, pad]);
        Ok(Self { inner, start, end, pad: pad_id, max_length: max_length(config, &config_path)?, vectors: Vec::new() })
    }

    /// Adds a token of `vectors` vectors, which is found in texts before all other tokens are, in the letters that it has.
    /// Those after the first are called `TOKEN_1`, `TOKEN_2`, as in diffusers. Their ids follow all others; the first is
    /// returned.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that is empty or has white space, or that the vocabulary has already.
    pub fn add_token(&mut self, token: &str, vectors: usize) -> Result<i64> {
        if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let message = format!("`{token}` cannot be a token; expected a name without white space, such as <robin>");
            return Err(Error::Usage(message));
        }
        let part = |i: usize| if i == 0 { token.to_owned() } else { format!("{token}_{i}") };
        let names: Vec<String> = (0..vectors).map(part).collect();
        if let Some(known) = names.iter().find(|name| self.inner.token_to_id(name).is_some()) {
            return Err(Error::Usage(format!("the tokenizer has a token `{known}` already; choose another name")));
        }
        let new: Vec<AddedToken> =
            names.iter().map(|name| AddedToken::from(name.clone(), false).normalized(false)).collect();
        self.inner.add_tokens(&new);
        if vectors > 1 {
            self.vectors.push((token.to_owned(), names.join(" ")));
        }
        self.inner.token_to_id(token).map(i64::from).ok_or_else(|| Error::Failed(format!("`{token}` was not added")))
    }

    /// The id that ends a text.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Ids in one encoded text: 77.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The text's own ids, all of them, without start, end and padding.
    ///
    /// # Errors
    /// [`Error::Failed`] if the library refuses, which no text is known to cause.
    pub fn tokens(&self, text: &str) -> Result<Vec<i64>> {
        let mut text = std::borrow::Cow::Borrowed(text);
        for (token, parts) in &self.vectors {
            if text.contains(token.as_str()) {
                text = text.replace(token.as_str(), parts).into();
            }
        }
        let encoding = self
            .inner
            .encode_fast(&*text, false)
            .map_err(|e| Error::Failed(format!("cannot tokenize `{text}`: {e}")))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// Start of text, as many ids as fit, end of text, padding.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let tokens = self.tokens(text)?;
        Ok(self.framed(&tokens))
    }

    /// As [`Tokenizer::encode`], of window number `window` of a text of any length (see [`windows::lengths`]). Past the end of
    /// the text the window is an empty text.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn encode_window(&self, text: &str, window: usize) -> Result<Encoded> {
        let tokens = self.tokens(text)?;
        let lengths = windows::lengths(&tokens, self.capacity());
        let at: usize = lengths.iter().take(window).sum();
        let n = lengths.get(window).copied().unwrap_or(0);
        Ok(self.framed(&tokens[at..at + n]))
    }

    /// How many windows a text has: 1 where it fits.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn windows(&self, text: &str) -> Result<usize> {
        Ok(windows::lengths(&self.tokens(text)?, self.capacity()).len())
    }

    /// What fits of `tokens` between start and end, padded.
    pub fn framed(&self, tokens: &[i64]) -> Encoded {
        let kept = tokens.len().min(self.capacity());
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.start);
        ids.extend(&tokens[..kept]);
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        Encoded { ids, dropped: tokens.len() - kept }
    }

    /// Ids of a text that fit between start and end: 75.
    pub fn capacity(&self) -> usize {
        self.max_length - 2
    }

    /// Several texts as one `[n, max_length]` tensor, and how many of them were too long.
    ///
    /// # Errors
    /// As [`Tokenizer::tokens`].
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S]) -> Result<EncodedBatch> {
        let mut ids = Vec::with_capacity(texts.len() * self.max_length);
        let mut overlong = 0;
        for text in texts {
            let encoded = self.encode(text.as_ref())?;
            ids.extend(encoded.ids);
            overlong += usize::from(encoded.dropped > 0);
        }
        let ids = Tensor::new(ids, &[texts.len(), self.max_length]);
        Ok(EncodedBatch { ids, overlong })
    }
}
