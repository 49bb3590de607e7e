//! Answers of BLIP-VQA, in this process. Every answer is recorded as it is there, so that nothing is asked twice.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::folder::Entry;
use super::questions::{Item, Question};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::journal::Journal;
use crate::formats::{digest, jsonl};
use crate::judges::clip::stacked;
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::judges::visual_qa::{Asked, RANKED, VisualQa};
use crate::tensor::DType;

/// Of TIFA's own use of BLIP.
const LONGEST_ANSWER: usize = 50;

/// How an answer is taken from the network. It is part of the judge's name: another form gives other answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The most likely piece after each, as DSG's and TIFA's scorers do it.
    Greedy,
    /// A question with yes and no as answers: the likelier of the two first pieces. Others as [`Form::Greedy`].
    YesNo,
    /// The question's choices, or yes and no, by the original rule of BLIP.
    Rank,
}

impl Form {
    /// None for another name.
    pub fn parse(name: &str) -> Option<Self> {
        [Form::Greedy, Form::YesNo, Form::Rank].into_iter().find(|form| form.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Form::Greedy => "greedy",
            Form::YesNo => "yes-no",
            Form::Rank => "rank",
        }
    }
}

/// A line of the record. It can be read as an answers file too.
#[derive(Serialize, Deserialize)]
struct Record {
    item_id: String,
    file_name: String,
    question_id: usize,
    question: String,
    answer: String,
    /// The probability of yes among yes and no, in form yes-no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    yes: Option<f64>,
    /// SHA-256 of the image's file.
    image: String,
    judge: String,
    /// Of which form rank chose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    choices: Vec<String>,
}

type Known = HashMap<(String, String, Vec<String>), String>;

pub struct BlipJudge {
    network: VisualQa,
    form: Form,
    journal: Journal,
    known: Known,
    name: String,
}

impl BlipJudge {
    /// # Errors
    /// As [`VisualQa::load`]; as [`Journal::open`] and [`jsonl::read`] for the record of earlier answers.
    pub fn open(weights: &Path, form: Form, record: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let network = VisualQa::load(weights, None, device, dtype)?;
        let size = network.model.vision.image_size();
        let hash = &network.hash[..16];
        let name = format!("blip-vqa {}; weights {hash}, recipe blip {size}, {}", form.name(), dtype.name());
        let journal = Journal::open(record)?;
        let earlier = match journal.is_new {
            true => Vec::new(),
            false => jsonl::read::<Record>(record)?,
        };
        let earlier = earlier.into_iter().filter(|(_, record)| record.judge == name);
        let known = earlier.map(|(_, r)| ((r.image, r.question, r.choices), r.answer)).collect();
        Ok(Self { network, form, journal, known, name })
    }

    /// Who answers, in scores: also the form, the weights and the recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The answers to all questions about each image. `progress` is told how many images are done.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::File`] for an image; what the device and `progress` say. What was answered is recorded.
    pub fn answers(
        &mut self,
        images: &[(&Entry, &Item)],
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Vec<String>>> {
        let mut all = Vec::new();
        for (entry, item) in images {
            all.push(self.about(entry, item)?);
            progress(all.len())?;
        }
        Ok(all)
    }

    /// The image is looked at once, for all questions about it.
    fn about(&mut self, entry: &Entry, item: &Item) -> Result<Vec<String>> {
        let image = digest::file(&entry.path)?;
        let mut seen = None;
        let mut answers = Vec::new();
        for question in &item.questions {
            let choices = if self.form == Form::Rank { choices(question) } else { Vec::new() };
            let key = (image.clone(), question.text.clone(), choices);
            if let Some(answer) = self.known.get(&key) {
                answers.push(answer.clone());
                continue;
            }
            if seen.is_none() {
                seen = Some(self.network.seen(&self.states(&entry.path)?)?);
            }
            let asked = self.network.ask(&question.text, seen.as_ref().expect("it was just seen"))?;
            let (answer, yes) = self.answer(question, &key.2, &asked)?;
            let record = Record {
                item_id: item.id.clone(),
                file_name: entry.file_name.clone(),
                question_id: question.id,
                question: question.text.clone(),
                answer: answer.clone(),
                yes,
                image: image.clone(),
                judge: self.name.clone(),
                choices: key.2.clone(),
            };
            self.journal.append(&json!(record))?;
            self.known.insert(key, answer.clone());
            answers.push(answer);
        }
        Ok(answers)
    }

    fn states(&self, path: &Path) -> Result<crate::tensor::Tensor> {
        let size = self.network.model.vision.image_size();
        let pixels = Recipe::Blip.apply(&DecodedImage::read(path)?, size);
        let pixels = pixels.map_err(|why| Error::file(path, why.to_string()))?;
        self.network.image_states(&stacked(&[pixels.values])?)
    }

    fn answer(&self, question: &Question, choices: &[String], asked: &Asked) -> Result<(String, Option<f64>)> {
        let network = &self.network;
        match self.form {
            Form::YesNo if is_yes_no(question) => {
                let piece = |word: &str| {
                    let id = network.tokenizer.id(word);
                    id.ok_or_else(|| Error::Failed(format!("the judge's vocabulary has no piece `{word}`")))
                };
                let [yes, no] = network.first_logits([piece("yes")?, piece("no")?], asked)?;
                let answer = if yes > no { "yes" } else { "no" };
                Ok((answer.into(), Some(1.0 / (1.0 + (no - yes).exp()))))
            }
            Form::Rank => {
                let ids = choices.iter().map(|choice| network.answer_ids(choice)).collect::<Result<Vec<_>>>()?;
                let ranking = network.rank(&ids, RANKED, asked)?;
                Ok((ranking.best.map(|place| choices[place].clone()).unwrap_or_default(), None))
            }
            Form::Greedy | Form::YesNo => {
                let ids = network.greedy(asked, LONGEST_ANSWER)?;
                Ok((network.text(&ids)?.trim().to_owned(), None))
            }
        }
    }
}

fn choices(question: &Question) -> Vec<String> {
    match question.choices.is_empty() {
        true => vec!["yes".into(), "no".into()],
        false => question.choices.clone(),
    }
}

/// DSG's questions have no choices; TIFA's say so.
fn is_yes_no(question: &Question) -> bool {
    let choices: Vec<String> = choices(question).iter().map(|choice| choice.to_lowercase()).collect();
    choices.len() == 2 && choices.iter().any(|c| c == "yes") && choices.iter().any(|c| c == "no")
}
