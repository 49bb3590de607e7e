//! What goes over the wire: addresses, request bodies, replies and errors of OpenAI-compatible endpoints.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Api, Usage};
use crate::error::{Error, Result};
use crate::prompting::reply::plain_line;

/// The full address for a base such as `http://localhost:8000`, `https://host/v1` or the address itself, and the
/// protocol: what the address ends in, else `api`, else chat.
///
/// # Errors
/// [`Error::Usage`] if it is no http(s) URL, or holds a password or a query: keys come from the environment only.
pub(super) fn address(option: &str, url: &str, api: Option<Api>) -> Result<(String, Api)> {
    let refuse = |why: &str| Err(Error::Usage(format!("{option}: {why}; give a base such as https://host/v1")));
    let base = url.trim().trim_end_matches('/');
    let Some(rest) = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://")) else {
        return refuse("expected an address that begins with http:// or https://");
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse("the address has no host, or blanks in it");
    }
    if host.contains('@') || rest.contains(['?', '#']) {
        return refuse("the address holds a user name or a query; the key is read from OPENAI_API_KEY");
    }
    if path.ends_with("chat/completions") {
        return match api {
            Some(Api::Completions) => refuse("a chat address was given together with --api completions"),
            _ => Ok((base.into(), Api::Chat)),
        };
    }
    if path == "completions" || path.ends_with("/completions") {
        return match api {
            Some(Api::Chat) => refuse("a completions address was given together with --api chat"),
            _ => Ok((base.into(), Api::Completions)),
        };
    }
    let api = api.unwrap_or(Api::Chat);
    let version = if path.is_empty() { "/v1" } else { "" };
    Ok((format!("{base}{version}/{}", api.path()), api))
}

/// How this endpoint wants things to be said; found out from its refusals.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dialect {
    pub max_tokens: u64,
    /// `max_completion_tokens` where `max_tokens` is refused.
    pub new_limit_name: bool,
    pub temperature: Option<f64>,
}

/// A request: a text, and in the chat protocol images with it, as `data:` URLs.
pub(super) fn body(api: Api, model: &str, text: &str, images: &[&str], dialect: &Dialect) -> Value {
    let mut body = match api {
        Api::Chat => {
            let image = |url: &&str| json!({"type": "image_url", "image_url": {"url": url}});
            let content = match images {
                [] => json!(text),
                _ => std::iter::once(json!({"type": "text", "text": text})).chain(images.iter().map(image)).collect(),
            };
            json!({"model": model, "messages": [{"role": "user", "content": content}]})
        }
        Api::Completions => json!({"model": model, "prompt": text}),
    };
    let limit = if dialect.new_limit_name { "max_completion_tokens" } else { "max_tokens" };
    body[limit] = dialect.max_tokens.into();
    if let Some(temperature) = dialect.temperature {
        body["temperature"] = temperature.into();
    }
    body
}

/// A reply's text, why it ended, the model that wrote it, and the tokens it used.
pub(super) struct Parsed {
    pub text: String,
    pub finish_reason: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
}

/// Reads the body of a 200. `None` if it is not a reply of the protocol.
pub(super) fn parse(api: Api, body: &str) -> Option<Parsed> {
    let value: Value = serde_json::from_str(body.trim_start_matches('\u{feff}')).ok()?;
    let choice = value.get("choices")?.get(0)?;
    // A refusal or a tool call has no content: an empty reply.
    let text = match api {
        Api::Chat => content(choice.get("message")?.get("content").unwrap_or(&Value::Null))?,
        Api::Completions => choice.get("text")?.as_str()?.to_owned(),
    };
    let string = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let count = |name: &str| value.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_u64);
    let usage = count("prompt_tokens").zip(count("completion_tokens")).map(|(input, output)| Usage {
        input,
        output,
        estimated: false,
    });
    Some(Parsed { text, finish_reason: string(choice.get("finish_reason")), model: string(value.get("model")), usage })
}

/// A string, null, or a list of parts of which the text is taken.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()),
        _ => None,
    }
}

/// The message and code of an error reply, on one line; of anything else its beginning.
pub(super) fn error_message(body: &str) -> (String, String) {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let field = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let message = [field("message"), error.as_str().unwrap_or_default(), field("detail"), body];
    let message = message.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let code = if field("code").is_empty() { field("type") } else { field("code") };
    (beginning(message), code.to_owned())
}

/// At most 300 characters, on one line.
pub(super) fn beginning(text: &str) -> String {
    let line = plain_line(text);
    let mut shown: String = line.chars().take(300).collect();
    if shown.len() < line.len() {
        shown.push_str(" ...");
    }
    shown
}

/// Changes the dialect after a refusal (status 400 or 422). False if the refusal is about something else.
pub(super) fn adapt(dialect: &mut Dialect, message: &str) -> bool {
    let message = message.to_lowercase();
    if message.contains("max_completion_tokens") && !dialect.new_limit_name {
        dialect.new_limit_name = true;
    } else if message.contains("temperature") && dialect.temperature.is_some() {
        dialect.temperature = None;
    } else if ["reduce your prompt", "context length", "context window", "max_tokens is too large"]
        .iter()
        .any(|words| message.contains(words))
        && dialect.max_tokens >= 64
    {
        // Source: SELMA's reference code takes four fifths and tries again.
        dialect.max_tokens = dialect.max_tokens * 4 / 5;
    } else {
        return false;
    }
    true
}

/// The body of a reply. JSON is UTF-8; what is not is taken for Latin-1, in which every byte is a character.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| error.as_bytes().iter().map(|&byte| char::from(byte)).collect())
}

/// The pause that a `Retry-After` header asks for: seconds, or a date such as `Sun, 06 Nov 1994 08:49:37 GMT`.
/// Source: RFC 9110, sections 5.6.7 and 10.2.3.
pub(super) fn pause(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return (0.0..1e9).contains(&seconds).then(|| Duration::from_secs_f64(seconds));
    }
    let [_, day, month, year, time, "GMT"] = header.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let [hour, minute, second] = time.split(':').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?[..]
    else {
        return None;
    };
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..year).map(|year| 365 + u64::from(leap(year))).sum::<u64>()
        + lengths[..month as usize].iter().sum::<u64>()
        + day
        - 1;
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second);
    Some(then.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::pause;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // The date and its seconds are those of RFC 9110, section 5.6.7, and of `date -u -d ... +%s`.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 90);
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(90)));
        let leap = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        assert_eq!(pause("Thu, 29 Feb 2024 23:59:59 GMT", leap), Some(Duration::ZERO));
        assert_eq!(pause("Fri, 01 Mar 2024 00:00:09 GMT", leap), Some(Duration::from_secs(10)));
        assert_eq!(pause(" 7.5 ", now), Some(Duration::from_millis(7500)));
        for wrong in ["soon", "-1", "Sun, 06 Noc 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT", "1e300"] {
            assert_eq!(pause(wrong, now), None, "{wrong}");
        }
    }
}
