//! A skill is data: what the writer of prompts is asked for, and the captions that show it. Six ship inside the binary;
//! a file of the same form adds another without a rebuild.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The skill files in the binary: the five of the paper, then spatial relations.
const BUILT_IN: [(&str, &str); 6] = [
    ("paragraph.toml", include_str!("../../assets/skills/paragraph.toml")),
    ("counting.toml", include_str!("../../assets/skills/counting.toml")),
    ("real-user.toml", include_str!("../../assets/skills/real-user.toml")),
    ("defying.toml", include_str!("../../assets/skills/defying.toml")),
    ("everyday.toml", include_str!("../../assets/skills/everyday.toml")),
    ("spatial.toml", include_str!("../../assets/skills/spatial.toml")),
];

/// The keys of a skill file. A test holds them and [`Skill`] together.
const KEYS: [&str; 9] =
    ["id", "aliases", "title", "instruction", "word_limit", "seeds", "examples", "captions_per_request", "abilities"];

/// What a skill's prompts are asked for with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Skill {
    /// Names folders and files: lower-case letters, digits, `-` and `_`.
    pub id: String,
    /// Other names that `--skill` takes, such as the paper's.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// For reports.
    #[serde(default)]
    pub title: String,
    /// The request, before the examples. `{count}`, `{words}` and `{abilities}` stand for the number of captions asked,
    /// the word limit and the list of abilities.
    pub instruction: String,
    /// Captions are asked to stay below this many words. The writer is asked; whether it obeyed is counted.
    pub word_limit: usize,
    /// Captions of the skill: the first examples, and part of what new captions must differ from.
    pub seeds: Vec<String>,
    /// Captions that a request shows.
    #[serde(default = "default_examples")]
    pub examples: usize,
    /// Captions that a request asks for.
    #[serde(default = "default_captions")]
    pub captions_per_request: usize,
    #[serde(default = "default_abilities")]
    pub abilities: Vec<String>,
}

/// Three examples a request. Source: SELMA's reference code, as the next two.
fn default_examples() -> usize {
    3
}

fn default_captions() -> usize {
    20
}

/// What an image of the prompt should test.
fn default_abilities() -> Vec<String> {
    let names = "spatial relations, counts, animals, people, objects, places, activities, colours, attributes, food, \
                 materials, shapes";
    names.split(", ").map(str::to_owned).collect()
}

impl Skill {
    /// Every skill in the binary, the paper's five first.
    pub fn built_in() -> Vec<Skill> {
        let parse = |(name, text): &(&str, &str)| Skill::parse(Path::new(name), text);
        let skills: Result<Vec<Skill>> = BUILT_IN.iter().map(parse).collect();
        skills.expect("the skill files in the binary are tested")
    }

    /// The built-in skill of that id or alias (case, `-` and `_` do not matter), else the skill in that file. What looks
    /// like a path (`./counting`, `counting.toml`) is always a file.
    ///
    /// # Errors
    /// [`Error::Usage`] with the known names if it is neither; those of [`Skill::load`].
    pub fn resolve(name_or_file: &str) -> Result<Skill> {
        let plain = |name: &str| name.to_lowercase().replace('_', "-");
        let path = Path::new(name_or_file);
        if !name_or_file.contains(['/', '.']) {
            let skills = Skill::built_in();
            let wanted = plain(name_or_file);
            let is_it = |skill: &&Skill| plain(&skill.id) == wanted || skill.aliases.iter().any(|a| plain(a) == wanted);
            if let Some(skill) = skills.iter().find(is_it) {
                return Ok(skill.clone());
            }
            if !path.is_file() {
                let known: Vec<&str> = skills.iter().map(|skill| skill.id.as_str()).collect();
                return Err(Error::Usage(format!(
                    "--skill {name_or_file}: no such skill, and no such file; there are {}",
                    known.join(", ")
                )));
            }
        }
        Skill::load(path)
    }

