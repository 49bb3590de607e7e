//! The five skills: what each one's captions claim, and which of them are held out.

use super::caption;
use super::description::{Backdrop, Claim, Colour, Description, Place, Relation, Shading, Shape, Size, Thing};
use super::outline;
use super::rng::{Purpose, Rng};
use super::scene::{self, Scene};
use crate::error::{Error, Result};

/// What a prompt teaches or tests. Each mirrors one of SELMA's five (arXiv:2403.06952, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skill {
    /// Short captions of one or two usual things (COCO).
    Everyday,
    /// Two to four things of a kind (CountBench).
    Counting,
    /// Where things are, and how they lie to each other.
    Spatial,
    /// Several things with their own attributes, in paragraphs (Localized Narratives).
    Paragraph,
    /// Colours that a shape never has elsewhere, coloured backgrounds, things inside things (Whoops).
    Defying,
}

/// Prompts to train on, and prompts for the evaluation. No content is in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    Train,
    HeldOut,
}

/// A caption and what it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub caption: String,
    pub description: Description,
}

/// One content in this many is held out.
const HELD_OUT: u64 = 5;

impl Split {
    /// Where a content belongs: decided by its hash, so that it is the same for every seed and every skill.
    pub fn of(description: &Description) -> Split {
        match fnv1a(&description.content()) % HELD_OUT {
            0 => Split::HeldOut,
            _ => Split::Train,
        }
    }
}

/// FNV-1a, 64 bits, with its bits mixed: the lowest of the plain hash are weak. Source: draft-eastlake-fnv.
fn fnv1a(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Skill {
    pub const ALL: [Skill; 5] = [Skill::Everyday, Skill::Counting, Skill::Spatial, Skill::Paragraph, Skill::Defying];

    pub fn name(self) -> &'static str {
        ["everyday", "counting", "spatial", "paragraph", "defying"][self as usize]
    }

    /// # Errors
    /// [`Error::Usage`] for a name that no skill has.
    pub fn from_name(name: &str) -> Result<Skill> {
        let names: Vec<_> = Skill::ALL.iter().map(|skill| skill.name()).collect();
        let found = Skill::ALL.into_iter().find(|skill| skill.name() == name);
        found.ok_or_else(|| Error::Usage(format!("no built-in skill `{name}`; there are {}", names.join(", "))))
    }

    /// No caption of this skill has as many words.
    pub fn word_limit(self) -> usize {
        match self {
            Skill::Paragraph => 50,
            _ => 30,
        }
    }

    /// Prompt `index` of this skill: a function of (seed, skill, split, index).
    pub fn prompt(self, split: Split, seed: u64, index: u64) -> Prompt {
        let mut rng = Rng::new(seed, Purpose::Prompt, self.kind(split), index);
        loop {
            let mut description = self.describe(&mut rng);
            if Split::of(&description) == split {
                let caption = caption::write(self, &description, &mut rng);
                description.alone = caption::says_alone(&caption);
                return Prompt { caption, description };
            }
        }
    }

    /// The scene to prompt `index`, for [`super::render`].
    ///
    /// # Errors
    /// As [`scene::lay_out`], which no built-in prompt is known to cause.
    pub fn scene(self, split: Split, seed: u64, index: u64) -> Result<(Prompt, Scene)> {
        let prompt = self.prompt(split, seed, index);
        let mut rng = Rng::new(seed, Purpose::Layout, self.kind(split), index);
        let scene = scene::lay_out(&prompt.description, &mut rng)?;
        Ok((prompt, scene))
    }

    fn kind(self, split: Split) -> u32 {
        (self as u32) << 1 | split as u32
    }

    fn describe(self, rng: &mut Rng) -> Description {
        match self {
            Skill::Everyday => everyday(rng),
            Skill::Counting => counting(rng),
            Skill::Spatial => spatial(rng),
            Skill::Paragraph => paragraph(rng),
            Skill::Defying => defying(rng),
        }
    }
}

fn usual_thing(rng: &mut Rng) -> Thing {
    let shape = rng.choose(&Shape::ALL);
    Thing { colour: Some(rng.choose(shape.usual_colours())), ..Thing::new(shape) }
}

/// `count` usual things, no two of the same colour and shape.
fn usual_things(count: usize, rng: &mut Rng) -> Vec<Thing> {
    let mut things: Vec<Thing> = Vec::with_capacity(count);
    while things.len() < count {
        let thing = usual_thing(rng);
        let same = |other: &Thing| (other.shape, other.colour) == (thing.shape, thing.colour);
        if !things.iter().any(same) {
            things.push(thing);
        }
    }
    things
}

