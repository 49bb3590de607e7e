//! A client for OpenAI-compatible endpoints, chat and legacy completions. Every wait has an end: a time-out for each
//! request, a bounded number of repetitions with growing pauses, and caps on requests and cost.
//!
//! The key is sent to the endpoint and to nobody else: redirects are not followed, and it is removed from whatever the
//! endpoint says.

mod budget;
mod wire;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

pub use budget::{Budget, Limits, Spent, Usage};
use wire::Dialect;

use crate::error::{Error, Result};

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

/// Shared by requests that run at the same time.
pub struct Client {
    settings: Settings,
    address: String,
    api: Api,
    key: Option<String>,
    agent: ureq::Agent,
    dialect: Mutex<Dialect>,
    pub budget: Budget,
}

/// What is sent.
struct Request<'a> {
    text: &'a str,
    /// A `data:` URL.
    picture: Option<&'a str>,
}

impl Request<'_> {
    /// What it may cost at most. No endpoint that is known counts more for a picture of SDXL's size.
    fn tokens(&self) -> u64 {
        const PICTURE: u64 = 2048;
        Usage::estimate(self.text.len()) + self.picture.map_or(0, |_| PICTURE)
    }
}

/// Why one try failed.
enum Failure {
    /// It may pass; after the pause that the endpoint asked for, if it did.
    MayPass(String, Option<Duration>),
    /// The next try says it in another way.
    Adapted,
    Final(Error),
}

impl Client {
    /// # Errors
    /// [`Error::Usage`] for an address or a key that cannot be one.
    pub fn new(settings: Settings, key: Option<String>, limits: Limits) -> Result<Self> {
        let (address, api) = wire::address(settings.option, &settings.url, settings.api)?;
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        if key
            .as_ref()
            .is_some_and(|key| !key.chars().all(|c| c.is_ascii_graphic()))
        {
            return Err(Error::Usage("OPENAI_API_KEY: holds characters that no key has".into()));
        }
        let mut config = ureq::Agent::config_builder();
        if is_local(&address) {
            // A proxy of the environment is for other machines.
            config = config.proxy(None);
        }
        let config = config
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("selma/", env!("CARGO_PKG_VERSION")))
            .build();
        let dialect = Dialect {
            max_tokens: settings.max_tokens,
            new_limit_name: false,
            temperature: Some(settings.temperature),
        };
        Ok(Self {
            address,
            api,
            key,
            agent: config.new_agent(),
            dialect: Mutex::new(dialect),
            budget: Budget::new(limits),
            settings,
        })
    }

    /// With the key of the environment, if it has one.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn from_environment(settings: Settings, limits: Limits) -> Result<Self> {
        Self::new(settings, std::env::var("OPENAI_API_KEY").ok(), limits)
    }

    /// A key would travel unencrypted to another machine.
    pub fn exposes_key(&self) -> bool {
        self.key.is_some() && self.address.starts_with("http://") && !is_local(&self.address)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks until there is a reply.
    ///
    /// # Errors
    /// [`Error::Failed`] if the endpoint refuses, a cap is reached, or the last try failed too; it says what happened.
    pub fn complete(&self, text: &str) -> Result<Reply> {
        self.ask(&Request { text, picture: None })
    }

    /// As [`Client::complete`], about a picture: a `data:` URL. For chat endpoints.
    ///
    /// # Errors
    /// Those of [`Client::complete`].
    pub fn complete_about(&self, text: &str, picture: &str) -> Result<Reply> {
        self.ask(&Request {
            text,
            picture: Some(picture),
        })
    }

    fn ask(&self, request: &Request<'_>) -> Result<Reply> {
        let mut pause = self.settings.pause;
        let mut tries = 0;
        loop {
            let (why, asked) = match self.attempt(request) {
                Ok(reply) => return Ok(reply),
                Err(Failure::Adapted) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::MayPass(why, asked)) => (why, asked),
            };
            tries += 1;
            if tries > self.settings.retries {
                return Err(self.error(format!("{why}; gave up after {tries} tries")));
            }
            let longest = self.settings.longest_pause;
            let wait = match asked {
                Some(asked) if asked > longest => {
                    return Err(self.error(format!(
                        "{why}; it asks for a pause of {} s, and selma waits at most {} s",
                        asked.as_secs(),
                        longest.as_secs()
                    )));
                }
                Some(asked) => asked,
                None => pause.mul_f64(0.75 + 0.5 * spread()),
            };
            std::thread::sleep(wait);
            pause = (pause * 2).min(self.settings.longest_pause);
        }
    }

    /// One HTTP request.
    fn attempt(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let dialect = self.lock().clone();
        let worst = Usage {
            input: request.tokens(),
            output: dialect.max_tokens,
            estimated: true,
        };
        self.budget.reserve(worst).map_err(Failure::Final)?;
        let (result, used) = self.exchange(request, &dialect, worst);
        self.budget.settle(worst, used);
        result
    }

    /// The reply, and what it used: `worst` where a reply was lost that may have been written.
    fn exchange(&self, asked: &Request<'_>, dialect: &Dialect, worst: Usage) -> (Result<Reply, Failure>, Usage) {
        let nothing = Usage::default();
        let mut request = self
            .agent
            .post(&self.address)
            .header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let body = wire::body(self.api, &self.settings.model, asked.text, asked.picture, dialect).to_string();
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return (Err(self.broken(error)), worst),
        };
        let status = response.status().as_u16();
        let pause = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok());
        let pause = pause.and_then(|value| value.trim().parse::<f64>().ok());
        let pause = pause.filter(|s| (0.0..1e9).contains(s)).map(Duration::from_secs_f64);
        let limited = response.body_mut().with_config().limit(LARGEST_REPLY).lossy_utf8(true);
        let body = match limited.read_to_string() {
            Ok(body) => self.without_key(&body),
            Err(error) => return (Err(self.broken(error)), worst),
        };
        if status != 200 {
            return (Err(self.refused(status, &body, pause, dialect)), nothing);
        }
        let Some(parsed) = wire::parse(self.api, &body) else {
            let why = format!("the reply is not of the protocol: {}", wire::beginning(&body));
            return (Err(Failure::MayPass(why, None)), worst);
        };
        let usage = parsed.usage.unwrap_or(Usage {
            input: worst.input,
            output: Usage::estimate(parsed.text.len()),
            estimated: true,
        });
        let reply = Reply {
            text: parsed.text,
            finish_reason: parsed.finish_reason,
            model: parsed.model,
            usage,
        };
        (Ok(reply), usage)
    }

    fn broken(&self, error: ureq::Error) -> Failure {
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

    fn refused(&self, status: u16, body: &str, pause: Option<Duration>, said: &Dialect) -> Failure {
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

    fn error(&self, text: String) -> Error {
        Error::Failed(format!("{}: {text}", self.address))
    }

    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Dialect> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No reply to a request for text is near this.
const LARGEST_REPLY: u64 = 16 << 20;

/// The address is on this machine.
pub fn is_local(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    ["localhost", "127.", "[::1]"].iter().any(|name| host.starts_with(name))
}

/// In [0, 1): requests that failed together do not try again together. Nothing that is kept depends on it.
fn spread() -> f64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    f64::from(now.subsec_nanos()) * 1e-9
}
