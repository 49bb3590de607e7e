//! `selma eval`: stage 5, how well pictures show what their prompts say.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder;
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::evaluate::statistics::{Difference, Estimate};
use crate::formats::atomic;

/// Score a folder of pictures, and compare it with another one.
///
/// Intervals hold 95 %, by the bootstrap over prompts; a comparison pairs pictures of the same prompt, seed and index.
#[derive(clap::Args)]
pub struct Eval {
    /// Pictures with metadata.jsonl (`file_name`, `text`; `seed`, `index` and `skill` if there are any), as `selma generate`
    /// writes them.
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// shapes: coloured shapes, questions from the caption.
    #[arg(long, value_name = "NAME")]
    benchmark: String,
    /// builtin: the one for shapes.
    #[arg(long, value_name = "URL|builtin")]
    judge: String,
    /// Scores of every picture, skill and category.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Another folder, such as the base model's pictures to the same prompts and seed.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Leave out pictures that metadata.jsonl names and that are not there.
    #[arg(long)]
    allow_missing: bool,
}

impl Eval {
    pub fn run(self, common: &Common) -> Result<()> {
        match self.benchmark.as_str() {
            "shapes" => {}
            other @ ("dsg" | "tifa" | "clipscore" | "pickscore" | "hpsv2" | "imagereward") => {
                return Err(Error::Unavailable(format!("--benchmark {other}")));
            }
            other => return Err(Error::Usage(format!("--benchmark {other}: expected shapes"))),
        }
        if self.judge != "builtin" {
            return Err(Error::Unavailable(format!("--judge {} for shapes", self.judge)));
        }
        atomic::check(&self.out)?;
        let mut scores = self.score(&self.images, common)?;
        if let Some(dir) = &self.against {
            scores.against = Some(Comparison::of(&scores, &self.score(dir, common)?)?);
        }
        scores.write(&self.out)?;
        self.report(&scores, common)
    }

    fn score(&self, dir: &Path, common: &Common) -> Result<Scores> {
        let (entries, missing) = folder::list(dir)?;
        if let Some(first) = missing.first() {
            let message = format!("{} of {} pictures are not there, {first} first", missing.len(), {
                missing.len() + entries.len()
            });
            if !self.allow_missing {
                return Err(Error::file(dir, format!("{message}; --allow-missing leaves them out")));
            }
            common.note(format!("warning: {}: {message}; they are left out", dir.display()));
        }
        shapes::evaluate(&entries, common.seed())
    }

    fn report(&self, scores: &Scores, common: &Common) -> Result<()> {
        if common.json {
            let mut summary = json!(scores);
            if let Some(fields) = summary.as_object_mut() {
                fields.shift_remove("pictures");
            }
            println!("{summary}");
            return Ok(());
        }
        println!(
            "{}: {} judged by {}",
            self.out.display(),
            scores.benchmark,
            scores.judge
        );
        print(&format!("all {} pictures", scores.overall.values), &scores.overall);
        scores.skills.iter().for_each(|(name, estimate)| print(name, estimate));
        if let Some(estimate) = &scores.questions {
            println!("{} questions", estimate.values);
            print("all", estimate);
            scores
                .categories
                .iter()
                .for_each(|(name, estimate)| print(name, estimate));
        }
        if let Some(estimate) = &scores.questions_without_dependencies {
            print("all, without dependencies", estimate);
        }
        if let (Some(against), Some(dir)) = (&scores.against, &self.against) {
            println!("higher than {} by", dir.display());
            print_difference(
                &format!("all {} pairs", against.overall.estimate.values),
                &against.overall,
            );
            against
                .skills
                .iter()
                .for_each(|(name, difference)| print_difference(name, difference));
            against
                .categories
                .iter()
                .for_each(|(name, difference)| print_difference(name, difference));
            if against.unpaired != [0, 0] {
                let [ours, theirs] = against.unpaired;
                common.note(format!(
                    "warning: {ours} pictures here and {theirs} there have no partner and do not count"
                ));
            }
        }
        Ok(())
    }
}

fn print(name: &str, estimate: &Estimate) {
    println!("  {name:28} {:6.3}  {}", estimate.mean, interval(estimate));
}

fn print_difference(name: &str, difference: &Difference) {
    let p = difference.p_value.map_or(String::new(), |p| format!("  p = {p:.4}"));
    let estimate = &difference.estimate;
    println!("  {name:28} {:+6.3}  {}{p}", estimate.mean, interval(estimate));
}

fn interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some([low, high]) => format!("[{low:.3}, {high:.3}]"),
        None => "(one prompt)".into(),
    }
}
