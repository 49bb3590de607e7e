//! `selma prompts`: stage 1, new captions for a skill.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Common;
use crate::cli::existing::Overwrite;
use crate::cli::llm::{Llm, print_spent, spent_json};
use crate::cli::progress::Progress;
use crate::error::{Error, Result};
use crate::prompting::llm::{Role, Spent};
use crate::prompting::prompts::{self, Collector, Options};
use crate::prompting::writer::collect;
use crate::prompting::{Skill, builtin};

/// Write prompts for a skill with an LLM. The key is read from OPENAI_API_KEY.
///
/// Every reply is recorded beside --out in NAME.replies.jsonl as it arrives: the same command goes on after an
/// interruption, and --replay gives the same prompts again without the LLM.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct Prompts {
    /// A skill (paragraph, counting, real-user, defying, everyday, spatial) or a skill file.
    #[arg(long, value_name = "NAME|FILE")]
    skill: String,
    /// Prompts to keep.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// `builtin` writes captions for the model `shapes`.
    #[arg(long, value_name = "NAME")]
    writer: Option<String>,
    /// Output file: .txt has a prompt a line, .jsonl a record a line, any other a JSON array of strings.
    #[arg(long)]
    out: PathBuf,
    /// Drop captions whose ROUGE-L F1 with a seed or a kept prompt is above this.
    #[arg(long, default_value_t = 0.8)]
    max_similarity: f64,
    /// Drop captions that reach the skill's word limit, instead of only counting them.
    #[arg(long)]
    strict_words: bool,
    /// Stop after so many requests in a row that brought no new prompt.
    #[arg(long, default_value_t = 25)]
    max_stalled: usize,
    #[command(flatten)]
    llm: Llm,
    #[command(flatten)]
    overwrite: Overwrite,
}

const USAGE: &str = "selma prompts --skill <NAME|FILE> (--llm <URL> --llm-model <NAME> | --replay <FILE> | --writer builtin) --out <OUT> [OPTIONS]";

const EXAMPLES: &str = "\
Examples:
  selma prompts --skill counting --count 100 --writer builtin --out counting.json
  selma prompts --skill counting --llm http://localhost:8000 --llm-model llama-3.1-8b --out counting.json";

impl Prompts {
    /// Writes the prompts.
    ///
    /// # Errors
    /// For options out of range; what kept the writer from answering.
    pub fn run(self, common: &Common) -> Result<()> {
        self.check()?;
        self.overwrite.check(&self.out)?;
        let skill = Skill::resolve(&self.skill)?;
        if self.writer.as_deref() == Some("builtin") {
            return self.write_captions(&skill, common);
        }
        let options = Options {
            count: self.count,
            seed: common.seed(),
            max_similarity: self.max_similarity,
            requests_per_round: self.llm.parallel(),
            max_stalled: self.max_stalled,
            strict_words: self.strict_words,
        };
        let mut source = self.llm.open(&self.out, Role::Writer, self.writer.as_deref(), common)?;
        let mut collector = Collector::new(&skill, &options);
        let mut bar = Progress::new(common, "prompts", self.count);
        let mut progress = |kept: usize| bar.set(kept as u64);
        collect(&mut collector, source.writer(), &mut progress)
            .map_err(|error| self.llm.stopped(error, &self.out, collector.counts().kept, self.count))?;
        bar.finish();
        prompts::write(&self.out, collector.prompts())?;
        self.report(common, &skill, &collector, source.spent())
    }

    fn write_captions(&self, skill: &Skill, common: &Common) -> Result<()> {
        let captions = builtin::captions(&skill.id, self.count, self.max_similarity, common.seed())?;
        prompts::write(&self.out, &captions)?;
        match common.json {
            true => outjson!(json!({"skill": skill.id, "out": self.out, "counts": {"kept": captions.len()}})),
            false => outln!("{}: {} prompts for {}", self.out.display(), captions.len(), skill.id),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let wrong = |option: &str, expected: &str| Err(Error::Usage(format!("--{option}: expected {expected}")));
        if self.count == 0 {
            return wrong("count", "at least 1");
        }
        if !(self.max_similarity > 0.0 && self.max_similarity <= 1.0) {
            return wrong("max-similarity", "a number above 0, at most 1");
        }
        if self.max_stalled == 0 {
            return wrong("max-stalled", "at least 1");
        }
        self.llm.check()
    }

    fn report(&self, common: &Common, skill: &Skill, collector: &Collector, spent: Option<Spent>) -> Result<()> {
        let counts = collector.counts();
        if counts.other_requests > 0 {
            common.note(format!(
                "warning: {} of {} recorded requests differ from the ones of this command (another seed or skill?)",
                counts.other_requests, counts.requests
            ));
        }
        if common.json {
            outjson!(json!({"skill": skill.id, "out": self.out, "counts": counts, "spent": spent_json(spent)}));
            return Ok(());
        }
        outln!("{}: {} prompts for {}", self.out.display(), counts.kept, skill.id);
        outln!(
            "  {} replies, {} captions: {} too similar, {} without words, {} not below {} words{}",
            counts.requests,
            counts.captions,
            counts.too_similar,
            counts.without_words,
            counts.over_word_limit,
            skill.word_limit,
            if self.strict_words { " (dropped)" } else { "" }
        );
        outln!(
            "  {} lines not understood, {} captions cut by the token limit",
            counts.lines_not_understood,
            counts.cut_captions
        );
        print_spent(spent);
        Ok(())
    }
}
