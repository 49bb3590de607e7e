//! What a caption claims: things with attributes, relations between them, and a background. The writer words a
//! description, the layout draws it, the parser reads it back, and the judge asks about it.

/// The shapes of this world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Heart,
    Cross,
    Diamond,
}

/// Colours of things and of backgrounds. Things are never white, gray or black.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Cyan,
    Blue,
    Purple,
    Pink,
    White,
    Gray,
    Black,
}

/// Sizes that have a word; a thing without one may have any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Size {
    Small,
    Large,
}

/// Where in the image a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Top,
    Bottom,
    Left,
    Right,
    Middle,
}

/// How a thing lies to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
    Inside,
}

/// Whether the background has one colour or gets darker to one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shading {
    Plain,
    Shaded,
}

/// One noun phrase: "two small red circles at the top".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thing {
    pub shape: Shape,
    pub colour: Option<Colour>,
    pub size: Option<Size>,
    /// A number that was said; `None` for "a" and "the", which draw one thing.
    pub count: Option<u8>,
    pub place: Option<Place>,
}

/// "the first is left of the second": indices into [`Description::things`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub subject: usize,
    pub relation: Relation,
    pub object: usize,
}

/// "a shaded gray background"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backdrop {
    pub colour: Colour,
    pub shading: Option<Shading>,
}

/// All that a caption claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    pub things: Vec<Thing>,
    pub claims: Vec<Claim>,
    pub backdrop: Option<Backdrop>,
    /// "and nothing else"
    pub alone: bool,
}

impl Shape {
    pub const ALL: [Shape; 7] =
        [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Star, Shape::Heart, Shape::Cross, Shape::Diamond];

    pub fn name(self) -> &'static str {
        ["circle", "square", "triangle", "star", "heart", "cross", "diamond"][self as usize]
    }

    pub fn plural(self) -> &'static str {
        ["circles", "squares", "triangles", "stars", "hearts", "crosses", "diamonds"][self as usize]
    }

    /// The colours that this shape has in every skill but `defying`, which takes the others: this world's common sense.
    pub fn usual_colours(self) -> &'static [Colour] {
        use Colour::{Blue, Cyan, Green, Orange, Pink, Purple, Red, Yellow};
        match self {
            Shape::Circle => &[Red, Orange, Yellow, Blue],
            Shape::Square => &[Red, Green, Blue, Purple],
            Shape::Triangle => &[Orange, Yellow, Green, Cyan],
            Shape::Star => &[Yellow, Orange, Pink],
            Shape::Heart => &[Red, Pink, Purple],
            Shape::Cross => &[Red, Green, Blue, Cyan],
            Shape::Diamond => &[Cyan, Blue, Purple, Pink],
        }
    }
}

impl Colour {
    pub const ALL: [Colour; 11] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Cyan,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
        Colour::White,
        Colour::Gray,
        Colour::Black,
    ];
    /// The colours that things have.
    pub const HUES: [Colour; 8] = [
        Colour::Red,
        Colour::Orange,
        Colour::Yellow,
        Colour::Green,
        Colour::Cyan,
        Colour::Blue,
        Colour::Purple,
        Colour::Pink,
    ];
    /// The colours that backgrounds usually have.
    pub const NEUTRALS: [Colour; 3] = [Colour::White, Colour::Gray, Colour::Black];

    pub fn name(self) -> &'static str {
        ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "gray", "black"][self as usize]
    }

    /// The sRGB value that the name stands for. Any two are at least 85 apart, so that an image that came through a
    /// lossy autoencoder still shows which one was meant.
    pub fn rgb(self) -> [u8; 3] {
        [
            [212, 36, 46],
            [240, 128, 26],
            [250, 226, 60],
            [44, 164, 74],
            [60, 196, 212],
            [44, 84, 216],
            [134, 58, 180],
            [248, 132, 188],
            [244, 244, 244],
            [128, 128, 128],
            [22, 22, 24],
        ][self as usize]
    }
}

impl Size {
    pub fn name(self) -> &'static str {
        ["small", "large"][self as usize]
    }
}

impl Place {
    pub const ALL: [Place; 5] = [Place::Top, Place::Bottom, Place::Left, Place::Right, Place::Middle];

    pub fn phrase(self) -> &'static str {
        ["at the top", "at the bottom", "on the left side", "on the right side", "in the middle"][self as usize]
    }
}

impl Relation {
    pub fn phrase(self) -> &'static str {
        ["left of", "right of", "above", "below", "inside"][self as usize]
    }

    /// What the object is to the subject; "inside" has no such word here.
    pub fn inverse(self) -> Option<Relation> {
        match self {
            Relation::LeftOf => Some(Relation::RightOf),
            Relation::RightOf => Some(Relation::LeftOf),
            Relation::Above => Some(Relation::Below),
            Relation::Below => Some(Relation::Above),
            Relation::Inside => None,
        }
    }
}

impl Thing {
    /// "a", of any colour and size.
    pub fn new(shape: Shape) -> Self {
        Self { shape, colour: None, size: None, count: None, place: None }
    }

    /// How many are to be drawn.
    pub fn number(&self) -> u8 {
        self.count.unwrap_or(1)
    }
}

impl Description {
    /// How many things there are to draw.
    pub fn total(&self) -> usize {
        self.things.iter().map(|thing| usize::from(thing.number())).sum()
    }

    /// A text that is equal for two descriptions of the same content: the order of the things and the side from which
    /// a relation is told do not matter, nor whether it is said that there is nothing else.
    pub fn content(&self) -> String {
        let mut order: Vec<usize> = (0..self.things.len()).collect();
        order.sort_by_key(|&i| self.things[i]);
        let rank = |thing: usize| order.iter().position(|&i| i == thing).expect("every thing has a rank");
        let things: Vec<_> = order.iter().map(|&i| self.things[i]).collect();
        let mut claims: Vec<_> = self
            .claims
            .iter()
            .map(|claim| match claim.relation {
                Relation::RightOf => (rank(claim.object), Relation::LeftOf, rank(claim.subject)),
                Relation::Below => (rank(claim.object), Relation::Above, rank(claim.subject)),
                relation => (rank(claim.subject), relation, rank(claim.object)),
            })
            .collect();
        claims.sort();
        format!("{things:?} {claims:?} {:?}", self.backdrop)
    }
}
