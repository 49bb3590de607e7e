//! Paragraphs: several things, each with its attributes, which are told at once or in a later sentence.

use super::super::description::{Description, Thing};
use super::super::rng::Rng;
use super::super::skill::Skill;
use super::phrase::{and, background, noun, relation, sentence, size_word};

pub(super) fn write(description: &Description, rng: &mut Rng) -> String {
    let things = &description.things;
    // Attributes can wait only where the bare shape says which thing is meant.
    let later: Vec<bool> = things.iter().map(|thing| is_only(thing, things) && rng.chance(0.3)).collect();
    let nouns: Vec<_> = things
        .iter()
        .zip(&later)
        .map(|(thing, &later)| match later {
            true => noun(&Thing::new(thing.shape), rng),
            false => noun(thing, rng),
        })
        .collect();
    let opening = rng.choose(&[
        "in this picture we can see",
        "in this image there is",
        "in this drawing you can see",
        "this picture shows",
        "the image shows",
        "here we see a scene with",
        "this is a painting of",
        "there is",
        "we can see",
        "the artist drew",
    ]);
    let mut sentences = vec![sentence(&format!("{opening} {}", and(&nouns)))];
    for (thing, &later) in things.iter().zip(&later) {
        if later {
            sentences.push(attributes(thing, rng));
        }
    }
    for claim in &description.claims {
        let [subject, object] = [claim.subject, claim.object].map(|i| reference(&things[i], things));
        let lies = relation(claim.relation, rng);
        let action = rng.choose(&["is", "is", "sits", "stands", "can be seen", "is placed"]);
        sentences.push(match rng.below(4) {
            0 => sentence(&format!("{lies} the {object} is the {subject}")),
            _ => sentence(&format!("the {subject} {action} {lies} the {object}")),
        });
    }
    if let Some(words) = background(description) {
        sentences.push(match rng.below(4) {
            0 => sentence(&format!("behind them the background is {words}")),
            1 => format!("Everything is on a {words} background."),
            _ => sentence(&format!("the background is {words}")),
        });
    }
    let closing = rng.choose(&[
        "",
        "",
        "Nothing else can be seen.",
        "The picture is simple.",
        "It is a clean drawing.",
        "The scene is calm.",
    ]);
    let told = sentences.join(" ");
    let room = Skill::Paragraph.word_limit() - told.split(' ').count();
    match closing {
        "" => told,
        _ if closing.split(' ').count() >= room => told,
        closing => format!("{told} {closing}"),
    }
}

/// Whether no other thing has this shape.
fn is_only(thing: &Thing, things: &[Thing]) -> bool {
    things.iter().filter(|other| other.shape == thing.shape).count() == 1
}

/// "circle" where there is one, else "red circle"
fn reference(thing: &Thing, things: &[Thing]) -> String {
    match thing.colour {
        Some(colour) if !is_only(thing, things) => format!("{} {}", colour.name(), thing.shape.name()),
        _ => thing.shape.name().into(),
    }
}

/// "The circle is large and red."
fn attributes(thing: &Thing, rng: &mut Rng) -> String {
    let colour = thing.colour.map(|colour| colour.name());
    let size = thing.size.map(|size| size_word(size, rng));
    let mut words: Vec<_> = size.into_iter().chain(colour).collect();
    if rng.chance(0.5) {
        words.reverse();
    }
    sentence(&format!("the {} is {}", thing.shape.name(), words.join(" and ")))
}
