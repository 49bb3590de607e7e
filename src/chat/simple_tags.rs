//! The tags of Mini-DALLE3 v1 and v2: `<image>` and `<edit>`, without attributes.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    TextToImage,
    Edit,
}

/// What a reply asks for and what is shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The tool and its prompt.
    pub call: Option<(Tool, String)>,
    pub shown: String,
}

/// Executes the first `<image>`, or without any the first `<edit>`; an edit without an earlier image draws one. All tags
/// of that kind are removed from what is shown, those of the other kind stay.
pub fn parse(reply: &str, has_earlier_image: bool) -> Parsed {
    for (name, tool) in [("image", Tool::TextToImage), ("edit", Tool::Edit)] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let (mut prompt, mut shown, mut rest) = (None, String::new(), reply);
        while let Some((before, body, after)) = first(rest, &open, &close) {
            shown.push_str(before);
            prompt.get_or_insert_with(|| body.trim().to_owned());
            rest = after;
        }
        if let Some(prompt) = prompt {
            shown.push_str(rest);
            let tool = if has_earlier_image { tool } else { Tool::TextToImage };
            return Parsed { call: Some((tool, prompt)), shown };
        }
    }
    Parsed { call: None, shown: reply.to_owned() }
}

/// What is before, in and after the first closed tag.
fn first<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let start = text.find(open)?;
    let body = &text[start + open.len()..];
    let end = body.find(close)?;
    Some((&text[..start], &body[..end], &body[end + close.len()..]))
}
