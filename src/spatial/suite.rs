//! Suites of prompts about relations, and their files.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Relation;
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
    check_objects(objects)?;
    let n = objects.len();
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

fn check_objects(objects: &[String]) -> Result<()> {
    let twice = objects.iter().enumerate().find(|(i, object)| objects[..*i].contains(object));
    match (twice, objects.len()) {
        (Some((_, object)), _) => Err(Error::Usage(format!("--objects: `{object}` is given twice"))),
        (None, 0..3) => Err(Error::Usage(format!("--objects: expected at least three objects, got {}", objects.len()))),
        (None, _) => Ok(()),
    }
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

/// `count` prompts of two relations, `a A p1 a B, with a C p2 the A`, each with the partner in which A and B are exchanged
/// where the first relation is asymmetric. Among and between, which take several objects, are in none.
///
/// # Errors
/// As [`make`].
pub fn make_pairs(objects: &[String], relations: &[Relation], count: usize, seed: u64) -> Result<Vec<Prompt>> {
    const STREAM: u64 = 1 << 16;
    check_objects(objects)?;
    let several = [Relation::Among, Relation::Between];
    let plain: Vec<Relation> = relations.iter().copied().filter(|relation| !several.contains(relation)).collect();
    let (n, kinds) = (objects.len(), plain.len());
    // Of A and B either may come first: the other order is the partner.
    let pairs: Vec<[usize; 2]> = (0..n).flat_map(|a| (a + 1..n).map(move |b| [a, b])).collect();
    let total = (kinds * kinds * pairs.len() * (n - 2)).min(u32::MAX as usize);
    if count > total {
        return Err(Error::Usage(format!(
            "--two-relations {count}: {n} objects and {kinds} prepositions for two objects make {total} different prompts; \
             give more"
        )));
    }
    let mut suite = Vec::new();
    // A shuffle of 0..total whose unmoved places are not written down.
    let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
    for i in 0..count {
        let draw =
            |step: u64, n: usize| random::below(seed, Stream::Choice, i as u64, STREAM | step, n as u32) as usize;
        let j = i + draw(0, total - i);
        let at = |place: usize| moved.get(&place).copied().unwrap_or(place);
        let (mut chosen, here) = (at(j), at(i));
        moved.insert(j, here);
        let mut take = |n: usize| {
            let digit = chosen % n;
            chosen /= n;
            digit
        };
        let (first, second, pair, third) =
            (plain[take(kinds)], plain[take(kinds)], pairs[take(pairs.len())], take(n - 2));
        let others: Vec<usize> = (0..n).filter(|object| !pair.contains(object)).collect();
        let (mut a, mut b, c) = (objects[pair[0]].as_str(), objects[pair[1]].as_str(), objects[others[third]].as_str());
        if draw(1, 2) == 1 {
            (a, b) = (b, a);
        }
        let id = format!("two_{i:04}");
        suite.push(pair_prompt(&id, (first, second), [a, b, c], None));
        if first.is_asymmetric() {
            suite.push(pair_prompt(&format!("{id}s"), (first, second), [b, a, c], Some(&id)));
        }
    }
    Ok(suite)
}

fn pair_prompt(id: &str, relations: (Relation, Relation), [a, b, c]: [&str; 3], swap_of: Option<&str>) -> Prompt {
    let (first, second) = (relations.0.name(), relations.1.name());
    let [with_a, with_b, with_c] = [a, b, c].map(with_article);
    let mut questions: Vec<Question> = (1..)
        .zip([&with_a, &with_b, &with_c])
        .map(|(id, object)| Question { id, q: format!("Is there {object}?"), parents: vec![0] })
        .collect();
    questions.push(Question { id: 4, q: format!("Is the {a} {first} the {b}?"), parents: vec![1, 2] });
    questions.push(Question { id: 5, q: format!("Is the {c} {second} the {a}?"), parents: vec![1, 3] });
    let stated = |prep: &str, a: &str, b: &str| Stated { prep: prep.into(), a: a.into(), b: b.into(), c: None };
    Prompt {
        id: id.into(),
        prompt: format!("{with_a} {first} {with_b}, with {with_c} {second} the {a}"),
        relations: vec![stated(first, a, b), stated(second, c, a)],
        objects: [a, b, c].map(Into::into).to_vec(),
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
