//! Answers of a model that sees: an OpenAI-compatible chat endpoint. Every reply is recorded as it arrives, so that nothing
//! is asked twice, in whichever run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::folder::Entry;
use super::questions::{Item, Question};
use crate::error::{Error, Result};
use crate::formats::journal::Journal;
use crate::formats::{content_hash, jsonl};
use crate::prompting::llm::Client;

/// The answers to the questions about one image; none where there was no answer.
type Answers = Vec<Option<String>>;

/// A line of the record. It can be read as an answers file too.
#[derive(Serialize, Deserialize)]
struct Record {
    item_id: String,
    file_name: String,
    question_id: usize,
    question: String,
    /// What is scored.
    answer: String,
    /// What the model wrote.
    reply: String,
    /// SHA-256 of the image's file.
    image: String,
    /// The text that was sent with it.
    request: String,
    judge_model: String,
}

/// Image, request and model -> reply.
type Replies = HashMap<(String, String, String), String>;

/// How many times the usual length a reply may have, one try after the other.
const MORE_TOKENS: [u64; 3] = [1, 16, 128];

/// The endpoint and what it has said so far.
pub struct VisionJudge {
    client: Client,
    journal: Journal,
    replies: Mutex<Replies>,
}

impl VisionJudge {
    /// # Errors
    /// As [`Journal::open`] and [`jsonl::read`] for the record of earlier replies.
    pub fn open(client: Client, record: &Path) -> Result<Self> {
        let journal = Journal::open(record)?;
        let earlier = match journal.is_new {
            true => Vec::new(),
            false => jsonl::read::<Record>(record)?,
        };
        // A reply without an answer, as earlier versions recorded them, is asked for again.
        let earlier = earlier.into_iter().filter(|(_, r)| !r.answer.trim().is_empty());
        let earlier = earlier.map(|(_, r)| ((r.image, r.request, r.judge_model), r.reply));
        Ok(Self { client, journal, replies: Mutex::new(earlier.collect()) })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The answers to all questions about each image, `parallel` images at a time; `progress` is called with the
    /// number of images that are done.
    ///
    /// # Errors
    /// The first error of the endpoint or of an image's file; what else was answered is recorded.
    pub fn answers(
        &self,
        images: &[(&Entry, &Item)],
        parallel: usize,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Option<String>>>> {
        let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let results = Mutex::new(images.iter().map(|_| None::<Result<Answers>>).collect::<Vec<_>>());
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some((entry, item)) = images.get(place) else {
                    break;
                };
                let result = self.about(entry, item);
                if result.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(result);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            }
        };
        std::thread::scope(|scope| (0..parallel.max(1)).for_each(|_| drop(scope.spawn(work))));
        // All images before the first that failed have their answers, and it comes before those that were not begun.
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().flatten().collect()
    }

    fn about(&self, entry: &Entry, item: &Item) -> Result<Vec<Option<String>>> {
        let bytes = std::fs::read(&entry.path).map_err(|e| Error::io(&entry.path, e))?;
        let kind = media_type(&bytes)
            .ok_or_else(|| Error::file(&entry.path, "is not PNG, JPEG or WebP, which endpoints take"))?;
        let image = content_hash::of_bytes(&bytes);
        // Encoded when it is needed.
        let mut url = None;
        let mut answers = Vec::new();
        for question in &item.questions {
            let request = request(question);
            let model = self.client.settings().model.clone();
            let key = (image.clone(), request.clone(), model.clone());
            let earlier = self.replies.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            if let Some(reply) = earlier {
                answers.push(question.read_reply(&reply));
                continue;
            }
            let url = url.get_or_insert_with(|| format!("data:{kind};base64,{}", STANDARD.encode(&bytes)));
            let Some((reply, answer)) = self.ask(question, &request, url)? else {
                // Not recorded: another command asks again.
                answers.push(None);
                continue;
            };
            let record = Record {
                item_id: item.id.clone(),
                file_name: entry.file_name.clone(),
                question_id: question.id,
                question: question.text.clone(),
                answer: answer.clone(),
                reply: reply.clone(),
                image: image.clone(),
                request,
                judge_model: model,
            };
            self.journal.append(&json!(record))?;
            self.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(key, reply);
            answers.push(Some(answer));
        }
        Ok(answers)
    }

    /// The reply and the answer in it; none where no reply has one. A model that thinks, or begins with a preamble, gets more
    /// tokens.
    fn ask(&self, question: &Question, request: &str, image: &str) -> Result<Option<(String, String)>> {
        for factor in MORE_TOKENS {
            let reply = self.client.complete_about(request, image, factor)?;
            let cut = reply.finish_reason.as_deref() == Some("length");
            let answer = question.read_reply(&reply.text);
            // What a cut reply says before it comes to an answer is none.
            let answer = answer.filter(|said| !cut || matches!(said.as_str(), "yes" | "no"));
            if let Some(answer) = answer {
                return Ok(Some((reply.text, answer)));
            }
        }
        Ok(None)
    }
}

fn request(question: &Question) -> String {
    match question.choices.is_empty() {
        true => format!(
            "Look at the picture and answer with yes or no only, without other words or punctuation. Question: {}",
            question.text
        ),
        false => format!(
            "Look at the picture and answer with exactly one of the options, without other words. Question: {} Options: {}",
            question.text,
            question.choices.join(", ")
        ),
    }
}

/// By what the file begins with: its name may be wrong.
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
