//! Who scores the images of a run: the judge of the built-in world, an endpoint, a file of answers, BLIP-VQA, or a scorer.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Run, held_out, scorers};
use crate::error::{Error, Result};
use crate::evaluate::answers::Answers;
use crate::evaluate::folder::Entry;
use crate::evaluate::pairing::pair;
use crate::evaluate::question_scores;
use crate::evaluate::questions::Item;
use crate::evaluate::scorers::ValueCache;
use crate::evaluate::scores::Scores;
use crate::evaluate::shapes;
use crate::evaluate::vision::VisionJudge;
use crate::evaluate::visual_qa::{BlipJudge, Form};
use crate::formats::jsonl;
use crate::judges::kind as scorer;
use crate::judges::scorer::Scorer;
use crate::prompting::llm::{Api, Client, Role};
use crate::tensor::DType;
use crate::train::watcher::Watcher;

/// The name under which the evaluation opens its judge.
pub(super) const EVALUATION: &str = "evaluate";

pub(super) struct Judge<'a> {
    run: &'a Run<'a>,
    kind: Kind,
    /// What a file of answers lacks is listed here.
    list: PathBuf,
    /// A row a question without an answer.
    unanswered: RefCell<Vec<Value>>,
}

enum Kind {
    BuiltIn,
    Endpoint(Box<VisionJudge>),
    File(Answers),
    Blip(RefCell<Box<BlipJudge>>),
    Scorer(Box<Scorer>, ValueCache),
}

