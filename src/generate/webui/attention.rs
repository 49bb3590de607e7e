//! Weights of words: `(a)` is 1.1 times as strong, `[a]` 1.1 times weaker, `(a:1.3)` as strong as it says; brackets multiply.
//! `\(` is a bracket of the text. `BREAK` begins a new window of 75 tokens.

use crate::error::{Error, Result};

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Fragment {
    /// Words, and what their states are multiplied by.
    Words(String, f64),
    /// The rest begins a new window.
    Break,
}

const BRACKET: f64 = 1.1;

/// Reads the weights of a prompt. Neighbours of one weight are one fragment; brackets that are never closed reach to the end.
///
/// # Errors
/// [`Error::Usage`] for a weight that is no number, and for prompt editing and alternation, `[a:b:0.5]` and `[a|b]`.
pub fn attention(text: &str) -> Result<Vec<Fragment>> {
    let mut reader = Reader { all: Vec::new(), round: Vec::new(), square: Vec::new() };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut used = first.len_utf8();
        match first {
            '\\' => {
                // A backslash before anything else is left out.
                let escaped = rest[1..].chars().next().filter(|c| "()[]\\".contains(*c));
                reader.all.push(Piece::words(escaped.map(String::from).unwrap_or_default()));
                used += usize::from(escaped.is_some());
            }
            '(' => reader.round.push(reader.all.len()),
            '[' => {
                refuse_editing(rest)?;
                reader.square.push(reader.all.len());
            }
            ':' if weight(rest).is_some() => {
                let (number, length) = weight(rest).unwrap_or_default();
                used = length;
                match reader.round.pop() {
                    Some(from) => reader.multiply(from, parsed(number)?),
                    None => reader.words(&rest[..length]),
                }
            }
            ')' | ']' => {
                let (open, by) = match first {
                    ')' => (&mut reader.round, BRACKET),
                    _ => (&mut reader.square, 1.0 / BRACKET),
                };
                match open.pop() {
                    Some(from) => reader.multiply(from, by),
                    None => reader.words(&rest[..1]),
                }
            }
            ':' => reader.words(":"),
            _ => {
                used = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                reader.words(&rest[..used]);
            }
        }
        rest = &rest[used..];
    }
    Ok(reader.finish())
}

/// A piece that brackets can still change; none of its text: a break.
struct Piece {
    text: Option<String>,
    weight: f64,
}

impl Piece {
    fn words(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), weight: 1.0 }
    }
}

struct Reader {
    all: Vec<Piece>,
    /// Where brackets that are open began.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Reader {
    fn multiply(&mut self, from: usize, by: f64) {
        self.all[from..].iter_mut().for_each(|piece| piece.weight *= by);
    }

    fn words(&mut self, text: &str) {
        for (i, part) in at_breaks(text).into_iter().enumerate() {
            if i > 0 {
                self.all.push(Piece { text: None, weight: 1.0 });
            }
            self.all.push(Piece::words(part));
        }
    }

    fn finish(mut self) -> Vec<Fragment> {
        for from in std::mem::take(&mut self.round) {
            self.multiply(from, BRACKET);
        }
        for from in std::mem::take(&mut self.square) {
            self.multiply(from, 1.0 / BRACKET);
        }
        let mut fragments: Vec<Fragment> = Vec::new();
        for Piece { text, weight } in self.all {
            match (text, fragments.last_mut()) {
                (None, _) => fragments.push(Fragment::Break),
                (Some(text), Some(Fragment::Words(before, same))) if *same == weight => before.push_str(&text),
                (Some(text), _) => fragments.push(Fragment::Words(text, weight)),
            }
        }
        if fragments.is_empty() {
            fragments.push(Fragment::Words(String::new(), 1.0));
        }
        fragments
    }
}

/// The text between the words BREAK, without the white space around those.
fn at_breaks(text: &str) -> Vec<&str> {
    const WORD: &str = "BREAK";
    let (mut parts, mut begin, mut from) = (Vec::new(), 0, 0);
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    while let Some(at) = text[from..].find(WORD).map(|at| at + from) {
        from = at + WORD.len();
        if !inside(text[..at].chars().next_back()) && !inside(text[from..].chars().next()) {
            parts.push(text[begin..at].trim_end());
            begin = text.len() - text[from..].trim_start().len();
            from = begin;
        }
    }
    parts.push(&text[begin..]);
    // Before the first word white space is text.
    parts
}

/// The number of `: 1.3 )`, and how long all of that is.
fn weight(rest: &str) -> Option<(&str, usize)> {
    let number = rest[1..].trim_start();
    let signed = number.strip_prefix(['+', '-']).unwrap_or(number);
    let digits = signed.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(signed.len());
    let after = signed[digits..].trim_start().strip_prefix(')')?;
    let number = &number[..number.len() - signed.len() + digits];
    (digits > 0).then_some((number, rest.len() - after.len()))
}

fn parsed(number: &str) -> Result<f64> {
    number.parse().map_err(|_| Error::Usage(format!("the weight {number} of a prompt is not a number")))
}

/// `[a:b:0.5]` and `[a|b]` change the prompt between steps, which selma does not.
fn refuse_editing(rest: &str) -> Result<()> {
    let inner = rest[1..].split([']', '[']).next().unwrap_or_default();
    let inner = match rest[1..].len() > inner.len() {
        true => inner.replace("\\:", "").replace("\\|", ""),
        false => return Ok(()),
    };
    let timed = inner.rsplit_once(':').is_some_and(|(_, when)| when.trim().parse::<f64>().is_ok());
    match timed || inner.contains('|') {
        false => Ok(()),
        true => Err(Error::Usage(format!(
            "[{inner}] of a prompt is webui's prompt editing, which selma does not have; write \\[ for a bracket of the text"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for text in ["[a:b:0.5]", "[a:5]", "[a|b]", "(a:1.2.3)", "(a:.)"] {
            assert!(attention(text).is_err(), "{text}");
        }
        for text in ["[a]", "\\[a|b\\]", "[a", "time 10:30", "(a:b)", "a:1)"] {
            assert!(attention(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_break_is_a_word_of_its_own() {
        let words = |text: &str, weight| Fragment::Words(text.into(), weight);
        assert_eq!(attention("a BREAK b").unwrap(), [words("a", 1.0), Fragment::Break, words("b", 1.0)]);
        assert_eq!(attention("BREAKFAST").unwrap(), [words("BREAKFAST", 1.0)]);
        // webui multiplies the break itself and then reads it as a word.
        assert_eq!(attention("(a BREAK b:2)").unwrap(), [words("a", 2.0), Fragment::Break, words("b", 2.0)]);
    }
}
