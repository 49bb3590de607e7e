//! The tags of selma's dialogues: tools with ids, so that an image can be taken up again at any later turn.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    Image,
    Edit,
    Variation,
    Select,
    Refine,
}

impl Tool {
    const ALL: [(&str, Self); 5] = [
        ("image", Self::Image),
        ("edit", Self::Edit),
        ("variation", Self::Variation),
        ("select", Self::Select),
        ("refine", Self::Refine),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Of image to image, where the call does not say; `None` for tools that start from noise or draw nothing.
    pub fn default_strength(self) -> Option<f64> {
        match self {
            Self::Edit => Some(0.6),
            Self::Variation => Some(0.5),
            Self::Refine => Some(0.25),
            Self::Image | Self::Select => None,
        }
    }
}

/// One call, with ids that are known to exist.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    pub tool: Tool,
    pub id: String,
    /// Of image and edit.
    pub prompt: Option<String>,
    /// The image that it starts from.
    pub parent: Option<String>,
    pub strength: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// In the order in which they run.
    pub calls: Vec<Call>,
    /// The reply without its tags.
    pub shown: String,
    pub errors: Vec<String>,
}

/// Reads a reply in a dialogue whose images, oldest first, have the ids `known`.
pub fn parse(reply: &str, known: &[String]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut known = known.to_vec();
    let (mut rest, mut shown) = (reply, String::new());
    while let Some(at) = rest.find(['`', '<']) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("```") {
            let end = rest[3..].find("```").map_or(rest.len(), |end| end + 6);
            shown.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let Some(element) = Element::at_start(rest) else {
            let first = rest.chars().next().map_or(0, char::len_utf8);
            shown.push_str(&rest[..first]);
            rest = &rest[first..];
            continue;
        };
        let (whole, after) = rest.split_at(element.len);
        rest = after;
        let closes =
            element.closed_by == element.tool || (element.tool, element.closed_by) == (Tool::Edit, Tool::Image);
        if !closes {
            let (tool, closing) = (element.tool.name(), element.closed_by.name());
            parsed.errors.push(format!("<{tool}> is closed by </{closing}>"));
            shown.push_str(whole);
            continue;
        }
        match element.call(&mut known, &mut parsed.errors) {
            Ok(call) => parsed.calls.push(call),
            Err(error) => parsed.errors.push(error),
        }
    }
    shown.push_str(rest);
    parsed.shown = tidy(&shown);
    parsed
}

/// Runs of blanks and tabs become one blank; trimmed.
fn tidy(text: &str) -> String {
    let mut tidy = String::new();
    for c in text.chars() {
        match c {
            ' ' | '\t' if tidy.ends_with(' ') => {}
            '\t' => tidy.push(' '),
            c => tidy.push(c),
        }
    }
    tidy.trim().to_owned()
}

/// `<tool attributes>body</tool>`.
struct Element<'a> {
    tool: Tool,
    attributes: Vec<(String, &'a str)>,
    body: &'a str,
    closed_by: Tool,
    len: usize,
}

impl<'a> Element<'a> {
    /// `None` where no tool's tag begins, or it is never closed.
    fn at_start(text: &'a str) -> Option<Self> {
        let (tool, mut rest) = tool_name(text.strip_prefix('<')?)?;
        let mut attributes = Vec::new();
        loop {
            let trimmed = rest.trim_start();
            if let Some(body) = trimmed.strip_prefix('>') {
                let start = text.len() - body.len();
                let (end, closed_by, len) = closing(body)?;
                return Some(Self { tool, attributes, body: &body[..end], closed_by, len: start + end + len });
            }
            if trimmed.len() == rest.len() {
                return None;
            }
            let (name, value, after) = attribute(trimmed)?;
            attributes.push((name.to_lowercase(), value));
            rest = after;
        }
    }

    fn attribute(&self, name: &str) -> Option<&'a str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim())
    }

    fn call(&self, known: &mut Vec<String>, errors: &mut Vec<String>) -> Result<Call, String> {
        let body = without_tags(self.body);
        let body = body.trim();
        if body.is_empty() {
            return Err(format!("empty <{}>", self.tool.name()));
        }
        let mut tool = self.tool;
        let parent = match tool {
            Tool::Image => None,
            Tool::Edit => self.attribute("prev_id").map(str::to_owned).or_else(|| known.last().cloned()),
            _ => Some(body.to_owned()),
        };
        if let Some(parent) = parent.as_ref().filter(|parent| !known.contains(parent)) {
            return Err(format!("unknown image id {parent}"));
        }
        if tool == Tool::Edit && parent.is_none() {
            tool = Tool::Image;
        }
        let id = match self.attribute("id").filter(|id| !id.is_empty() && !known.iter().any(|k| k == id)) {
            Some(id) => id.to_owned(),
            None => (1..).map(|i: u64| i.to_string()).find(|id| !known.contains(id)).unwrap_or_default(),
        };
        known.push(id.clone());
        let strength = tool.default_strength().map(|default| match self.attribute("strength") {
            None => default,
            Some(text) => strength(text).unwrap_or_else(|| {
                errors.push(format!("strength {text}: expected low, medium, high or a number above 0, at most 1"));
                default
            }),
        });
        let prompt = matches!(tool, Tool::Image | Tool::Edit).then(|| body.to_owned());
        Ok(Call { tool, id, prompt, parent, strength })
    }
}

fn strength(text: &str) -> Option<f64> {
    match text.to_lowercase().as_str() {
        "low" => Some(0.25),
        "medium" => Some(0.5),
        "high" => Some(0.75),
        number => number.parse().ok().filter(|&s: &f64| s > 0.0 && s <= 1.0),
    }
}

/// A tool's name in any letter case, and what follows it: a blank or `>`.
fn tool_name(text: &str) -> Option<(Tool, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (_, tool) = Tool::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text[..end]))?;
    let rest = &text[end..];
    rest.starts_with(|c: char| c.is_whitespace() || c == '>').then_some((*tool, rest))
}

/// `name = "value"`, `'value'` or bare.
fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| c.is_whitespace() || "=>\"'<".contains(c))?;
    let (name, rest) = text.split_at(end);
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    if name.is_empty() {
        return None;
    }
    for quote in ['"', '\''] {
        if let Some(quoted) = value.strip_prefix(quote) {
            let (value, rest) = quoted.split_once(quote)?;
            return Some((name, value, rest));
        }
    }
    let end = value.find(|c: char| c.is_whitespace() || c == '>')?;
    Some((name, &value[..end], &value[end..]))
}

/// Where the first closing tag of any tool begins, whose it is, and its length.
fn closing(body: &str) -> Option<(usize, Tool, usize)> {
    body.match_indices("</").find_map(|(at, _)| {
        let (tool, rest) = tool_name(&body[at + 2..])?;
        let after = rest.trim_start().strip_prefix('>')?;
        Some((at, tool, body.len() - at - after.len()))
    })
}

/// Drops `<b>`, `</b>` and the like; a `<` before a blank or a digit is text.
fn without_tags(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('<') {
        let tag = &rest[at + 1..];
        let is_tag = tag.strip_prefix('/').unwrap_or(tag).starts_with(|c: char| c.is_ascii_alphabetic());
        kept.push_str(&rest[..at]);
        match tag.find('>').filter(|_| is_tag) {
            Some(end) => rest = &tag[end + 1..],
            None => {
                kept.push('<');
                rest = tag;
            }
        }
    }
    kept + rest
}
