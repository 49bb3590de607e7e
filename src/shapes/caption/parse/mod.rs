//! Reads a caption back: words, then phrases, then what they claim. The grammar is that of the writer; words that it
//! does not know are passed over, so that captions of other writers are understood as far as they speak of shapes.

mod phrase;

use crate::error::{Error, Result};
use crate::shapes::description::{Backdrop, Claim, Description, Place, Relation, Thing};
use phrase::{Adjectives, Phrase};

/// What `caption` claims.
///
/// # Errors
/// [`Error::Failed`] if it names no shape.
pub fn parse(caption: &str) -> Result<Description> {
    let mut reader = Reader::default();
    for phrase in phrase::phrases(caption) {
        reader.read(phrase);
    }
    if reader.description.things.is_empty() {
        return Err(Error::Failed(format!(
            "`{caption}` names no shape; there are circles, squares, triangles, stars, hearts, crosses and diamonds"
        )));
    }
    Ok(reader.description)
}

/// What was read so far, and what waits for the next noun.
#[derive(Debug, Default)]
struct Reader {
    description: Description,
    /// The thing that "it" means: the first of this sentence, or of the one before.
    subject: Option<usize>,
    /// The thing that was named last in this sentence.
    last: Option<usize>,
    /// A relation whose second thing is still to come: "a circle above ...".
    pending: Option<(usize, Relation)>,
    /// A relation in front of both: "above ... there is a circle".
    fronted: Option<Relation>,
    /// The object of a fronted relation, when it has been named.
    fronted_object: Option<(Relation, usize)>,
    /// A place in front of its thing: "at the top there is ...".
    place: Option<Place>,
    /// "and" or a comma came last.
    joined: bool,
    /// "the background is ..."
    of_background: bool,
}

impl Reader {
    fn read(&mut self, phrase: Phrase) {
        let joined = std::mem::replace(&mut self.joined, phrase == Phrase::And);
        match phrase {
            Phrase::And => {}
            Phrase::Alone => self.description.alone = true,
            Phrase::Stop => self.end_sentence(),
            Phrase::It => {
                if let Some(thing) = self.subject {
                    self.name(thing);
                }
            }
            Phrase::Noun { thing, definite } => {
                let thing = self.resolve(thing, definite);
                self.name(thing);
            }
            Phrase::Relation(relation) => match self.last {
                Some(last) => self.pending = Some((last, relation)),
                None => self.fronted = Some(relation),
            },
            Phrase::Contains => {
                // "a circle with a star inside" the other way round: the next noun is the inner one.
                if let Some(last) = self.last {
                    self.fronted_object = Some((Relation::Inside, last));
                }
            }
            Phrase::Place(place) => match self.last {
                Some(last) if !joined => self.description.things[last].place = Some(place),
                _ => self.place = Some(place),
            },
            Phrase::Background(adjectives) => {
                self.of_background = true;
                self.describe_background(adjectives);
            }
            Phrase::Adjectives(adjectives) if self.of_background => self.describe_background(adjectives),
            Phrase::Adjectives(adjectives) => {
                if let Some(last) = self.last {
                    let thing = &mut self.description.things[last];
                    thing.colour = adjectives.colour.or(thing.colour);
                    thing.size = adjectives.size.or(thing.size);
                }
            }
        }
    }

    fn end_sentence(&mut self) {
        *self = Self { description: std::mem::take(&mut self.description), subject: self.subject, ..Self::default() };
    }

    /// The thing that a noun means: for "the", one that was named before and that it fits.
    fn resolve(&mut self, noun: Thing, definite: bool) -> usize {
        let fits = |thing: &Thing| {
            thing.shape == noun.shape
                && (noun.colour.is_none() || noun.colour == thing.colour)
                && (noun.size.is_none() || noun.size == thing.size)
        };
        let known = self.description.things.iter().position(fits).filter(|_| definite);
        known.unwrap_or_else(|| {
            self.description.things.push(noun);
            self.description.things.len() - 1
        })
    }

    /// A thing was named: what waited for it is now complete.
    fn name(&mut self, thing: usize) {
        if self.last.is_none() && self.fronted.is_none() && self.fronted_object.is_none() {
            self.subject = Some(thing);
        }
        if let Some((subject, relation)) = self.pending.take() {
            self.claim(subject, relation, thing);
        } else if let Some(relation) = self.fronted.take() {
            self.fronted_object = Some((relation, thing));
        } else if let Some((relation, object)) = self.fronted_object.take() {
            self.claim(thing, relation, object);
        }
        if let Some(place) = self.place.take() {
            self.description.things[thing].place = Some(place);
        }
        self.of_background = false;
        self.last = Some(thing);
    }

    fn claim(&mut self, subject: usize, relation: Relation, object: usize) {
        let claim = Claim { subject, relation, object };
        if subject != object && !self.description.claims.contains(&claim) {
            self.description.claims.push(claim);
        }
    }

    fn describe_background(&mut self, adjectives: Adjectives) {
        let known = self.description.backdrop;
        if let Some(colour) = adjectives.colour.or(known.map(|backdrop| backdrop.colour)) {
            self.description.backdrop =
                Some(Backdrop { colour, shading: adjectives.shading.or(known.and_then(|backdrop| backdrop.shading)) });
        }
    }
}
