//! Where things stand when a caption leaves it open: as in images that people compose, a single one in the middle, two
//! side by side, more of them in a square.

use super::description::{Claim, Description, Place, Relation};

/// Coordinates as shares of a side.
const NEAR: f32 = 0.27;
const MIDDLE: f32 = 0.5;
const FAR: f32 = 1.0 - NEAR;

/// The usual centres `[x, y]` of the things that are not inside others, as shares of the image's side, in the order of
/// `description.things`, one a drawn object; empty where there are too many for a usual order.
pub(super) fn usual(description: &Description) -> Vec<[f32; 2]> {
    let inside = |claim: &&Claim| claim.relation == Relation::Inside;
    let within: usize = (description.claims.iter().filter(inside))
        .map(|claim| usize::from(description.things[claim.subject].number()))
        .sum();
    let direction = direction(description);
    // [along the direction, across it]
    let spots: &[[f32; 2]] = match description.total().saturating_sub(within) {
        1 if direction.is_none() => &[[MIDDLE, MIDDLE]],
        1 => &[[NEAR, MIDDLE]],
        2 => &[[NEAR, MIDDLE], [FAR, MIDDLE]],
        3 => &[[NEAR, NEAR], [FAR, NEAR], [MIDDLE, FAR]],
        4 => &[[NEAR, NEAR], [FAR, NEAR], [NEAR, FAR], [FAR, FAR]],
        _ => &[],
    };
    let Direction { vertical, reversed } = direction.unwrap_or_default();
    let turned = |&[along, across]: &[f32; 2]| {
        let along = if reversed { 1.0 - along } else { along };
        if vertical { [across, along] } else { [along, across] }
    };
    spots.iter().map(turned).collect()
}

/// The direction in which the first thing and the second follow each other.
#[derive(Default)]
struct Direction {
    /// Downwards rather than to the right.
    vertical: bool,
    /// Upwards, or to the left.
    reversed: bool,
}

/// What the first claim or the first thing's place says of it.
fn direction(description: &Description) -> Option<Direction> {
    let (vertical, reversed) = match description.claims.iter().find(|claim| claim.relation != Relation::Inside) {
        Some(claim) => {
            let (vertical, reversed) = match claim.relation {
                Relation::LeftOf => (false, false),
                Relation::RightOf => (false, true),
                Relation::Above => (true, false),
                Relation::Below => (true, true),
                Relation::Inside => return None,
            };
            (vertical, reversed != (claim.subject > claim.object))
        }
        None => match description.things.first()?.place? {
            Place::Left => (false, false),
            Place::Right => (false, true),
            Place::Top => (true, false),
            Place::Bottom => (true, true),
            Place::Middle => return None,
        },
    };
    Some(Direction { vertical, reversed })
}
