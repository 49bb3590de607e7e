//! A scene: where each object of a description is drawn, how large, in which exact colour. Layout is by trial: sizes and
//! places are drawn until all that the description claims holds with a margin, places near the usual ones at first.

use super::description::Shape;
use super::description::{Backdrop, Claim, Colour, Description, Place, Relation, Shading, Size};
use super::outline;
use super::render::SIDE;
use super::rng::Rng;
use super::spots;
use crate::error::{Error, Result};

/// One shape on the canvas.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub shape: Shape,
    pub colour: Colour,
    /// The colour's sRGB value, a little different from object to object.
    pub ink: [f32; 3],
    /// The centre, in pixels from the upper left corner.
    pub x: f32,
    pub y: f32,
    /// Half the width, roughly: what an outline of size 1 is scaled by.
    pub size: f32,
    /// The thing of the description that it belongs to.
    pub thing: usize,
}

/// A background that changes from one side to the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shade {
    /// From top to bottom rather than from left to right.
    pub vertical: bool,
    /// How much each channel differs from the middle at the far side.
    pub change: f32,
}

/// All that the renderer needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    pub background_colour: Colour,
    pub background: [f32; 3],
    pub shade: Option<Shade>,
    /// In painting order: what lies inside another comes after it.
    pub objects: Vec<Object>,
}

/// Free pixels between two objects.
const GAP: f32 = 4.0;
/// Free pixels between an object and the edge of the image.
const MARGIN: f32 = 1.5;
/// The range of each named size: half widths in pixels. A latent of the model stands for 4x4 pixels: of what is smaller
/// than 8, its VAE keeps too little to tell a star from a cross.
const SMALL_SIZES: [f32; 2] = [8.0, 9.0];
const LARGE_SIZES: [f32; 2] = [15.0, 17.5];
/// A shape that has another one inside.
const HOLDER_SIZES: [f32; 2] = [18.0, 23.5];
const TRIALS: usize = 40_000;
/// Trials with things near their usual places; then they may be anywhere.
const USUAL_TRIALS: usize = 1000;
/// How far from its usual place a thing may be, in pixels in both directions.
const STRAY: f32 = 4.5;

/// Draws a scene in which `description` holds; what it leaves open is chosen.
///
/// # Errors
/// [`Error::Failed`] if no place was found: too many or too large things for one image, or claims that contradict each
/// other.
pub fn lay_out(description: &Description, rng: &mut Rng) -> Result<Scene> {
    let mut scene = backdrop(description, rng);
    let mut colours = Vec::new();
    for thing in &description.things {
        let mut open = thing.shape.usual_colours().to_vec();
        open.retain(|&colour| colour != scene.background_colour);
        colours.push(thing.colour.unwrap_or_else(|| rng.choose(&open)));
    }
    for (thing, &colour) in colours.iter().enumerate() {
        if colour == scene.background_colour && !is_inside(description, thing) {
            return Err(Error::Failed(format!(
                "a {} {} cannot be seen on a background of the same colour",
                colour.name(),
                description.things[thing].shape.name()
            )));
        }
    }
    let usual = spots::usual(description);
    for trial in 0..TRIALS {
        let spots = if trial < USUAL_TRIALS { &usual[..] } else { &[] };
        if let Some(objects) = place(description, &colours, spots, rng) {
            scene.objects = objects;
            return Ok(scene);
        }
    }
    Err(Error::Failed(format!("found no place for all of {} things in one image", description.total())))
}

fn is_inside(description: &Description, thing: usize) -> bool {
    let holds = |claim: &Claim| claim.relation == Relation::Inside && claim.subject == thing;
    description.claims.iter().any(holds)
}

/// The background, without objects.
fn backdrop(description: &Description, rng: &mut Rng) -> Scene {
    let open = Backdrop { colour: rng.choose(&Colour::NEUTRALS), shading: None };
    let backdrop = description.backdrop.unwrap_or(open);
    let shaded = match backdrop.shading {
        Some(shading) => shading == Shading::Shaded,
        None => rng.chance(0.25),
    };
    let shade = Shade { vertical: rng.chance(0.6), change: rng.between(24.0, 34.0) * rng.choose(&[-1.0, 1.0]) };
    let shade = shaded.then_some(shade);
    // Away from white and black by as much as it will change, so that neither side is cut off.
    let change = shade.map_or(0.0, |shade| shade.change.abs());
    Scene {
        background_colour: backdrop.colour,
        background: ink(backdrop.colour, 5.0, rng).map(|v| v.clamp(change, 255.0 - change)),
        shade,
        objects: Vec::new(),
    }
}

/// A colour's value, each channel changed by at most `jitter`.
fn ink(colour: Colour, jitter: f32, rng: &mut Rng) -> [f32; 3] {
    colour.rgb().map(|v| f32::from(v) + rng.between(-jitter, jitter))
}

