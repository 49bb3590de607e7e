//! Operations that have more than one kernel, at a shape.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Choice;
use crate::device::conv_shape::{ConvShape, Padding};
use crate::device::gpu::tile::{ENOUGH_BLOCKS, MOST_SLICES, Tile};
use crate::dtype::DType;

/// Slices of a sum over rows or pixels, at most: those of a weight's gradient.
const MOST_SLICES_OF_ROWS: usize = ENOUGH_BLOCKS;

/// What has more than one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `a b^T + a2 b2^T`. Sizes: m, n, k, k2.
    MatmulNt,
    /// `a b + a2 b2`. Sizes: m, n, k, k2.
    MatmulNn,
    /// `a b^T + a2 b2^T` for several b. Sizes: groups, m, n, k, k2.
    MatmulGroup,
    /// `a^T b`. Sizes: m, n, k.
    MatmulTn,
    /// The GEGLU of `a b^T`. Sizes: m, rows of b, k.
    MatmulGeglu,
    /// Sizes of these three: those of [`Case::convolution`].
    ConvForward,
    ConvDgrad,
    ConvWgrad,
}

/// What a kernel adds to the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    Bias,
    /// One for each image and channel.
    ChannelBias,
    Residual,
}

/// An operation at one shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub operation: Operation,
    pub dtype: DType,
    pub sizes: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<Added>,
    /// Operands that only one kernel takes: their rows are no whole chunks, or do not begin at one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any: bool,
}

/// Kernels that prove themselves together: what differs is the shape, and how many slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Family {
    operation: Operation,
    dtype: DType,
    tile: Tile,
    in_slices: bool,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::MatmulNt => "matmul_nt",
            Self::MatmulNn => "matmul_nn",
            Self::MatmulGroup => "matmul_group",
            Self::MatmulTn => "matmul_tn",
            Self::MatmulGeglu => "matmul_geglu",
            Self::ConvForward => "conv_forward",
            Self::ConvDgrad => "conv_dgrad",
            Self::ConvWgrad => "conv_wgrad",
        }
    }

    /// How many numbers the sizes are.
    fn rank(self) -> usize {
        match self {
            Self::MatmulTn | Self::MatmulGeglu => 3,
            Self::MatmulNt | Self::MatmulNn => 4,
            Self::MatmulGroup => 5,
            Self::ConvForward | Self::ConvDgrad | Self::ConvWgrad => 12,
        }
    }
}

impl Case {
    /// Sizes of a convolution: n, h, w, c_in, ho, wo, c_out, kh, kw, stride, and the padding above and on the left.
    pub(crate) fn of_convolution(operation: Operation, dtype: DType, shape: &ConvShape, added: Vec<Added>) -> Self {
        let ConvShape { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, padding: Padding { top, left, .. } } = *shape;
        let sizes = vec![n, h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left];
        Self { operation, dtype, sizes, added, any: false }
    }

    /// The convolution; none where the operation is another, or the sizes are no convolution's.
    pub fn convolution(&self) -> Option<ConvShape> {
        let &[n, h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left] = self.sizes.as_slice() else { return None };
        let end = |side: usize, out: usize, k: usize, before: usize| {
            (out.checked_sub(1)?.checked_mul(stride)?.checked_add(k)?).checked_sub(side + before).or(Some(0))
        };
        let padding = Padding { top, left, bottom: end(h, ho, kh, top)?, right: end(w, wo, kw, left)? };
        (stride > 0).then_some(ConvShape { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, padding })
    }

    /// Whether it is one of some launch: as many sizes as there must be, none of them beyond all memory, and of a type that
    /// kernels store.
    pub fn is_sound(&self) -> bool {
        let stored = matches!(self.dtype, DType::F32 | DType::Bf16 | DType::F16);
        let fits = |sizes: &[usize]| {
            let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
            product.is_some_and(|elements| elements < 1 << 48)
        };
        let each = self.sizes.len() == self.operation.rank() && self.sizes.iter().all(|&size| size < 1 << 31);
        stored
            && each
            && match (self.operation, self.convolution()) {
                (Operation::ConvForward | Operation::ConvDgrad | Operation::ConvWgrad, None) => false,
                (_, Some(shape)) => fits(&shape.x()) && fits(&shape.y()) && fits(&shape.weight()),
                // Few products, of any two of the other sizes.
                (Operation::MatmulGroup, None) => self.sizes[0] <= 8 && fits(&self.sizes[1..3]),
                _ => fits(&self.sizes[..2]),
            }
    }

