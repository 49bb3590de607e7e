//! The options of commands that an LLM writes for: which endpoint or recording, and what it may take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::prompting::llm::{self, Api, Client, Limits, Settings, Spent};
use crate::prompting::writer::{Endpoint, Replay, Writer};

#[derive(clap::Args)]
pub(super) struct Llm {
    /// An OpenAI-compatible endpoint, such as http://localhost:8000 or https://host/v1.
    #[arg(long, value_name = "URL", requires = "llm_model", conflicts_with_all = ["replay", "writer"])]
    pub llm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// Recorded replies instead of an endpoint.
    #[arg(long, value_name = "FILE", conflicts_with = "writer")]
    pub replay: Option<PathBuf>,
    /// Requests sent at the same time.
    #[arg(long, default_value_t = 5)]
    pub parallel: usize,
    /// The protocol (default: what the address ends in, else chat).
    #[arg(long, value_enum)]
    api: Option<Api>,
    /// Of the LLM's choice of words, 0 to 2 (default: 1 for prompts, 0 for questions).
    #[arg(long)]
    temperature: Option<f64>,
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

/// Who writes.
pub(super) enum Source {
    Endpoint(Box<Endpoint>),
    Replay(Replay),
}

impl Source {
    pub fn writer(&mut self) -> &mut dyn Writer {
        match self {
            Source::Endpoint(endpoint) => endpoint.as_mut(),
            Source::Replay(replay) => replay,
        }
    }

    /// What an endpoint took.
    pub fn spent(&self) -> Option<Spent> {
        match self {
            Source::Endpoint(endpoint) => Some(endpoint.client().budget.spent()),
            Source::Replay(_) => None,
        }
    }
}

impl Llm {
    /// # Errors
    /// [`Error::Usage`] naming the option that has no sensible value.
    pub fn check(&self) -> Result<()> {
        let wrong = |option: &str, expected: &str| Err(Error::Usage(format!("--{option}: expected {expected}")));
        if !(1..=64).contains(&self.parallel) {
            return wrong("parallel", "1 to 64");
        }
        if self.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
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
        for (option, value) in
            [("max-cost", self.max_cost), ("input-price", self.input_price), ("output-price", self.output_price)]
        {
            if value.is_some_and(|v| !(v >= 0.0 && v.is_finite())) {
                return wrong(option, "a number, at least 0");
            }
        }
        Ok(())
    }

    /// The endpoint, recorded beside `out`, or the recording. `writer` is the option that was given instead of both.
    ///
    /// # Errors
    /// [`Error::Usage`] where none is given, or `out` is not of this recording; those of [`Endpoint::open`].
    pub fn open(&self, out: &Path, temperature: f64, writer: Option<&str>, common: &Common) -> Result<Source> {
        if let Some(recording) = &self.replay {
            return Replay::open(recording).map(Source::Replay);
        }
        let Some(url) = &self.llm else {
            return Err(Error::Usage(match writer {
                Some(name) => format!("--writer {name}: expected builtin"),
                None => "who writes? Give --llm URL --llm-model NAME, --replay FILE or --writer builtin".into(),
            }));
        };
        if common.offline && !llm::is_local(url) {
            return Err(Error::Usage(format!("--llm {url}: --offline forbids it")));
        }
        let settings = Settings {
            url: url.into(),
            model: self.llm_model.clone().unwrap_or_default(),
            api: self.api,
            temperature: self.temperature.unwrap_or(temperature),
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
        let recording = recording_of(out);
        if out.exists() && !recording.exists() {
            return Err(Error::Usage(format!(
                "{}: is already there, and no recording of it; use another --out",
                out.display()
            )));
        }
        let endpoint = Endpoint::open(client, &recording)?;
        // Every reply is on disk before the next is asked for, so stopping needs no more than saying so.
        let message = format!("selma: stopped; {}", kept_in(&recording));
        let handler = move || {
            eprintln!("\n{message}");
            std::process::exit(1);
        };
        ctrlc::set_handler(handler).map_err(|e| Error::Failed(format!("Ctrl-C: {e}")))?;
        Ok(Source::Endpoint(Box::new(endpoint)))
    }

    /// The error that ended the work, with how far it came and how it goes on.
    pub fn stopped(&self, error: Error, out: &Path, done: usize, wanted: usize) -> Error {
        match error {
            Error::Failed(why) if self.llm.is_some() => {
                Error::Failed(format!("{why} ({done} of {wanted} prompts so far; {})", kept_in(&recording_of(out))))
            }
            error => error,
        }
    }
}

fn kept_in(recording: &Path) -> String {
    format!("every reply is in {}, and the same command goes on", recording.display())
}

/// `counting.json` is recorded in `counting.replies.jsonl`.
fn recording_of(out: &Path) -> PathBuf {
    out.with_extension("replies.jsonl")
}

pub(super) fn spent_json(spent: Option<Spent>) -> Value {
    let one = |s: Spent| {
        json!({"requests": s.requests, "input_tokens": s.input_tokens, "output_tokens": s.output_tokens,
               "estimated": s.estimated, "cost": s.cost})
    };
    spent.map_or(Value::Null, one)
}

pub(super) fn print_spent(spent: Option<Spent>) {
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
}
