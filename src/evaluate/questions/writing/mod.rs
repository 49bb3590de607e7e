//! Questions for prompts that no benchmark has. Three requests to an LLM for each prompt, as in DSG: what the image must
//! show, as tuples; what each of them depends on; a question for each. For captions of the built-in world no LLM is needed.

pub mod reply;
pub mod request;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use self::reply::lines;
use self::request::Task;
use super::dsg::{Annotated, Proposition};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::prompting::Record;
use crate::prompting::prompts::Ask;
use crate::prompting::reply::plain_line;
use crate::prompting::writer::Writer;
use crate::shapes::caption::parse;
use crate::shapes::judge::questions;

/// What the replies held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub prompts: usize,
    pub questions: usize,
    pub requests: usize,
    pub lines_not_understood: usize,
    /// Words and ids in lists of parents that name no tuple.
    pub parents_not_understood: usize,
    /// Tuples that no question was written for; they are left out.
    pub tuples_without_question: usize,
    /// Replies that the token limit cut.
    pub cut_replies: usize,
    /// Prompts without any question; they are left out.
    pub prompts_without_questions: usize,
    /// Replies to another request than the one that would have been sent.
    pub other_requests: usize,
}

/// The items of a question file: each prompt with an id, its own (`item_id` or `id`) or `STEM_NUMBER`, and no question yet.
///
/// # Errors
/// [`Error::Failed`] for two prompts with the same id.
pub fn items(prompts: &[Prompt], stem: &str) -> Result<Vec<Annotated>> {
    let mut known: HashMap<String, String> = HashMap::new();
    let mut items = Vec::new();
    for (prompt, number) in prompts.iter().zip(1..) {
        let own = prompt.item_id().map(|id| plain_line(&id)).filter(|id| !id.is_empty());
        let id = own.unwrap_or_else(|| format!("{}_{number}", plain_line(stem)));
        let text = prompt.text.trim().to_owned();
        match known.insert(id.clone(), text.clone()) {
            Some(earlier) if earlier == text => continue,
            Some(_) => {
                return Err(Error::Failed(format!("two prompts have the id `{id}`; each needs its own")));
            }
            None => {}
        }
        items.push(Annotated { id, prompt: text, propositions: Vec::new() });
    }
    Ok(items)
}

/// Fills in the questions of `items`, `parallel` requests at the same time; `progress` is called with the number of prompts
/// that are done. Items whose prompt got no question are removed. The same replies give the same questions.
///
/// # Errors
/// Those of the writer; [`Error::Failed`] where it has no more replies.
pub fn ask(
    items: &mut Vec<Annotated>,
    parallel: usize,
    writer: &mut dyn Writer,
    progress: &mut dyn FnMut(usize),
) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut texts: Vec<String> = Vec::new();
    let mut known = BTreeSet::new();
    texts.extend(items.iter().filter(|item| known.insert(&item.prompt)).map(|item| item.prompt.clone()));
    let mut written: HashMap<String, Vec<Proposition>> = HashMap::new();
    let parallel = parallel.max(1);
    for (round, texts) in texts.chunks(parallel).enumerate() {
        // Three numbers a prompt, so that a request keeps its number whatever the others brought.
        let number = |i: usize, task: Task| 3 * (round * parallel + i) as u64 + task as u64;
        let of_tuples = |(i, text): (usize, &String)| Ask {
            request: number(i, Task::Tuples),
            prompt: Task::Tuples.request(text, &[]),
        };
        let asks: Vec<Ask> = texts.iter().enumerate().map(of_tuples).collect();
        let mut graphs: Vec<Graph> = Vec::new();
        for (ask, record) in asks.iter().zip(all(writer, &asks, parallel)?) {
            let tuples = counts.read(ask, &record);
            graphs.push(Graph { tuples, ..Graph::default() });
        }
        let further: Vec<(usize, Task)> = (0..texts.len())
            .filter(|&i| !graphs[i].tuples.is_empty())
            .flat_map(|i| [(i, Task::Dependencies), (i, Task::Questions)])
            .collect();
        let of_graph = |&(i, task): &(usize, Task)| Ask {
            request: number(i, task),
            prompt: task.request(&texts[i], &graphs[i].tuples),
        };
        let asks: Vec<Ask> = further.iter().map(of_graph).collect();
        let records = all(writer, &asks, parallel)?;
        for ((&(i, task), ask), record) in further.iter().zip(&asks).zip(&records) {
            let read = counts.read(ask, record).into_iter().collect();
            match task {
                Task::Questions => graphs[i].questions = read,
                _ => graphs[i].parents = read,
            }
        }
        for (text, graph) in texts.iter().zip(graphs) {
            written.insert(text.clone(), graph.propositions(&mut counts));
        }
        progress(written.len());
    }
    items.iter_mut().for_each(|item| item.propositions = written[&item.prompt].clone());
    counts.finish(items);
    Ok(counts)
}

