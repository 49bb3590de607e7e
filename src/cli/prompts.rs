//! `selma prompts`: stage 1, new captions for a skill.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::Common;
use crate::cli::llm::{Llm, print_spent, spent_json};
use crate::error::{Error, Result};
use crate::prompting::llm::Spent;
use crate::prompting::prompts::{self, Collector, Options};
use crate::prompting::writer::collect;
use crate::prompting::{Skill, builtin};

/// Write prompts for a skill with an LLM. The key is read from OPENAI_API_KEY.
///
/// Every reply is recorded beside --out in NAME.replies.jsonl as it arrives: the same command goes on after an
/// interruption, and --replay gives the same prompts again without the LLM.
#[derive(clap::Args)]
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
    /// A JSON array of strings; .txt: one prompt a line; .jsonl: one record a line.
    #[arg(long)]
    out: PathBuf,
    /// Captions with a larger ROUGE-L F against a seed or a kept prompt are dropped.
    #[arg(long, default_value_t = 0.8)]
    max_similarity: f64,
    /// Drop captions that are not below the skill's word limit, instead of counting them.
    #[arg(long)]
    strict_words: bool,
    /// Stop after so many requests in a row without a prompt that was kept.
    #[arg(long, default_value_t = 25)]
    max_stalled: usize,
    #[command(flatten)]
    llm: Llm,
}

impl Prompts {
    pub fn run(self, common: &Common) -> Result<()> {
        self.check()?;
        let skill = Skill::resolve(&self.skill)?;
        if self.writer.as_deref() == Some("builtin") {
            return self.write_captions(&skill, common);
        }
        let options = Options {
            count: self.count,
            seed: common.seed(),
            max_similarity: self.max_similarity,
            requests_per_round: self.llm.parallel,
            max_stalled: self.max_stalled,
            strict_words: self.strict_words,
        };
        let mut source = self.llm.open(&self.out, 1.0, self.writer.as_deref(), common)?;
        let mut collector = Collector::new(&skill, &options);
        let bar = self.progress(common);
        let mut progress = |kept: usize| bar.set_position(kept as u64);
        collect(&mut collector, source.writer(), &mut progress)
            .map_err(|error| self.llm.stopped(error, &self.out, collector.counts().kept, self.count))?;
        bar.finish_and_clear();
        prompts::write(&self.out, collector.prompts())?;
        self.report(common, &skill, &collector, source.spent())
    }

    fn write_captions(&self, skill: &Skill, common: &Common) -> Result<()> {
        let captions = builtin::captions(&skill.id, self.count, self.max_similarity, common.seed())?;
        prompts::write(&self.out, &captions)?;
        match common.json {
            true => println!("{}", json!({"skill": skill.id, "out": self.out, "counts": {"kept": captions.len()}})),
            false => println!("{}: {} prompts for {}", self.out.display(), captions.len(), skill.id),
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
            println!("{}", json!({"skill": skill.id, "out": self.out, "counts": counts, "spent": spent_json(spent)}));
            return Ok(());
        }
        println!("{}: {} prompts for {}", self.out.display(), counts.kept, skill.id);
        println!(
            "  {} replies, {} captions: {} too similar, {} without words, {} not below {} words{}",
            counts.requests,
            counts.captions,
            counts.too_similar,
            counts.without_words,
            counts.over_word_limit,
            skill.word_limit,
            if self.strict_words { " (dropped)" } else { "" }
        );
        println!(
            "  {} lines not understood, {} captions cut by the token limit",
            counts.lines_not_understood, counts.cut_captions
        );
        print_spent(spent);
        Ok(())
    }

    fn progress(&self, common: &Common) -> ProgressBar {
        if common.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} prompts {eta} left");
        ProgressBar::new(self.count as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}
