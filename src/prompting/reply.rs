//! Captions from a writer's reply. Writers are asked for a numbered list and give what they like: this reads the usual
//! forms, and counts what it did not understand.

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
/// The items of the commonest marker are the captions: numbers from any start (with `.`, `)` or `:`), bullets, a JSON
/// array of strings. Without any marker the lines themselves are taken, if there are at least half as many as asked: so
/// a refusal is not a caption. Quotes, `**` and the thoughts of reasoning models (`<think>`) are removed.
pub fn captions(reply: &str, asked: usize, cut: bool) -> Captions {
    let reply = without_thoughts(reply);
    if let Some(read) = json_array(reply, cut) {
        return read;
    }
    let lines: Vec<&str> = reply.lines().map(str::trim).filter(|line| !is_blank(line)).collect();
    let marked: Vec<Option<(Marker, &str)>> = lines.iter().map(|line| marker(line)).collect();
    let count = |wanted: Marker| marked.iter().flatten().filter(|(marker, _)| *marker == wanted).count();
    let (numbers, bullets) = (count(Marker::Number), count(Marker::Bullet));
    let items: Vec<Option<&str>> = if numbers + bullets > 0 {
        let wanted = if numbers >= bullets { Marker::Number } else { Marker::Bullet };
        let text = |item: Option<(Marker, _)>| item.filter(|(marker, _)| *marker == wanted).map(|(_, text)| text);
        marked.into_iter().map(text).collect()
    } else {
        let is_item = |line: &&str| !line.ends_with(':');
        let plain: Vec<Option<&str>> = lines.iter().map(|line| Some(*line).filter(is_item)).collect();
        let enough = plain.iter().flatten().count() * 2 >= asked;
        plain.into_iter().map(|line| line.filter(|_| enough)).collect()
    };
    collect(items, cut)
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

/// A reply that is a JSON array of strings, or an object with one such array, perhaps in a code fence. `None` if it is
/// not, or was cut.
fn json_array(reply: &str, cut: bool) -> Option<Captions> {
    let body = reply.trim();
    let body = body.strip_prefix("```json").or(body.strip_prefix("```")).unwrap_or(body);
    let body = body.strip_suffix("```").unwrap_or(body).trim();
    if cut || !body.starts_with(['[', '{']) {
        return None;
    }
    let array = match serde_json::from_str(body).ok()? {
        serde_json::Value::Array(array) => array,
        serde_json::Value::Object(object) => object.into_iter().find_map(|(_, value)| match value {
            serde_json::Value::Array(array) => Some(array),
            _ => None,
        })?,
        _ => return None,
    };
    Some(collect(array.iter().map(serde_json::Value::as_str).collect(), false))
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

/// A caption without quotes, emphasis and anything that is not plain text.
fn caption(text: &str) -> String {
    let mut text = text.trim();
    for (open, close) in [("**", "**"), ("\"", "\""), ("“", "”"), ("'", "'"), ("‘", "’"), ("`", "`")] {
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