/// One trial: sizes and centres for all, or `None` where a claim or a gap fails. Things that are not inside others stand
/// near `spots` in turn, and anywhere where these have come to an end.
fn place(description: &Description, colours: &[Colour], spots: &[[f32; 2]], rng: &mut Rng) -> Option<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::with_capacity(description.total());
    // A holder comes first: what is inside is placed relative to it, and painted over it.
    let mut order: Vec<usize> = (0..description.things.len()).collect();
    order.sort_by_key(|&thing| is_inside(description, thing));
    for thing in order {
        let [low, high] = sizes(description, thing);
        let size = rng.between(low, high);
        for _ in 0..description.things[thing].number() {
            let shape = description.things[thing].shape;
            let (x, y) = match holder(description, thing, &objects) {
                Some(holder) => centre_inside(holder, shape, size, rng)?,
                None => {
                    let low = outline::REACH * size + MARGIN;
                    let high = SIDE as f32 - low;
                    let (x, y) = match spots.get(objects.len()) {
                        Some(spot) => {
                            let [x, y] = spot.map(|share| share * SIDE as f32 + rng.between(-STRAY, STRAY));
                            (x, y)
                        }
                        None => (rng.between(low, high), rng.between(low, high)),
                    };
                    if x.min(y) < low || x.max(y) > high {
                        return None;
                    }
                    (x, y)
                }
            };
            let object = Object { shape, colour: colours[thing], ink: [0.0; 3], x, y, size, thing };
            let placed = description.things[thing].place.is_none_or(|place| holds_place(&object, place));
            if !placed || objects.iter().any(|other| !apart(description, &object, other)) {
                return None;
            }
            objects.push(object);
        }
    }
    let claimed = |claim: &Claim| {
        let of = |thing: usize| objects.iter().filter(move |object| object.thing == thing);
        of(claim.subject).all(|a| of(claim.object).all(|b| holds_relation(a, claim.relation, b)))
    };
    if !description.claims.iter().all(claimed) {
        return None;
    }
    for object in &mut objects {
        object.ink = ink(object.colour, 7.0, rng);
    }
    Some(objects)
}

/// The range of sizes that a thing may have.
fn sizes(description: &Description, thing: usize) -> [f32; 2] {
    let holds = |claim: &Claim| claim.relation == Relation::Inside && claim.object == thing;
    if description.claims.iter().any(holds) {
        return HOLDER_SIZES;
    }
    match (description.things[thing].size, description.total()) {
        (Some(Size::Small), _) => SMALL_SIZES,
        (Some(Size::Large), _) => LARGE_SIZES,
        (None, _) if is_inside(description, thing) => SMALL_SIZES,
        (None, 2..) if description.things.iter().any(|thing| thing.size == Some(Size::Large)) => [8.2, 10.0],
        (None, 1) => [11.0, 16.5],
        (None, 2) => [9.0, 12.0],
        (None, 3) => [8.5, 10.0],
        (None, _) => [8.0, 9.2],
    }
}

/// The object that a thing is to be drawn inside of.
fn holder<'a>(description: &Description, thing: usize, objects: &'a [Object]) -> Option<&'a Object> {
    let claim = |claim: &&Claim| claim.relation == Relation::Inside && claim.subject == thing;
    let object = description.claims.iter().find(claim)?.object;
    objects.iter().find(|holder| holder.thing == object)
}

/// A centre at which `shape` lies wholly inside `holder`, two pixels from its outline.
fn centre_inside(holder: &Object, shape: Shape, size: f32, rng: &mut Rng) -> Option<(f32, f32)> {
    let (down, room) = outline::room(holder.shape)?;
    let spare = room * holder.size - outline::radius(shape) * size - 2.0;
    (spare >= 0.0).then(|| {
        let jitter = spare.min(1.5) * std::f32::consts::FRAC_1_SQRT_2;
        let x = holder.x + rng.between(-jitter, jitter);
        (x, holder.y + down * holder.size + rng.between(-jitter, jitter))
    })
}

/// Free space between two objects, or one inside the other where that is claimed.
fn apart(description: &Description, a: &Object, b: &Object) -> bool {
    let nested = |claim: &Claim| {
        claim.relation == Relation::Inside
            && [(a.thing, b.thing), (b.thing, a.thing)].contains(&(claim.subject, claim.object))
    };
    let distance = outline::radius(a.shape) * a.size + outline::radius(b.shape) * b.size + GAP;
    let (dx, dy) = (a.x - b.x, a.y - b.y);
    // Squares may stand side by side: their boxes are apart where the discs around them are not.
    let boxes = outline::REACH * (a.size + b.size) + GAP;
    dx * dx + dy * dy >= distance * distance || dx.abs().max(dy.abs()) >= boxes || description.claims.iter().any(nested)
}

fn holds_place(object: &Object, place: Place) -> bool {
    let third = |v: f32| v / (SIDE as f32);
    let (x, y) = (third(object.x), third(object.y));
    let central = |v: f32| (0.42..=0.58).contains(&v);
    match place {
        Place::Top => y <= 0.34,
        Place::Bottom => y >= 0.66,
        Place::Left => x <= 0.34,
        Place::Right => x >= 0.66,
        Place::Middle => central(x) && central(y),
    }
}

/// Drawn clearly: the other direction differs by at most half as much.
fn holds_relation(a: &Object, relation: Relation, b: &Object) -> bool {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    match relation {
        Relation::LeftOf => dx > 0.0 && 2.0 * dy.abs() <= dx,
        Relation::RightOf => dx < 0.0 && 2.0 * dy.abs() <= -dx,
        Relation::Above => dy > 0.0 && 2.0 * dx.abs() <= dy,
        Relation::Below => dy < 0.0 && 2.0 * dx.abs() <= -dy,
        // Placed so by construction.
        Relation::Inside => true,
    }
}
