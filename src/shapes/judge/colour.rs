//! Names of colours.

use super::background::{Rgb, distance};
use crate::shapes::description::Colour;

/// The named colour that is nearest.
pub(super) fn nearest(colour: Rgb) -> Colour {
    let far = |named: &Colour| distance(named.rgb().map(f32::from), colour);
    let nearest = Colour::ALL.into_iter().min_by(|a, b| far(a).total_cmp(&far(b)));
    nearest.expect("there are colours")
}