/// Fills in the questions that the judge of the built-in world asks about a caption.
///
/// # Errors
/// [`Error::Failed`] for a caption that names no shape.
pub fn built_in(items: &mut Vec<Annotated>) -> Result<Counts> {
    for item in items.iter_mut() {
        let questions = questions(&parse(&item.prompt)?);
        let one = |question: &crate::shapes::judge::Question| Proposition {
            id: question.id,
            parents: question.parents.clone(),
            tuple: question.tuple(),
            question: question.text(),
        };
        item.propositions = questions.iter().map(one).collect();
    }
    let mut counts = Counts::default();
    counts.finish(items);
    Ok(counts)
}

/// A reply to each of `asks`, `parallel` at a time.
fn all(writer: &mut dyn Writer, asks: &[Ask], parallel: usize) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for some in asks.chunks(parallel) {
        let answered = writer.answer(some)?;
        if let Some(ask) = some.get(answered.len()) {
            let message = format!("the recording has no reply to request {}; record it with --llm", ask.request);
            return Err(Error::Failed(message));
        }
        records.extend(answered);
    }
    Ok(records)
}

/// The replies about one prompt.
#[derive(Default)]
struct Graph {
    tuples: Vec<(usize, String)>,
    parents: BTreeMap<usize, String>,
    questions: BTreeMap<usize, String>,
}

impl Graph {
    fn propositions(self, counts: &mut Counts) -> Vec<Proposition> {
        let ids: BTreeSet<usize> = self.tuples.iter().map(|(id, _)| *id).collect();
        let mut propositions = Vec::new();
        for (id, tuple) in &self.tuples {
            let Some(question) = self.questions.get(id) else {
                counts.tuples_without_question += 1;
                continue;
            };
            let mut parents = BTreeSet::new();
            for word in self.parents.get(id).map_or("0", String::as_str).split(',') {
                match word.trim().parse::<usize>() {
                    Ok(0) => {}
                    Ok(parent) if parent == *id => {}
                    Ok(parent) if ids.contains(&parent) => drop(parents.insert(parent)),
                    _ => counts.parents_not_understood += 1,
                }
            }
            propositions.push(Proposition {
                id: *id,
                parents: parents.into_iter().collect(),
                tuple: tuple.clone(),
                question: question.clone(),
            });
        }
        propositions
    }
}

impl Counts {
    fn read(&mut self, ask: &Ask, record: &Record) -> Vec<(usize, String)> {
        self.requests += 1;
        self.other_requests += usize::from(record.prompt.as_ref().is_some_and(|prompt| *prompt != ask.prompt));
        let cut = record.finish_reason.as_deref() == Some("length");
        self.cut_replies += usize::from(cut);
        let read = lines(&record.reply, cut);
        self.lines_not_understood += read.not_understood;
        read.lines
    }

    fn finish(&mut self, items: &mut Vec<Annotated>) {
        let before = items.len();
        items.retain(|item| !item.propositions.is_empty());
        self.prompts = items.len();
        self.prompts_without_questions = before - items.len();
        self.questions = items.iter().map(|item| item.propositions.len()).sum();
    }
}
