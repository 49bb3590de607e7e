//! A line of a prompt file, with the options that kohya's sample prompts have:
//! `TEXT --n NEGATIVE --d SEED --s STEPS --l GUIDANCE --w WIDTH --h HEIGHT`.
//! Source: sd-scripts, "Sample image generation during training", `docs/train_network.md`.

use serde_json::Value;

use super::prompts::Prompt;

/// Reads one line that is neither empty nor a comment. What looks like another option stays part of the text.
///
/// # Errors
/// A sentence on the option whose value is not a number.
pub(super) fn parse(line: &str) -> Result<Prompt, String> {
    let mut parts = line.split(" --");
    let mut prompt = Prompt::new(parts.next().unwrap_or_default());
    // What a part that is no option belongs to.
    let mut in_negative = false;
    for part in parts {
        let (name, value) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
        let value = value.trim();
        let number = |expected: &str| format!("--{name} {value}: expected {expected}");
        let whole = || value.parse::<u64>().map(Value::from).map_err(|_| number("a whole number"));
        let (key, value) = match name.to_ascii_lowercase().as_str() {
            "n" => ("negative", value.into()),
            "d" => ("seed", whole()?),
            "s" => ("steps", whole()?),
            "w" => ("width", whole()?),
            "h" => ("height", whole()?),
            "l" => {
                let guidance = value.parse::<f64>().ok().filter(|g| g.is_finite());
                ("guidance", guidance.ok_or_else(|| number("a number"))?.into())
            }
            _ => {
                let more = format!(" --{part}");
                match prompt.rest.get_mut("negative") {
                    Some(Value::String(negative)) if in_negative => negative.push_str(&more),
                    _ => prompt.text.push_str(&more),
                }
                continue;
            }
        };
        in_negative = key == "negative";
        prompt.rest.insert(key.into(), value);
    }
    prompt.text = prompt.text.trim().to_owned();
    match prompt.text.is_empty() {
        true => Err("options without a prompt before them".into()),
        false => Ok(prompt),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn options_of_kohya_are_settings_and_other_dashes_are_text() {
        let line = "a red house, by -- the sea --n people, --blur --D 7 --s 20 --l 4.5 --w 512 --h 640";
        let prompt = parse(line).unwrap();
        assert_eq!(prompt.text, "a red house, by -- the sea");
        let rest =
            json!({"negative": "people, --blur", "seed": 7, "steps": 20, "guidance": 4.5, "width": 512, "height": 640});
        assert_eq!(json!(prompt.rest), rest);
        assert_eq!(parse("a cat --ar 16:9").unwrap().text, "a cat --ar 16:9");
        assert_eq!(parse("a cat --w wide").unwrap_err(), "--w wide: expected a whole number");
        assert_eq!(parse("a cat --l").unwrap_err(), "--l : expected a number");
        assert!(parse(" --d 3").is_err());
    }
}
