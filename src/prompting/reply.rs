//! Captions from a writer's reply. Writers are asked for a numbered list and give what they like: this reads the usual
//! forms, and counts what it did not understand.

use super::reply_json;

/// What a reply held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Captions {
    /// In the reply's order, each one line of plain text.
    pub captions: Vec<String>,
    /// Lines that are neither a caption nor empty: a preamble, a closing remark, a second line of a caption.
    pub not_understood: usize,
    /// The last item of a reply that was cut by the token limit.
    pub partial: usize,
}

/// How an item of a list begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Marker {
    /// `4.`, `4)`, `4:`, `(4)`, `**4.**`
    Number,
    /// `-`, `*`, `+`, `•`, `–`
    Bullet,
}

/// Reads a reply. `asked` is the number of captions asked for; `cut` says that the reply ended at the token limit, and
/// drops its last item.
///
/// JSON is taken wherever it is: an array of strings or of objects with a caption, in a code fence or after a preamble. Else
/// the items of the commonest marker are the captions: numbers from any start (with `.`, `)` or `:`), or bullets; a line that
/// goes on in lower case, or is indented, belongs to the item above it. Without any marker the lines themselves are taken
/// (paragraphs, where they have several lines), if there are at least half as many as asked: so a refusal is not a caption.
/// Quotes, `**` and the thoughts of reasoning models (`<think>`) are removed.
pub fn captions(reply: &str, asked: usize, cut: bool) -> Captions {
    let reply = without_thoughts(reply).trim_start_matches('\u{feff}');
    let lines: Vec<&str> = reply.lines().collect();
    let marked: Vec<Option<(Marker, &str)>> = lines.iter().map(|line| marker(line.trim())).collect();
    let count = |wanted: Marker| marked.iter().flatten().filter(|(marker, _)| *marker == wanted).count();
    let (numbers, bullets) = (count(Marker::Number), count(Marker::Bullet));
    if let Some(read) = reply_json::find(reply, numbers + bullets == 0).filter(|_| !cut) {
        let items: Vec<Option<&str>> = read.iter().map(Option::as_deref).collect();
        return collect(items, false);
    }
    if numbers + bullets > 0 {
        let wanted = if numbers >= bullets { Marker::Number } else { Marker::Bullet };
        let items = with_continuations(&lines, &marked, wanted);
        return collect(items.iter().map(Option::as_deref).collect(), cut);
    }
    let lines: Vec<&str> = lines.into_iter().map(str::trim).collect();
    let paragraphs: Vec<Vec<&str>> = (lines.split(|line| line.is_empty()))
        .map(|some| some.iter().copied().filter(|line| !is_blank(line)).collect::<Vec<_>>())
        .filter(|some| !some.is_empty())
        .collect();
    let wrapped = paragraphs.len() > 1 && paragraphs.iter().any(|some| some.len() > 1);
    let texts: Vec<String> = match wrapped && paragraphs.len() * 2 >= asked {
        true => paragraphs.iter().map(|some| some.join(" ")).collect(),
        false => paragraphs.concat().into_iter().map(String::from).collect(),
    };
    let is_item = |text: &&str| !text.ends_with(':');
    let enough = texts.iter().map(String::as_str).filter(is_item).count() * 2 >= asked;
    let items = texts.iter().map(|text| Some(text.as_str()).filter(|text| enough && is_item(text)));
    collect(items.collect(), cut)
}

/// The items of one marker, each with the lines that it goes on in; none for what is no item.
fn with_continuations(lines: &[&str], marked: &[Option<(Marker, &str)>], wanted: Marker) -> Vec<Option<String>> {
    let mut items: Vec<Option<String>> = Vec::new();
    // Whether the line before belongs to an item.
    let mut open = false;
    for (line, marked) in lines.iter().zip(marked) {
        let text = line.trim();
        match marked {
            Some((marker, item)) if *marker == wanted => {
                items.push(Some((*item).to_owned()));
                open = true;
            }
            _ if is_blank(text) => open = false,
            None if open && goes_on(line) => {
                if let Some(Some(item)) = items.last_mut() {
                    *item = format!("{} {text}", item.trim_end());
                }
            }
            _ => {
                items.push(None);
                open = false;
            }
        }
    }
    items
}

/// Whether a line without a marker is the second half of the one above: it is indented, or begins in lower case.
fn goes_on(line: &str) -> bool {
    line.starts_with([' ', '\t']) || line.starts_with(char::is_lowercase)
}

fn collect(items: Vec<Option<&str>>, cut: bool) -> Captions {
    let mut read = Captions::default();
    let last = items.len().saturating_sub(1);
    for (i, item) in items.into_iter().enumerate() {
        match item.map(caption) {
            // What ends a cut reply is a part of something, whatever it looks like.
            _ if cut && i == last => read.partial += 1,
            Some(text) if !text.is_empty() => read.captions.push(text),
            _ => read.not_understood += 1,
        }
    }
    read
}

/// What follows the last `</think>`; nothing of a reply that was cut while thinking.
pub fn without_thoughts(reply: &str) -> &str {
    match reply.rsplit_once("</think>") {
        Some((_, answer)) => answer,
        None if reply.trim_start().starts_with("<think>") => "",
        None => reply,
    }
}

/// Empty, a code fence or a rule: not counted at all.
fn is_blank(line: &str) -> bool {
    line.is_empty() || line.starts_with("```") || line.chars().all(|c| matches!(c, '-' | '*' | '_' | '='))
}

/// The marker that a line begins with, and what follows it.
fn marker(line: &str) -> Option<(Marker, &str)> {
    let bare = line.trim_start_matches(['*', '#', '(']);
    let digits = bare.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=6).contains(&digits) {
        // `3.5 litres` and `20 more` are no items.
        let text = bare[digits..].strip_prefix(['.', ')', ':'])?;
        let text = text.strip_prefix("**").unwrap_or(text);
        return (!text.starts_with(|c: char| c.is_ascii_digit())).then_some((Marker::Number, text));
    }
    let text = line.strip_prefix(['-', '*', '+', '•', '–', '·'])?;
    text.starts_with(char::is_whitespace).then_some((Marker::Bullet, text))
}

/// What captions stand between, outermost first.
const QUOTES: [(&str, &str); 14] = [
    ("**", "**"),
    ("\"", "\""),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("”", "”"),
    ("«", "»"),
    ("»", "«"),
    ("‹", "›"),
    ("「", "」"),
    ("『", "』"),
    ("'", "'"),
    ("‘", "’"),
    ("`", "`"),
];

/// A caption without quotes, emphasis and anything that is not plain text.
fn caption(text: &str) -> String {
    let mut text = text.trim();
    for (open, close) in QUOTES {
        if let Some(inner) = text.strip_prefix(open).and_then(|t| t.strip_suffix(close))
            && !inner.contains(open)
        {
            text = inner.trim();
        }
    }
    // `**4. A caption**`: the list's marker took the first half.
    if let Some(inner) = text.strip_suffix("**").filter(|inner| !inner.contains("**")) {
        text = inner;
    }
    plain_line(text)
}

/// A character that a terminal obeys, or that changes the direction of writing.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// One line of plain text: hidden characters become spaces, runs of blanks one space. Text from elsewhere goes through this
/// before it reaches a prompt file.
pub fn plain_line(text: &str) -> String {
    let visible: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}
