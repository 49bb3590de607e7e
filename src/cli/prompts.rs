//! `selma prompts`: stage 1, new captions for a skill.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::selma::llm::{Api, Client, Limits, Settings, Spent};
use crate::selma::prompts::{self, Collector, Options};
use crate::selma::writer::{Endpoint, Replay, collect};
use crate::selma::{Skill, builtin};

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
    /// An OpenAI-compatible endpoint, such as http://localhost:8000 or https://host/v1.
    #[arg(long, value_name = "URL", requires = "llm_model", conflicts_with_all = ["replay", "writer"])]
    llm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// `builtin` writes captions for the model `shapes`.
    #[arg(long, value_name = "NAME", conflicts_with = "replay")]
    writer: Option<String>,
    /// Recorded replies instead of an endpoint.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// A JSON array of strings; .txt: one prompt a line; .jsonl: one record a line.
    #[arg(long)]
    out: PathBuf,
    /// Captions with a larger ROUGE-L F against a seed or a kept prompt are dropped.
    #[arg(long, default_value_t = 0.8)]
    max_similarity: f64,
    /// Drop captions that are not below the skill's word limit, instead of counting them.
    #[arg(long)]
    strict_words: bool,
    /// Requests of a round, sent at the same time.
    #[arg(long, default_value_t = 5)]
    parallel: usize,
    /// The protocol (default: what the address ends in, else chat).
    #[arg(long, value_enum)]
    api: Option<Api>,
    /// Of the LLM's choice of words, 0 to 2.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Longest reply.
    #[arg(long, default_value_t = 3072)]
    max_tokens: u64,
    /// Seconds for one request, from the connection to the last byte.
    #[arg(long, default_value_t = 120.0)]
    timeout: f64,
    /// Further tries after a status 429 or 5xx, a broken connection or a time-out.
    #[arg(long, default_value_t = 5)]
    retries: u32,
    /// Longest pause between tries, in seconds.
    #[arg(long, default_value_t = 120.0)]
    longest_pause: f64,
    /// Stop after so many requests, repeated ones included.
    #[arg(long)]
    max_requests: Option<u64>,
    /// Stop after so many requests in a row without a prompt that was kept.
    #[arg(long, default_value_t = 25)]
    max_stalled: usize,
    /// Stop before the cost can exceed this; needs both prices.
    #[arg(long, requires = "input_price", requires = "output_price")]
    max_cost: Option<f64>,
    /// Price of a million tokens of requests, for the cost.
    #[arg(long, value_name = "PRICE")]
    input_price: Option<f64>,
    /// Price of a million tokens of replies.
    #[arg(long, value_name = "PRICE")]
    output_price: Option<f64>,
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
            requests_per_round: self.parallel,
            max_stalled: self.max_stalled,
            strict_words: self.strict_words,
        };
        let mut collector = Collector::new(&skill, &options);
        let bar = self.progress(common);
        let mut progress = |kept: usize| bar.set_position(kept as u64);
        let spent = match (&self.replay, &self.llm) {
            (Some(recording), _) => {
                collect(&mut collector, &mut Replay::open(recording)?, &mut progress)?;
                None
            }
            (None, Some(url)) => Some(self.ask(url, common, &mut collector, &mut progress)?),
            (None, None) => return Err(self.no_writer()),
        };
        bar.finish_and_clear();
        prompts::write(&self.out, collector.prompts())?;
        self.report(common, &skill, &collector, spent)
    }

    fn write_captions(&self, skill: &Skill, common: &Common) -> Result<()> {
        let captions = builtin::captions(&skill.id, self.count, self.max_similarity, common.seed())?;
        prompts::write(&self.out, &captions)?;
        match common.json {
            true => println!(
                "{}",
                json!({"skill": skill.id, "out": self.out, "counts": {"kept": captions.len()}})
            ),
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
        if !(1..=64).contains(&self.parallel) {
            return wrong("parallel", "1 to 64");
        }
        if self.max_stalled == 0 {
            return wrong("max-stalled", "at least 1");
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return wrong("temperature", "0 to 2");
        }
        if self.max_tokens == 0 {
            return wrong("max-tokens", "at least 1");
        }
        if !(self.timeout > 0.0 && self.timeout <= 86400.0) {
            return wrong("timeout", "a number of seconds above 0, at most 86400");
        }
        if !(0.0..=86400.0).contains(&self.longest_pause) {
            return wrong("longest-pause", "0 to 86400 seconds");
        }
        for (option, value) in [
            ("max-cost", self.max_cost),
            ("input-price", self.input_price),
            ("output-price", self.output_price),
        ] {
            if value.is_some_and(|v| !(v >= 0.0 && v.is_finite())) {
                return wrong(option, "a number, at least 0");
            }
        }
        Ok(())
    }

    fn no_writer(&self) -> Error {
        match &self.writer {
            Some(name) => Error::Usage(format!("--writer {name}: expected builtin")),
            None => {
                Error::Usage("who writes? Give --llm URL --llm-model NAME, --replay FILE or --writer builtin".into())
            }
        }
    }

    fn ask(
        &self,
        url: &str,
        common: &Common,
        collector: &mut Collector,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Spent> {
        let settings = Settings {
            url: url.into(),
            model: self.llm_model.clone().unwrap_or_default(),
            api: self.api,
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            timeout: Duration::from_secs_f64(self.timeout),
            retries: self.retries,
            longest_pause: Duration::from_secs_f64(self.longest_pause),
            ..Settings::default()
        };
        let limits = Limits {
            requests: self.max_requests,
            cost: self.max_cost,
            input_price: self.input_price.unwrap_or(0.0),
            output_price: self.output_price.unwrap_or(0.0),
        };
        let client = Client::from_environment(settings, limits)?;
        if client.exposes_key() {
            common.note("warning: the key in OPENAI_API_KEY goes over http:// without encryption");
        }
        let recording = recording_of(&self.out);
        if self.out.exists() && !recording.exists() {
            return Err(Error::Usage(format!(
                "{}: is already there, and no recording of it; use another --out",
                self.out.display()
            )));
        }
        let mut endpoint = Endpoint::open(client, &recording)?;
        // Every reply is on disk before the next is asked for, so stopping needs no more than saying so.
        let message = format!(
            "selma: stopped; every reply is in {}, and the same command goes on",
            recording.display()
        );
        let handler = move || {
            eprintln!("\n{message}");
            std::process::exit(1);
        };
        ctrlc::set_handler(handler).map_err(|e| Error::Failed(format!("Ctrl-C: {e}")))?;
        match collect(collector, &mut endpoint, progress) {
            Ok(()) => Ok(endpoint.client().budget.spent()),
            Err(Error::Failed(why)) => Err(Error::Failed(format!(
                "{why} ({} of {} prompts so far; every reply is in {}, and the same command goes on)",
                collector.counts().kept,
                self.count,
                recording.display()
            ))),
            Err(error) => Err(error),
        }
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
            let spent = spent.map(|s| {
                json!({"requests": s.requests, "input_tokens": s.input_tokens, "output_tokens": s.output_tokens,
                       "estimated": s.estimated, "cost": s.cost})
            });
            println!(
                "{}",
                json!({"skill": skill.id, "out": self.out, "counts": counts, "spent": spent})
            );
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
        if let Some(spent) = spent {
            println!(
                "  {} requests, {} tokens in, {} out{}, cost {:.4}",
                spent.requests,
                spent.input_tokens,
                spent.output_tokens,
                if spent.estimated { " (estimated)" } else { "" },
                spent.cost
            );
        }
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

/// `counting.json` is recorded in `counting.replies.jsonl`.
fn recording_of(out: &Path) -> PathBuf {
    out.with_extension("replies.jsonl")
}
