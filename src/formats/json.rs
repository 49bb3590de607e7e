//! JSON as Python writes it: `Infinity`, `-Infinity` and `NaN`, which the standard does not have, are read as strings.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where it is not JSON, or not that of a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    parse(&bytes).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// Reads JSON.
///
/// # Errors
/// Where it is not JSON, or not that of a `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(&quoted_infinities(bytes))
}

/// Puts such a word in quotes where it stands outside of a string.
fn quoted_infinities(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted: Option<Vec<u8>> = None;
    let (mut at, mut copied, mut in_string) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                if let Some(word) = WORDS.iter().find(|word| bytes[at..].starts_with(word)) {
                    let text = quoted.get_or_insert_default();
                    text.extend_from_slice(&bytes[copied..at]);
                    text.push(b'"');
                    text.extend_from_slice(word);
                    text.push(b'"');
                    at += word.len() - 1;
                    copied = at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    match quoted {
        None => Cow::Borrowed(bytes),
        Some(mut text) => {
            text.extend_from_slice(&bytes[copied..]);
            Cow::Owned(text)
        }
    }
}
