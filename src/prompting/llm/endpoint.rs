//! How an endpoint is asked and what it may cost: options of `selma prompts`, `questions` and `eval`, and keys of `[prompts]`
//! and `[judge]` in a run file.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Api, Client, Limits, Settings};
use crate::error::{Error, Result};

/// Each value that is left out has the default of the endpoint's [`Role`], where that has one.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[command(next_help_heading = "Endpoint")]
pub struct EndpointOptions {
    /// Requests in flight at once, 1 to 64; of a judge, images that are asked about at once [default: 5; a judge: 4]
    #[arg(long)]
    pub parallel: Option<usize>,
    /// Sampling temperature, 0 to 2 [default: 1 for prompts; 0 for questions and a judge]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Longest reply in tokens [default: 3072; a judge: 20]
    #[arg(long)]
    pub max_tokens: Option<u64>,
    /// Seconds for one request, from the connection to the last byte [default: 120]
    #[arg(long, allow_negative_numbers = true)]
    pub timeout: Option<f64>,
    /// Repetitions after a status 429 or 5xx, a broken connection or a time-out [default: 5]
    #[arg(long)]
    pub retries: Option<u32>,
    /// Longest pause between repetitions, in seconds [default: 120]
    #[arg(long, allow_negative_numbers = true)]
    pub longest_pause: Option<f64>,
    /// Stop after so many requests, repetitions included
    #[arg(long)]
    pub max_requests: Option<u64>,
    /// Stop before the cost can exceed this; needs both prices
    #[arg(long, allow_negative_numbers = true)]
    pub max_cost: Option<f64>,
    /// Price of a million input tokens
    #[arg(long, value_name = "PRICE", allow_negative_numbers = true)]
    pub input_price: Option<f64>,
    /// Price of a million output tokens
    #[arg(long, value_name = "PRICE", allow_negative_numbers = true)]
    pub output_price: Option<f64>,
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// New captions: as SELMA's reference code has it, at temperature 1 and up to 3072 tokens.
    Writer,
    /// Questions about images, at temperature 0.
    Questioner,
    /// Short answers about images, at temperature 0.
    Judge,
}

impl Role {
    fn parallel(self) -> usize {
        if self == Role::Judge { 4 } else { 5 }
    }

    fn temperature(self) -> f64 {
        if self == Role::Writer { 1.0 } else { 0.0 }
    }

    fn max_tokens(self) -> u64 {
        if self == Role::Judge { 20 } else { 3072 }
    }
}

impl EndpointOptions {
    /// Requests in flight at once.
    pub fn parallel(&self, role: Role) -> usize {
        self.parallel.unwrap_or(role.parallel())
    }

    /// Checks every value. `place` comes before an option's name in messages: `--`, or `[judge]: `.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option that has no sensible value.
    pub fn check(&self, place: &str) -> Result<()> {
        let wrong = |option: &str, expected: &str| Err(Error::Usage(format!("{place}{option}: expected {expected}")));
        if self.parallel.is_some_and(|count| !(1..=64).contains(&count)) {
            return wrong("parallel", "1 to 64");
        }
        if self.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) {
            return wrong("temperature", "0 to 2");
        }
        if self.max_tokens == Some(0) {
            return wrong("max-tokens", "at least 1");
        }
        if self.timeout.is_some_and(|seconds| !(seconds > 0.0 && seconds <= 86400.0)) {
            return wrong("timeout", "a number of seconds above 0, at most 86400");
        }
        if self.longest_pause.is_some_and(|seconds| !(0.0..=86400.0).contains(&seconds)) {
            return wrong("longest-pause", "0 to 86400 seconds");
        }
        let costs =
            [("max-cost", self.max_cost), ("input-price", self.input_price), ("output-price", self.output_price)];
        for (option, value) in costs {
            if value.is_some_and(|v| !(v >= 0.0 && v.is_finite())) {
                return wrong(option, "a number, at least 0");
            }
        }
        if self.max_cost.is_some() && (self.input_price.is_none() || self.output_price.is_none()) {
            let dashes = if place == "--" { "--" } else { "" };
            let message = format!("{place}max-cost needs {dashes}input-price and {dashes}output-price");
            return Err(Error::Usage(message));
        }
        Ok(())
    }

    /// What may be spent.
    pub fn limits(&self) -> Limits {
        Limits {
            requests: self.max_requests,
            cost: self.max_cost,
            input_price: self.input_price.unwrap_or(0.0),
            output_price: self.output_price.unwrap_or(0.0),
        }
    }

    /// A client with the key of the environment, if it has one. `option` is the one that gave `url`, for messages.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn client(&self, role: Role, option: &'static str, url: &str, model: &str, api: Option<Api>) -> Result<Client> {
        let defaults = Settings::default();
        let seconds = |given: Option<f64>, default| given.map_or(default, Duration::from_secs_f64);
        let settings = Settings {
            option,
            url: url.into(),
            model: model.into(),
            api,
            temperature: self.temperature.unwrap_or(role.temperature()),
            max_tokens: self.max_tokens.unwrap_or(role.max_tokens()),
            timeout: seconds(self.timeout, defaults.timeout),
            retries: self.retries.unwrap_or(defaults.retries),
            longest_pause: seconds(self.longest_pause, defaults.longest_pause),
            ..defaults
        };
        Client::from_environment(settings, self.limits())
    }
}
