//! Tensor maps: what the copies of `kernels/hopper.h` know of a tensor. One check for both backends: every rule of cuda.h
//! (`cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col`, CUDA 13.0) for 16-bit floats without interleaving, and that the
//! tensor lies inside its memory.

use serde::{Deserialize, Serialize};

/// Bytes of a value.
const VALUE: u64 = 2;
const MOST_DIMENSIONS: usize = 5;

/// A tensor in a GPU's memory and the boxes of it that are copied. Dimensions are counted from the innermost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorMap {
    pub rank: usize,
    /// Values along each dimension.
    pub sizes: [u64; MOST_DIMENSIONS],
    /// Bytes from one to the next along each dimension but the first.
    pub strides: [u64; MOST_DIMENSIONS - 1],
    /// Along each dimension, every how many-th value is copied.
    pub steps: [u32; MOST_DIMENSIONS],
    /// Bytes of a row in shared memory over which chunks of 16 bytes are permuted: 128, 64, 32, or 0 for none.
    pub span: u32,
    pub boxes: Boxes,
}

/// What one copy takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Boxes {
    /// So many values along each dimension.
    Tiled([u32; MOST_DIMENSIONS]),
    /// Of a tensor `[images, height, width, channels]`, the channels of some pixels in a row, for a tap of a convolution.
    Patches {
        channels: u32,
        pixels: u32,
        /// Where pixels for the first tap begin along x and y, from the first pixel; and where they end, from the last one.
        lower: [i32; 2],
        upper: [i32; 2],
    },
}

impl TensorMap {
    /// Boxes `[rows, columns]` of a matrix of so many rows and columns, whose rows follow each other.
    pub fn matrix([rows, columns]: [usize; 2], box_of: [u32; 2], span: u32) -> Self {
        Self::tiled(&[columns, rows], &[columns as u64 * VALUE], &[box_of[1], box_of[0]], span)
    }

    /// Boxes of a tensor: sizes and boxes from the innermost dimension on, strides of the others in bytes.
    ///
    /// # Panics
    /// For more than five dimensions, or lists that do not fit each other.
    pub fn tiled(sizes: &[usize], strides: &[u64], boxes: &[u32], span: u32) -> Self {
        assert!(sizes.len() == boxes.len() && sizes.len() == strides.len() + 1, "lists of one tensor");
        let mut map = Self::of(sizes, strides, span, Boxes::Tiled([1; MOST_DIMENSIONS]));
        if let Boxes::Tiled(of) = &mut map.boxes {
            of[..boxes.len()].copy_from_slice(boxes);
        }
        map
    }

    /// Patches of `[images, height, width, channels]` for a convolution that takes every `step`-th pixel.
    pub fn patches([images, height, width, channels]: [usize; 4], step: u32, span: u32, boxes: Boxes) -> Self {
        let row = channels as u64 * VALUE;
        let strides = [row, row * width as u64, row * (width * height) as u64];
        let mut map = Self::of(&[channels, width, height, images], &strides, span, boxes);
        map.steps = [1, step, step, 1, 1];
        map
    }

    fn of(sizes: &[usize], strides: &[u64], span: u32, boxes: Boxes) -> Self {
        let mut map = Self {
            rank: sizes.len(),
            sizes: [1; MOST_DIMENSIONS],
            strides: [0; MOST_DIMENSIONS - 1],
            steps: [1; MOST_DIMENSIONS],
            span,
            boxes,
        };
        map.strides[..strides.len()].copy_from_slice(strides);
        for (to, &size) in map.sizes.iter_mut().zip(sizes) {
            *to = size as u64;
        }
        map
    }

    /// Bytes from the first value to the end of the last one.
    pub fn extent(&self) -> u64 {
        let outer = self.sizes[1..self.rank].iter().zip(&self.strides);
        outer.fold(self.sizes[0] * VALUE, |bytes, (size, stride)| {
            bytes.saturating_add((size - 1).saturating_mul(*stride))
        })
    }

