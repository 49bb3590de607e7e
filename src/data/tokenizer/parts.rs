//! What a tokenizer is made of: its files, and what normalises and cuts text.

use std::path::Path;

use serde_json::Value;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::{Error, Result};
use crate::formats::component;

/// Words, single digits, and runs of everything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Longest position table of the published text encoders, and the default where a config is silent.
const MAX_LENGTH: usize = 77;

/// The texts of `vocab.json` and `merges.txt` that a `tokenizer.json` holds.
pub(super) fn of_whole(path: &Path) -> Result<(String, String)> {
    let whole = component::json(path)?;
    let model = &whole["model"];
    let merges = model["merges"].as_array().into_iter().flatten();
    let lines = merges.map(|merge| match merge.as_array().map(Vec::as_slice) {
        // Older files have "a b", newer ones ["a", "b"].
        Some([first, second]) => Some(format!("{} {}\n", first.as_str()?, second.as_str()?)),
        _ => Some(format!("{}\n", merge.as_str()?)),
    });
    let lines: Option<String> = lines.collect();
    match (model["type"].as_str(), lines) {
        (Some("BPE"), Some(lines)) => Ok((model["vocab"].to_string(), lines)),
        _ => Err(Error::file(path, "expected byte-pair encoding as its model, with vocab and merges")),
    }
}

pub(super) fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(
            path,
            "no such file; for a model folder without the vocabulary of its tokenizer, give a folder with vocab.json and \
             merges.txt by --vocab",
        ),
        _ => Error::io(path, e),
    })
}

/// A special token of the configuration: a string, or an object with `content` in older files.
pub(super) fn special_token(config: &Value, key: &str, default: &str) -> AddedToken {
    let value = &config[key];
    let content = value.as_str().or(value["content"].as_str()).unwrap_or(default);
    let flag = |name: &str| value[name].as_bool().unwrap_or(false);
    AddedToken::from(content, true)
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"))
        .single_word(flag("single_word"))
        .normalized(flag("normalized"))
}

pub(super) fn max_length(config: &Value, path: &Path) -> Result<usize> {
    match &config["model_max_length"] {
        Value::Null => Ok(MAX_LENGTH),
        // Configurations without a limit say 1e30 here.
        value => match value.as_f64() {
            Some(length) if length >= 3.0 => Ok(length.min(MAX_LENGTH as f64) as usize),
            _ => Err(Error::file(path, format!("model_max_length is {value}, expected a number from 3 on"))),
        },
    }
}

pub(super) fn parse_merges(text: &str, path: &Path) -> Result<Vec<(String, String)>> {
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        match line.trim_end().split_once(' ') {
            Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => merges.push((a.into(), b.into())),
            _ => {
                let message = format!("line {}: expected two symbols with a space between, got `{line}`", i + 1);
                return Err(Error::file(path, message));
            }
        }
    }
    Ok(merges)
}

pub(super) fn normalizer() -> Result<Normalizers> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(own_regex)?;
    Ok(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

pub(super) fn pre_tokenizer() -> Result<PreTokenizers> {
    let pattern = SplitPattern::Regex(WORDS.into());
    let words = Split::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(own_regex)?;
    Ok(PreTokenizers::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ]))
}

fn own_regex(error: tokenizers::Error) -> Error {
    Error::Failed(format!("the tokenizer's own pattern does not compile: {error}"))
}
