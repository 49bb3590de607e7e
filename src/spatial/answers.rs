//! What a judge of yes/no questions says of a suite's images: the third judge beside boxes and layouts.

use std::collections::BTreeMap;

use super::suite::Prompt;
use super::visor::{Asked, Seen};
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg::{Annotated, Proposition};
use crate::evaluate::scores::{Answered, Scores};

/// The suite's questions in DSG's form: each object, and the relation, which depends on all of them.
pub fn questions(suite: &[Prompt]) -> Vec<Annotated> {
    let item = |prompt: &Prompt| Annotated {
        id: prompt.id.clone(),
        prompt: prompt.prompt.clone(),
        propositions: prompt.questions.iter().map(|question| proposition(prompt, question)).collect(),
    };
    suite.iter().map(item).collect()
}

fn proposition(prompt: &Prompt, question: &super::suite::Question) -> Proposition {
    let tuple = match prompt.objects.get(question.id - 1) {
        Some(object) => format!("entity - whole ({object})"),
        None => {
            let stated = &prompt.relations[(question.id - 1 - prompt.objects.len()).min(prompt.relations.len() - 1)];
            let others = [Some(&stated.b), stated.c.as_ref()].into_iter().flatten().cloned().collect::<Vec<_>>();
            format!("relation - spatial ({}, {}, {})", stated.a, others.join(", "), stated.prep)
        }
    };
    let parents = question.parents.iter().copied().filter(|&parent| parent > 0).collect();
    Proposition { id: question.id, parents, tuple, question: question.q.clone() }
}

/// The answers about each image, by `ID_K`: image K, from 0 on, of prompt ID.
///
/// # Errors
/// [`Error::Failed`] for scores of images without the suite's ids.
pub fn by_image(scores: &Scores) -> Result<BTreeMap<String, Vec<Answered>>> {
    let (mut counts, mut images) = (BTreeMap::<&str, usize>::new(), BTreeMap::new());
    for image in &scores.images {
        let id = image.item_id.as_deref().ok_or_else(|| {
            Error::Failed(format!("{} has no id of a prompt; score it by the suite's questions", image.file_name))
        })?;
        let count = counts.entry(id).or_default();
        images.insert(format!("{id}_{count}"), image.questions.clone());
        *count += 1;
    }
    Ok(images)
}

/// What the answers say of one prompt. The relation holds where its question and those of all objects are answered by yes.
pub fn seen(asked: &Asked, answers: &[Answered]) -> Seen {
    let yes = |id: usize| answers.iter().any(|answer| answer.id == id && answer.yes);
    let objects: Vec<bool> = asked.questions.objects.iter().map(|id| yes(*id)).collect();
    let others = objects[1..].iter().all(|yes| *yes);
    let holds = objects[0] && others && yes(asked.questions.relation);
    Seen { a: objects[0], b: others, holds: Some(holds), opposite: None }
}
