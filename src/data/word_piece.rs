//! The uncased BERT tokenizer of BLIP and ImageReward, from `vocab.txt`.
//!
//! Sources: google-research/bert `tokenization.py`; salesforce/BLIP and ImageReward for the two added tokens and the
//! preparation of questions.

use std::path::Path;

use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::WordPiece as Model;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Decoder as _};

use crate::error::{Error, Result};

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Added to BERT's by BLIP, with the two ids after the vocabulary.
const ADDED: [&str; 2] = ["[DEC]", "[ENC]"];
/// Longest question of BLIP-VQA in words.
const QUESTION_WORDS: usize = 50;

pub struct WordPiece {
    inner: tokenizers::Tokenizer,
    vocabulary: usize,
    pub pad: i64,
    pub cls: i64,
    pub sep: i64,
    pub dec: i64,
    pub enc: i64,
}

/// The ids of one text at a fixed length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded {
    /// `[CLS]`, pieces, `[SEP]`, padding.
    pub ids: Vec<i64>,
    /// 1 for an id of the text, 0 for padding.
    pub mask: Vec<i64>,
    /// Pieces that did not fit.
    pub dropped: usize,
}

impl WordPiece {
    /// Reads `vocab.txt`, a piece a line.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where a special token is missing from it.
    pub fn load(vocab: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(vocab).map_err(|e| Error::io(vocab, e))?;
        Self::from_text(&text, vocab)
    }

    /// That of bert-base-uncased, which is part of this program.
    ///
    /// # Errors
    /// None that the vocabulary is known to cause.
    pub fn bert() -> Result<Self> {
        Self::from_text(include_str!("../../assets/bert/vocab.txt"), Path::new("bert-base-uncased"))
    }

    fn from_text(text: &str, vocab: &Path) -> Result<Self> {
        let pieces: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
        if let Some(token) = SPECIAL.iter().find(|token| !pieces.contains(token)) {
            return Err(Error::file(vocab, format!("no piece {token}; expected BERT's vocabulary, a piece a line")));
        }
        let ids = pieces.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), id as u32));
        let ids: tokenizers::models::bpe::Vocab = ids.collect();
        let model = Model::builder().vocab(ids).unk_token("[UNK]".into()).build();
        let model = model.map_err(|e| Error::file(vocab, e.to_string()))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(BertNormalizer::new(true, true, Some(true), true)));
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        let token = |content: &&str| AddedToken::from(*content, true).normalized(false);
        let special: Vec<AddedToken> = SPECIAL.iter().chain(&ADDED).map(token).collect();
        inner.add_special_tokens(&special);
        let id = |token: &str| {
            let id = inner.token_to_id(token).ok_or_else(|| Error::file(vocab, format!("no id for {token}")));
            id.map(i64::from)
        };
        let [pad, cls, sep, dec, enc] = [id("[PAD]")?, id("[CLS]")?, id("[SEP]")?, id("[DEC]")?, id("[ENC]")?];
        Ok(Self { vocabulary: pieces.len(), inner, pad, cls, sep, dec, enc })
    }

    /// Pieces in `vocab.txt`, without the two added tokens.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The id of a piece or special token.
    pub fn id(&self, piece: &str) -> Option<i64> {
        self.inner.token_to_id(piece).map(i64::from)
    }

    /// The pieces alone.
    ///
    /// # Errors
    /// [`Error::Failed`] if the library refuses, which no text is known to cause.
    pub fn pieces(&self, text: &str) -> Result<Vec<i64>> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| Error::Failed(format!("cannot tokenize `{text}`: {e}")))?;
        Ok(encoding.get_ids().iter().map(|&id| i64::from(id)).collect())
    }

    /// `[CLS]`, all pieces, `[SEP]`.
    ///
    /// # Errors
    /// As [`WordPiece::pieces`].
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let pieces = self.pieces(text)?;
        Ok([&[self.cls], &pieces[..], &[self.sep]].concat())
    }

    /// The same cut and padded to `length`.
    ///
    /// # Errors
    /// As [`WordPiece::pieces`].
    ///
    /// # Panics
    /// If `length` is below 2.
    pub fn encode_padded(&self, text: &str, length: usize) -> Result<Padded> {
        let pieces = self.pieces(text)?;
        let kept = pieces.len().min(length - 2);
        let mut ids = [&[self.cls], &pieces[..kept], &[self.sep]].concat();
        let mut mask = vec![1; ids.len()];
        ids.resize(length, self.pad);
        mask.resize(length, 0);
        Ok(Padded { ids, mask, dropped: pieces.len() - kept })
    }

    /// Text without special tokens: words joined by blanks, `##` pieces glued, no blank before `. ? ! ,`.
    ///
    /// # Errors
    /// As [`WordPiece::pieces`].
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let special = |token: &String| !SPECIAL.iter().chain(&ADDED).any(|special| special == token);
        let tokens = ids.iter().filter_map(|&id| self.inner.id_to_token(u32::try_from(id).ok()?));
        let decoder = Decoder::new("##".into(), true);
        decoder.decode(tokens.filter(special).collect()).map_err(|e| Error::Failed(format!("cannot decode ids: {e}")))
    }
}

/// A question as the original BLIP-VQA prepares it: lower case, without `. ! " ( ) * # : ; ~`, at most 50 words.
pub fn prepared_question(question: &str) -> String {
    let kept: String = question.to_lowercase().chars().filter(|c| !".!\"()*#:;~".contains(*c)).collect();
    let words: Vec<&str> = kept.trim_end_matches(' ').split(' ').take(QUESTION_WORDS).collect();
    words.join(" ")
}
