//! The outlines of the shapes, around their centre, y downwards, at size 1. Arithmetic only: the pixels are the same on
//! every processor.

use super::description::Shape;

/// Every outline lies within this distance of the centre to each side.
pub(super) const REACH: f32 = 1.15;

/// The corners of the star: the outer ones 1.15 from the centre, the inner ones 0.55, in steps of 36 degrees.
const STAR: [[f32; 2]; 10] = [
    [0.0, -1.15],
    [0.323_282, -0.444_959],
    [1.093_715, -0.355_37],
    [0.523_081, 0.169_959],
    [0.675_953, 0.930_369],
    [0.0, 0.55],
    [-0.675_953, 0.930_369],
    [-0.523_081, 0.169_959],
    [-1.093_715, -0.355_37],
    [-0.323_282, -0.444_959],
];

/// Whether a point belongs to a shape of size 1 at the origin.
pub(super) fn contains(shape: Shape, x: f32, y: f32) -> bool {
    let (ax, ay) = (x.abs(), y.abs());
    match shape {
        Shape::Circle => x * x + y * y <= 1.0,
        Shape::Square => ax.max(ay) <= 0.9,
        Shape::Triangle => y <= 0.9 && ax <= (y + 0.95) * (1.1 / 1.85),
        Shape::Star => inside_polygon(&STAR, x, y),
        // The heart curve (x^2 + y^2 - 1)^3 = x^2 y^3, y upwards, moved down so that it is centred.
        Shape::Heart => {
            let (x, y) = (x * 1.09, 0.12 - y * 1.09);
            let disc = x * x + y * y - 1.0;
            disc * disc * disc <= x * x * y * y * y
        }
        Shape::Cross => ax.max(ay) <= 1.05 && ax.min(ay) <= 0.37,
        Shape::Diamond => ax * (1.0 / 0.98) + ay * (1.0 / 1.15) <= 1.0,
    }
}

/// The largest disc inside a shape of size 1 that another shape can stand in: how far below the centre, and its radius.
pub(super) fn room(shape: Shape) -> Option<(f32, f32)> {
    match shape {
        Shape::Circle => Some((0.0, 1.0)),
        Shape::Square => Some((0.0, 0.9)),
        Shape::Triangle => Some((0.28, 0.62)),
        Shape::Heart => Some((0.0, 0.75)),
        Shape::Diamond => Some((0.0, 0.74)),
        Shape::Star | Shape::Cross => None,
    }
}

/// The radius of the smallest disc around the centre that holds a shape of size 1.
pub(super) fn radius(shape: Shape) -> f32 {
    match shape {
        Shape::Circle => 1.0,
        Shape::Square => 1.28,
        Shape::Triangle => 1.43,
        Shape::Heart => 1.23,
        Shape::Cross => 1.12,
        Shape::Star | Shape::Diamond => 1.15,
    }
}

/// Even-odd rule: a ray to the right crosses the outline an odd number of times.
fn inside_polygon(corners: &[[f32; 2]], x: f32, y: f32) -> bool {
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let ([x0, y0], [x1, y1]) = (previous, corner);
        if (y0 > y) != (y1 > y) && x < (x1 - x0) * (y - y0) / (y1 - y0) + x0 {
            inside = !inside;
        }
        previous = corner;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `room` and `radius` against the outlines themselves.
    #[test]
    fn discs_lie_where_they_are_said_to() {
        for shape in Shape::ALL {
            for step in 0..3600 {
                let (sin, cos) = (step as f32 * std::f32::consts::PI / 1800.0).sin_cos();
                let beyond = radius(shape) + 0.01;
                assert!(!contains(shape, beyond * cos, beyond * sin), "{shape:?} is wider");
                if let Some((down, room)) = room(shape) {
                    assert!(contains(shape, 0.99 * room * cos, down + 0.99 * room * sin), "{shape:?} has less room");
                }
            }
            for i in 0..=400 {
                let along = (i as f32 / 200.0 - 1.0) * 1.5;
                for side in [REACH + 0.01, -REACH - 0.01] {
                    assert!(!contains(shape, side, along) && !contains(shape, along, side), "{shape:?} reaches out");
                }
            }
        }
    }
}
