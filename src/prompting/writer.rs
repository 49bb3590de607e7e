//! Where replies come from: an endpoint, whose replies are recorded, or a recording.

use std::collections::HashMap;
use std::path::Path;

use super::llm::Client;
use super::prompts::{Ask, Collector};
use super::recording::{self, Record, Recorder};
use crate::error::{Error, Result};

/// Answers the requests of a round.
pub trait Writer {
    /// One record for each request, in order. A shorter list means that there are no more.
    ///
    /// # Errors
    /// What kept the writer from answering.
    fn answer(&mut self, asks: &[Ask]) -> Result<Vec<Record>>;
}

/// Runs rounds until the collector has what it wants, and calls `progress` after each with the prompts kept so far.
///
/// # Errors
/// Those of the writer; [`Error::Failed`] if it has no more replies, or too many in a row bring nothing.
pub fn collect(collector: &mut Collector, writer: &mut dyn Writer, progress: &mut dyn FnMut(usize)) -> Result<()> {
    while !collector.is_done() {
        let asks = collector.round();
        let records = writer.answer(&asks)?;
        let ended = records.len() < asks.len();
        for (ask, record) in asks.iter().zip(&records) {
            collector.take(ask, record)?;
        }
        progress(collector.counts().kept);
        if ended && !collector.is_done() {
            let counts = collector.counts();
            return Err(Error::Failed(format!(
                "the recording ends after {} replies, with {} prompts; take them with --count {}, or record more \
                 replies with --llm",
                counts.requests, counts.kept, counts.kept
            )));
        }
    }
    Ok(())
}

/// Recorded replies, without any network.
pub struct Replay(HashMap<u64, Record>);

impl Replay {
    /// # Errors
    /// Those of [`recording::read`].
    pub fn open(path: &Path) -> Result<Self> {
        recording::read(path).map(Self)
    }
}

impl Writer for Replay {
    fn answer(&mut self, asks: &[Ask]) -> Result<Vec<Record>> {
        Ok(asks.iter().map_while(|ask| self.0.remove(&ask.request)).collect())
    }
}

/// An endpoint. What an earlier run of the same command recorded is not asked again.
pub struct Endpoint {
    client: Client,
    recorder: Recorder,
    recorded: HashMap<u64, Record>,
}

impl Endpoint {
    /// What the recording holds is counted as spent.
    ///
    /// # Errors
    /// Those of [`Recorder::open`]; [`Error::Usage`] if the recording is of another model.
    pub fn open(client: Client, recording: &Path) -> Result<Self> {
        let endpoint = Self::counted(client, recording)?;
        let budget = &endpoint.client.budget;
        endpoint.recorded.values().for_each(|record| budget.add_recorded(record.usage()));
        Ok(endpoint)
    }

    /// As [`Endpoint::open`], with a client whose budget knows the recording already.
    ///
    /// # Errors
    /// Those of [`Endpoint::open`].
    pub fn counted(client: Client, recording: &Path) -> Result<Self> {
        let (recorder, recorded) = Recorder::open(recording)?;
        let model = client.settings().model.as_str();
        let others = recorded.values().filter_map(|record| record.llm_model.as_deref());
        if let Some(other) = others.into_iter().find(|other| *other != model) {
            return Err(Error::Usage(format!(
                "{}: was recorded with --llm-model {other}; go on with that, or use another --out",
                recording.display()
            )));
        }
        Ok(Self { client, recorder, recorded })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    fn ask(&self, ask: &Ask) -> Result<Record> {
        let reply = self.client.complete(&ask.prompt)?;
        let record = Record {
            request: Some(ask.request),
            llm_model: Some(self.client.settings().model.clone()),
            prompt: Some(ask.prompt.clone()),
            reply: reply.text,
            finish_reason: reply.finish_reason,
            input_tokens: Some(reply.usage.input),
            output_tokens: Some(reply.usage.output),
            estimated: reply.usage.estimated,
        };
        self.recorder.append(&record)?;
        Ok(record)
    }
}

impl Writer for Endpoint {
    /// The requests of a round run at the same time. If one fails, the replies to the others are recorded first.
    fn answer(&mut self, asks: &[Ask]) -> Result<Vec<Record>> {
        let earlier: Vec<Option<Record>> = asks.iter().map(|ask| self.recorded.remove(&ask.request)).collect();
        for (ask, record) in asks.iter().zip(&earlier) {
            if record.as_ref().and_then(|record| record.prompt.as_ref()).is_some_and(|prompt| *prompt != ask.prompt) {
                return Err(Error::Usage(format!(
                    "the recording beside --out has another request {}: it was made from other prompts, or with another \
                     skill, seed or similarity; use those, or another --out",
                    ask.request
                )));
            }
        }
        let this = &*self;
        std::thread::scope(|scope| {
            let answer = |(ask, earlier): (_, Option<Record>)| match earlier {
                Some(record) => Ok(record),
                None => this.ask(ask),
            };
            let running: Vec<_> = (asks.iter().zip(earlier)).map(|one| scope.spawn(move || answer(one))).collect();
            running.into_iter().map(join).collect()
        })
    }
}

fn join(thread: std::thread::ScopedJoinHandle<'_, Result<Record>>) -> Result<Record> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
