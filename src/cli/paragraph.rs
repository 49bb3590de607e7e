//! `selma paragraph`: long prompts, and how well what stands late in them is drawn.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg;
use crate::evaluate::scores::Scores;
use crate::formats::model_dir::ModelDir;
use crate::formats::{atomic, jsonl};
use crate::paragraph::files;
use crate::paragraph::late::{Cell, Place, Tuples, cells};

/// Test how well long prompts are drawn (ParaDiffusion).
#[derive(clap::Args)]
pub struct Paragraph {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Make(Make),
    Score(Score),
}

/// Turn ParaDiffusion's test files into prompts and questions.
///
/// --out gets the prompts for `selma generate --long-prompts`. With --parts, --questions gets two questions about each object
/// in DSG's form, for `selma eval --benchmark dsg`; paragraphs without a file there get none and are left out of both.
#[derive(clap::Args)]
struct Make {
    /// ParaPrompts_400.csv, or another table with the columns Image, Prompt and Category.
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Folder with IMAGE.json: what a paragraph says of each object.
    #[arg(long, value_name = "DIR", requires = "questions")]
    parts: Option<PathBuf>,
    /// The questions, as CSV with DSG's columns.
    #[arg(long, value_name = "FILE", requires = "parts")]
    questions: Option<PathBuf>,
    /// The prompts, as JSON lines.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// Compare images of prompts that were cut at 75 tokens with images of the whole prompts.
///
/// Both are scores of `selma eval` with questions. A question is early where the words of its tuple first stand within the
/// tokens that survive cutting, late where one stands beyond, absent where none stands in the prompt.
#[derive(clap::Args)]
struct Score {
    /// Scores of images that were drawn without --long-prompts.
    #[arg(long, value_name = "FILE")]
    cut: PathBuf,
    /// Scores of images that were drawn with it.
    #[arg(long, value_name = "FILE")]
    whole: PathBuf,
    /// The questions, in DSG's form.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// The model whose tokens are counted [default: CLIP's vocabulary, which most models have].
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// The table, as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Paragraph {
    pub fn run(self, common: &Common) -> Result<()> {
        match self.command {
            Command::Make(make) => make.run(common),
            Command::Score(score) => score.run(common),
        }
    }
}

impl Make {
    fn run(self, common: &Common) -> Result<()> {
        let outs = [Some(&self.out), self.questions.as_ref()];
        outs.into_iter().flatten().try_for_each(|out| self.overwrite.check(out))?;
        input::check([("--table", Some(self.table.as_path())), ("--parts", self.parts.as_deref())])?;
        let mut paragraphs = files::read(&self.table)?;
        let all = paragraphs.len();
        let mut asked = 0;
        if let (Some(folder), Some(out)) = (&self.parts, &self.questions) {
            paragraphs.retain(|paragraph| files::parts_file(folder, paragraph).is_some());
            if paragraphs.is_empty() {
                return Err(Error::file(folder, "has no file IMAGE.json of any paragraph"));
            }
            let mut items = Vec::new();
            for paragraph in &paragraphs {
                let file = files::parts_file(folder, paragraph).expect("it was just there");
                items.push(files::questions(paragraph, &files::parts(&file)?));
            }
            asked = items.iter().map(|item| item.propositions.len()).sum();
            dsg::write(out, &items)?;
        }
        let records: Vec<_> = paragraphs.iter().map(files::Paragraph::record).collect();
        jsonl::write(&self.out, &records)?;
        if common.json {
            outjson!(json!({"out": self.out, "prompts": records.len(), "paragraphs": all, "questions": asked}));
        } else {
            outln!("{}: {} of {all} paragraphs, {asked} questions", self.out.display(), records.len());
        }
        Ok(())
    }
}

impl Score {
    fn run(self, common: &Common) -> Result<()> {
        if let Some(out) = &self.out {
            self.overwrite.check(out)?;
        }
        input::check([
            ("--cut", Some(self.cut.as_path())),
            ("--whole", Some(self.whole.as_path())),
            ("--questions", Some(self.questions.as_path())),
        ])?;
        let tokenizer = match &self.model {
            None => Tokenizer::clip()?,
            Some(model) => Tokenizer::load(&ModelDir::open(&common.model(model)?)?.tokenizer)?,
        };
        let tuples = Tuples::read(&self.questions)?;
        let [cut, whole] = [&self.cut, &self.whole].map(|path| {
            let cells = cells(&Scores::read(path)?, &tuples, &tokenizer);
            cells.map_err(|e| Error::file(path, e.to_string()))
        });
        let (cut, whole) = (cut?, whole?);
        let report = json!({"tokens": tokenizer.capacity(), "cut": cut, "whole": whole});
        if let Some(out) = &self.out {
            atomic::write_bytes(out, format!("{report:#}\n").as_bytes())?;
        }
        if common.json {
            outjson!(report);
            return Ok(());
        }
        outln!("{:<8} {:>16} {:>16}", "words", "cut", "whole");
        let shown = |cell: &Cell| match cell.mean {
            Some(mean) => format!("{:.1} % of {}", 100.0 * mean, cell.n),
            None => "-".into(),
        };
        for place in Place::ALL {
            outln!("{:<8} {:>16} {:>16}", place.name(), shown(&cut[&place]), shown(&whole[&place]));
        }
        Ok(())
    }
}
