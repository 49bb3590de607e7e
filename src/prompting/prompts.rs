//! Stage 1: a writer's captions become the prompts of a skill.
//!
//! In rounds: a few requests, each with examples drawn from the seeds and what was kept so far; then every caption of
//! the replies, in order, is kept if it is not too similar to a seed or to a caption that was kept before it. What is
//! drawn for a request depends on the seed and the request's number only, so the same replies give the same prompts.

use std::path::Path;

use serde::Serialize;

use super::reply::{self, Captions};
use super::rouge::{Pool, tokens};
use super::{Record, Skill};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::tensor::random::{Stream, below};

/// What is wanted. The defaults are the settings of SELMA's reference code, but for the cap on requests without
/// progress: that never ends.
#[derive(Clone, Debug)]
pub struct Options {
    pub count: usize,
    pub seed: u64,
    /// Captions with a larger ROUGE-L F against the pool are dropped.
    pub max_similarity: f64,
    /// Requests of a round; they can be sent at the same time.
    pub requests_per_round: usize,
    /// Requests one after the other without a caption that was kept, after which there is no point in going on.
    pub max_stalled: usize,
    /// Drop captions that are not below the skill's word limit, instead of counting them.
    pub strict_words: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { count: 1000, seed: 42, max_similarity: 0.8, requests_per_round: 5, max_stalled: 25, strict_words: false }
    }
}

/// A request of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// From 0.
    pub request: u64,
    pub prompt: String,
}

/// What the replies held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    pub kept: usize,
    pub requests: u64,
    /// Captions that were looked at.
    pub captions: usize,
    pub too_similar: usize,
    /// Without a letter or digit of the filter's alphabet.
    pub without_words: usize,
    /// Kept although they are not below the skill's word limit, or dropped with `strict_words`.
    pub over_word_limit: usize,
    pub lines_not_understood: usize,
    /// Last items of replies that the token limit cut.
    pub cut_captions: usize,
    /// Replies to another request than the one that this loop would have sent.
    pub other_requests: usize,
}

/// The loop's state.
pub struct Collector<'a> {
    skill: &'a Skill,
    options: &'a Options,
    pool: Pool,
    /// The skill's seeds, then what was kept.
    texts: Vec<String>,
    counts: Counts,
    stalled: usize,
}

impl<'a> Collector<'a> {
    pub fn new(skill: &'a Skill, options: &'a Options) -> Self {
        let mut pool = Pool::default();
        skill.seeds.iter().for_each(|seed| pool.insert(seed));
        Self { skill, options, pool, texts: skill.seeds.clone(), counts: Counts::default(), stalled: 0 }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was kept so far, in order.
    pub fn prompts(&self) -> &[String] {
        &self.texts[self.skill.seeds.len()..]
    }

    pub fn is_done(&self) -> bool {
        self.counts.kept >= self.options.count
    }

    /// The requests of the next round.
    pub fn round(&self) -> Vec<Ask> {
        let numbers = self.counts.requests..self.counts.requests + self.options.requests_per_round as u64;
        numbers.map(|request| self.ask(request)).collect()
    }

    /// The examples are drawn without replacement.
    fn ask(&self, request: u64) -> Ask {
        let mut left: Vec<usize> = (0..self.texts.len()).collect();
        let examples: Vec<&str> = (0..self.skill.examples)
            .map(|i| {
                let chosen = below(self.options.seed, Stream::Choice, request, i as u64, left.len() as u32);
                self.texts[left.swap_remove(chosen as usize)].as_str()
            })
            .collect();
        let prompt = self.skill.request(&examples);
        Ask { request, prompt }
    }

    /// Takes the reply to one request of the round; in the order of the requests.
    ///
    /// # Errors
    /// [`Error::Failed`] after too many requests without progress.
    pub fn take(&mut self, ask: &Ask, record: &Record) -> Result<()> {
        self.counts.requests += 1;
        if record.prompt.as_ref().is_some_and(|prompt| *prompt != ask.prompt) {
            self.counts.other_requests += 1;
        }
        let cut = record.finish_reason.as_deref() == Some("length");
        let before = self.counts.kept;
        let Captions { captions, not_understood, partial } =
            reply::captions(&record.reply, self.skill.captions_per_request, cut);
        self.counts.lines_not_understood += not_understood;
        self.counts.cut_captions += partial;
        for caption in captions {
            self.offer(caption);
        }
        if self.counts.kept > before {
            self.stalled = 0;
            return Ok(());
        }
        self.stalled += 1;
        if self.stalled < self.options.max_stalled || self.is_done() {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "{} requests in a row brought nothing new, at {} of {} prompts ({} captions were too similar, {} lines not \
             understood); look at the recorded replies, or ask for fewer with --count {}",
            self.stalled,
            self.counts.kept,
            self.options.count,
            self.counts.too_similar,
            self.counts.lines_not_understood,
            self.counts.kept
        )))
    }

    fn offer(&mut self, caption: String) {
        if self.is_done() {
            return;
        }
        self.counts.captions += 1;
        if tokens(&caption).is_empty() {
            self.counts.without_words += 1;
            return;
        }
        let long = caption.split_whitespace().count() >= self.skill.word_limit;
        self.counts.over_word_limit += usize::from(long);
        if long && self.options.strict_words {
            return;
        }
        if self.pool.nearest_above(&caption, self.options.max_similarity).is_some() {
            self.counts.too_similar += 1;
            return;
        }
        self.pool.insert(&caption);
        self.texts.push(caption);
        self.counts.kept += 1;
    }
}

/// Writes prompts for [`crate::data::prompts::read`]: one a line if the file's name ends in `.txt`, `{"text": ...}` a line
/// for `.jsonl`, else a JSON array of strings.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, prompts: &[String]) -> Result<()> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let lines = |line: &dyn Fn(&String) -> String| prompts.iter().map(|prompt| line(prompt) + "\n").collect();
    let text: String = match ending.as_deref() {
        Some("txt") => lines(&String::clone),
        Some("jsonl") => lines(&|prompt| serde_json::json!({"text": prompt}).to_string()),
        _ => serde_json::to_string_pretty(prompts).map_err(|e| Error::file(path, e.to_string()))? + "\n",
    };
    atomic::write_bytes(path, text.as_bytes())
}
