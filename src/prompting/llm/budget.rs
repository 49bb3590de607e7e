//! What may be spent on an endpoint. A request is sent only if it fits even at its largest possible cost.

use std::sync::Mutex;

use crate::error::{Error, Result};

/// Tokens of one request and its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    /// The endpoint did not say; estimated from the bytes.
    pub estimated: bool,
}

impl Usage {
    /// Tokens of a text, if nobody says: one for three bytes, which is more than English has.
    pub fn estimate(bytes: usize) -> u64 {
        (bytes as u64).div_ceil(3)
    }
}

/// The caps of one command, and the prices that the cost is counted with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// HTTP requests, repeated ones included.
    pub requests: Option<u64>,
    /// In the currency of the prices.
    pub cost: Option<f64>,
    /// For a million tokens.
    pub input_price: f64,
    pub output_price: f64,
}

/// What was spent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost: f64,
    /// Some of the tokens are estimates.
    pub estimated: bool,
}

/// Counts what is spent; shared by requests that run at the same time.
#[derive(Debug, Default)]
pub struct Budget {
    limits: Limits,
    state: Mutex<(Spent, Reserved)>,
}

/// The cost that requests under way may still have.
#[derive(Debug, Default)]
struct Reserved(f64);

impl Budget {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    pub fn spent(&self) -> Spent {
        self.lock().0
    }

    /// Adds what an earlier run of the same command spent.
    pub fn add_recorded(&self, usage: Usage) {
        let mut state = self.lock();
        state.0.requests += 1;
        self.add(&mut state.0, usage);
    }

    /// Room for one request that may use at most `worst`.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the cap.
    pub(super) fn reserve(&self, worst: Usage) -> Result<()> {
        let mut state = self.lock();
        let (spent, reserved) = &mut *state;
        if let Some(limit) = self.limits.requests.filter(|limit| spent.requests >= *limit) {
            return Err(Error::Failed(format!("the cap of {limit} requests is reached")));
        }
        let cost = self.cost(worst);
        if let Some(limit) = self.limits.cost
            && spent.cost + reserved.0 + cost > limit
        {
            return Err(Error::Failed(format!(
                "the cap on cost is reached: {:.4} of {limit} are spent, and one more request may cost {cost:.4}",
                spent.cost + reserved.0
            )));
        }
        spent.requests += 1;
        reserved.0 += cost;
        Ok(())
    }

    /// The request that had reserved `worst` used `actual`: nothing where the endpoint refused it.
    pub(super) fn settle(&self, worst: Usage, actual: Usage) {
        let mut state = self.lock();
        state.1.0 -= self.cost(worst);
        self.add(&mut state.0, actual);
    }

    fn add(&self, spent: &mut Spent, usage: Usage) {
        spent.input_tokens += usage.input;
        spent.output_tokens += usage.output;
        spent.estimated |= usage.estimated;
        spent.cost += self.cost(usage);
    }

    fn cost(&self, usage: Usage) -> f64 {
        (usage.input as f64 * self.limits.input_price + usage.output as f64 * self.limits.output_price) * 1e-6
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Spent, Reserved)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
