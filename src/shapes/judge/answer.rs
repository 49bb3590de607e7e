//! Answers from what was seen, and the score of a prompt.

use super::questions::{Ask, Noun, Question};
use super::view::{Found, View};
use crate::shapes::description::{Place, Relation, Shading, Size};
use crate::shapes::render::SIDE;

/// Half widths, in pixels: what is at most so large is small, and what is at least so large is large. The sizes of this
/// world that have a name lie two pixels or more to either side of the gap between.
const SMALL: f32 = 11.0;
const LARGE: f32 = 12.5;
/// Things that differ by less in a direction do not lie in that direction of each other.
const APART: f32 = 3.0;

/// The answers to the questions of one caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the judge says to each question.
    pub answers: Vec<bool>,
    /// The same with "no" for what depends, over any number of steps, on a question that was answered "no".
    pub gated: Vec<bool>,
}

impl Verdict {
    /// The mean over all questions after gating, DSG's score of an item. This is DSG's cascading reading; this judge's
    /// direct reading is equal, because it never says yes to more than it said yes to before. 0 without questions.
    pub fn score(&self) -> f64 {
        self.gated.iter().filter(|&&yes| yes).count() as f64 / self.gated.len().max(1) as f64
    }
}

/// Answers all questions about one image.
pub fn judge(view: &View, questions: &[Question]) -> Verdict {
    let answers: Vec<bool> = questions.iter().map(|question| answer(view, question.ask)).collect();
    gate(questions, answers)
}

/// Gates answers, of this judge or of another, by those to their parents. A missing parent does not gate.
pub fn gate(questions: &[Question], answers: Vec<bool>) -> Verdict {
    let mut gated: Vec<bool> = Vec::with_capacity(answers.len());
    for (question, &answer) in questions.iter().zip(&answers) {
        let held = |parent: &usize| {
            let place = questions.iter().position(|other| other.id == *parent);
            place.and_then(|place| gated.get(place).copied()).unwrap_or(true)
        };
        let yes = answer && question.parents.iter().all(held);
        gated.push(yes);
    }
    Verdict { answers, gated }
}

/// Answers one question.
pub fn answer(view: &View, ask: Ask) -> bool {
    match ask {
        Ask::Exists(noun) => !view.matching(noun).is_empty(),
        Ask::Counts(noun) => view.matching(noun).len() == usize::from(noun.count),
        Ask::Sized(noun, size) => holds(view, noun, |found| match size {
            Size::Small => found.size <= SMALL,
            Size::Large => found.size >= LARGE,
        }),
        Ask::Placed(noun, place) => holds(view, noun, |found| is_at(found, place)),
        Ask::Related(subject, relation, object) => {
            holds(view, subject, |a| holds(view, object, |b| is_related(a, relation, b)))
        }
        Ask::Alone(count) => view.found.len() <= usize::from(count),
        Ask::Background(colour) => view.background == colour,
        Ask::Shaded(shading) => view.shaded == (shading == Shading::Shaded),
    }
}

/// Whether it holds for one of the things that a noun names; for all of them where it names several.
fn holds(view: &View, noun: Noun, claim: impl Fn(&Found) -> bool) -> bool {
    let matching = view.matching(noun);
    match noun.count {
        1 => matching.into_iter().any(claim),
        _ => !matching.is_empty() && matching.into_iter().all(claim),
    }
}

fn is_at(found: &Found, place: Place) -> bool {
    let (x, y) = (found.x / SIDE as f32, found.y / SIDE as f32);
    let central = |v: f32| (0.36..=0.64).contains(&v);
    match place {
        Place::Top => y < 0.4,
        Place::Bottom => y > 0.6,
        Place::Left => x < 0.4,
        Place::Right => x > 0.6,
        Place::Middle => central(x) && central(y),
    }
}

/// A diagonal counts for both of its directions, unless it is much steeper than the other one.
fn is_related(a: &Found, relation: Relation, b: &Found) -> bool {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let towards = |along: f32, across: f32| along > APART && along > 0.75 * across.abs();
    match relation {
        Relation::LeftOf => towards(dx, dy),
        Relation::RightOf => towards(-dx, dy),
        Relation::Above => towards(dy, dx),
        Relation::Below => towards(-dy, dx),
        Relation::Inside => a.size < 0.7 * b.size && dx.abs().max(dy.abs()) < 0.6 * b.size,
    }
}
