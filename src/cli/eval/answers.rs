//! Where the answers to a benchmark's questions come from.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Eval;
use crate::cli::Common;
use crate::error::{Error, Result};
use crate::evaluate::answers::Answers;
use crate::evaluate::folder::Entry;
use crate::evaluate::questions::Item;
use crate::evaluate::vision::VisionJudge;
use crate::prompting::llm::{Api, Client, Limits, Settings};

/// How the endpoint is asked.
#[derive(clap::Args)]
pub struct Endpoint {
    /// Pictures that are asked about at the same time.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Seconds for one request, from the connection to the last byte.
    #[arg(long, default_value_t = 120.0)]
    timeout: f64,
    /// Further tries after a status 429 or 5xx, a broken connection or a time-out.
    #[arg(long, default_value_t = 5)]
    retries: u32,
    /// Longest reply in tokens; more for a model that thinks before it answers.
    #[arg(long, default_value_t = 20)]
    max_tokens: u64,
    /// Stop after so many requests, repeated ones included.
    #[arg(long)]
    max_requests: Option<u64>,
}

/// An endpoint or a file.
pub struct Source {
    /// Who answers, in scores.
    pub name: String,
    kind: Kind,
    parallel: usize,
}

enum Kind {
    Judge(Box<VisionJudge>),
    File(Answers),
}

impl Source {
    /// # Errors
    /// [`Error::Usage`] for options that do not fit together; whatever is wrong with the file of answers or the record.
    pub fn open(eval: &Eval, items: &[Item], common: &Common) -> Result<Self> {
        let parallel = eval.endpoint.parallel;
        if !(1..=64).contains(&parallel) {
            return Err(Error::Usage("--parallel: expected 1 to 64".into()));
        }
        if let Some(path) = &eval.answers {
            let name =
                eval.judge_model.as_ref().map_or_else(|| "answers".to_owned(), |model| format!("answers of {model}"));
            let kind = Kind::File(Answers::read(path, items)?);
            return Ok(Self { name, kind, parallel });
        }
        let url = match eval.judge.as_deref() {
            Some("builtin") | None => {
                let message = format!(
                    "--judge builtin: answers for shapes alone; for {}, give the URL of an endpoint, or --answers",
                    eval.benchmark
                );
                return Err(Error::Usage(message));
            }
            Some(url) => url,
        };
        if common.offline && !url.contains("://localhost") && !url.contains("://127.") {
            return Err(Error::Usage(format!("--judge {url}: --offline forbids it")));
        }
        let Some(model) = &eval.judge_model else {
            return Err(Error::Usage(format!("--judge {url}: expected --judge-model NAME")));
        };
        let timeout = eval.endpoint.timeout;
        if !(timeout > 0.0 && timeout <= 86400.0) {
            let message = "--timeout: expected a number of seconds above 0, at most 86400";
            return Err(Error::Usage(message.into()));
        }
        let settings = Settings {
            option: "--judge",
            url: url.into(),
            model: model.clone(),
            api: Some(Api::Chat),
            temperature: 0.0,
            max_tokens: eval.endpoint.max_tokens.max(1),
            timeout: Duration::from_secs_f64(timeout),
            retries: eval.endpoint.retries,
            ..Settings::default()
        };
        let limits = Limits { requests: eval.endpoint.max_requests, ..Limits::default() };
        let client = Client::from_environment(settings, limits)?;
        if client.exposes_key() {
            common.note("warning: the key in OPENAI_API_KEY goes over http:// without encryption");
        }
        // Every reply is on disk before the next is asked for, so stopping needs no more than saying so.
        let record = eval.out.with_extension("answers.jsonl");
        let message = format!("selma: stopped; every reply is in {}, and the same command goes on", record.display());
        let handler = move || {
            eprintln!("\n{message}");
            std::process::exit(1);
        };
        ctrlc::set_handler(handler).map_err(|e| Error::Failed(format!("Ctrl-C: {e}")))?;
        let judge = VisionJudge::open(client, &record)?;
        Ok(Self { name: model.clone(), kind: Kind::Judge(Box::new(judge)), parallel })
    }

    /// Whether there is an answer to any question about the item that an entry shows.
    pub fn knows(&self, entry: &Entry) -> bool {
        match (&self.kind, &entry.item_id) {
            (Kind::File(answers), Some(id)) => answers.knows(id),
            _ => true,
        }
    }

    /// The answers to all questions about each picture.
    ///
    /// # Errors
    /// What kept the endpoint from answering; a question without an answer in the file.
    pub fn answers(&self, pictures: &[(&Entry, &Item)], common: &Common) -> Result<Vec<Vec<String>>> {
        match &self.kind {
            Kind::File(answers) => pictures.iter().map(|(entry, item)| answers.of(item, &entry.file_name)).collect(),
            Kind::Judge(judge) => {
                let bar = match common.quiet {
                    true => ProgressBar::hidden(),
                    false => ProgressBar::new(pictures.len() as u64),
                };
                let style = ProgressStyle::with_template("{bar:32} {pos}/{len} pictures {eta} left");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                let answers = judge.answers(pictures, self.parallel, &|done| bar.set_position(done as u64));
                bar.finish_and_clear();
                let spent = judge.client().budget.spent();
                if spent.requests > 0 {
                    common.note(format!("{} requests to {}", spent.requests, self.name));
                }
                answers
            }
        }
    }
}
