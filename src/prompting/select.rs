//! Reward-ranked selection: of the images that a model drew, those to train on. At most one a prompt, the best, so that
//! prompts which are easy do not dominate. Source: VersaT2I, arXiv:2403.18493; best of K: RAFT, arXiv:2304.06767.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::data::image_latents;
use crate::error::{Error, Result};
use crate::formats::atomic;

/// Which prompts keep their best image: what several conditions leave, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rule {
    /// The best is looked for among the first so many images of a prompt.
    pub best_of: Option<usize>,
    /// The best image has at least this score.
    pub least: Option<f64>,
    /// The best image has more than this score.
    pub above: Option<f64>,
    /// At most this share of all prompts, in (0, 1], rounded up: those with the best images.
    pub top: Option<f64>,
}

/// An image that may be chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub image: PathBuf,
    pub prompt: String,
    pub skill: Option<String>,
    pub score: f64,
}

impl Rule {
    /// `best-of:K`, `threshold:X`, `above:X` or `top:Q`, or several with commas between.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(text: &str) -> Result<Rule> {
        let mut rule = Rule::default();
        for part in text.split(',') {
            let (name, value) = part.trim().split_once(':').unwrap_or((part, ""));
            let number = || value.parse::<f64>().ok().filter(|v| v.is_finite());
            let known = match name {
                "best-of" => set(&mut rule.best_of, value.parse().ok().filter(|&k| k > 0)),
                "threshold" => set(&mut rule.least, number()),
                "above" => set(&mut rule.above, number()),
                "top" => set(&mut rule.top, number().filter(|&q| q > 0.0 && q <= 1.0)),
                _ => false,
            };
            if !known {
                let expected = "best-of:K (the best of K images, K from 1 on), threshold:X (at least this score), above:X \
                                (more than this score) or top:Q (a share above 0, at most 1), or several of them with commas";
                return Err(Error::Usage(format!("rule {text}: expected {expected}")));
            }
        }
        Ok(rule)
    }
}

/// Whether there is a value, and none was there before.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let fresh = place.is_none() && value.is_some();
    *place = value;
    fresh
}

/// The chosen ones in the order of the candidates. Of equal scores the first counts as better. Scores are numbers, not NaN.
pub fn select(candidates: &[Candidate], rule: Rule) -> Vec<&Candidate> {
    // Prompt to its candidates' places, prompts in their order.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut prompts: Vec<Vec<usize>> = Vec::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let place = *places.entry(&candidate.prompt).or_insert(prompts.len());
        if place == prompts.len() {
            prompts.push(Vec::new());
        }
        prompts[place].push(i);
    }
    let score = |&i: &usize| Some(candidates[i].score);
    let scores: Vec<Vec<Option<f64>>> = prompts.iter().map(|of| of.iter().map(score).collect()).collect();
    let mut chosen: Vec<usize> = best(&scores, rule).into_iter().map(|(p, k)| prompts[p][k]).collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| &candidates[i]).collect()
}

/// (prompt, candidate) of what `rule` keeps of `scores[prompt][candidate]`, in the order of the prompts. Of equal scores the
/// lowest candidate, and of equal best ones the first prompt. A candidate without a score is passed over; prompts without
/// any count among all prompts.
pub fn best(scores: &[Vec<Option<f64>>], rule: Rule) -> Vec<(usize, usize)> {
    let best_of = |scores: &[Option<f64>]| -> Option<usize> {
        let looked_at = &scores[..rule.best_of.unwrap_or(usize::MAX).min(scores.len())];
        let scored = (0..looked_at.len()).filter(|&k| looked_at[k].is_some());
        scored.reduce(|best, k| if looked_at[k] > looked_at[best] { k } else { best })
    };
    let each = scores.iter().enumerate().filter_map(|(p, of)| Some((p, best_of(of)?)));
    let mut chosen: Vec<(usize, usize)> = each.collect();
    let score = |(p, k): (usize, usize)| scores[p][k].unwrap_or(f64::NEG_INFINITY);
    chosen.retain(|&at| rule.least.is_none_or(|least| score(at) >= least));
    chosen.retain(|&at| rule.above.is_none_or(|above| score(at) > above));
    if let Some(share) = rule.top {
        chosen.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        chosen.truncate((share * scores.len() as f64).ceil() as usize);
    }
    chosen.sort_unstable();
    chosen
}

/// Makes a training folder of copies, `NNNNN` with the ending of the source, of latents that lie beside a source, and of
/// `metadata.jsonl`, which is written last
/// and keeps the scores and the sources, named from `root` where they are in it. A folder that holds the same selection is
/// completed.
///
/// # Errors
/// [`Error::Failed`] if nothing was chosen; [`Error::File`] if `out` is a training folder with other images;
/// [`Error::Io`].
pub fn write(out: &Path, chosen: &[&Candidate], root: &Path) -> Result<()> {
    if chosen.is_empty() {
        return Err(Error::Failed("no image was chosen; take a lower threshold".into()));
    }
    let rows: Vec<Value> = chosen.iter().enumerate().map(|(i, candidate)| row(i, candidate, root)).collect();
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let metadata = out.join("metadata.jsonl");
    if std::fs::read(&metadata).is_ok_and(|there| there != text.as_bytes()) {
        return Err(Error::file(out, "holds other training images; name a new folder"));
    }
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    for (i, candidate) in chosen.iter().enumerate() {
        let bytes = std::fs::read(&candidate.image).map_err(|e| Error::io(&candidate.image, e))?;
        let copy = out.join(name(i, candidate));
        atomic::write(&copy, |w| w.write_all(&bytes))?;
        let latents = image_latents::path(&candidate.image);
        if latents.exists() {
            let bytes = std::fs::read(&latents).map_err(|e| Error::io(&latents, e))?;
            atomic::write(&image_latents::path(&copy), |w| w.write_all(&bytes))?;
        }
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