    /// That a tensor of these numbers at this address is what the copies can take, and lies in `bytes` of memory.
    ///
    /// # Errors
    /// What is wrong with the map, as the end of a sentence.
    pub fn check(&self, address: u64, bytes: usize) -> Result<(), String> {
        if !(1..=MOST_DIMENSIONS).contains(&self.rank) {
            return Err(format!("has {} dimensions; expected 1 to {MOST_DIMENSIONS}", self.rank));
        }
        if !address.is_multiple_of(16) {
            return Err("begins at an address that is no multiple of 16".into());
        }
        if let Some(size) = self.sizes[..self.rank].iter().find(|&&size| size == 0 || size > 1 << 32) {
            return Err(format!("has a dimension of {size} values; expected 1 to 2^32"));
        }
        for (stride, size) in self.strides[..self.rank - 1].iter().zip(self.sizes) {
            if !stride.is_multiple_of(16) || *stride >= 1 << 40 || *stride < size {
                let expected = "a multiple of 16 below 2^40, at least the values of a row";
                return Err(format!("has a stride of {stride} bytes; expected {expected}"));
            }
        }
        if let Some(step) = self.steps[..self.rank].iter().find(|step| !(1..=8).contains(*step)) {
            return Err(format!("takes every {step}-th value; expected 1 to 8"));
        }
        if ![0, 32, 64, 128].contains(&self.span) {
            return Err(format!("permutes rows of {} bytes; expected 0, 32, 64 or 128", self.span));
        }
        let row = match self.boxes {
            Boxes::Tiled(of) => self.check_box(&of[..self.rank])?,
            Boxes::Patches { channels, pixels, lower, upper } => {
                self.check_patches(channels, pixels, lower, upper)?;
                u64::from(channels) * VALUE
            }
        };
        if !row.is_multiple_of(16) {
            return Err(format!("has boxes with rows of {row} bytes; expected a multiple of 16"));
        }
        if self.span != 0 && row > u64::from(self.span) {
            return Err(format!("has boxes with rows of {row} bytes, more than the {} that are permuted", self.span));
        }
        match self.extent() <= bytes as u64 {
            true => Ok(()),
            false => Err(format!("covers {} bytes of memory that has {bytes}", self.extent())),
        }
    }

    /// Bytes of a box's row.
    fn check_box(&self, of: &[u32]) -> Result<u64, String> {
        match of.iter().find(|values| !(1..=256).contains(*values)) {
            Some(values) => Err(format!("has boxes of {values} values along a dimension; expected 1 to 256")),
            None => Ok(u64::from(of[0]) * VALUE),
        }
    }

    fn check_patches(&self, channels: u32, pixels: u32, lower: [i32; 2], upper: [i32; 2]) -> Result<(), String> {
        if self.rank != 4 {
            return Err(format!("has patches of {} dimensions; expected 4", self.rank));
        }
        if !(1..=256).contains(&channels) || !(1..=1024).contains(&pixels) {
            return Err(format!(
                "has patches of {channels} channels of {pixels} pixels; expected up to 256 channels and 1024 pixels"
            ));
        }
        for axis in 0..2 {
            let corners = [lower[axis], upper[axis]];
            if corners.iter().any(|corner| !(-128..=127).contains(corner)) {
                return Err(format!("has corners {corners:?}; expected -128 to 127"));
            }
            if self.sizes[axis + 1] as i64 + i64::from(upper[axis] - lower[axis]) <= 0 {
                return Err(format!("has corners {corners:?}, between which there is no pixel"));
            }
        }
        Ok(())
    }

    /// What the simulator is passed: `TensorMap` of `kernels/sim/sim_hopper.h`.
    pub(super) fn simulated(&self, address: u64) -> Simulated {
        let mut s = Simulated { address, strides: self.strides, rank: self.rank as u8, ..Simulated::default() };
        for d in 0..MOST_DIMENSIONS {
            // 2^32 itself does not fit, and no memory holds it.
            s.sizes[d] = u32::try_from(self.sizes[d]).unwrap_or(u32::MAX);
            s.steps[d] = self.steps[d] as u8;
        }
        (s.span, s.element) = (self.span as u8, VALUE as u8);
        match self.boxes {
            Boxes::Tiled(of) => s.box_of = of,
            Boxes::Patches { channels, pixels, lower, upper } => {
                s.box_of = [channels, pixels, 1, 1, 1];
                (s.lower, s.upper) = (lower.map(|c| c as i8), upper.map(|c| c as i8));
                s.patches = 1;
            }
        }
        s
    }
}

