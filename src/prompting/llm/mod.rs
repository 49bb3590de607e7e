//! A client for OpenAI-compatible endpoints, chat and legacy completions. Every wait has an end: a time-out for each
//! request, a bounded number of repetitions with growing pauses, and caps on requests and cost.
//!
//! The key is sent to the endpoint and to nobody else: redirects are not followed, and it is removed from whatever the
//! endpoint says.

mod budget;
mod client;
mod endpoint;
mod failure;
mod wire;

use std::time::Duration;

pub use budget::{Budget, Limits, Spent, Usage};
pub use client::Client;
pub use endpoint::{EndpointOptions, Role};

/// The protocol of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// Messages in, a message out.
    Chat,
    /// The older protocol: text in, its continuation out.
    Completions,
}

impl Api {
    fn path(self) -> &'static str {
        match self {
            Api::Chat => "chat/completions",
            Api::Completions => "completions",
        }
    }
}

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The option that the address is given by, for messages; that of the model is the same with `-model`.
    pub option: &'static str,
    /// `http://localhost:8000`, `https://host/v1`, or the full address.
    pub url: String,
    pub model: String,
    /// Chat, unless the address ends in `/completions`.
    pub api: Option<Api>,
    pub temperature: f64,
    /// Of a reply.
    pub max_tokens: u64,
    /// For one request, from the connection to the last byte.
    pub timeout: Duration,
    /// Further tries after a failure that may pass.
    pub retries: u32,
    /// The first pause between tries; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause. An endpoint that asks for a longer one ends the work.
    pub longest_pause: Duration,
}

/// Temperature 1 and 3072 tokens are the settings of SELMA's reference code.
impl Default for Settings {
    fn default() -> Self {
        Self {
            option: "--llm",
            url: String::new(),
            model: String::new(),
            api: None,
            temperature: 1.0,
            max_tokens: 3072,
            timeout: Duration::from_secs(120),
            retries: 5,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(120),
        }
    }
}

/// What the endpoint wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub text: String,
    /// `stop`, `length`, ...
    pub finish_reason: Option<String>,
    /// As the endpoint names it.
    pub model: Option<String>,
    pub usage: Usage,
}

/// The address is on this machine.
pub fn is_local(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|name| host.starts_with(name))
}
