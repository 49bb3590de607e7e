//! Noun phrases, places, relations and backgrounds in varied words.

use super::super::description::{Description, Place, Relation, Shading, Size, Thing};
use super::super::rng::Rng;

/// "a small red circle", "two blue stars"
pub(super) fn noun(thing: &Thing, rng: &mut Rng) -> String {
    let number = match thing.count {
        None => "",
        Some(1) => "one",
        Some(2) => rng.choose(&["two", "two", "two", "a pair of"]),
        Some(3) => rng.choose(&["three", "three", "three", "a trio of"]),
        Some(_) => "four",
    };
    let described = described(thing, rng);
    match number {
        "" => with_article(&described),
        number => format!("{number} {described}"),
    }
}

/// Size, colour and shape, without article or number.
pub(super) fn described(thing: &Thing, rng: &mut Rng) -> String {
    let shape = match thing.number() {
        1 => thing.shape.name(),
        _ => thing.shape.plural(),
    };
    let size = thing.size.map(|size| size_word(size, rng));
    let colour = thing.colour.map(|colour| colour.name());
    let words: Vec<_> = size.into_iter().chain(colour).chain([shape]).collect();
    words.join(" ")
}

pub(super) fn size_word(size: Size, rng: &mut Rng) -> &'static str {
    match size {
        Size::Small => rng.choose(&["small", "small", "little", "tiny"]),
        Size::Large => rng.choose(&["large", "large", "big", "huge"]),
    }
}

pub(super) fn with_article(words: &str) -> String {
    let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {words}", if vowel { "an" } else { "a" })
}

/// "a red circle, a blue square and two green stars"
pub(super) fn list(things: &[Thing], rng: &mut Rng) -> String {
    let nouns: Vec<_> = things.iter().map(|thing| noun(thing, rng)).collect();
    and(&nouns)
}

pub(super) fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub(super) fn place(thing: &Thing, rng: &mut Rng) -> &'static str {
    match thing.place {
        None => "",
        Some(Place::Top) => rng.choose(&["at the top", "near the top"]),
        Some(Place::Bottom) => rng.choose(&["at the bottom", "near the bottom"]),
        Some(Place::Left) => rng.choose(&["on the left", "on the left side", "at the left"]),
        Some(Place::Right) => rng.choose(&["on the right", "on the right side", "at the right"]),
        Some(Place::Middle) => rng.choose(&["in the middle", "in the center", "at the center"]),
    }
}

pub(super) fn relation(relation: Relation, rng: &mut Rng) -> &'static str {
    match relation {
        Relation::LeftOf => rng.choose(&["left of", "to the left of", "on the left of"]),
        Relation::RightOf => rng.choose(&["right of", "to the right of", "on the right of"]),
        Relation::Above => rng.choose(&["above", "above", "over"]),
        Relation::Below => rng.choose(&["below", "under", "beneath"]),
        Relation::Inside => rng.choose(&["inside", "within"]),
    }
}

/// "on a shaded gray background", or nothing where the background is not told.
pub(super) fn backdrop(description: &Description, rng: &mut Rng) -> String {
    match background(description) {
        None => String::new(),
        Some(words) => {
            let before = rng.choose(&["on", "on", "against", "in front of", "with"]);
            format!("{before} {} background", with_article(&words))
        }
    }
}

/// "shaded gray"
pub(super) fn background(description: &Description) -> Option<String> {
    let backdrop = description.backdrop?;
    let shading = match backdrop.shading {
        None => "",
        Some(Shading::Plain) => "plain ",
        Some(Shading::Shaded) => "shaded ",
    };
    Some(format!("{shading}{}", backdrop.colour.name()))
}

pub(super) fn verb(plural: bool) -> &'static str {
    if plural { "are" } else { "is" }
}

/// With a capital and a full stop.
pub(super) fn sentence(words: &str) -> String {
    let mut letters = words.trim().chars();
    match letters.next() {
        None => String::new(),
        Some(first) => format!("{}{}.", first.to_ascii_uppercase(), letters.as_str()),
    }
}
