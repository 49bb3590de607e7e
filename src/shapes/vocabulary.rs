//! The words of this world, and the CLIP tokenizer made of them: every word of [`WORDS`] is one token.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// Every word that the writer uses, or that the parser understands.
#[rustfmt::skip]
pub const WORDS: [&str; 237] = [
    "a", "above", "against", "alone", "along", "an", "and", "appear", "appears", "are", "artist", "at", "back",
    "background", "be", "behind", "below", "beneath", "beside", "between", "big", "black", "blue", "both", "bottom",
    "box", "but", "by", "calm", "can", "center", "centered", "centre", "circle", "circles", "clean", "collection",
    "color", "colored", "colors", "colour", "coloured", "colours", "contain", "containing", "contains", "corner",
    "couple", "cross", "crosses", "cyan", "dark", "diamond", "diamonds", "different", "drawing", "drawings", "drawn",
    "draws", "dream", "drew", "each", "else", "empty", "every", "everything", "exactly", "expect", "few", "find",
    "first", "five", "floating", "four", "from", "front", "full", "funny", "gray", "green", "grey", "group", "has",
    "have", "heart", "hearts", "here", "hidden", "high", "hold", "holding", "holds", "huge", "i", "image", "images",
    "imagine", "in", "inside", "into", "is", "it", "its", "just", "large", "larger", "left", "lies", "light", "line",
    "little", "living", "lone", "look", "looks", "low", "lower", "many", "medium", "middle", "minimal", "more",
    "near", "nearby", "next", "nice", "no", "not", "nothing", "object", "objects", "odd", "oddly", "of", "on", "one",
    "only", "orange", "other", "out", "outside", "over", "page", "painted", "painting", "pair", "photo", "picture",
    "pictures", "pink", "placed", "plain", "plus", "poster", "pretty", "purple", "quick", "rare", "red", "right",
    "round", "row", "same", "scene", "second", "see", "seen", "set", "shade", "shaded", "shape", "shapes", "show",
    "shown", "shows", "side", "sides", "simple", "single", "sit", "sits", "sitting", "sketch", "small", "smaller",
    "solid", "some", "someone", "square", "squares", "stand", "standing", "stands", "star", "stars", "strange",
    "strangely", "surprising", "tall", "that", "the", "their", "them", "there", "these", "they", "third", "this",
    "those", "three", "tiny", "to", "together", "top", "triangle", "triangles", "trio", "turned", "two", "under",
    "underneath", "unusual", "up", "upper", "very", "view", "we", "which", "white", "who", "wide", "with", "within",
    "without", "would", "yellow", "you",
];

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const END_OF_WORD: &str = "</w>";

/// The texts of a CLIP tokenizer's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `vocab.json`
    pub vocab: String,
    /// `merges.txt`
    pub merges: String,
    /// `tokenizer_config.json`
    pub config: String,
    /// `special_tokens_map.json`
    pub special_tokens: String,
}

/// The files of the tokenizer, in CLIP's order: the bytes, the bytes at the end of a word, one token a merge, start and
/// end of text.
pub fn tokenizer_files() -> TokenizerFiles {
    let bytes = byte_symbols();
    let merges = learn_merges(&WORDS);
    let ended = bytes.iter().map(|symbol| format!("{symbol}{END_OF_WORD}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let tokens = bytes.iter().cloned().chain(ended).chain(merged).chain([START.into(), END.into()]);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let lines: Vec<_> = merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
    let special = json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END });
    let mut config = special.clone();
    config["tokenizer_class"] = json!("CLIPTokenizer");
    config["model_max_length"] = json!(77);
    config["do_lower_case"] = json!(true);
    config["add_prefix_space"] = json!(false);
    TokenizerFiles {
        vocab: Value::Object(vocab).to_string(),
        merges: format!("#version: 0.2\n{}", lines.concat()),
        config: config.to_string(),
        special_tokens: special.to_string(),
    }
}

/// The tokenizer of [`tokenizer_files`].
///
/// # Errors
/// As [`Tokenizer::from_texts`], which its own files are not known to cause.
pub fn tokenizer() -> Result<Tokenizer> {
    let files = tokenizer_files();
    let config = serde_json::from_str(&files.config).expect("written as JSON above");
    Tokenizer::from_texts(&files.vocab, &files.merges, &config, Path::new("shapes/tokenizer"))
}

/// GPT-2's printable symbol for each byte, in CLIP's order: the printable ones as themselves, then the others from
/// U+0100 on. Source: openai/CLIP, simple_tokenizer.py, `bytes_to_unicode`.
fn byte_symbols() -> Vec<String> {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..256).filter(|byte| !printable(byte)).count() as u32;
    let code_points = (0..256).filter(printable).chain(256..256 + others);
    code_points.map(|code| char::from_u32(code).expect("below the surrogates").to_string()).collect()
}

/// Byte-pair encoding until every word is one symbol: the most frequent pair first, ties in alphabetical order.
/// Source: Sennrich, Haddow & Birch 2016, arXiv:1508.07909, algorithm 1.
fn learn_merges(words: &[&str]) -> Vec<(String, String)> {
    let mut words: Vec<Vec<String>> = words.iter().map(|word| symbols(word)).collect();
    let mut merges = Vec::new();
    loop {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((&pair[0], &pair[1])).or_default() += 1;
        }
        // The first of the most frequent: `max_by_key` would take the last.
        let Some((&(left, right), _)) = counts.iter().rev().max_by_key(|(_, count)| **count) else {
            return merges;
        };
        let (left, right) = (left.to_owned(), right.to_owned());
        for word in &mut words {
            merge(word, &left, &right);
        }
        merges.push((left, right));
    }
}

/// "c", "a", "t</w>"
fn symbols(word: &str) -> Vec<String> {
    let mut symbols: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = symbols.last_mut() {
        last.push_str(END_OF_WORD);
    }
    symbols
}

fn merge(word: &mut Vec<String>, left: &str, right: &str) {
    let mut i = 0;
    while i + 1 < word.len() {
        if word[i] == left && word[i + 1] == right {
            word[i].push_str(right);
            word.remove(i + 1);
        }
        i += 1;
    }
}
