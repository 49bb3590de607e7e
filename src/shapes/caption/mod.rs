//! The built-in prompt writer: puts a description into words. Every wording can be read back by
//! [`parse`], and every word is in [`super::vocabulary::WORDS`].

mod paragraph;
mod parse;
mod phrase;

use super::description::{Description, Relation};
use super::rng::Rng;
use super::skill::Skill;
pub use parse::parse;
use phrase::{backdrop, list, noun, relation, sentence, verb};

/// A caption in the style of a skill.
pub(crate) fn write(skill: Skill, description: &Description, rng: &mut Rng) -> String {
    match skill {
        Skill::Everyday => everyday(description, rng),
        Skill::Counting => counting(description, rng),
        Skill::Spatial => spatial(description, rng),
        Skill::Paragraph => paragraph::write(description, rng),
        Skill::Defying => defying(description, rng),
    }
}

/// Whether a caption says that there is nothing beside what it names: some wordings do.
pub(crate) fn says_alone(caption: &str) -> bool {
    parse(caption).is_ok_and(|read| read.alone)
}

/// What a caption opens with; each goes before any noun phrase.
const OPENINGS: [&str; 18] = [
    "",
    "",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a photo of ",
    "a painting of ",
    "a simple drawing of ",
    "a clean picture of ",
    "a quick sketch of ",
    "here we see ",
    "we can see ",
    "you can see ",
    "the picture shows ",
    "this image shows ",
    "someone drew ",
    "someone painted ",
    "a poster with ",
];

fn everyday(description: &Description, rng: &mut Rng) -> String {
    let things = list(&description.things, rng);
    let plural = description.total() > 1;
    let behind = backdrop(description, rng);
    match (rng.below(6), behind.is_empty()) {
        (0, true) => format!("{things} and nothing else"),
        (0, false) => format!("{behind}, {things}"),
        (1, true) => sentence(&format!("{things} {} shown here", verb(plural))),
        (1, false) => sentence(&format!("{behind} there {} {things}", verb(plural))),
        (2, _) => {
            let action = match plural {
                false => rng.choose(&["is drawn", "is shown", "is painted", "stands alone", "sits", "appears"]),
                true => rng.choose(&["are drawn", "are shown", "are painted", "stand", "sit", "appear"]),
            };
            sentence(&join(&[&things, action, &behind]))
        }
        (3, _) => sentence(&join(&[rng.choose(&["there", "here"]), verb(plural), &things, &behind])),
        _ => join(&[rng.choose(&OPENINGS), &things, &behind]),
    }
}

fn counting(description: &Description, rng: &mut Rng) -> String {
    let things = list(&description.things, rng);
    let behind = backdrop(description, rng);
    // "a group of two" and "exactly two", but not "exactly a pair of".
    let many = match things.starts_with("a ") {
        true => "",
        false => rng.choose(&["", "exactly ", "a group of ", "a set of ", "a collection of "]),
    };
    let counted = format!("{many}{things}");
    match rng.below(5) {
        0 => sentence(&join(&["there", verb(!counted.starts_with("a ")), &counted, &behind])),
        1 => {
            let action = rng.choose(&["are shown", "are drawn", "can be seen", "appear"]);
            sentence(&join(&[&things, action, &behind]))
        }
        2 => join(&[&counted, &behind]),
        _ => join(&[rng.choose(&OPENINGS), &counted, &behind]),
    }
}

fn spatial(description: &Description, rng: &mut Rng) -> String {
    let behind = backdrop(description, rng);
    let [claim] = description.claims[..] else {
        return places(description, &behind, rng);
    };
    let subject = noun(&description.things[claim.subject], rng);
    let object = noun(&description.things[claim.object], rng);
    let lies = relation(claim.relation, rng);
    match rng.below(6) {
        0 => sentence(&join(&[lies, &object, "there is", &subject, &behind])),
        1 => sentence(&join(&[lies, &object, rng.choose(&["is", "we see", "you find"]), &subject, &behind])),
        2 => {
            let action = rng.choose(&["is", "sits", "stands", "lies", "is placed", "is drawn"]);
            sentence(&join(&[&subject, action, lies, &object, &behind]))
        }
        3 => {
            let back = relation(claim.relation.inverse().unwrap_or(claim.relation), rng);
            join(&[rng.choose(&OPENINGS), &subject, "with", &object, back, "it", &behind])
        }
        _ => join(&[rng.choose(&OPENINGS), &subject, lies, &object, &behind]),
    }
}

/// Things whose place in the picture is told.
fn places(description: &Description, behind: &str, rng: &mut Rng) -> String {
    let told: Vec<(String, &str)> =
        description.things.iter().map(|thing| (noun(thing, rng), phrase::place(thing, rng))).collect();
    match (rng.below(3), &told[..]) {
        (0, [(thing, place)]) => sentence(&join(&[place, "there is", thing, behind])),
        (1, [(thing, place)]) => {
            let action = rng.choose(&["is", "sits", "stands", "appears", "is drawn"]);
            sentence(&join(&[thing, action, place, behind]))
        }
        (0, [(a, at_a), (b, at_b)]) => sentence(&join(&[at_a, "there is", a, "and", at_b, "there is", b, behind])),
        (1, [(a, at_a), (b, at_b)]) => sentence(&join(&[a, "is", at_a, "and", b, "is", at_b, behind])),
        _ => {
            let told: Vec<_> = told.iter().map(|(thing, place)| format!("{thing} {place}")).collect();
            join(&[rng.choose(&OPENINGS), &told.join(" and "), behind])
        }
    }
}

fn defying(description: &Description, rng: &mut Rng) -> String {
    let opening = rng.choose(&[
        "",
        "",
        "a strange picture of ",
        "an unusual image of ",
        "a surprising drawing of ",
        "an odd painting of ",
        "a rare photo of ",
        "a funny picture of ",
        "strangely, there is ",
        "oddly, we see ",
        "imagine ",
        "who would expect ",
        "a dream of ",
        "this picture shows ",
    ]);
    let behind = backdrop(description, rng);
    let [claim] = description.claims[..] else {
        return join(&[opening, &list(&description.things, rng), &behind]);
    };
    debug_assert_eq!(claim.relation, Relation::Inside);
    let inner = noun(&description.things[claim.subject], rng);
    let outer = noun(&description.things[claim.object], rng);
    let body = match rng.below(6) {
        0 => format!("{outer} with {inner} inside it"),
        1 => format!("{outer} that holds {inner}"),
        2 => format!("{outer} containing {inner}"),
        3 => format!("{inner} within {outer}"),
        4 => format!("{inner} {} inside {outer}", rng.choose(&["hidden", "placed", "drawn", "living"])),
        _ => format!("{inner} inside {outer}"),
    };
    join(&[opening, &body, &behind])
}

/// The parts that say something, with one space between.
fn join(parts: &[&str]) -> String {
    let said: Vec<_> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    said.join(" ")
}
