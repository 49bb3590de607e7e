//! What is in an image, from its pixels alone.

use image::RgbImage;

use super::background::{self, Plane};
use super::classify::{Naming, classify};
use super::questions::Noun;
use super::{colour, features, segment};
use crate::shapes::description::{Colour, Shape};

/// What is seen in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub background: Colour,
    pub shaded: bool,
    pub found: Vec<Found>,
}

/// One region of one colour.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// `None` for a region that looks like no shape of this world.
    pub shape: Option<Shape>,
    pub colour: Colour,
    /// The centre of its bounding box, in pixels of an image of 64x64.
    pub x: f32,
    pub y: f32,
    /// Half the longer side of its bounding box.
    pub size: f32,
}

/// A background whose brightness differs by more between two sides is shaded.
const SHADED: f32 = 24.0;

impl View {
    /// Looks at an image; one that is not 64x64 is scaled first. Things are named as people name them.
    pub fn of(image: &RgbImage) -> View {
        View::named(image, Naming::Lenient)
    }

    /// The same with names as strict as `naming`.
    pub fn named(image: &RgbImage, naming: Naming) -> View {
        let pixels = background::pixels(image);
        let background = Plane::fit(&pixels);
        let found = segment::regions(&pixels, &background).into_iter().map(|region| {
            let (extents, features) = features::measure(&region.mask);
            Found {
                shape: classify(&features, naming),
                colour: colour::nearest(region.colour),
                x: extents.middle[0],
                y: extents.middle[1],
                size: extents.width.max(extents.height) / 2.0,
            }
        });
        View {
            background: colour::nearest(background.mean()),
            shaded: background.slope() > SHADED,
            found: found.collect(),
        }
    }

    /// What a noun names.
    pub fn matching(&self, noun: Noun) -> Vec<&Found> {
        let is_it =
            |found: &&Found| found.shape == Some(noun.shape) && noun.colour.is_none_or(|colour| found.colour == colour);
        self.found.iter().filter(is_it).collect()
    }
}
