//! Words to phrases: noun phrases, relations, places, and what is said of the background.

use crate::shapes::description::{Colour, Place, Relation, Shading, Shape, Size, Thing};

/// The words before a noun, or after "is".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Adjectives {
    pub count: Option<u8>,
    pub size: Option<Size>,
    pub colour: Option<Colour>,
    pub shading: Option<Shading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phrase {
    /// `definite` for "the": it may mean a thing that was named before.
    Noun {
        thing: Thing,
        definite: bool,
    },
    Relation(Relation),
    /// "containing": the next thing is inside the last one.
    Contains,
    Place(Place),
    /// "a gray background", or "the background" without adjectives.
    Background(Adjectives),
    /// Adjectives without a noun: "is large".
    Adjectives(Adjectives),
    It,
    /// "and nothing else"
    Alone,
    And,
    /// The end of a sentence.
    Stop,
}

/// Phrases of several words, longest first where one begins another.
const FIXED: [(&[&str], Phrase); 34] = [
    (&["to", "the", "left", "of"], Phrase::Relation(Relation::LeftOf)),
    (&["on", "the", "left", "of"], Phrase::Relation(Relation::LeftOf)),
    (&["on", "the", "left", "side", "of"], Phrase::Relation(Relation::LeftOf)),
    (&["left", "of"], Phrase::Relation(Relation::LeftOf)),
    (&["to", "the", "right", "of"], Phrase::Relation(Relation::RightOf)),
    (&["on", "the", "right", "of"], Phrase::Relation(Relation::RightOf)),
    (&["on", "the", "right", "side", "of"], Phrase::Relation(Relation::RightOf)),
    (&["right", "of"], Phrase::Relation(Relation::RightOf)),
    (&["on", "top", "of"], Phrase::Relation(Relation::Above)),
    (&["above"], Phrase::Relation(Relation::Above)),
    (&["over"], Phrase::Relation(Relation::Above)),
    (&["below"], Phrase::Relation(Relation::Below)),
    (&["under"], Phrase::Relation(Relation::Below)),
    (&["underneath"], Phrase::Relation(Relation::Below)),
    (&["beneath"], Phrase::Relation(Relation::Below)),
    (&["inside"], Phrase::Relation(Relation::Inside)),
    (&["within"], Phrase::Relation(Relation::Inside)),
    (&["containing"], Phrase::Contains),
    (&["contains"], Phrase::Contains),
    (&["holding"], Phrase::Contains),
    (&["holds"], Phrase::Contains),
    (&["on", "the", "left"], Phrase::Place(Place::Left)),
    (&["at", "the", "left"], Phrase::Place(Place::Left)),
    (&["on", "the", "right"], Phrase::Place(Place::Right)),
    (&["at", "the", "right"], Phrase::Place(Place::Right)),
    (&["the", "top"], Phrase::Place(Place::Top)),
    (&["the", "bottom"], Phrase::Place(Place::Bottom)),
    (&["the", "middle"], Phrase::Place(Place::Middle)),
    (&["the", "center"], Phrase::Place(Place::Middle)),
    (&["the", "centre"], Phrase::Place(Place::Middle)),
    (&["nothing", "else"], Phrase::Alone),
    (&["alone"], Phrase::Alone),
    (&["it"], Phrase::It),
    (&["and"], Phrase::And),
];

/// The phrases of a caption, in order.
pub(super) fn phrases(caption: &str) -> Vec<Phrase> {
    let words = words(caption);
    let mut phrases = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let (phrase, length) = next(&words[at..]);
        phrases.extend(phrase);
        at += length;
    }
    phrases
}

/// Lower-case words, commas, and full stops.
fn words(caption: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in caption.chars() {
        match letter.to_ascii_lowercase() {
            letter if letter.is_alphanumeric() => words.last_mut().expect("never empty").push(letter),
            '.' | ';' | '!' | '?' => words.extend([".".into(), String::new()]),
            ',' | ':' => words.extend([",".into(), String::new()]),
            _ => words.push(String::new()),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The phrase at the start of `words`, if there is one, and how many words it takes.
fn next(words: &[String]) -> (Option<Phrase>, usize) {
    let starts = |fixed: &[&str]| words.len() >= fixed.len() && fixed.iter().zip(words).all(|(a, b)| a == b);
    let longest = FIXED.iter().filter(|(fixed, _)| starts(fixed)).max_by_key(|(fixed, _)| fixed.len());
    if let Some((fixed, phrase)) = longest {
        return (Some(*phrase), fixed.len());
    }
    match words[0].as_str() {
        "." => (Some(Phrase::Stop), 1),
        "," => (Some(Phrase::And), 1),
        _ => noun(words),
    }
}

/// An article, adjectives and a noun, of which any two may be missing.
fn noun(words: &[String]) -> (Option<Phrase>, usize) {
    let article = matches!(words[0].as_str(), "a" | "an" | "the" | "this" | "that");
    let definite = words[0] == "the" || words[0] == "that";
    let mut adjectives = Adjectives::default();
    let mut at = usize::from(article);
    while words.get(at).is_some_and(|word| adjectives.take(word)) {
        at += 1;
        // "a pair of"
        at += usize::from(adjectives.count.is_some() && words.get(at).is_some_and(|word| word == "of"));
    }
    let noun = words.get(at).map(String::as_str).unwrap_or_default();
    if let Some(shape) = shape(noun) {
        let thing =
            Thing { shape, colour: adjectives.colour, size: adjectives.size, count: adjectives.count, place: None };
        return (Some(Phrase::Noun { thing, definite }), at + 1);
    }
    match noun {
        "background" => (Some(Phrase::Background(adjectives)), at + 1),
        // "a small sketch": the adjectives belong to a word that is passed over.
        _ if article => (None, at.max(1)),
        _ if at > 0 => (Some(Phrase::Adjectives(adjectives)), at),
        _ => (None, 1),
    }
}

impl Adjectives {
    /// Whether `word` is an adjective; if so, it is noted.
    fn take(&mut self, word: &str) -> bool {
        let (count, size, colour, shading) = (count(word), size(word), colour(word), shading(word));
        self.count = count.or(self.count);
        self.size = size.or(self.size);
        self.colour = colour.or(self.colour);
        self.shading = shading.or(self.shading);
        count.is_some() || size.is_some() || colour.is_some() || shading.is_some()
    }
}

fn shape(word: &str) -> Option<Shape> {
    Shape::ALL.into_iter().find(|shape| [shape.name(), shape.plural()].contains(&word))
}

fn colour(word: &str) -> Option<Colour> {
    match word {
        "grey" => Some(Colour::Gray),
        _ => Colour::ALL.into_iter().find(|colour| colour.name() == word),
    }
}

fn size(word: &str) -> Option<Size> {
    match word {
        "small" | "little" | "tiny" => Some(Size::Small),
        "large" | "big" | "huge" => Some(Size::Large),
        _ => None,
    }
}

fn shading(word: &str) -> Option<Shading> {
    match word {
        "plain" | "solid" => Some(Shading::Plain),
        "shaded" => Some(Shading::Shaded),
        _ => None,
    }
}

fn count(word: &str) -> Option<u8> {
    match word {
        "one" | "single" | "1" => Some(1),
        "two" | "pair" | "couple" | "2" => Some(2),
        "three" | "trio" | "3" => Some(3),
        "four" | "4" => Some(4),
        "five" | "5" => Some(5),
        _ => None,
    }
}
