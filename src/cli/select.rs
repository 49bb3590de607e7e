//! `selma select`: the best of what a model drew, as a training folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{Common, eval, input};
use crate::error::{Error, Result};
use crate::evaluate::folder;
use crate::evaluate::scores::Scores;
use crate::judges::kind::Kind;
use crate::prompting::select::{self, Candidate, Rule};

/// Select the best images to train on by their scores, at most one for each prompt.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Select {
    /// Folders of images with metadata.jsonl; of equal scores the first folder's counts as better.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    images: Vec<PathBuf>,
    /// What `selma eval` wrote, a file for each folder of --images in the same order; or a scorer, such as imagereward
    #[arg(long, value_name = "SCORES|SCORER", required = true, num_args = 1..)]
    by: Vec<PathBuf>,
    /// NAME=MODEL: the weights of that scorer, as for `selma eval`
    #[arg(long, value_name = "NAME=MODEL")]
    weights: Vec<String>,
    /// best-of:K: the best of the first K images of every prompt; threshold:X: the best one, if it has at least this
    /// score; above:X: if it has more; top:Q: the best one, for this share of the prompts. Several with commas.
    #[arg(long)]
    rule: String,
    /// Output folder, which `selma train --data` reads.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a selection that is in --out already.
    #[arg(long)]
    overwrite: bool,
}

const EXAMPLES: &str = "\
Examples:
  selma select --images images --by scores.json --rule top:0.5 --out best
  selma select --images seed-1 seed-2 --by 1.json 2.json --rule best-of:2 --out best
  selma select --images images --by imagereward --weights imagereward=./ImageReward --rule best-of:4 --out best";

impl Select {
    /// Selects the images, and writes the training folder.
    ///
    /// # Errors
    /// For images without scores, and an output folder that is in use.
    pub fn run(self, common: &Common) -> Result<()> {
        let rule = Rule::parse(&self.rule)?;
        input::check(self.images.iter().map(|path| ("--images", Some(path.as_path()))))?;
        let scorer = match &self.by[..] {
            [name] if !name.exists() => name.to_str().and_then(Kind::parse),
            _ => None,
        };
        if scorer.is_none() && !self.weights.is_empty() {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            return Err(Error::Usage(format!("--weights: expected --by {}", all.join(", --by "))));
        }
        if scorer.is_none() {
            input::check(self.by.iter().map(|path| ("--by", Some(path.as_path()))))?;
        }
        if scorer.is_none() && self.images.len() != self.by.len() {
            return Err(Error::Usage(format!(
                "--by: expected {} score files, one for each folder of --images, got {}",
                self.images.len(),
                self.by.len()
            )));
        }
        let existing = self.out.join("metadata.jsonl").exists();
        if existing && !self.overwrite {
            let message = "holds a selection already; --overwrite replaces it, or choose another --out";
            return Err(Error::file(&self.out, message));
        }
        let folders = self.images.iter().map(|dir| Ok(folder::list(dir)?.0)).collect::<Result<Vec<_>>>()?;
        let scores = match scorer {
            Some(kind) => {
                let cache = self.out.with_added_extension("values.jsonl");
                eval::of_folders(kind, &self.weights, &folders, &cache, common)?
            }
            None => self.by.iter().map(|by| Scores::read(by)).collect::<Result<_>>()?,
        };
        let mut candidates = Vec::new();
        for (i, (entries, scores)) in folders.into_iter().zip(&scores).enumerate() {
            let by = self.by.get(i).unwrap_or(&self.by[0]);
            candidates.extend(list(entries, scores, by)?);
        }
        let chosen = select::select(&candidates, rule);
        if existing && !chosen.is_empty() {
            remove(&self.out)?;
        }
        select::write(&self.out, &chosen, Path::new(""))?;
        let mean = |of: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = of.fold((0.0, 0), |(sum, count), score| (sum + score, count + 1));
            sum / f64::from(count)
        };
        let before = mean(&mut candidates.iter().map(|candidate| candidate.score));
        let after = mean(&mut chosen.iter().map(|candidate| candidate.score));
        if common.json {
            let (of, selected) = (candidates.len(), chosen.len());
            let report = json!({"out": self.out, "candidates": of, "selected": selected,
                                "mean_before": before, "mean_after": after});
            outjson!(report);
        } else {
            let (out, selected, of) = (self.out.display(), chosen.len(), candidates.len());
            outln!("{out}: {selected} of {of} images, mean score {after:.3} instead of {before:.3}");
        }
        Ok(())
    }
}

/// Removes the images that an earlier selection lists, and the list.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] for a list that is damaged, or names files outside of the folder.
fn remove(dir: &Path) -> Result<()> {
    let (entries, _) = folder::list(dir)?;
    let images = entries.into_iter().map(|entry| entry.path);
    let all = images.chain(std::iter::once(dir.join("metadata.jsonl")));
    all.into_iter().try_for_each(|path| std::fs::remove_file(&path).map_err(|e| Error::io(&path, e)))
}

/// The images of a folder with their scores, which are of the file `by`.
fn list(entries: Vec<folder::Entry>, scores: &Scores, by: &Path) -> Result<Vec<Candidate>> {
    let known: HashMap<(&str, &str), f64> =
        scores.images.iter().map(|image| ((image.file_name.as_str(), image.prompt.as_str()), image.score)).collect();
    let candidate = |entry: folder::Entry| {
        let score = known.get(&(entry.file_name.as_str(), entry.prompt.as_str()));
        let score = *score.ok_or_else(|| {
            let message = format!("no score of {} for its prompt; score the folder anew", entry.path.display());
            Error::file(by, message)
        })?;
        Ok(Candidate { image: entry.path, prompt: entry.prompt, skill: entry.skill, score })
    };
    entries.into_iter().map(candidate).collect()
}