    /// The one plain tile, in one slice.
    pub fn reference(&self) -> Choice {
        Choice { tile: Tile::SMALL.if_fits(!self.any), slices: 1 }
    }

    /// Whether there are kernels for this choice.
    pub fn permits(&self, choice: Choice) -> bool {
        use Operation::{ConvDgrad, ConvForward, MatmulGeglu, MatmulGroup, MatmulNn, MatmulNt};
        let Choice { tile, slices } = choice;
        let has_tall =
            matches!(self.operation, MatmulNt | MatmulNn | MatmulGroup | MatmulGeglu | ConvForward | ConvDgrad);
        let stride = self.convolution().map_or(1, |shape| shape.stride);
        let has_maps = match self.operation {
            MatmulNt | MatmulNn | ConvForward => self.dtype != DType::F32,
            ConvDgrad => self.dtype != DType::F32 && stride == 1,
            _ => false,
        };
        let tile_fits = tile == Tile::SMALL.if_fits(!self.any)
            || (!self.any
                && (tile == Tile::LARGE || (tile == Tile::TALL && has_tall) || (tile == Tile::HOPPER && has_maps)));
        tile_fits
            && (slices == 1
                || (![Tile::TALL, Tile::HOPPER].contains(&tile) && (2..=self.most_slices()).contains(&slices)))
    }

    /// What may be tried instead of the reference: all tiles, and numbers of slices that keep a GPU busy. `hopper`: on a device
    /// of compute capability 9.0.
    pub fn candidates(&self, hopper: bool) -> Vec<Choice> {
        let ([m, n], classes) = self.sums();
        let mut candidates = Vec::new();
        for tile in Tile::ALL.into_iter().chain([Tile::SMALL.if_fits(false)]).chain(hopper.then_some(Tile::HOPPER)) {
            for slices in (0..8).map(|power| 1 << power) {
                let choice = Choice { tile, slices };
                let few = slices == 1 || tile.blocks(m, n) * classes * slices <= 4 * ENOUGH_BLOCKS;
                if few && choice != self.reference() && self.permits(choice) {
                    candidates.push(choice);
                }
            }
        }
        candidates
    }

    /// The sums in a product, and how many such products side by side.
    fn sums(&self) -> ([usize; 2], usize) {
        let sizes = &self.sizes;
        match (self.operation, self.convolution()) {
            (Operation::MatmulGroup, _) => ([sizes[1], sizes[2]], sizes[0]),
            (Operation::ConvForward, Some(shape)) => ([shape.pixels(), shape.c_out], 1),
            (Operation::ConvDgrad, Some(ConvShape { n, h, w, c_in, stride, .. })) => {
                ([n * h.div_ceil(stride) * w.div_ceil(stride), c_in], stride * stride)
            }
            (Operation::ConvWgrad, Some(shape)) => ([shape.c_out, shape.kh * shape.kw * shape.c_in], 1),
            _ => ([sizes[0], sizes[1]], 1),
        }
    }

    /// How many products one result adds up.
    pub fn depth(&self) -> usize {
        let sizes = &self.sizes;
        match (self.operation, self.convolution()) {
            (Operation::MatmulNt | Operation::MatmulNn, _) => sizes[2] + sizes[3],
            (Operation::MatmulGroup, _) => sizes[3] + sizes[4],
            (Operation::ConvForward, Some(shape)) => shape.kh * shape.kw * shape.c_in,
            (Operation::ConvDgrad, Some(shape)) => shape.kh * shape.kw * shape.c_out,
            (Operation::ConvWgrad, Some(shape)) => shape.pixels(),
            _ => sizes[2],
        }
    }

    fn most_slices(&self) -> usize {
        let step = Tile::step(self.dtype);
        let sizes = &self.sizes;
        match (self.operation, self.convolution()) {
            (Operation::MatmulTn | Operation::ConvWgrad, _) => self.depth().div_ceil(step).min(MOST_SLICES_OF_ROWS),
            _ if self.any => 1,
            (Operation::MatmulNt | Operation::MatmulNn, _) => {
                (sizes[2].div_ceil(step) + sizes[3].div_ceil(step)).min(MOST_SLICES)
            }
            (Operation::ConvForward, Some(_)) => (self.depth() / step).min(MOST_SLICES),
            (Operation::ConvDgrad, Some(ConvShape { c_out, kh, kw, stride, .. })) => {
                let taps = kh.div_ceil(stride) * kw.div_ceil(stride);
                // Only where all classes of pixels meet as many.
                let alike = kh.is_multiple_of(stride) && kw.is_multiple_of(stride);
                if alike { (taps * c_out).div_ceil(step).min(MOST_SLICES) } else { 1 }
            }
            _ => 1,
        }
    }

