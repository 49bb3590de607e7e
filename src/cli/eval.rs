//! `selma eval`: stage 5, how well images show what their prompts say.

mod answers;
mod report;
mod scorers;

pub(super) use scorers::{of_folders, precision};

use std::path::{Path, PathBuf};

use answers::Source;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder::{self, Entry};
use crate::evaluate::pairing::pair;
use crate::evaluate::quality::{self, Measure};
use crate::evaluate::question_scores;
use crate::evaluate::questions::{Dependencies, Item, dsg, tifa};
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::prompting::llm::EndpointOptions;

/// Score a folder of images, and compare it with another one.
///
/// Intervals are 95 % bootstrap intervals over prompts. A comparison pairs images of the same prompt, seed and index. With an
/// endpoint, every reply is recorded beside --out in NAME.answers.jsonl, and is not asked for again.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct Eval {
    /// Folder of images with metadata.jsonl, as `selma generate` writes it (`file_name`, `text`, and where known `seed`,
    /// `index`, `skill`, `item_id`), or of images that are named after the items of the questions. Optional with --answers.
    #[arg(long, value_name = "DIR", required_unless_present = "answers")]
    images: Option<PathBuf>,
    /// dsg, tifa: questions from --questions. shapes: coloured shapes, questions from the caption. sharpness, noise, exposure:
    /// from the pixels (of noise the negated strength, so that more is better in each). One number an image, and
    /// several with commas between: clipscore, pickscore, hpsv2, hpsv2.1, imagereward, aesthetic.
    #[arg(long, value_name = "NAME")]
    benchmark: String,
    /// The questions: DSG's CSV (dsg-1k-anns.csv) or TIFA's JSON.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// The judge: an OpenAI-compatible chat endpoint of a model that sees (its key is read from OPENAI_API_KEY); blip-vqa, in
    /// this process, by its greedy answers (blip-vqa:yes-no compares yes with no, blip-vqa:rank ranks the choices); or builtin,
    /// the judge for shapes.
    #[arg(long, value_name = "URL|blip-vqa|builtin")]
    judge: Option<String>,
    /// The weights of a scorer or of blip-vqa: a folder, a file, or an id on the Hugging Face hub, also ORG/NAME@REVISION and
    /// ORG/NAME:FILE [default: the published ones]. aesthetic-clip is the CLIP of an aesthetic head that comes alone. Repeat it.
    #[arg(long, value_name = "NAME=MODEL")]
    weights: Vec<String>,
    /// The endpoint's model; with --answers, who gave them.
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// A file of answers instead of a judge: CSV, JSON or JSON lines with item_id, question_id (or question), answer, and file_name where an
    /// item has several images.
    #[arg(long, value_name = "FILE", conflicts_with = "judge")]
    answers: Option<PathBuf>,
    /// DSG: which parent questions need a yes for a question to count. The table of readings has all three.
    #[arg(long, value_enum, default_value = "direct")]
    dependencies: Dependencies,
    #[command(flatten)]
    endpoint: EndpointOptions,
    /// Output file (JSON): scores of every image, skill and category.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Compare with this folder, such as the base model's images of the same prompts and seed, or with the scores of one.
    #[arg(long, value_name = "DIR|SCORES")]
    against: Option<PathBuf>,
    /// Leave out, and count, images that metadata.jsonl lists and that are missing, and items without an image.
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

const USAGE: &str = "selma eval --benchmark <NAME> --images <DIR> [--judge <URL|blip-vqa|builtin> | --answers <FILE>] --out <FILE> [OPTIONS]";

const EXAMPLES: &str = "\
Examples:
  selma eval --benchmark shapes --judge builtin --images images --out scores.json
  selma eval --benchmark clipscore,imagereward --images images --out scores.json
  selma eval --benchmark dsg --questions dsg-1k-anns.csv --judge http://localhost:8000 --judge-model qwen2.5-vl \\
    --images tuned --against base --out scores.json";

impl Eval {
    /// Scores the images, and writes and prints the scores.
    ///
    /// # Errors
    /// For questions, images or answers that are missing or damaged; what kept the judge from answering.
    pub fn run(self, common: &Common) -> Result<()> {
        input::check([
            ("--images", self.images.as_deref()),
            ("--questions", self.questions.as_deref()),
            ("--answers", self.answers.as_deref()),
            ("--against", self.against.as_deref()),
        ])?;
        if let Some(kinds) = scorers::kinds(&self.benchmark)? {
            return scorers::run(&self, &kinds, common);
        }
        self.overwrite.check(&self.out)?;
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
        report::print(&scores, &self.out, self.against.as_deref(), common);
        Ok(())
    }

    fn entries(&self, dir: &Path, items: &[Item], common: &Common) -> Result<Vec<Entry>> {
        if !items.is_empty() && dir.is_dir() && !dir.join("metadata.jsonl").exists() {
            return folder::by_name(dir, items);
        }
        let (entries, missing) = folder::list(dir)?;
        if let Some(first) = missing.first() {
            let count = missing.len() + entries.len();
            let message = format!("{} of {count} images are not there, {first} first", missing.len());
            self.left_out(dir, &message, common)?;
        }
        Ok(entries)
    }

    fn left_out(&self, dir: &Path, message: &str, common: &Common) -> Result<()> {
        if !self.allow_missing {
            return Err(Error::file(dir, format!("{message}; --allow-missing leaves them out")));
        }
        common.note(format!("warning: {}: {message}; they are left out", dir.display()));
        Ok(())
    }

    fn scorer<'a>(&'a self, common: &'a Common) -> Result<Scorer<'a>> {
        let benchmark = self.benchmark.as_str();
        if Measure::parse(benchmark).is_some() {
            return match (&self.judge, &self.questions) {
                (None, None) => Ok(Scorer { eval: self, common, asked: None }),
                _ => {
                    Err(Error::Usage(format!("--benchmark {benchmark}: is measured, without --judge and --questions")))
                }
            };
        }
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
            other => {
                let message = format!(
                    "--benchmark {other}: expected dsg, tifa, shapes, or some of clipscore, pickscore, hpsv2, hpsv2.1, \
                     imagereward, aesthetic"
                );
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
    /// Without a folder, the answers are about images that are not at hand.
    fn score(&self, dir: Option<&Path>) -> Result<Scores> {
        let seed = self.common.seed();
        let Some((items, source)) = &self.asked else {
            let dir = dir.ok_or_else(|| Error::Usage("--images: expected a folder".into()))?;
            let entries = self.eval.entries(dir, &[], self.common)?;
            return match Measure::parse(&self.eval.benchmark) {
                Some(measure) => quality::evaluate(measure, &entries, seed),
                None => shapes::evaluate(&entries, seed),
            };
        };
        let (dir, entries) = match dir {
            Some(dir) => (dir, self.eval.entries(dir, items, self.common)?),
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
                if self.eval.images.is_some() { "image" } else { "answer" }
            );
            self.eval.left_out(dir, &message, self.common)?;
        }
        if paired.others > 0 {
            let message = format!("{} images are of no item and are not asked about", paired.others);
            self.common.note(format!("warning: {}: {message}", dir.display()));
        }
        let answers = source.answers(&paired.images, self.common)?;
        let names = (self.eval.benchmark.as_str(), source.name.as_str());
        question_scores::score(names, &paired, &answers, self.eval.dependencies, seed)
    }
}
