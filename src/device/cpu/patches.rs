//! The patches of an image under a convolution's kernel ("im2col"), gathered a few at a time.

use crate::tensor::Real;

/// Patch p belongs to an output pixel (image, y, x); under tap (ky, kx) lies the source pixel
/// `(y * step + ky + offset) / spread`, zero where that is not whole or outside.
///
/// `spread` is 1 in a forward pass; the gradient of a strided convolution spreads its source by the stride.
pub struct Patches<'a, T> {
    pub data: &'a [T],
    /// Height, width and channels of the source.
    pub size: [usize; 3],
    pub kernel: [usize; 2],
    /// Images, and rows and columns of output pixels in each.
    pub pixels: [usize; 3],
    pub step: usize,
    pub spread: usize,
    pub offset: [isize; 2],
}

impl<T: Real> Patches<'_, T> {
    /// How many patches there are.
    pub fn count(&self) -> usize {
        self.pixels.iter().product()
    }

    /// Values in a patch: kernel height, kernel width, channels.
    #[expect(clippy::len_without_is_empty, reason = "a patch is never empty")]
    pub fn len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.size[2]
    }

    fn source(&self, pixel: usize, tap: usize, axis: usize) -> Option<usize> {
        let at = (pixel * self.step + tap) as isize + self.offset[axis];
        let spread = self.spread as isize;
        let inside = at >= 0 && at % spread == 0 && at / spread < self.size[axis] as isize;
        inside.then_some((at / spread) as usize)
    }

    /// Writes as many patches as fit into `to`, from number `first` on.
    pub fn gather(&self, first: usize, to: &mut [T]) {
        let [height, width, channels] = self.size;
        let [_, rows, columns] = self.pixels;
        for (i, patch) in to.chunks_exact_mut(self.len()).enumerate() {
            let pixel = first + i;
            let (image, y, x) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            for (ky, line) in patch.chunks_exact_mut(self.kernel[1] * channels).enumerate() {
                let Some(y) = self.source(y, ky, 0) else {
                    line.fill(T::default());
                    continue;
                };
                let from = &self.data[(image * height + y) * width * channels..][..width * channels];
                for (kx, to) in line.chunks_exact_mut(channels).enumerate() {
                    match self.source(x, kx, 1) {
                        Some(x) => to.copy_from_slice(&from[x * channels..][..channels]),
                        None => to.fill(T::default()),
                    }
                }
            }
        }
    }
}
