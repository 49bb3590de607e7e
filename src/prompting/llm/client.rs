//! Asking until there is a reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::budget::{Budget, Limits, Usage};
use super::failure::Failure;
use super::wire::{self, Dialect};
use super::{Api, Reply, Settings, is_local};
use crate::error::{Error, Result};

/// Shared by requests that run at the same time.
pub struct Client {
    pub(super) settings: Settings,
    address: String,
    pub(super) api: Api,
    pub(super) key: Option<String>,
    agent: ureq::Agent,
    dialect: Mutex<Dialect>,
    pub budget: Arc<Budget>,
}

/// What is sent.
struct Request<'a> {
    text: &'a str,
    /// `data:` URLs.
    images: &'a [&'a str],
    /// How many times the usual length the reply may have.
    longer: u64,
}

impl Request<'_> {
    /// What it may cost at most. No endpoint that is known counts more for an image of SDXL's size.
    fn tokens(&self) -> u64 {
        const IMAGE: u64 = 2048;
        Usage::estimate(self.text.len()) + IMAGE * self.images.len() as u64
    }
}

impl Client {
    /// # Errors
    /// [`Error::Usage`] for an address or a key that cannot be one.
    pub fn new(settings: Settings, key: Option<String>, limits: Limits) -> Result<Self> {
        let (address, api) = wire::address(settings.option, &settings.url, settings.api)?;
        let key = key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        if key.as_ref().is_some_and(|key| !key.chars().all(|c| c.is_ascii_graphic())) {
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
        let dialect =
            Dialect { max_tokens: settings.max_tokens, new_limit_name: false, temperature: Some(settings.temperature) };
        Ok(Self {
            address,
            api,
            key,
            agent: config.new_agent(),
            dialect: Mutex::new(dialect),
            budget: Arc::new(Budget::new(limits)),
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

    /// Spends what others may spend too.
    pub fn with_budget(self, budget: Arc<Budget>) -> Self {
        Self { budget, ..self }
    }

    /// Tells `note` where a key would travel unencrypted to another machine.
    pub fn warn_of_key(&self, note: impl FnOnce(&str)) {
        if self.key.is_some() && self.address.starts_with("http://") && !is_local(&self.address) {
            note("warning: the key in OPENAI_API_KEY goes over http:// without encryption");
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks until there is a reply.
    ///
    /// # Errors
    /// [`Error::Failed`] if the endpoint refuses, a cap is reached, or the last try failed too; it says what happened.
    pub fn complete(&self, text: &str) -> Result<Reply> {
        self.ask(&Request { text, images: &[], longer: 1 })
    }

    /// As [`Client::complete`], about an image: a `data:` URL. For chat endpoints. The reply may have `longer` times the usual
    /// number of tokens.
    ///
    /// # Errors
    /// Those of [`Client::complete`].
    pub fn complete_about(&self, text: &str, image: &str, longer: u64) -> Result<Reply> {
        self.complete_about_all(text, &[image], longer)
    }

    /// As [`Client::complete_about`], about several images in their order.
    ///
    /// # Errors
    /// Those of [`Client::complete`].
    pub fn complete_about_all(&self, text: &str, images: &[&str], longer: u64) -> Result<Reply> {
        self.ask(&Request { text, images, longer })
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
            let longest = self.settings.longest_pause;
            let wait = match asked {
                Some(asked) if asked > longest => {
                    return Err(self.error(format!(
                        "{why}; it asks for a pause of {} s, and selma waits at most {} s",
                        asked.as_secs(),
                        longest.as_secs()
                    )));
                }
                asked if tries > self.settings.retries => {
                    let asks = asked.map_or(String::new(), |p| format!("; it asks for a pause of {} s", p.as_secs()));
                    return Err(self.error(format!("{why}{asks}; gave up after {tries} tries")));
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
        let output = dialect.max_tokens.saturating_mul(request.longer);
        let worst = Usage { input: request.tokens(), output, estimated: true };
        self.budget.reserve(worst).map_err(Failure::Final)?;
        let (result, used) = self.exchange(request, &dialect, worst);
        self.budget.settle(worst, used);
        result
    }

    /// The reply, and what it used: `worst` where a reply was lost that may have been written.
    fn exchange(&self, asked: &Request<'_>, dialect: &Dialect, worst: Usage) -> (Result<Reply, Failure>, Usage) {
        let nothing = Usage::default();
        let mut request = self.agent.post(&self.address).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let said = Dialect { max_tokens: worst.output, ..dialect.clone() };
        let body = wire::body(self.api, &self.settings.model, asked.text, asked.images, &said).to_string();
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return (Err(self.broken(error)), worst),
        };
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let pause = header("retry-after").and_then(|value| wire::pause(value, SystemTime::now()));
        let body = match response.body_mut().with_config().limit(LARGEST_REPLY).read_to_vec() {
            Ok(bytes) => self.without_key(&wire::text(bytes)),
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
        let reply = Reply { text: parsed.text, finish_reason: parsed.finish_reason, model: parsed.model, usage };
        (Ok(reply), usage)
    }

    pub(super) fn error(&self, text: String) -> Error {
        Error::Failed(format!("{}: {text}", self.address))
    }

    pub(super) fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        }
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Dialect> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No reply to a request for text is near this.
const LARGEST_REPLY: u64 = 16 << 20;

/// In [0, 1): requests that failed together do not try again together. Nothing that is kept depends on it.
fn spread() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    f64::from(now.subsec_nanos()) * 1e-9
}
