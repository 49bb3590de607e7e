//! A writer's lines of `id | text`. Writers add remarks, repeat the request, go on with an example of their own, or number
//! in another style: this reads the usual forms, and counts what it did not understand.

use crate::prompting::reply::{plain_line, without_thoughts};

/// What a reply held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// By id, in the reply's order; each text one line, not empty.
    pub lines: Vec<(usize, String)>,
    /// Lines that are neither empty nor `id | text`, and second lines of an id.
    pub not_understood: usize,
}

/// Reads a reply: what follows `output:`, or all of it where that word is not there, to the next `input:`. Of a reply that
/// `cut` says ended at the token limit, the last line is dropped, and counts as not understood.
pub fn lines(reply: &str, cut: bool) -> Lines {
    let mut read = Lines::default();
    // Within an `input:` that was repeated.
    let mut repeated = false;
    let all: Vec<&str> = without_thoughts(reply).lines().map(str::trim).filter(|line| !is_blank(line)).collect();
    for (i, line) in all.iter().enumerate() {
        let line = if cut && i + 1 == all.len() { "" } else { line };
        let beginning = |word: &str| line.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        let (of_input, of_output) = (beginning("input:"), beginning("output:"));
        if (of_input || of_output) && !read.lines.is_empty() {
            break;
        }
        repeated = of_input || repeated && !of_output;
        let line = if of_output { line["output:".len()..].trim() } else { line };
        if repeated || of_output && line.is_empty() {
            continue;
        }
        match item(line) {
            Some((id, text)) if read.lines.iter().all(|(known, _)| *known != id) => read.lines.push((id, text)),
            _ => read.not_understood += 1,
        }
    }
    read
}

/// Empty, a code fence, or the rule of a table.
fn is_blank(line: &str) -> bool {
    line.starts_with("```") || line.chars().all(|c| matches!(c, '-' | '|' | ':' | '*' | '_' | '=' | ' '))
}

/// `1 | text`, `| 1 | text |`, `1. text`, `1) text`, `1: text`, with a bullet before it or without.
fn item(line: &str) -> Option<(usize, String)> {
    let in_table = line.starts_with('|');
    let line = line.trim_start_matches(['|', '-', '*', '•', ' ']);
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let id = line[..digits].parse().ok()?;
    let text = line[digits..].trim_start().strip_prefix(['|', '.', ')', ':'])?;
    let text = if in_table { text.trim_end().trim_end_matches('|') } else { text };
    let text = plain_line(text);
    (!text.is_empty()).then_some((id, text))
}
