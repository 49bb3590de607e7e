//! `selma questions`: DSG's questions for prompts that no benchmark has.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::existing::Overwrite;
use crate::cli::llm::{Llm, print_spent, spent_json};
use crate::cli::progress::Progress;
use crate::cli::{Common, input};
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg;
use crate::evaluate::questions::writing::{self, Counts};
use crate::prompting::llm::{Role, Spent};

/// Write yes-or-no questions about the images of prompts, and what they depend on, with an LLM: three requests a prompt.
///
/// --out is read by `selma eval --benchmark dsg --questions`. Every reply is recorded beside it in NAME.replies.jsonl as it
/// arrives: the same command goes on after an interruption, and --replay gives the same questions again without the LLM.
/// The key is read from OPENAI_API_KEY.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct Questions {
    /// A file with one prompt a line, or records with `text` (.jsonl, a list in .json, .csv), and `id` if they have one.
    #[arg(long)]
    prompts: PathBuf,
    /// `builtin` asks what the built-in judge asks about captions of the model `shapes`.
    #[arg(long, value_name = "NAME")]
    writer: Option<String>,
    /// The questions, as CSV with DSG's columns.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    llm: Llm,
    #[command(flatten)]
    overwrite: Overwrite,
}

const USAGE: &str = "selma questions --prompts <FILE> (--llm <URL> --llm-model <NAME> | --replay <FILE> | --writer builtin) --out <OUT> [OPTIONS]";

const EXAMPLES: &str = "\
Examples:
  selma questions --prompts mine.txt --llm http://localhost:8000 --llm-model llama-3.1-8b --out questions.csv
  selma eval --benchmark dsg --questions questions.csv --judge ... --images images --out scores.json";

impl Questions {
    /// Writes the questions.
    ///
    /// # Errors
    /// For prompts that cannot be read; what kept the writer from answering.
    pub fn run(self, common: &Common) -> Result<()> {
        self.llm.check()?;
        input::check([("--prompts", Some(self.prompts.as_path()))])?;
        let stem = self.prompts.file_stem().unwrap_or_default().to_string_lossy();
        let mut items = writing::items(&prompts::read(&self.prompts)?, &stem)
            .map_err(|why| Error::file(&self.prompts, why.to_string()))?;
        self.overwrite.check(&self.out)?;
        let (counts, spent) = match self.writer.as_deref() {
            Some("builtin") => (writing::built_in(&mut items)?, None),
            writer => {
                let mut source = self.llm.open(&self.out, Role::Questioner, writer, common)?;
                let wanted = items.len();
                let mut bar = Progress::new(common, "prompts", wanted);
                let mut done = 0;
                let mut count = |prompts: usize| {
                    done = prompts;
                    bar.set(prompts as u64);
                };
                let counts = writing::ask(&mut items, self.llm.parallel(), source.writer(), &mut count);
                bar.finish();
                let counts = counts.map_err(|error| self.llm.stopped(error, &self.out, done, wanted))?;
                (counts, source.spent())
            }
        };
        if items.is_empty() {
            let message = "no reply held a question; look at the recorded replies, or take another model";
            return Err(Error::Failed(message.into()));
        }
        dsg::write(&self.out, &items)?;
        self.report(common, &counts, spent);
        Ok(())
    }

    fn report(&self, common: &Common, counts: &Counts, spent: Option<Spent>) {
        for (count, what) in [
            (counts.prompts_without_questions, "prompts got no question, and are left out"),
            (counts.other_requests, "recorded requests differ from the ones of this command (other prompts?)"),
        ] {
            if count > 0 {
                common.note(format!("warning: {count} {what}"));
            }
        }
        if common.json {
            outjson!(json!({"out": self.out, "counts": counts, "spent": spent_json(spent)}));
            return;
        }
        outln!("{}: {} questions about {} prompts", self.out.display(), counts.questions, counts.prompts);
        if counts.requests > 0 {
            outln!(
                "  {} replies: {} lines and {} parents not understood, {} tuples without a question, {} cut by the token limit",
                counts.requests,
                counts.lines_not_understood,
                counts.parents_not_understood,
                counts.tuples_without_question,
                counts.cut_replies
            );
        }
        print_spent(spent);
    }
}
