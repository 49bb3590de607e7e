//! Relations, and the rules by which boxes hold them. Left, right, above and below are VISOR's (Gokhale et al. 2022,
//! arXiv:2212.10015); on, inside, beside and between are selma's own. The others cannot be told from boxes.

use crate::error::{Error, Result};

/// `[x1, y1, x2, y2]` in pixels, y down.
pub type Box = [f64; 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
    On,
    Among,
    Around,
    Beside,
    InFrontOf,
    Behind,
    Between,
    Inside,
}

use Relation::{Above, Among, Around, Behind, Below, Beside, Between, InFrontOf, Inside, LeftOf, On, RightOf};

const NAMES: [(&str, Relation); 18] = [
    ("to the left of", LeftOf),
    ("left of", LeftOf),
    ("left", LeftOf),
    ("to the right of", RightOf),
    ("right of", RightOf),
    ("right", RightOf),
    ("above", Above),
    ("below", Below),
    ("on", On),
    ("among", Among),
    ("around", Around),
    ("beside", Beside),
    ("next to", Beside),
    ("in front of", InFrontOf),
    ("behind", Behind),
    ("between", Between),
    ("inside", Inside),
    ("in", Inside),
];

impl Relation {
    /// # Errors
    /// [`Error::Failed`] naming what is known.
    pub fn parse(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name.trim());
        found.map(|(_, relation)| *relation).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Error::Failed(format!("relation `{name}`: expected one of {}", names.join(", ")))
        })
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, relation)| *relation == self).map_or("", |(name, _)| name)
    }

    /// The one that a model which mixes up directions draws instead.
    pub fn opposite(self) -> Option<Self> {
        Some(match self {
            LeftOf => RightOf,
            RightOf => LeftOf,
            Above => Below,
            Below => Above,
            InFrontOf => Behind,
            Behind => InFrontOf,
            _ => return None,
        })
    }

    /// Whether exchanging the two objects makes another statement.
    pub fn is_asymmetric(self) -> bool {
        !matches!(self, Beside | Between | Among)
    }

    /// Whether `a` is in this relation to `b`, and for between to `b` and `c`. `None` where boxes cannot tell, or `c` is
    /// missing. Equal centres hold no direction.
    pub fn holds(self, a: &Box, b: &Box, c: Option<&Box>) -> Option<bool> {
        let ((ax, ay), (bx, by)) = (centre(a), centre(b));
        let least = |x: f64, y: f64| x.min(y);
        Some(match self {
            LeftOf => ax < bx,
            RightOf => ax > bx,
            Above => ay < by,
            Below => ay > by,
            On => {
                let touches = (a[3] - b[1]).abs() <= 0.15 * least(height(a), height(b));
                touches && overlap_x(a, b) >= 0.5 * least(width(a), width(b))
            }
            Inside => {
                let overlap = overlap_x(a, b).max(0.0) * overlap_y(a, b).max(0.0);
                overlap >= 0.9 * area(a) && area(a) < area(b)
            }
            Beside => {
                let gap = -overlap_x(a, b);
                (ay - by).abs() <= 0.5 * height(a).max(height(b))
                    && gap >= -0.1 * least(width(a), width(b))
                    && gap <= width(a).max(width(b))
            }
            Between => {
                let (cx, cy) = centre(c?);
                let (dx, dy) = (cx - bx, cy - by);
                let length = dx.hypot(dy);
                if length == 0.0 {
                    return Some(false);
                }
                let (px, py) = (ax - bx, ay - by);
                let along = (px * dx + py * dy) / (length * length);
                let distance = (px * dy - py * dx).abs() / length;
                along > 0.0 && along < 1.0 && distance <= 0.25 * length
            }
            InFrontOf | Behind | Around | Among => return None,
        })
    }
}

fn centre(b: &Box) -> (f64, f64) {
    ((b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0)
}

fn width(b: &Box) -> f64 {
    b[2] - b[0]
}

fn height(b: &Box) -> f64 {
    b[3] - b[1]
}

fn area(b: &Box) -> f64 {
    width(b) * height(b)
}

fn overlap_x(a: &Box, b: &Box) -> f64 {
    a[2].min(b[2]) - a[0].max(b[0])
}

fn overlap_y(a: &Box, b: &Box) -> f64 {
    a[3].min(b[3]) - a[1].max(b[1])
}
