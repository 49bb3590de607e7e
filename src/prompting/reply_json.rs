//! Captions as JSON, wherever they are in a reply.

use serde_json::Value;

/// What holds the caption of an object.
const KEYS: [&str; 6] = ["caption", "prompt", "text", "description", "content", "sentence"];

/// The captions of the first JSON in `reply` that has some, each none where an entry is no text: an array of strings or
/// objects, an object with such an array, or objects one after the other. JSON begins a line; with `inline` it can be
/// anywhere.
pub(super) fn find(reply: &str, inline: bool) -> Option<Vec<Option<String>>> {
    let begins_line = |place: &usize| reply[..*place].rsplit('\n').next().is_none_or(|line| line.trim().is_empty());
    let starts = reply.match_indices(['[', '{']).map(|(place, _)| place);
    starts.filter(|place| inline || begins_line(place)).find_map(|place| read(&reply[place..]))
}

/// The captions of the JSON values that `text` begins with.
fn read(text: &str) -> Option<Vec<Option<String>>> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let values: Vec<Value> = values.map_while(Result::ok).collect();
    let list = match values.first()? {
        Value::Array(list) => list,
        // An array in it, or an object a line.
        Value::Object(object) => object.values().find_map(Value::as_array).unwrap_or(&values),
        _ => return None,
    };
    let captions: Vec<Option<String>> = list.iter().map(caption).collect();
    captions.iter().any(Option::is_some).then_some(captions)
}

/// A string, the field of an object that is called like a caption, or its only text.
fn caption(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => {
            let named = KEYS.iter().find_map(|key| object.get(*key)?.as_str());
            let mut texts = object.values().filter_map(Value::as_str);
            let only = texts.next().filter(|_| texts.next().is_none());
            named.or(only).map(str::to_owned)
        }
        _ => None,
    }
}
