//! Yes/no questions about an image, from what its caption claims: entities, then their colours, counts, sizes, places
//! and relations, each of which depends on the questions before it. Source: Cho et al. 2024, "Davidsonian Scene Graph",
//! arXiv:2310.18235.

use crate::shapes::description::{Backdrop, Colour, Description, Place, Relation, Shading, Shape, Size, Thing};

/// What is looked for: a shape, of any colour or of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noun {
    pub shape: Shape,
    pub colour: Option<Colour>,
    /// How many the caption speaks of: what it claims must hold for one of them, or for each where it is more.
    pub count: u8,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Exists(Noun),
    /// Exactly so many.
    Counts(Noun),
    Sized(Noun, Size),
    Placed(Noun, Place),
    Related(Noun, Relation, Noun),
    Background(Colour),
    Shaded(Shading),
    /// Nothing beside so many things.
    Alone(u8),
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Counted from 1 in a caption.
    pub id: usize,
    /// The questions that must be answered "yes" for this one to count; all have smaller ids.
    pub parents: Vec<usize>,
    pub ask: Ask,
}

/// The questions of a caption, parents first.
pub fn questions(description: &Description) -> Vec<Question> {
    let mut list = List(Vec::new());
    let mut known = Vec::with_capacity(description.things.len());
    for thing in &description.things {
        let noun = Noun { shape: thing.shape, colour: thing.colour, count: thing.number() };
        known.push((noun, list.thing(thing, noun)));
    }
    for claim in &description.claims {
        let [(subject, of_subject), (object, of_object)] = [known[claim.subject], known[claim.object]];
        list.ask(Ask::Related(subject, claim.relation, object), &[of_subject, of_object]);
    }
    if description.alone {
        let all: Vec<usize> = known.iter().map(|(_, identity)| *identity).collect();
        list.ask(Ask::Alone(description.total().try_into().unwrap_or(u8::MAX)), &all);
    }
    if let Some(Backdrop { colour, shading }) = description.backdrop {
        list.ask(Ask::Background(colour), &[]);
        if let Some(shading) = shading {
            list.ask(Ask::Shaded(shading), &[]);
        }
    }
    list.0
}

struct List(Vec<Question>);

impl List {
    /// Asks about one thing; the id of the question that identifies it.
    fn thing(&mut self, thing: &Thing, noun: Noun) -> usize {
        let anything = Noun { colour: None, count: 1, ..noun };
        let mut identity = self.ask(Ask::Exists(anything), &[]);
        if noun.colour.is_some() {
            identity = self.ask(Ask::Exists(Noun { count: 1, ..noun }), &[identity]);
        }
        if thing.count.is_some() {
            self.ask(Ask::Counts(noun), &[identity]);
        }
        if let Some(size) = thing.size {
            self.ask(Ask::Sized(noun, size), &[identity]);
        }
        if let Some(place) = thing.place {
            self.ask(Ask::Placed(noun, place), &[identity]);
        }
        identity
    }

    /// The id of the question, which is asked once only.
    fn ask(&mut self, ask: Ask, parents: &[usize]) -> usize {
        if let Some(known) = self.0.iter().find(|question| question.ask == ask) {
            return known.id;
        }
        let mut parents = parents.to_vec();
        parents.dedup();
        let id = self.0.len() + 1;
        self.0.push(Question { id, parents, ask });
        id
    }
}

impl Noun {
    /// "red circle", "two red circles"
    fn name(&self, number: bool) -> String {
        let shape = if self.count > 1 { self.shape.plural() } else { self.shape.name() };
        let colour = self.colour.map_or(String::new(), |colour| format!("{} ", colour.name()));
        let number = match (number, self.count) {
            (false, _) => "",
            (true, 1) => "one ",
            (true, 2) => "two ",
            (true, 3) => "three ",
            (true, 4) => "four ",
            (true, _) => "five ",
        };
        format!("{number}{colour}{shape}")
    }

    fn verb(&self) -> &'static str {
        if self.count > 1 { "Are" } else { "Is" }
    }
}

impl Question {
    /// In words, for people and for other judges.
    pub fn text(&self) -> String {
        match self.ask {
            Ask::Exists(noun) => {
                let name = noun.name(false);
                let article = if name.starts_with('o') { "an" } else { "a" };
                format!("Is there {article} {name}?")
            }
            Ask::Counts(noun) => format!("{} there exactly {}?", noun.verb(), noun.name(true)),
            Ask::Sized(noun, size) => format!("{} the {} {}?", noun.verb(), noun.name(false), size.name()),
            Ask::Placed(noun, place) => format!("{} the {} {}?", noun.verb(), noun.name(false), place.phrase()),
            Ask::Related(subject, relation, object) => {
                let (subject_name, object_name) = (subject.name(false), object.name(false));
                format!("{} the {subject_name} {} the {object_name}?", subject.verb(), relation.phrase())
            }
            Ask::Background(colour) => format!("Is the background {}?", colour.name()),
            Ask::Alone(_) => "Is there nothing else in the picture?".into(),
            Ask::Shaded(Shading::Shaded) => "Is the background shaded?".into(),
            Ask::Shaded(Shading::Plain) => "Is the background plain?".into(),
        }
    }

    /// DSG's broad and detailed category.
    pub fn category(&self) -> (&'static str, &'static str) {
        match self.ask {
            Ask::Exists(Noun { colour: None, .. }) => ("entity", "whole"),
            Ask::Exists(_) => ("attribute", "color"),
            Ask::Counts(_) | Ask::Alone(_) => ("other", "count"),
            Ask::Sized(..) => ("attribute", "size"),
            Ask::Placed(..) | Ask::Related(..) => ("relation", "spatial"),
            Ask::Background(_) | Ask::Shaded(_) => ("global", "-"),
        }
    }

    /// DSG's tuple: the category and what it is about.
    pub fn tuple(&self) -> String {
        let arguments = match self.ask {
            Ask::Exists(Noun { shape, colour: None, .. }) => shape.name().into(),
            Ask::Exists(Noun { shape, colour: Some(colour), .. }) => format!("{}, {}", shape.name(), colour.name()),
            Ask::Counts(noun) => format!("{}, =={}", noun.name(false), noun.count),
            Ask::Sized(noun, size) => format!("{}, {}", noun.name(false), size.name()),
            Ask::Placed(noun, place) => format!("{}, {}", noun.name(false), place.phrase()),
            Ask::Related(a, relation, b) => format!("{}, {}, {}", a.name(false), b.name(false), relation.phrase()),
            Ask::Background(colour) => format!("{} background", colour.name()),
            Ask::Alone(count) => format!("things, =={count}"),
            Ask::Shaded(Shading::Shaded) => "shaded background".into(),
            Ask::Shaded(Shading::Plain) => "plain background".into(),
        };
        match self.category() {
            (broad, "-") => format!("{broad} ({arguments})"),
            (broad, detailed) => format!("{broad} - {detailed} ({arguments})"),
        }
    }
}