    /// What a choice proves itself with.
    pub fn family(&self, choice: Choice) -> Family {
        let Self { operation, dtype, .. } = *self;
        Family { operation, dtype, tile: choice.tile, in_slices: choice.slices > 1 }
    }
}

/// `matmul_nt bf16 4096x320x320x0 + bias`, `conv_forward bf16 16x64x64x320 to 64x64x640, 3x3/1`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.operation.name(), self.dtype.name())?;
        if let Some(ConvShape { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, .. }) = self.convolution() {
            write!(f, "{n}x{h}x{w}x{c_in} to {ho}x{wo}x{c_out}, {kh}x{kw}/{stride}")?;
        } else {
            let sizes: Vec<String> = self.sizes.iter().map(ToString::to_string).collect();
            f.write_str(&sizes.join("x"))?;
        }
        for added in &self.added {
            f.write_str(match added {
                Added::Bias => " + bias",
                Added::ChannelBias => " + channel bias",
                Added::Residual => " + residual",
            })?;
        }
        if self.any { f.write_str(", of any width") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(operation: Operation, sizes: &[usize]) -> Case {
        Case { operation, dtype: DType::Bf16, sizes: sizes.into(), added: Vec::new(), any: false }
    }

    #[test]
    fn choices_are_text_and_come_back() {
        let case = case(Operation::MatmulNt, &[64, 1280, 11520, 0]);
        let candidates = case.candidates(true);
        assert_eq!(case.candidates(false).len() + 1, candidates.len());
        assert!(candidates.len() > 5 && !candidates.contains(&case.reference()), "{candidates:?}");
        for choice in candidates {
            assert_eq!(choice.to_string().parse::<Choice>().unwrap(), choice);
        }
        for wrong in ["", "huge", "large x 0", "large x", "large x -1", "large x 4 x 4"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
        let text = serde_json::to_string(&case).unwrap();
        assert_eq!(serde_json::from_str::<Case>(&text).unwrap(), case, "{text}");
    }

    #[test]
    fn only_kernels_that_there_are_may_be_chosen() {
        let permits = |case: &Case, choice: &str| case.permits(choice.parse().unwrap());
        let product = case(Operation::MatmulNt, &[300, 264, 128, 0]);
        for (choice, there) in [
            ("tall", true),
            ("small", true),
            ("large x 2", true),
            ("tall x 2", false),
            ("small x 16", false),
            ("any", false),
        ] {
            assert_eq!(permits(&product, choice), there, "{choice}");
        }
        let any = Case { any: true, ..product.clone() };
        assert!(permits(&any, "any") && !permits(&any, "small") && !permits(&any, "any x 2"));
        assert!(permits(&product, "hopper") && !permits(&product, "hopper x 2"));
        assert!(!permits(&Case { dtype: DType::F32, ..product.clone() }, "hopper"));
        assert!(!permits(&case(Operation::MatmulTn, &[300, 264, 128]), "tall"));
        assert!(!permits(&case(Operation::MatmulGroup, &[3, 300, 264, 128, 0]), "large x 2"));
        // Taps of a 3x3 kernel at stride 2 are not the same for all pixels.
        let of = |kernel, stride| case(Operation::ConvDgrad, &[2, 14, 14, 64, 7, 7, 64, kernel, kernel, stride, 1, 1]);
        assert!(!permits(&of(3, 2), "small x 2") && permits(&of(4, 2), "small x 2"));
    }

    #[test]
    fn cases_from_a_file_may_be_of_no_launch() {
        assert!(case(Operation::MatmulNt, &[1, 2, 3, 0]).is_sound());
        for sizes in [&[1, 2, 3][..], &[1, 2, 3, 1 << 40], &[1 << 30, 1 << 30, 3, 0], &[]] {
            assert!(!case(Operation::MatmulNt, sizes).is_sound(), "{sizes:?}");
        }
        assert!(!case(Operation::ConvForward, &[0; 12]).is_sound());
        assert!(!case(Operation::ConvForward, &[usize::MAX; 12]).is_sound());
        assert!(!case(Operation::ConvForward, &[1 << 30; 12]).is_sound());
        assert!(!Case { dtype: DType::I64, ..case(Operation::MatmulTn, &[1, 2, 3]) }.is_sound());
    }
}