impl<'a> Judge<'a> {
    /// Of a benchmark's questions. An endpoint's answers are recorded in `judge/NAME.answers.jsonl`: they were paid for, and
    /// are never removed.
    ///
    /// # Errors
    /// Whatever is wrong with the address, the record of earlier answers or the file of answers.
    pub fn open(run: &'a Run<'a>, name: &str, watcher: &mut dyn Watcher) -> Result<Self> {
        let settings = &run.config.judge;
        let [record, list] =
            ["answers", "unanswered"].map(|kind| run.folder.path(format!("judge/{name}.{kind}.jsonl")));
        if run.config.evaluate.asks() {
            let folder = record.parent().unwrap_or(Path::new(""));
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        // Selection and choice go by a scorer, where one is named for them.
        if let Some(by) = settings.by.as_deref().and_then(scorer::Kind::parse).filter(|_| name != EVALUATION) {
            let kind = Kind::Scorer(Box::new(scorers::load(run, by)?), scorers::cache(run, name)?);
            return Ok(Self { run, kind, list, unanswered: RefCell::default() });
        }
        let kind = match (&settings.answers, &settings.blip_vqa) {
            _ if !run.config.evaluate.asks() => Kind::BuiltIn,
            // The list of what it lacks is what it is made from.
            (Some(path), _) if !path.exists() => Kind::File(Answers::none(path)),
            (Some(path), _) => Kind::File(Answers::read(path, &held_out::items(run)?)?),
            (None, Some(weights)) => {
                let form = settings.answer_form.as_deref().and_then(Form::parse).unwrap_or(Form::Greedy);
                let judge = BlipJudge::open(Path::new(weights), form, &record, &run.device, DType::F32)?;
                Kind::Blip(RefCell::new(Box::new(judge)))
            }
            (None, None) => {
                let client = client(run, settings.url.as_deref().unwrap_or_default())?;
                client.warn_of_key(|text| watcher.note(text));
                Kind::Endpoint(Box::new(VisionJudge::open(client, &record)?))
            }
        };
        Ok(Self { run, kind, list, unanswered: RefCell::default() })
    }

    /// In scores.
    fn name(&self) -> String {
        let model = self.run.config.judge.model.as_deref();
        match (&self.kind, model) {
            (Kind::BuiltIn, _) => "builtin".into(),
            (Kind::Blip(judge), _) => judge.borrow().name().into(),
            (Kind::Scorer(scorer, _), _) => scorer.describe(),
            (Kind::Endpoint(_), model) => model.unwrap_or_default().into(),
            (Kind::File(_), Some(model)) => format!("answers of {model}"),
            (Kind::File(_), None) => "answers".into(),
        }
    }

    /// The scores of images by a benchmark; none where a file of answers lacks some, which [`Judge::complete`] then tells. `items` are those
    /// that the images are of. Before their names, `place` says where the folder is, for the record and the file of answers.
    ///
    /// # Errors
    /// What kept the endpoint from answering; [`Error::Interrupted`].
    pub fn score(
        &self,
        benchmark: &str,
        place: &str,
        entries: &[Entry],
        items: &[Item],
        watcher: &mut dyn Watcher,
    ) -> Result<Option<Scores>> {
        let p = self.run.config;
        if let Kind::BuiltIn = self.kind {
            return shapes::evaluate(entries, p.seed).map(Some);
        }
        if let Kind::Scorer(scorer, cache) = &self.kind {
            return scorers::score(self.run, scorer, entries, cache, watcher).map(Some);
        }
        let paired = pair(Path::new(place), entries, items)?;
        let named = |entry: &Entry| Entry { file_name: format!("{place}/{}", entry.file_name), ..entry.clone() };
        let named: Vec<Entry> = paired.images.iter().map(|(entry, _)| named(entry)).collect();
        let asked: Vec<(&Entry, &Item)> = named.iter().zip(paired.images.iter().map(|(_, item)| *item)).collect();
        let Some(answers) = self.answers(&asked, watcher)? else {
            return Ok(None);
        };
        question_scores::score((benchmark, &self.name()), &paired, &answers, p.evaluate.dependencies, p.seed).map(Some)
    }

    fn answers(
        &self,
        asked: &[(&Entry, &Item)],
        watcher: &mut dyn Watcher,
    ) -> Result<Option<Vec<Vec<Option<String>>>>> {
        match &self.kind {
            Kind::BuiltIn | Kind::Scorer(..) => Ok(None),
            Kind::Blip(judge) => {
                let mut told = |done| {
                    if watcher.stopped() {
                        let message = "stopped; every answer so far is recorded, and the same command goes on";
                        return Err(Error::Interrupted(message.into()));
                    }
                    watcher.prepared("images judged", done, asked.len());
                    Ok(())
                };
                let answers = judge.borrow_mut().answers(asked, &mut told)?;
                Ok(Some(answers.into_iter().map(|answers| answers.into_iter().map(Some).collect()).collect()))
            }
            Kind::File(answers) => {
                let missing: Vec<Value> =
                    asked.iter().flat_map(|(entry, item)| self.lacks(answers, entry, item)).collect();
                if !missing.is_empty() {
                    self.unanswered.borrow_mut().extend(missing);
                    return Ok(None);
                }
                let one = |(entry, item): &(&Entry, &Item)| answers.of(item, &entry.file_name);
                asked.iter().map(one).collect::<Result<_>>().map(Some)
            }
            Kind::Endpoint(judge) => {
                let parallel = self.run.config.judge.endpoint.parallel(Role::Judge);
                let mut all = Vec::new();
                // Some at a time, so that a stop need not wait for all.
                for some in asked.chunks(4 * parallel) {
                    if watcher.stopped() {
                        let message = "stopped; every answer so far is recorded, and the same command goes on";
                        return Err(Error::Interrupted(message.into()));
                    }
                    all.extend(judge.answers(some, parallel, &|_| ())?);
                    watcher.prepared("images judged", all.len(), asked.len());
                }
                Ok(Some(all))
            }
        }
    }

    fn lacks(&self, answers: &Answers, entry: &Entry, item: &Item) -> Vec<Value> {
        let row = |question: &crate::evaluate::questions::Question| {
            let root = self.run.folder.path("");
            let image = entry.path.strip_prefix(&root).unwrap_or(&entry.path);
            json!({
                "item_id": item.id, "file_name": entry.file_name, "image": image, "question_id": question.id,
                "question": question.text, "choices": question.choices,
            })
        };
        let missing = item.questions.iter().filter(|q| answers.get(item, &entry.file_name, q.id).is_none());
        missing.map(row).collect()
    }

    /// # Errors
    /// [`Error::File`] where a file of answers lacks some: a list of them is then there.
    pub fn complete(&self) -> Result<()> {
        let missing = self.unanswered.borrow();
        let (Kind::File(answers), false) = (&self.kind, missing.is_empty()) else {
            return match std::fs::remove_file(&self.list) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.list, e)),
                _ => Ok(()),
            };
        };
        jsonl::write(&self.list, &missing)?;
        let message = format!(
            "has no answer to {} questions; they are in {}, which the file can take over with an `answer` in each row; then \
             the same command goes on",
            missing.len(),
            self.list.display()
        );
        Err(Error::file(answers.path(), message))
    }
}

fn client(run: &Run, url: &str) -> Result<Client> {
    let s = &run.config.judge;
    let model = s.model.as_deref().unwrap_or_default();
    let client = s.endpoint.client(Role::Judge, "judge", url, model, Some(Api::Chat))?;
    Ok(client.with_budget(run.budget_of_judge()))
}
