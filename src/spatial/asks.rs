//! What the prompts of a file ask of their images.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::Relation;
use super::suite::{Prompt, Stated};
use super::visor::{Asked, Asking};
use crate::error::{Error, Result};

/// What a file of prompts asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Asks {
    /// A prompt of two relations is there twice, once for each.
    pub prompts: Vec<Asked>,
    /// Ids of prompts that ask for no relation: their images count nowhere.
    pub left_out: BTreeSet<String>,
}

/// Reads what prompts ask: a suite of [`super::suite::make`], or an object of VISOR's `{id: {a, b, rel}}`. VISOR's prompts of type `and`
/// and those with a single object are left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the prompt that is none, states no relation or more than two, or whose
/// relation is unknown.
pub fn read(path: &Path) -> Result<Asks> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))?;
    asked(&value).map_err(|why| Error::file(path, why))
}

/// As [`read`], of a parsed file.
///
/// # Errors
/// What is wrong with it.
pub fn asked(value: &Value) -> Result<Asks, String> {
    let mut asks = Asks { prompts: Vec::new(), left_out: BTreeSet::new() };
    if let Value::Object(prompts) = value {
        for (id, prompt) in prompts {
            match visor_prompt(id, prompt)? {
                Some(asked) => asks.prompts.push(asked),
                None => drop(asks.left_out.insert(id.clone())),
            }
        }
        return Ok(asks);
    }
    let prompts: Vec<Prompt> = serde_json::from_value(value.clone()).map_err(|e| e.to_string())?;
    for prompt in prompts {
        let count = prompt.relations.len();
        if !(1..=2).contains(&count) {
            return Err(format!("prompt {} has {count} relations; expected one or two", prompt.id));
        }
        for (i, stated) in prompt.relations.iter().enumerate() {
            let relation = Relation::parse(&stated.prep).map_err(|e| format!("prompt {}: {e}", prompt.id))?;
            let Stated { a, b, c, .. } = stated.clone();
            let named = [Some(&a), Some(&b), c.as_ref()];
            let id_of = |object: &String| 1 + prompt.objects.iter().position(|o| o == object).unwrap_or(0);
            let objects = named.into_iter().flatten().map(id_of).collect();
            let questions = Asking { objects, relation: prompt.objects.len() + 1 + i };
            asks.prompts.push(Asked { id: prompt.id.clone(), relation, a, b, c, questions });
        }
    }
    Ok(asks)
}

fn visor_prompt(id: &str, prompt: &Value) -> Result<Option<Asked>, String> {
    let text = |key: &str| prompt[key].as_str().map(str::to_owned);
    let (Some(a), Some(b), Some(relation)) = (text("a"), text("b"), text("rel")) else {
        return Ok(None);
    };
    if relation == "and" || relation.is_empty() || b.is_empty() {
        return Ok(None);
    }
    let relation = Relation::parse(&relation).map_err(|e| format!("prompt {id}: {e}"))?;
    let c = text("c");
    let objects: Vec<usize> = (1..=if c.is_some() { 3 } else { 2 }).collect();
    let questions = Asking { relation: objects.len() + 1, objects };
    Ok(Some(Asked { id: id.into(), relation, a, b, c, questions }))
}
