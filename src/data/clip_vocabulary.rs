//! CLIP's byte-pair vocabulary, which every Stable Diffusion of the 1.x, 2.x and XL families reads: for checkpoints, which
//! do not carry it. It follows from the list of merges.
//!
//! Source: OpenAI CLIP (MIT licence), `simple_tokenizer.py`.

use std::collections::BTreeMap;

/// `merges.txt` of the published tokenizers.
pub const MERGES: &str = include_str!("../../assets/clip/merges.txt");

/// Token -> id: every byte, every byte at the end of a word, every merge in its order, start and end of text.
pub fn ids() -> BTreeMap<String, u32> {
    let bytes = byte_characters();
    let ends = bytes.iter().map(|c| format!("{c}</w>"));
    let merges = MERGES.lines().filter(|line| !line.starts_with("#version"));
    let merged = merges.map(|line| line.replace(' ', ""));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
    let tokens = bytes.iter().map(char::to_string).chain(ends).chain(merged).chain(special);
    tokens.zip(0..).collect()
}

/// A printable character for each byte, in the order of their ids: printable bytes as themselves, the others from 256 on.
fn byte_characters() -> Vec<char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=u8::MAX).filter(printable).map(char::from);
    let others = (0..=u8::MAX).filter(|b| !printable(b)).zip(256u32..);
    own.chain(others.filter_map(|(_, code)| char::from_u32(code))).collect()
}
