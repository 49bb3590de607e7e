//! What can go wrong with a request, and whether it may pass.

use std::time::Duration;

use super::wire::{self, Dialect};
use super::{Api, Client};
use crate::error::Error;

/// Why one try failed.
pub(super) enum Failure {
    /// It may pass; after the pause that the endpoint asked for, if it did.
    MayPass(String, Option<Duration>),
    /// The next try says it in another way.
    Adapted,
    Final(Error),
}

impl Client {
    /// The connection did not bring a reply.
    pub(super) fn broken(&self, error: ureq::Error) -> Failure {
        use ureq::Error as E;
        match error {
            E::Timeout(_) => {
                let seconds = self.settings.timeout.as_secs_f64();
                Failure::MayPass(format!("no complete reply within {seconds} s"), None)
            }
            E::BodyExceedsLimit(limit) => Failure::Final(self.error(format!("the reply is larger than {limit} bytes"))),
            E::Io(_) | E::Protocol(_) | E::HostNotFound | E::ConnectionFailed | E::BodyStalled | E::Decompress(..) => {
                Failure::MayPass(format!("the connection failed ({error})"), None)
            }
            other => Failure::Final(self.error(self.without_key(&other.to_string()))),
        }
    }

    /// The endpoint answered with another status than 200 to a request in the dialect `said`.
    pub(super) fn refused(&self, status: u16, body: &str, pause: Option<Duration>, said: &Dialect) -> Failure {
        let (message, code) = wire::error_message(body);
        let text = format!("status {status}: {message}");
        match status {
            429 if code == "insufficient_quota" => Failure::Final(self.error(text)),
            408 | 409 | 425 | 429 | 500..=599 => Failure::MayPass(text, pause),
            400 | 422 if self.adapt(said, &message) => Failure::Adapted,
            401 | 403 => {
                let hint = match &self.key {
                    Some(_) => "the endpoint does not accept the key in OPENAI_API_KEY",
                    None => "the endpoint wants a key: set OPENAI_API_KEY",
                };
                Failure::Final(self.error(format!("{hint} ({text})")))
            }
            404 => {
                let hint = match self.api {
                    _ if self.settings.option != "--llm" => "",
                    Api::Chat => "; models of the older protocol need --api completions",
                    Api::Completions => "; chat models need --api chat",
                };
                let option = self.settings.option;
                Failure::Final(self.error(format!("{text}; check the address and {option}-model{hint}")))
            }
            300..=399 => Failure::Final(self.error(format!("status {status}: it redirects; give the final address"))),
            _ => Failure::Final(self.error(text)),
        }
    }

    /// Whether the next try will be said in another way than `said`. Another request may have found out already.
    fn adapt(&self, said: &Dialect, message: &str) -> bool {
        let mut current = self.lock();
        *current != *said || wire::adapt(&mut current, message)
    }
}
