//! `selma eval`: stage 5, how well pictures show what their prompts say.

mod answers;
mod report;

use std::path::{Path, PathBuf};

use answers::{Endpoint, Source};

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::evaluate::asked;
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder::{self, Entry};
use crate::evaluate::pairing::pair;
use crate::evaluate::questions::{Dependencies, Item, dsg, tifa};
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::formats::atomic;

/// Score a folder of pictures, and compare it with another one.
///
/// Intervals hold 95 %, by the bootstrap over prompts; a comparison pairs pictures of the same prompt, seed and index.
#[derive(clap::Args)]
pub struct Eval {
    /// Pictures with metadata.jsonl (`file_name`, `text`; `seed`, `index`, `skill` and `item_id` if there are any), as
    /// `selma generate` writes them; without it, pictures named after the items of the questions. With --answers it can
    /// be left out.
    #[arg(long, value_name = "DIR", required_unless_present = "answers")]
    images: Option<PathBuf>,
    /// dsg, tifa: questions from --questions. shapes: coloured shapes, questions from the caption.
    #[arg(long, value_name = "NAME")]
    benchmark: String,
    /// The questions: DSG's CSV (dsg-1k-anns.csv) or TIFA's JSON.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Who answers: an OpenAI-compatible chat endpoint that sees pictures (the key is read from OPENAI_API_KEY), or
    /// builtin, the one for shapes.
    #[arg(long, value_name = "URL|builtin", required_unless_present = "answers")]
    judge: Option<String>,
    /// The endpoint's model; with --answers, who gave them.
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// Answers instead: CSV, JSON or JSON lines with item_id, question_id (or question), answer, and file_name where an
    /// item has several pictures.
    #[arg(long, value_name = "FILE", conflicts_with = "judge")]
    answers: Option<PathBuf>,
    /// DSG: what a yes depends on, for all numbers but the table of the three readings.
    #[arg(long, value_enum, default_value = "direct")]
    dependencies: Dependencies,
    #[command(flatten)]
    endpoint: Endpoint,
    /// Scores of every picture, skill and category.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Another folder, such as the base model's pictures to the same prompts and seed, or its scores from an earlier run.
    #[arg(long, value_name = "DIR|SCORES")]
    against: Option<PathBuf>,
    /// Leave out pictures that metadata.jsonl names and that are not there, and items without a picture; they are counted.
    #[arg(long)]
    allow_missing: bool,
}

impl Eval {
    pub fn run(self, common: &Common) -> Result<()> {
        atomic::check(&self.out)?;
        let scorer = self.scorer(common)?;
        let mut scores = scorer.score(self.images.as_deref())?;
        if let Some(other) = &self.against {
            let theirs = match other.is_file() {
                true => Scores::read(other)?,
                false => scorer.score(Some(other))?,
            };
            scores.against = Some(Comparison::of(&scores, &theirs)?);
        }
        scores.write(&self.out)?;
        report::print(&scores, &self.out, self.against.as_deref(), common)
    }

    fn scorer<'a>(&'a self, common: &'a Common) -> Result<Scorer<'a>> {
        let benchmark = self.benchmark.as_str();
        let read: fn(&Path) -> Result<Vec<Item>> = match benchmark {
            "shapes" => {
                let message = match self.judge.as_deref() {
                    Some("builtin") if self.questions.is_none() => {
                        return Ok(Scorer { eval: self, common, asked: None });
                    }
                    Some("builtin") => "--questions: the questions of shapes follow from its captions",
                    _ => "--benchmark shapes: expected --judge builtin",
                };
                return Err(Error::Usage(message.into()));
            }
            "dsg" => dsg::read,
            "tifa" => tifa::read,
            "clipscore" | "pickscore" | "hpsv2" | "imagereward" => {
                return Err(Error::Unavailable(format!("--benchmark {benchmark}")));
            }
            other => {
                let message = format!("--benchmark {other}: expected dsg, tifa or shapes");
                return Err(Error::Usage(message));
            }
        };
        let Some(questions) = &self.questions else {
            let message = format!("--benchmark {benchmark}: expected --questions FILE");
            return Err(Error::Usage(message));
        };
        let items = read(questions)?;
        let source = Source::open(self, &items, common)?;
        let asked = Some((items, source));
        Ok(Scorer { eval: self, common, asked })
    }
}

/// How a set is scored.
struct Scorer<'a> {
    eval: &'a Eval,
    common: &'a Common,
    /// The questions and who answers them, where they are not in the judge.
    asked: Option<(Vec<Item>, Source)>,
}

impl Scorer<'_> {
    /// Without a folder, the answers are about pictures that are not at hand.
    fn score(&self, dir: Option<&Path>) -> Result<Scores> {
        let seed = self.common.seed();
        let Some((items, source)) = &self.asked else {
            let dir = dir.ok_or_else(|| Error::Usage("--images: expected a folder".into()))?;
            return shapes::evaluate(&self.entries(dir, &[])?, seed);
        };
        let (dir, entries) = match dir {
            Some(dir) => (dir, self.entries(dir, items)?),
            None => {
                let mut entries = folder::of_items(items);
                entries.retain(|entry| source.knows(entry));
                (Path::new("--answers"), entries)
            }
        };
        let paired = pair(dir, &entries, items)?;
        if let Some(first) = paired.missing.first() {
            let message = format!(
                "{} of {} items of the questions have no {}, {first} first",
                paired.missing.len(),
                items.len(),
                if self.eval.images.is_some() { "picture" } else { "answer" }
            );
            self.left_out(dir, &message)?;
        }
        if paired.others > 0 {
            let message = format!("{} pictures are of no item and are not asked about", paired.others);
            self.common.note(format!("warning: {}: {message}", dir.display()));
        }
        let answers = source.answers(&paired.pictures, self.common)?;
        let names = (self.eval.benchmark.as_str(), source.name.as_str());
        asked::score(names, &paired, &answers, self.eval.dependencies, seed)
    }

    fn entries(&self, dir: &Path, items: &[Item]) -> Result<Vec<Entry>> {
        if !items.is_empty() && dir.is_dir() && !dir.join("metadata.jsonl").exists() {
            return folder::by_name(dir, items);
        }
        let (entries, missing) = folder::list(dir)?;
        if let Some(first) = missing.first() {
            let count = missing.len() + entries.len();
            let message = format!("{} of {count} pictures are not there, {first} first", missing.len());
            self.left_out(dir, &message)?;
        }
        Ok(entries)
    }

    fn left_out(&self, dir: &Path, message: &str) -> Result<()> {
        if !self.eval.allow_missing {
            return Err(Error::file(dir, format!("{message}; --allow-missing leaves them out")));
        }
        self.common.note(format!("warning: {}: {message}; they are left out", dir.display()));
        Ok(())
    }
}