fn neutral_backdrop(probability: f32, rng: &mut Rng) -> Option<Backdrop> {
    let shading = [None, None, Some(Shading::Plain), Some(Shading::Shaded)];
    rng.chance(probability).then(|| Backdrop { colour: rng.choose(&Colour::NEUTRALS), shading: rng.choose(&shading) })
}

fn everyday(rng: &mut Rng) -> Description {
    let count = if rng.chance(0.7) { 1 } else { 2 };
    let mut things = usual_things(count, rng);
    if count == 1 {
        things[0].size = rng.choose(&[None, Some(Size::Small), Some(Size::Large)]);
    }
    Description { things, claims: Vec::new(), backdrop: neutral_backdrop(0.5, rng), alone: false }
}

fn counting(rng: &mut Rng) -> Description {
    let mut things = usual_things(if rng.chance(0.6) { 1 } else { 2 }, rng);
    match &mut things[..] {
        [thing] => thing.count = Some(rng.choose(&[2, 3, 4])),
        things => {
            let counts = rng.choose(&[[2, 1], [1, 2], [3, 1], [1, 3], [2, 2]]);
            for (thing, count) in things.iter_mut().zip(counts) {
                thing.count = Some(count);
            }
        }
    }
    Description { things, claims: Vec::new(), backdrop: neutral_backdrop(0.4, rng), alone: false }
}

const DIRECTIONS: [Relation; 4] = [Relation::LeftOf, Relation::RightOf, Relation::Above, Relation::Below];

fn claim(subject: usize, relation: Relation, object: usize) -> Claim {
    Claim { subject, relation, object }
}

fn spatial(rng: &mut Rng) -> Description {
    let mut claims = Vec::new();
    let mut things;
    match rng.below(10) {
        0..6 => {
            things = usual_things(2, rng);
            claims.push(claim(0, rng.choose(&DIRECTIONS), 1));
        }
        6..8 => {
            things = usual_things(1, rng);
            things[0].place = Some(rng.choose(&Place::ALL));
        }
        _ => {
            things = usual_things(2, rng);
            let [first, second] = rng.choose(&[[Place::Top, Place::Bottom], [Place::Left, Place::Right]]);
            let swap = rng.chance(0.5);
            things[usize::from(swap)].place = Some(first);
            things[usize::from(!swap)].place = Some(second);
        }
    }
    Description { things, claims, backdrop: neutral_backdrop(0.35, rng), alone: false }
}

fn paragraph(rng: &mut Rng) -> Description {
    let mut things = usual_things(rng.choose(&[2, 2, 3]), rng);
    // Two large things do not fit side by side.
    let sizes = match things.len() {
        2 => {
            [[Size::Small, Size::Large], [Size::Large, Size::Small], [Size::Small, Size::Small]][rng.below(3)].to_vec()
        }
        _ => vec![Size::Small; 3],
    };
    for (thing, size) in things.iter_mut().zip(sizes) {
        thing.size = rng.chance(0.75).then_some(size);
    }
    let claims = if rng.chance(0.6) { vec![claim(0, rng.choose(&DIRECTIONS), 1)] } else { Vec::new() };
    Description { things, claims, backdrop: neutral_backdrop(0.85, rng), alone: false }
}

/// A colour that the shape never has in the other skills.
fn odd_thing(shapes: &[Shape], rng: &mut Rng) -> Thing {
    let shape = rng.choose(shapes);
    loop {
        let colour = rng.choose(&Colour::HUES);
        if !shape.usual_colours().contains(&colour) {
            return Thing { colour: Some(colour), ..Thing::new(shape) };
        }
    }
}

fn defying(rng: &mut Rng) -> Description {
    let mut claims = Vec::new();
    let things = match rng.below(10) {
        0..3 => vec![odd_thing(&Shape::ALL, rng)],
        3..6 => vec![odd_thing(&Shape::ALL, rng), odd_thing(&Shape::ALL, rng)],
        _ => {
            let holders: Vec<_> = Shape::ALL.into_iter().filter(|&s| outline::room(s).is_some()).collect();
            claims.push(claim(0, Relation::Inside, 1));
            vec![odd_thing(&Shape::ALL, rng), odd_thing(&holders, rng)]
        }
    };
    let taken: Vec<_> = things.iter().filter_map(|thing| thing.colour).collect();
    let twice = taken.len() == 2 && taken[0] == taken[1];
    if twice {
        // Neither a nested pair nor a contrast would show.
        return defying(rng);
    }
    let free: Vec<_> = Colour::HUES.into_iter().filter(|colour| !taken.contains(colour)).collect();
    let backdrop = if rng.chance(0.45) {
        Some(Backdrop { colour: rng.choose(&free), shading: None })
    } else {
        neutral_backdrop(0.3, rng)
    };
    Description { things, claims, backdrop, alone: false }
}
