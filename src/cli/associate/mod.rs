//! `selma associate`: which text belongs to which image, scored.

mod images;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::associate::{Rule, Score, Similarities, replies, score};
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::{atomic, jsonl};

use images::ImageOptions;

/// Score how well images are told apart by their texts, as VEGA does.
///
/// --images: a folder of `selma generate`, an image a prompt; prompts are put into groups, and a judge says which image belongs
/// to which text: CLIP, or a language model that sees (--llm, with its key from OPENAI_API_KEY). --similarities: JSON lines
/// {"similarity": [[..], ..]}, a row an image, a column a text, image i belonging to text i; groups of one size are scored
/// together. --replies: JSON lines as of VEGA's test files, with `response` and either `answer` (image-text association) or
/// `truth_fig_idx` (interleaved comprehension).
#[derive(clap::Args)]
pub struct Associate {
    /// Groups of similarities.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["replies", "images"])]
    similarities: Option<PathBuf>,
    /// Replies of a language model.
    #[arg(long, value_name = "FILE")]
    replies: Option<PathBuf>,
    #[command(flatten)]
    images: ImageOptions,
    /// The scores, as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long)]
    overwrite: bool,
}

#[derive(Deserialize)]
struct Group {
    similarity: Similarities,
}

#[derive(Deserialize)]
struct Reply {
    response: String,
    answer: Option<String>,
    truth_fig_idx: Option<u64>,
}

impl Associate {
    pub fn run(self, common: &Common) -> Result<()> {
        if let Some(out) = &self.out {
            super::refuse_existing(out, self.overwrite)?;
        }
        input::check([("--similarities", self.similarities.as_deref()), ("--replies", self.replies.as_deref())])?;
        let mut report = serde_json::Map::new();
        if let Some(file) = &self.similarities {
            report.insert("groups".into(), similarities(file, common)?);
        }
        if let Some(file) = &self.replies {
            report.insert("replies".into(), scored_replies(file, common)?);
        }
        if self.images.asked() {
            let (groups, rows) = self.images.run(self.out.as_deref(), common)?;
            report.insert("judged".into(), groups);
            report.insert("made_groups".into(), rows);
        }
        let report = Value::Object(report);
        if let Some(out) = &self.out {
            atomic::write(out, |w| writeln!(w, "{report:#}"))?;
        }
        if common.json {
            outjson!(report);
        }
        Ok(())
    }
}

fn similarities(file: &Path, common: &Common) -> Result<Value> {
    let groups: Vec<(usize, Similarities)> =
        jsonl::read::<Group>(file)?.into_iter().map(|(line, group)| (line, group.similarity)).collect();
    if groups.is_empty() {
        return Err(Error::file(file, "no group in it"));
    }
    score_groups(groups, common).map_err(|(line, e)| Error::file(file, format!("line {line}: {e}")))
}

/// The scores of groups by size and rule; an error has the number of the group that it is about.
fn score_groups(groups: Vec<(usize, Similarities)>, common: &Common) -> Result<Value, (usize, Error)> {
    let mut by_size: BTreeMap<usize, Vec<(usize, Similarities)>> = BTreeMap::new();
    for (number, matrix) in groups {
        by_size.entry(matrix.len()).or_default().push((number, matrix));
    }
    let mut rows = Vec::new();
    for (k, groups) in &by_size {
        for (name, rule) in Rule::ALL {
            let texts = |(number, matrix): &(usize, Similarities)| rule.texts(matrix).map_err(|e| (*number, e));
            let texts: Vec<Vec<usize>> = groups.iter().map(texts).collect::<Result<_, _>>()?;
            let Some(Score { exact, per_image, groups }) = score(&texts) else { continue };
            let (by_chance, one_by_chance) = rule.chance(*k);
            if !common.json {
                outln!(
                    "groups of {k}, {name}: {:.1} % exact (chance {:.1}), {:.1} % of images (chance {:.1}); {groups} groups",
                    100.0 * exact,
                    100.0 * by_chance,
                    100.0 * per_image,
                    100.0 * one_by_chance
                );
            }
            rows.push(json!({"k": k, "rule": name, "exact": exact, "per_picture": per_image, "groups": groups,
                             "chance": {"exact": by_chance, "per_picture": one_by_chance}}));
        }
    }
    Ok(Value::Array(rows))
}

fn scored_replies(file: &Path, common: &Common) -> Result<Value> {
    // Right and all, of association and of comprehension.
    let mut counts = [[0usize; 2]; 2];
    for (line, reply) in jsonl::read::<Reply>(file)? {
        let (task, right) = match (&reply.answer, reply.truth_fig_idx) {
            (_, Some(truth)) => (1, replies::comprehension_is_right(&reply.response, truth)),
            (Some(answer), None) => (0, replies::association_is_right(answer, &reply.response)),
            (None, None) => {
                return Err(Error::file(file, format!("line {line}: expected `answer` or `truth_fig_idx`")));
            }
        };
        counts[task][0] += usize::from(right);
        counts[task][1] += 1;
    }
    let mut rows = Vec::new();
    for (task, [right, all]) in [("association", counts[0]), ("comprehension", counts[1])] {
        if all > 0 {
            let share = right as f64 / all as f64;
            if !common.json {
                outln!("{task}: {right} of {all} replies right ({:.1} %)", 100.0 * share);
            }
            rows.push(json!({"task": task, "right": right, "replies": all, "accuracy": share}));
        }
    }
    match rows.is_empty() {
        true => Err(Error::file(file, "no reply in it")),
        false => Ok(Value::Array(rows)),
    }
}
