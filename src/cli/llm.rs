//! The options of commands that an LLM writes for: which endpoint or recording.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{Common, input, interrupt};
use crate::error::{Error, Result};
use crate::prompting::llm::{Api, EndpointOptions, Role, Spent};
use crate::prompting::writer::{Endpoint, Replay, Writer};

#[derive(clap::Args)]
pub(super) struct Llm {
    /// An OpenAI-compatible endpoint, such as http://localhost:8000 or https://host/v1; its key is read from OPENAI_API_KEY.
    #[arg(long, value_name = "URL", requires = "llm_model", conflicts_with_all = ["replay", "writer"])]
    pub llm: Option<String>,
    /// The model's name at the endpoint.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// Use recorded replies instead of an endpoint.
    #[arg(long, value_name = "FILE", conflicts_with = "writer")]
    pub replay: Option<PathBuf>,
    /// The protocol [default: what the address ends in, else chat]
    #[arg(long, value_enum)]
    api: Option<Api>,
    #[command(flatten)]
    endpoint: EndpointOptions,
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
        self.endpoint.check("--")
    }

    /// Requests in flight at once.
    pub fn parallel(&self) -> usize {
        self.endpoint.parallel(Role::Writer)
    }

    /// The endpoint, recorded beside `out`, or the recording. `writer` is the option that was given instead of both.
    ///
    /// # Errors
    /// [`Error::Usage`] where none is given, or `out` is not of this recording; those of [`Endpoint::open`].
    pub fn open(&self, out: &Path, role: Role, writer: Option<&str>, common: &Common) -> Result<Source> {
        if let Some(recording) = &self.replay {
            input::check([("--replay", Some(recording.as_path()))])?;
            return Replay::open(recording).map(Source::Replay);
        }
        let Some(url) = &self.llm else {
            return Err(Error::Usage(match writer {
                Some(name) => format!("--writer {name}: expected builtin"),
                None => "who writes? Give --llm URL --llm-model NAME, --replay FILE or --writer builtin".into(),
            }));
        };
        let model = self.llm_model.as_deref().unwrap_or_default();
        let client = common.client(&self.endpoint, role, ("--llm", url), model, self.api)?;
        let recording = recording_of(out);
        let endpoint = Endpoint::open(client, &recording)?;
        // Every reply is on disk before the next is asked for, so stopping needs no more than saying so.
        interrupt::stop_at_once(&format!("stopped; {}", kept_in(&recording)))?;
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
        outln!(
            "  {} requests, {} tokens in, {} out{}, cost {:.4}",
            spent.requests,
            spent.input_tokens,
            spent.output_tokens,
            if spent.estimated { " (estimated)" } else { "" },
            spent.cost
        );
    }
}
