//! A shape that this world has no word for, known by examples: whether a model has learned to draw it.

use image::RgbImage;

use super::background::{self, Plane};
use super::classify::{distance, nearest};
use super::{features, segment};
use crate::error::{Error, Result};

/// As strict as shapes of this world are named by [`super::Naming::Strict`].
const FARTHEST: f32 = 5.0;

/// What a taught shape typically measures, as the shapes of this world do.
#[derive(Debug, Clone, PartialEq)]
pub struct Taught {
    typical: [f32; 8],
}

impl Taught {
    /// The mean over the largest thing in each example.
    ///
    /// # Errors
    /// [`Error::Failed`] for an example that shows nothing, or none at all.
    pub fn of(examples: &[RgbImage]) -> Result<Self> {
        let mut typical = [0.0; 8];
        for example in examples {
            let values = largest(example).ok_or_else(|| Error::Failed("an example shows nothing".into()))?;
            typical.iter_mut().zip(values).for_each(|(mean, value)| *mean += value / examples.len() as f32);
        }
        match examples.is_empty() {
            true => Err(Error::Failed("a shape is taught by one example or more".into())),
            false => Ok(Self { typical }),
        }
    }

    /// Whether the largest thing in an image is this shape: near to the examples, and nearer to them than to any shape of
    /// this world.
    pub fn shows(&self, image: &RgbImage) -> bool {
        let Some(values) = largest(image) else { return false };
        let own = distance(&values, &self.typical);
        own <= FARTHEST && nearest(&values).is_none_or(|(_, other)| own < other)
    }
}

/// The features of the largest region.
fn largest(image: &RgbImage) -> Option<[f32; 8]> {
    let pixels = background::pixels(image);
    let regions = segment::regions(&pixels, &Plane::fit(&pixels));
    let area = |mask: &[f32]| mask.iter().sum::<f32>();
    let largest = regions.iter().max_by(|a, b| area(&a.mask).total_cmp(&area(&b.mask)))?;
    Some(features::measure(&largest.mask).1.values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::caption::parse;
    use crate::shapes::render;
    use crate::shapes::rng::Rng;
    use crate::shapes::scene::lay_out;

    fn drawn(caption: &str, index: u64) -> RgbImage {
        render(&lay_out(&parse(caption).unwrap(), &mut Rng::of_caption(3, index)).unwrap())
    }

    #[test]
    fn a_triangle_on_its_tip_is_told_from_every_shape_of_this_world() {
        let tip = |index| image::imageops::flip_vertical(&drawn("a green triangle", index));
        let taught = Taught::of(&(0..20).map(tip).collect::<Vec<_>>()).unwrap();
        assert!((20..60).all(|index| taught.shows(&tip(index))));
        for shape in ["circle", "square", "triangle", "star", "heart", "cross", "diamond"] {
            let other = (0..20).filter(|&index| taught.shows(&drawn(&format!("a blue {shape}"), index)));
            assert_eq!(other.count(), 0, "{shape}");
        }
        assert!(Taught::of(&[]).is_err() && Taught::of(&[RgbImage::new(64, 64)]).is_err());
    }
}
