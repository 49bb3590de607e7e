//! Choices: of `{red|blue}` an image gets one, by its seed and index.

use crate::error::{Error, Result};
use crate::random::{self, Stream};

/// The text with one alternative of each choice; choices may be nested, `\{` is a brace of the text. `draws` counts those that
/// were made of this image.
///
/// # Errors
/// [`Error::Usage`] for a choice that is not closed, and for `{2$$a|b}`, which takes several.
pub fn chosen(text: &str, seed: u64, index: u64, draws: &mut u64) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '\\']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(escaped) = rest.strip_prefix('\\') {
            let brace = escaped.starts_with(['{', '}']);
            // Of brackets the backslash is read later.
            out.push_str(if brace { &escaped[..1] } else { "\\" });
            let next = escaped.chars().next().map_or(0, char::len_utf8);
            if !brace {
                out.push_str(&escaped[..next]);
            }
            rest = &escaped[next..];
            continue;
        }
        let (alternatives, length) = alternatives(rest)?;
        match alternatives[..] {
            // Braces around one thing are no choice.
            [only] => out += &format!("{{{}}}", chosen(only, seed, index, draws)?),
            _ => {
                let taken = random::below(seed, Stream::Wildcard, index, *draws, alternatives.len() as u32);
                *draws += 1;
                out += &chosen(alternatives[taken as usize], seed, index, draws)?;
            }
        }
        rest = &rest[length..];
    }
    Ok(out + rest)
}

/// The alternatives of the choice that `text` begins with, and how long it is.
fn alternatives(text: &str) -> Result<(Vec<&str>, usize)> {
    let (mut found, mut begin, mut depth, mut escaped) = (Vec::new(), 1, 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '|' if depth == 1 => {
                found.push(&text[begin..at]);
                begin = at + 1;
            }
            '}' if depth == 1 => {
                found.push(&text[begin..at]);
                if let Some(several) = found.iter().find(|one| one.contains("$$")) {
                    let message =
                        format!("{{{several}...}} of a prompt takes several of a choice, which selma does not do");
                    return Err(Error::Usage(message));
                }
                return Ok((found, at + 1));
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    let message = format!("`{text}` of a prompt has a {{ that is not closed; write \\{{ for a brace of the text");
    Err(Error::Usage(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, seed: u64) -> String {
        chosen(text, seed, 0, &mut 0).unwrap()
    }

    #[test]
    fn one_of_each_choice_is_taken_by_the_seed() {
        let all: std::collections::BTreeSet<String> =
            (0..40).map(|seed| of("a {red|blue|{dark|light} green} cat", seed)).collect();
        let expected = ["a blue cat", "a dark green cat", "a light green cat", "a red cat"];
        assert_eq!(all.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(of("a {red|blue} cat", 7), of("a {red|blue} cat", 7));
        // Two choices of one prompt are independent.
        let pairs: std::collections::BTreeSet<String> = (0..40).map(|seed| of("{a|b}{a|b}", seed)).collect();
        assert_eq!(pairs.len(), 4);
    }

    #[test]
    fn braces_of_the_text_stay() {
        assert_eq!(of("\\{a|b\\} \\(c\\) {d} é", 0), "{a|b} \\(c\\) {d} é");
        for text in ["{a|b", "{2$$a|b}"] {
            assert!(chosen(text, 0, 0, &mut 0).is_err(), "{text}");
        }
    }
}