/// As C++ lays it out.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct Simulated {
    address: u64,
    strides: [u64; MOST_DIMENSIONS - 1],
    sizes: [u32; MOST_DIMENSIONS],
    box_of: [u32; MOST_DIMENSIONS],
    lower: [i8; 2],
    upper: [i8; 2],
    steps: [u8; MOST_DIMENSIONS],
    rank: u8,
    span: u8,
    element: u8,
    patches: u8,
}

const _: () = assert!(size_of::<Simulated>() == 128, "as the driver's");

#[cfg(test)]
mod tests {
    use super::*;

    /// Every rule once: a map that keeps them all, and what is said where it breaks one.
    #[test]
    fn maps_keep_the_rules_of_cuda_h() {
        let map = TensorMap::matrix([100, 320], [64, 64], 128);
        let bytes = 100 * 320 * 2;
        assert_eq!(map.check(256, bytes), Ok(()));
        let refused = |expected: &str, change: &dyn Fn(&mut TensorMap)| {
            let mut map = map;
            change(&mut map);
            let why = map.check(256, bytes).expect_err(expected);
            assert!(why.contains(expected), "{why}");
        };
        assert!(map.check(264, bytes).unwrap_err().contains("no multiple of 16"));
        assert!(map.check(256, bytes - 1).unwrap_err().contains("covers 64000 bytes"));
        refused("0 dimensions", &|map| map.rank = 0);
        refused("6 dimensions", &|map| map.rank = 6);
        refused("a dimension of 0 values", &|map| map.sizes[1] = 0);
        refused("a dimension of 4294967297 values", &|map| map.sizes[1] = (1 << 32) + 1);
        refused("a stride of 648 bytes", &|map| map.strides[0] = 648);
        refused("a stride of 304 bytes", &|map| map.strides[0] = 304);
        refused("a stride of 1099511627776 bytes", &|map| map.strides[0] = 1 << 40);
        refused("every 9-th value", &|map| map.steps[1] = 9);
        refused("every 0-th value", &|map| map.steps[1] = 0);
        refused("rows of 96 bytes; expected 0, 32", &|map| map.span = 96);
        refused("boxes of 257 values", &|map| map.boxes = Boxes::Tiled([64, 257, 1, 1, 1]));
        refused("boxes of 0 values", &|map| map.boxes = Boxes::Tiled([64, 0, 1, 1, 1]));
        refused("rows of 72 bytes; expected a multiple of 16", &|map| map.boxes = Boxes::Tiled([36, 64, 1, 1, 1]));
        refused("more than the 64 that are permuted", &|map| map.span = 64);
        refused("more than the 128 that are permuted", &|map| map.boxes = Boxes::Tiled([128, 64, 1, 1, 1]));
        let patches = |lower, upper| Boxes::Patches { channels: 64, pixels: 128, lower, upper };
        refused("patches of 2 dimensions", &|map| map.boxes = patches([0, 0], [0, 0]));
    }

    #[test]
    fn patches_keep_the_rules_of_cuda_h() {
        let of = |boxes| TensorMap::patches([2, 5, 7, 64], 1, 128, boxes).check(0, 2 * 5 * 7 * 64 * 2);
        let patches = |channels, pixels, lower, upper| Boxes::Patches { channels, pixels, lower, upper };
        assert_eq!(of(patches(64, 128, [-1, 0], [-1, -2])), Ok(()));
        let refused = |expected: &str, boxes| assert!(of(boxes).unwrap_err().contains(expected), "{expected}");
        refused("257 channels", patches(257, 128, [0, 0], [0, 0]));
        refused("0 channels", patches(0, 128, [0, 0], [0, 0]));
        refused("1025 pixels", patches(64, 1025, [0, 0], [0, 0]));
        refused("corners [-129, 0]", patches(64, 128, [-129, 0], [0, 0]));
        refused("corners [0, 128]", patches(64, 128, [0, 0], [128, 0]));
        refused("no pixel", patches(64, 128, [0, 2], [0, -3]));
        refused("rows of 144 bytes, more than the 128", patches(72, 128, [0, 0], [0, 0]));
    }
}
