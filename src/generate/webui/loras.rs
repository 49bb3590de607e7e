//! LoRAs by their names: `<lora:NAME>` and `<lora:NAME:SCALE>`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;

/// A LoRA that a prompt names.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    pub name: String,
    pub scale: f64,
}

/// Folders below a LoRA folder that are looked into.
const DEPTH: usize = 8;

/// The prompt without its LoRAs, and those.
///
/// # Errors
/// [`Error::Usage`] for a scale that is no number, and for what else webui has in such brackets.
pub fn split(prompt: &str) -> Result<(String, Vec<Tag>)> {
    let (mut words, mut tags, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(at) = rest.find('<') {
        words.push_str(&rest[..at]);
        rest = &rest[at..];
        let inner = rest.split_once('>').map(|(inner, _)| &inner[1..]);
        let word = |kind: &str| !kind.is_empty() && kind.chars().all(|c| c.is_alphanumeric() || c == '_');
        let tagged = inner.and_then(|inner| Some((inner, inner.split_once(':')?)));
        let Some((inner, (kind, value))) = tagged.filter(|(_, (kind, _))| word(kind)) else {
            words.push('<');
            rest = &rest[1..];
            continue;
        };
        match kind {
            "lora" | "lyco" => tags.push(tag(inner, value)?),
            "hypernet" => {
                return Err(Error::Usage(format!("<{inner}> of a prompt: selma has no hypernetworks")));
            }
            _ => words.push_str(&rest[..inner.len() + 2]),
        }
        rest = &rest[inner.len() + 2..];
    }
    words.push_str(rest);
    Ok((words, tags))
}

fn tag(inner: &str, value: &str) -> Result<Tag> {
    let (name, scale) = value.split_once(':').unwrap_or((value, "1"));
    let scale = scale.trim().parse::<f64>().ok().filter(|scale| scale.is_finite());
    match scale {
        Some(scale) if !name.trim().is_empty() => Ok(Tag { name: name.trim().into(), scale }),
        _ => Err(Error::Usage(format!(
            "<{inner}> of a prompt: expected <lora:NAME> or <lora:NAME:SCALE>, with one number"
        ))),
    }
}

/// The file of the LoRA `name` in `folders` or below them: NAME.safetensors, or one that was trained as `name`.
///
/// # Errors
/// [`Error::Usage`] where there is none, or more than one.
pub fn find(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    if folders.is_empty() {
        let message = format!("<lora:{name}> of a prompt: give the folder that has {name}.safetensors by --lora-dir");
        return Err(Error::Usage(message));
    }
    let mut files = Vec::new();
    for folder in folders {
        collect(folder, DEPTH, &mut files)?;
    }
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut found: Vec<&PathBuf> = files.iter().filter(|path| stem(path) == name).collect();
    if found.is_empty() {
        let alias = |path: &Path| Safetensors::open(path).ok()?.metadata().get("ss_output_name").cloned();
        found = files.iter().filter(|path| alias(path).as_deref() == Some(name)).collect();
    }
    match found[..] {
        [file] => Ok(file.clone()),
        [first, second, ..] => Err(Error::Usage(format!(
            "<lora:{name}> of a prompt: both {} and {} have that name",
            first.display(),
            second.display()
        ))),
        [] => {
            let nearest = files
                .iter()
                .map(|path| stem(path))
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let hint = nearest.map_or(String::new(), |nearest| format!("; there is {nearest}"));
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            Err(Error::Usage(format!(
                "<lora:{name}> of a prompt: no {name}.safetensors in {}{hint}",
                folders.join(", ")
            )))
        }
    }
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, files)?;
        } else if path.is_file() && path.extension().is_some_and(|ending| ending == "safetensors") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_out_and_other_brackets_stay() {
        let (words, tags) = split("a <lora:style v2:0.8> cat <3 <lora:dark> <b>").unwrap();
        assert_eq!(words, "a  cat <3  <b>");
        let tag = |name: &str, scale| Tag { name: name.into(), scale };
        assert_eq!(tags, [tag("style v2", 0.8), tag("dark", 1.0)]);
        for text in ["<lora:a:b>", "<lora:a:1:0.5>", "<lora:>", "<hypernet:a:1>", "<lora:a:inf>"] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("below")).unwrap();
        for name in ["style.safetensors", "below/dark.safetensors", "notes.txt"] {
            std::fs::write(at(name), "").unwrap();
        }
        let folders = [dir.path().to_path_buf()];
        assert_eq!(find("dark", &folders).unwrap(), at("below/dark.safetensors"));
        let missing = find("stile", &folders).unwrap_err().to_string();
        assert!(missing.contains("stile") && missing.contains("there is style"), "{missing}");
        std::fs::write(at("below/style.safetensors"), "").unwrap();
        assert!(find("style", &folders).unwrap_err().to_string().contains("both"));
        assert!(find("style", &[]).unwrap_err().to_string().contains("--lora-dir"));
    }
}