    /// Reads a skill file (TOML, UTF-8); `assets/skills` has six to start from.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the key and what it should be.
    pub fn load(path: &Path) -> Result<Skill> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "is not UTF-8; convert it to UTF-8"))?;
        Skill::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Skill> {
        let table: toml::Table = text.parse().map_err(|e| Error::file(path, format!("{e}")))?;
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                return Err(Error::file(path, unknown_key(key)));
            }
        }
        let skill: Skill = table.try_into().map_err(|e: toml::de::Error| Error::file(path, e.message()))?;
        skill.check().map_err(|message| Error::file(path, message))?;
        Ok(skill)
    }

    fn check(&self) -> Result<(), String> {
        let id_is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.id.is_empty() || self.id.len() > 64 || !self.id.chars().all(id_is_plain) || self.id.starts_with('-') {
            return Err(format!(
                "id = {:?}: expected 1 to 64 lower-case letters, digits, `-` or `_` (it names folders)",
                self.id
            ));
        }
        let counts = [
            ("word_limit", self.word_limit, 1, 1000),
            ("examples", self.examples, 1, 20),
            ("captions_per_request", self.captions_per_request, 1, 200),
        ];
        for (key, value, low, high) in counts {
            if !(low..=high).contains(&value) {
                return Err(format!("{key} = {value}: expected {low} to {high}"));
            }
        }
        if self.seeds.len() < self.examples {
            return Err(format!(
                "seeds: {} captions, but a request shows {}; add seeds or lower `examples`",
                self.seeds.len(),
                self.examples
            ));
        }
        for (i, seed) in self.seeds.iter().enumerate() {
            if !seed.chars().any(|c| c.is_ascii_alphanumeric()) || seed.chars().any(char::is_control) {
                return Err(format!("seeds: number {} is {seed:?}, expected one line of words", i + 1));
            }
        }
        if self.instruction.trim().is_empty() {
            return Err("instruction: is empty".into());
        }
        if self.abilities.is_empty() {
            return Err("abilities: is empty; leave the key out for the usual twelve".into());
        }
        self.filled().map(|_| ())
    }

    /// The instruction with its placeholders filled in.
    fn filled(&self) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = self.instruction.trim();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or("instruction: a `{` is never closed; placeholders are {count}, {words}, {abilities}")?;
            filled.push_str(before);
            match name {
                "count" => filled.push_str(&self.captions_per_request.to_string()),
                "words" => filled.push_str(&self.word_limit.to_string()),
                "abilities" => filled.push_str(&self.abilities.join(", ")),
                _ => {
                    return Err(format!(
                        "instruction: unknown placeholder {{{name}}}; there are {{count}}, {{words}}, {{abilities}}"
                    ));
                }
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// The text of one request: the instruction, and the examples as the start of the list that the writer goes on with.
    pub fn request(&self, examples: &[&str]) -> String {
        let mut text = self.filled().expect("checked when the skill was read");
        text.push_str(&format!(
            "\n\nAnswer with the descriptions only, one a line, and go on with the numbers of this list. Here are the \
             first {}:",
            examples.len()
        ));
        for (i, example) in examples.iter().enumerate() {
            text.push_str(&format!("\n\n{}. {example}", i + 1));
        }
        text.push('\n');
        text
    }
}

fn unknown_key(given: &str) -> String {
    let similarity = |key: &&str| strsim::jaro_winkler(given, key);
    let closest = KEYS.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    format!("unknown key `{given}`; the closest known one is `{}`", closest.expect("there are keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key is one that a skill knows, by giving it a value of the wrong type.
    #[test]
    fn the_list_of_keys_is_the_list_of_fields() {
        for key in KEYS {
            let mut table: toml::Table = BUILT_IN[1].1.parse().unwrap();
            // A list of lists: no field holds one.
            table.insert(key.into(), toml::Value::Array(vec![toml::Value::Array(Vec::new())]));
            let refused: Result<Skill, _> = table.try_into();
            assert!(refused.is_err(), "{key} is not a field");
        }
    }
}
