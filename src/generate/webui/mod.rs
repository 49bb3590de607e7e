//! The prompt syntax of AUTOMATIC1111's webui: `(word:1.3)`, `[word]`, `BREAK`, `<lora:name:0.8>`, and `{a|b}` as its extension for
//! dynamic prompts has it. It is read where it is asked for only: a caption may have such marks without meaning them.

mod attention;
mod encode;
mod loras;
mod wildcards;
mod windows;

pub use attention::{Fragment, attention};
pub use loras::{Tag, find};
pub use wildcards::chosen;

use std::path::PathBuf;

use super::loras::Strength;
use super::request::Request;
use crate::error::{Error, Result};

/// How prompts are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Syntax {
    /// Every character is text.
    #[default]
    Plain,
    /// With the marks of webui.
    Webui {
        /// Folders in which the names of `<lora:NAME:SCALE>` are looked for.
        lora_folders: Vec<PathBuf>,
    },
}

/// A prompt and its negative one, as their marks say.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    pub positive: Vec<Fragment>,
    pub negative: Option<Vec<Fragment>>,
}

impl Syntax {
    /// Reads the marks of a request: choices are made by its seed and index, LoRAs are found, weights are parsed. What its prompt
    /// then says is what the image is made of.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the mark that cannot be understood, or a LoRA that is in no folder.
    pub(super) fn read(&self, request: &mut Request) -> Result<()> {
        let Self::Webui { lora_folders } = self else { return Ok(()) };
        let (seed, index) = (request.generation.seed, request.index);
        let mut draws = 0;
        request.prompt = chosen(&request.prompt, seed, index, &mut draws)?;
        let (words, tags) = loras::split(&request.prompt)?;
        for Tag { name, scale } in tags {
            request.loras.push(Strength { path: find(&name, lora_folders)?, scale });
        }
        let positive = attention(&words)?;
        let negative = match &mut request.generation.negative {
            None => None,
            Some(negative) => {
                *negative = chosen(negative, seed, index, &mut draws)?;
                if !loras::split(negative)?.1.is_empty() {
                    let message = "a negative prompt names a LoRA; give <lora:NAME:SCALE> in the prompt itself";
                    return Err(Error::Usage(message.into()));
                }
                Some(attention(negative)?)
            }
        };
        request.weighted = Some(Weighted { positive, negative });
        Ok(())
    }
}

/// Whether a text has what webui would read as a mark.
pub fn has_marks(text: &str) -> bool {
    let weighted = || {
        text.match_indices('(').any(|(at, _)| {
            let inner = text[at + 1..].split([')', '(']).next().unwrap_or_default();
            inner.rsplit_once(':').is_some_and(|(_, weight)| weight.trim().parse::<f64>().is_ok())
        })
    };
    let choice = || {
        text.match_indices('{').any(|(at, _)| {
            let inner = text[at + 1..].split('}').next().unwrap_or_default();
            inner.len() < text.len() - at - 1 && inner.contains('|')
        })
    };
    text.contains("<lora:")
        || text.contains("((")
        || text.split_whitespace().any(|word| word == "BREAK")
        || weighted()
        || choice()
}

#[cfg(test)]
mod tests {
    use super::has_marks;

    #[test]
    fn marks_are_seen_and_captions_are_left_alone() {
        for text in ["a (cat:1.3)", "((a cat))", "a BREAK b", "<lora:style:0.8> a", "a {red|blue} cat", "(a: 0.5 )"] {
            assert!(has_marks(text), "{text}");
        }
        for text in
            ["a cat (asleep)", "a [sic] sign", "at 10:30", "BREAKFAST", "{a}", "a | b", "(note: see below)", "{a|b"]
        {
            assert!(!has_marks(text), "{text}");
        }
    }
}
