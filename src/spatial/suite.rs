//! Suites of prompts about relations, and their files.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Relation;
use super::visor::Asked;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::random::{self, Stream};

/// The prepositions of the suite.
pub const PREPOSITIONS: [Relation; 10] = [
    Relation::Above,
    Relation::Below,
    Relation::On,
    Relation::Among,
    Relation::Around,
    Relation::Beside,
    Relation::InFrontOf,
    Relation::Behind,
    Relation::Between,
    Relation::Inside,
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub id: String,
    pub prompt: String,
    pub relations: Vec<Stated>,
    pub objects: Vec<String>,
    pub questions: Vec<Question>,
    /// The prompt with A and B exchanged.
    pub swap_of: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stated {
    pub prep: String,
    pub a: String,
    pub b: String,
    pub c: Option<String>,
}

/// A yes/no question in DSG's manner; parent 0 is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub id: usize,
    pub q: String,
    pub parents: Vec<usize>,
}

/// `count` prompts for each of `relations` over `objects`, each with its swapped partner where the relation is asymmetric.
///
/// # Errors
/// [`Error::Usage`] for fewer than three different objects, or more prompts than there are different ones.
pub fn make(objects: &[String], relations: &[Relation], count: usize, seed: u64) -> Result<Vec<Prompt>> {
    let n = objects.len();
    let twice = objects.iter().enumerate().find(|(i, object)| objects[..*i].contains(object));
    if let Some((_, object)) = twice {
        return Err(Error::Usage(format!("--objects: `{object}` is given twice")));
    }
    if n < 3 {
        return Err(Error::Usage(format!("--objects: expected at least three objects, got {n}")));
    }
    let mut suite = Vec::new();
    for (stream, &relation) in relations.iter().enumerate() {
        let third = relation == Relation::Between;
        // Unordered pairs: the other order is the swapped partner.
        let mut combinations: Vec<[usize; 3]> = Vec::new();
        for a in 0..n {
            for b in a + 1..n {
                let thirds = if third { b + 1..n } else { 0..1 };
                combinations.extend(thirds.map(|c| [a, b, c]));
            }
        }
        if count > combinations.len() {
            return Err(Error::Usage(format!(
                "--count {count}: {n} objects make {} different prompts for `{}`; give more objects",
                combinations.len(),
                relation.name()
            )));
        }
        for i in 0..count {
            let draw = |step: u64, n: usize| {
                random::below(seed, Stream::Choice, i as u64, (stream as u64) << 8 | step, n as u32) as usize
            };
            let j = i + draw(0, combinations.len() - i);
            combinations.swap(i, j);
            let mut chosen = combinations[i];
            // Which of them comes first is drawn too.
            let last = if third { 3 } else { 2 };
            let first = draw(1, last);
            chosen.swap(0, first);
            let [a, b, c] = chosen.map(|at| objects[at].as_str());
            let c = third.then_some(c);
            let id = format!("{}_{i:04}", relation.name().replace(' ', "_"));
            let swapped = relation.is_asymmetric().then(|| prompt(&format!("{id}s"), relation, b, a, None, Some(&id)));
            suite.push(prompt(&id, relation, a, b, c, None));
            suite.extend(swapped);
        }
    }
    Ok(suite)
}

fn prompt(id: &str, relation: Relation, a: &str, b: &str, c: Option<&str>, swap_of: Option<&str>) -> Prompt {
    let prep = relation.name();
    let text = match (relation, c) {
        (Relation::Among, _) => format!("{} {prep} {b}s", with_article(a)),
        (_, Some(c)) => format!("{} {prep} {} and {}", with_article(a), with_article(b), with_article(c)),
        _ => format!("{} {prep} {}", with_article(a), with_article(b)),
    };
    let mut questions: Vec<Question> = Vec::new();
    let objects: Vec<&str> = [Some(a), Some(b), c].into_iter().flatten().collect();
    for (i, object) in objects.iter().enumerate() {
        let q = match relation {
            Relation::Among if i == 1 => format!("Are there {object}s?"),
            _ => format!("Is there {}?", with_article(object)),
        };
        questions.push(Question { id: i + 1, q, parents: vec![0] });
    }
    let others = match (relation, c) {
        (Relation::Among, _) => format!("the {b}s"),
        (_, Some(c)) => format!("the {b} and the {c}"),
        _ => format!("the {b}"),
    };
    let parents = (1..=objects.len()).collect();
    questions.push(Question { id: objects.len() + 1, q: format!("Is the {a} {prep} {others}?"), parents });
    let stated = Stated { prep: prep.into(), a: a.into(), b: b.into(), c: c.map(Into::into) };
    Prompt {
        id: id.into(),
        prompt: text,
        relations: vec![stated],
        objects: objects.into_iter().map(Into::into).collect(),
        questions,
        swap_of: swap_of.map(Into::into),
    }
}

fn with_article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// Writes the prompts as one JSON list.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, suite: &[Prompt]) -> Result<()> {
    let text = serde_json::to_string_pretty(suite).map_err(|e| Error::file(path, e.to_string()))?;
    atomic::write(path, |w| writeln!(w, "{text}"))
}

/// What a file of prompts asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Asks {
    pub prompts: Vec<Asked>,
    /// Ids of prompts that ask for no relation: their images count nowhere.
    pub left_out: BTreeSet<String>,
}

/// Reads what prompts ask: a suite of [`make`], or an object of VISOR's `{id: {a, b, rel}}`. VISOR's prompts of type `and`
/// and those with a single object are left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the prompt that is none, has another number of relations than one, or whose
/// relation is unknown.
pub fn read(path: &Path) -> Result<Asks> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))?;
    asked(&value).map_err(|why| Error::file(path, why))
}

/// Reads a suite of [`make`], whose ids also name files.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a file that is no suite, or an id that is no file name.
pub fn read_suite(path: &Path) -> Result<Vec<Prompt>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let suite: Vec<Prompt> = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("expected the prompts that `selma spatial make` writes: {e}")))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match suite.iter().find(|prompt| prompt.id.is_empty() || !prompt.id.chars().all(plain)) {
        Some(prompt) => Err(Error::file(path, format!("the id `{}`: expected letters, digits, - and _", prompt.id))),
        None => Ok(suite),
    }
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
        let [stated] = &prompt.relations[..] else {
            let count = prompt.relations.len();
            return Err(format!("prompt {} has {count} relations; boxes are scored for exactly one", prompt.id));
        };
        let relation = Relation::parse(&stated.prep).map_err(|e| format!("prompt {}: {e}", prompt.id))?;
        let Stated { a, b, c, .. } = stated.clone();
        asks.prompts.push(Asked { id: prompt.id, relation, a, b, c });
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
    Ok(Some(Asked { id: id.into(), relation, a, b, c: text("c") }))
}
