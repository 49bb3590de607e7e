//! Reward-ranked selection: of the pictures that a model drew, those to train on. At most one a prompt, the best, so that
//! prompts which are easy do not dominate. Source: VersaT2I, arXiv:2403.18493; best of K: RAFT, arXiv:2304.06767.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::formats::atomic;

/// Which prompts keep their best picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// All; the best is looked for among the first so many pictures of a prompt.
    BestOf(usize),
    /// Those whose best picture has at least this score.
    Threshold(f64),
    /// This share of them, in (0, 1], rounded up: those with the best pictures.
    Top(f64),
}

/// A picture that may be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub image: PathBuf,
    pub prompt: String,
    pub skill: Option<String>,
    pub score: f64,
}

impl Rule {
    /// `best-of:K`, `threshold:X` or `top:Q`.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(text: &str) -> Result<Rule> {
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let number = || value.parse::<f64>().ok().filter(|v| v.is_finite());
        let rule = match name {
            "best-of" => value.parse().ok().filter(|&k| k > 0).map(Rule::BestOf),
            "threshold" => number().map(Rule::Threshold),
            "top" => number().filter(|&q| q > 0.0 && q <= 1.0).map(Rule::Top),
            _ => None,
        };
        rule.ok_or_else(|| {
            let expected = "best-of:K (the best of K pictures, K from 1 on), threshold:X (a score) or top:Q (a share \
                            above 0, at most 1)";
            Error::Usage(format!("rule {text}: expected {expected}"))
        })
    }
}

/// The chosen ones in the order of the candidates. Of equal scores the first counts as better.
pub fn select(candidates: &[Candidate], rule: Rule) -> Vec<&Candidate> {
    // Prompt to its best candidate, and how many of its candidates were looked at.
    let mut best: HashMap<&str, (usize, usize)> = HashMap::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let (leader, seen) = best.entry(&candidate.prompt).or_insert((i, 0));
        *seen += 1;
        let counts = !matches!(rule, Rule::BestOf(k) if *seen > k);
        if counts && candidate.score > candidates[*leader].score {
            *leader = i;
        }
    }
    let mut chosen: Vec<usize> = best.into_values().map(|(leader, _)| leader).collect();
    match rule {
        Rule::BestOf(_) => {}
        Rule::Threshold(least) => chosen.retain(|&i| candidates[i].score >= least),
        Rule::Top(share) => {
            chosen.sort_by(|&a, &b| candidates[b].score.total_cmp(&candidates[a].score).then(a.cmp(&b)));
            chosen.truncate((share * chosen.len() as f64).ceil() as usize);
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|i| &candidates[i]).collect()
}

/// Makes a training folder of copies, `NNNNN` with the ending of the source, and `metadata.jsonl`, which is written last
/// and keeps the scores and the sources, named from `root` where they are in it. A folder that holds the same selection is
/// completed.
///
/// # Errors
/// [`Error::Failed`] if nothing was chosen; [`Error::File`] if `out` is a training folder with other pictures;
/// [`Error::Io`].
pub fn write(out: &Path, chosen: &[&Candidate], root: &Path) -> Result<()> {
    if chosen.is_empty() {
        return Err(Error::Failed("no picture was chosen; take a lower threshold".into()));
    }
    let rows: Vec<Value> = chosen.iter().enumerate().map(|(i, candidate)| row(i, candidate, root)).collect();
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let metadata = out.join("metadata.jsonl");
    if std::fs::read(&metadata).is_ok_and(|there| there != text.as_bytes()) {
        return Err(Error::file(out, "holds other training pictures; name a new folder"));
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    for (i, candidate) in chosen.iter().enumerate() {
        let bytes = std::fs::read(&candidate.image).map_err(|e| Error::io(&candidate.image, e))?;
        atomic::write(&out.join(name(i, candidate)), |w| w.write_all(&bytes))?;
    }
    atomic::write(&metadata, |w| w.write_all(text.as_bytes()))
}

fn name(i: usize, candidate: &Candidate) -> String {
    let ending = candidate.image.extension().map(|ending| ending.to_string_lossy());
    format!("{i:05}.{}", ending.unwrap_or_else(|| "png".into()))
}

fn row(i: usize, candidate: &Candidate, root: &Path) -> Value {
    let source = candidate.image.strip_prefix(root).unwrap_or(&candidate.image);
    let mut row = json!({
        "file_name": name(i, candidate), "text": candidate.prompt, "score": candidate.score, "source": source,
    });
    if let Some(skill) = &candidate.skill {
        row["skill"] = json!(skill);
    }
    row
}
