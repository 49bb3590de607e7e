//! Where the answers to a benchmark's questions come from.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::{Eval, scorers};
use crate::cli::progress::Progress;
use crate::cli::{Common, interrupt};
use crate::error::{Error, Result};
use crate::evaluate::answers::Answers;
use crate::evaluate::folder::Entry;
use crate::evaluate::questions::Item;
use crate::evaluate::vision::VisionJudge;
use crate::evaluate::visual_qa::{BlipJudge, Form};
use crate::prompting::llm::{Api, Role};

/// An endpoint or a file.
pub struct Source {
    /// Who answers, in scores.
    pub name: String,
    kind: Kind,
    parallel: usize,
}

enum Kind {
    Judge(Box<VisionJudge>),
    Blip(RefCell<Box<BlipJudge>>),
    File(Answers),
}

impl Source {
    /// # Errors
    /// [`Error::Usage`] for options that do not fit together; whatever is wrong with the file of answers or the record.
    pub fn open(eval: &Eval, items: &[Item], common: &Common) -> Result<Self> {
        eval.endpoint.check("--")?;
        let parallel = eval.endpoint.parallel(Role::Judge);
        if let Some(path) = &eval.answers {
            let name =
                eval.judge_model.as_ref().map_or_else(|| "answers".to_owned(), |model| format!("answers of {model}"));
            let kind = Kind::File(Answers::read(path, items)?);
            return Ok(Self { name, kind, parallel });
        }
        let url = match eval.judge.as_deref() {
            None => {
                let message =
                    format!("--benchmark {}: expected --judge URL or blip-vqa, or --answers FILE", eval.benchmark);
                return Err(Error::Usage(message));
            }
            Some(name) if name == scorers::BLIP_VQA || name.starts_with("blip-vqa:") => {
                return Self::blip(eval, name, common);
            }
            Some("builtin") => {
                let message = format!(
                    "--judge builtin: answers for shapes alone; for {}, give the URL of an endpoint, or --answers",
                    eval.benchmark
                );
                return Err(Error::Usage(message));
            }
            Some(url) => url,
        };
        let Some(model) = &eval.judge_model else {
            return Err(Error::Usage(format!("--judge {url}: expected --judge-model NAME")));
        };
        let client = common.client(&eval.endpoint, Role::Judge, ("--judge", url), model, Some(Api::Chat))?;
        // Every reply is on disk before the next is asked for, so stopping needs no more than saying so.
        let record = eval.out.with_extension("answers.jsonl");
        interrupt::stop_at_once(&format!(
            "stopped; every reply is in {}, and the same command goes on",
            record.display()
        ))?;
        let judge = VisionJudge::open(client, &record)?;
        Ok(Self { name: model.clone(), kind: Kind::Judge(Box::new(judge)), parallel })
    }

    fn blip(eval: &Eval, judge: &str, common: &Common) -> Result<Self> {
        let form = judge.strip_prefix("blip-vqa:").map_or(Some(Form::Greedy), Form::parse);
        let Some(form) = form else {
            let message = format!("--judge {judge}: expected blip-vqa, blip-vqa:yes-no or blip-vqa:rank");
            return Err(Error::Usage(message));
        };
        if let Some(odd) = eval.weights.iter().find(|text| !text.starts_with("blip-vqa=")) {
            return Err(Error::Usage(format!("--weights {odd}: expected blip-vqa=MODEL")));
        }
        let weights = scorers::given(&eval.weights, scorers::BLIP_VQA).unwrap_or("Salesforce/blip-vqa-base");
        let weights = common.judge(weights)?;
        let record = eval.out.with_extension("answers.jsonl");
        let judge = BlipJudge::open(&weights, form, &record, &common.device()?, scorers::precision(common)?)?;
        let name = judge.name().to_owned();
        Ok(Self { name, kind: Kind::Blip(RefCell::new(Box::new(judge))), parallel: 1 })
    }

    /// Whether there is an answer to any question about the item that an entry shows.
    pub fn knows(&self, entry: &Entry) -> bool {
        match (&self.kind, &entry.item_id) {
            (Kind::File(answers), Some(id)) => answers.knows(id),
            _ => true,
        }
    }

    /// The answers to all questions about each image.
    ///
    /// # Errors
    /// What kept the endpoint from answering; a question without an answer in the file.
    pub fn answers(&self, images: &[(&Entry, &Item)], common: &Common) -> Result<Vec<Vec<Option<String>>>> {
        match &self.kind {
            Kind::File(answers) => images.iter().map(|(entry, item)| answers.of(item, &entry.file_name)).collect(),
            Kind::Blip(judge) => {
                let mut progress = Progress::new(common, "images", images.len());
                let answers = judge.borrow_mut().answers(images, &mut |done| {
                    progress.set(done as u64);
                    Ok(())
                });
                progress.finish();
                Ok(answers?.into_iter().map(|answers| answers.into_iter().map(Some).collect()).collect())
            }
            Kind::Judge(judge) => {
                let progress = Mutex::new(Progress::new(common, "images", images.len()));
                let shown = || progress.lock().unwrap_or_else(PoisonError::into_inner);
                let answers = judge.answers(images, self.parallel, &|done| shown().set(done as u64));
                shown().finish();
                let spent = judge.client().budget.spent();
                if spent.requests > 0 {
                    common.note(format!("{} requests to {}", spent.requests, self.name));
                }
                answers
            }
        }
    }
}
