//! Launches of `conv2d.cu`.

use super::Buffer;
use super::buffer::expect;
use super::launch::{Launcher, Operand};
use super::sums::sum_rows;
use super::table::kernels;
use super::tile::{Tile, in_chunks};
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "conv2d";
/// Pixels that the kernels of the large and the small tile count.
const MOST_PIXELS: usize = i32::MAX as usize;

/// Zeros added on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub left: usize,
    pub bottom: usize,
    pub right: usize,
}

impl Padding {
    pub const fn all(p: usize) -> Self {
        Self { top: p, left: p, bottom: p, right: p }
    }
}

/// The shape of a convolution of `x` `[n, h, w, c_in]` with weights `[c_out, kh, kw, c_in]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    pub n: usize,
    /// Of `x`; with `doubled`, of what it is upsampled to.
    pub h: usize,
    pub w: usize,
    pub c_in: usize,
    pub c_out: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub padding: Padding,
    /// Whether `x` is half as high and wide, and read through a nearest-neighbour upsampling by two.
    pub doubled: bool,
}

/// What is added to each output; all of it may be missing.
#[derive(Clone, Copy, Default)]
pub struct Added<'a> {
    /// f32 `[c_out]`.
    pub bias: Option<&'a Buffer>,
    /// `[n, c_out]`: a ResNet's time embedding.
    pub t: Option<&'a Buffer>,
    /// Like the output.
    pub residual: Option<&'a Buffer>,
}

impl Conv2d {
    /// Height and width of the output.
    ///
    /// # Errors
    /// [`Error::Shape`] where the kernel does not fit into the padded input.
    pub fn output(&self) -> Result<[usize; 2]> {
        let Padding { top, left, bottom, right } = self.padding;
        let (h, w) = (self.h + top + bottom, self.w + left + right);
        let odd = self.doubled && (!self.h.is_multiple_of(2) || !self.w.is_multiple_of(2));
        if self.stride == 0 || self.kh == 0 || self.kw == 0 || self.kh > h || self.kw > w || odd {
            return Err(Error::shape(OP, format!("{self:?} has no output")));
        }
        Ok([(h - self.kh) / self.stride + 1, (w - self.kw) / self.stride + 1])
    }

    /// `[n, ho, wo, c_out]`.
    pub fn forward(&self, x: &Buffer, weight: &Buffer, added: Added<'_>) -> Result<Buffer> {
        let [ho, wo] = self.output()?;
        let Self { n, c_out, .. } = *self;
        self.expect_x(x)?;
        expect(OP, &[("weight", weight, self.weights())])?;
        for (name, buffer, len) in
            [("bias", added.bias, c_out), ("t", added.t, n * c_out), ("residual", added.residual, n * ho * wo * c_out)]
        {
            if let Some(buffer) = buffer {
                expect(OP, &[(name, buffer, len)])?;
            }
        }
        let y = x.gpu().buffer(x.dtype(), n * ho * wo * c_out)?;
        let steps = self.c_in.is_multiple_of(Tile::step(x.dtype())) && n * ho * wo <= MOST_PIXELS && !self.doubled;
        let mut memory: Vec<&dyn Operand> = vec![&y, x, weight];
        memory.extend([added.t, added.residual].into_iter().flatten().map(|buffer| buffer as &dyn Operand));
        let tile = Tile::fit(n * ho * wo, c_out, 1).if_fits(steps && in_chunks(x.dtype(), &[c_out], &memory));
        let kernel = [&kernels::CONV2D_FORWARD_LARGE, &kernels::CONV2D_FORWARD_SMALL, &kernels::CONV2D_FORWARD_ANY];
        let kernel = tile.choose(kernel);
        let launch = tile.over(x.gpu().kernel(kernel, x.dtype()), n * ho * wo, c_out, 1);
        let launch = launch.output(&y).input(x).input(weight);
        let launch = launch.input_if(added.bias).input_if(added.t).input_if(added.residual).int(n);
        let launch = self.shape(launch, [ho, wo]);
        let launch = if tile.takes_any() { launch.int(self.doubled.into()) } else { launch };
        launch.launch()?;
        Ok(y)
    }

    /// The gradient of `x`, `[n, h, w, c_in]`; with `doubled`, that of the upsampled picture.
    pub fn dgrad(&self, dy: &Buffer, weight: &Buffer) -> Result<Buffer> {
        let [ho, wo] = self.output()?;
        let Self { n, h, w, c_in, .. } = *self;
        expect(OP, &[("dy", dy, n * ho * wo * self.c_out), ("weight", weight, self.weights())])?;
        let dx = dy.gpu().buffer(dy.dtype(), n * h * w * c_in)?;
        let steps = self.c_out.is_multiple_of(Tile::step(dy.dtype())) && n * h * w <= MOST_PIXELS;
        let fits = steps && in_chunks(dy.dtype(), &[c_in], &[&dx, dy, weight]);
        // Pixels whose coordinates leave the same remainders meet the same taps: blocks along z for each such class.
        let classes = if fits { self.stride * self.stride } else { 1 };
        let pixels = if fits { n * h.div_ceil(self.stride) * w.div_ceil(self.stride) } else { n * h * w };
        let tile = Tile::fit(pixels, c_in, classes).if_fits(fits);
        let kernel = [&kernels::CONV2D_DGRAD_LARGE, &kernels::CONV2D_DGRAD_SMALL, &kernels::CONV2D_DGRAD_ANY];
        let launch = tile.over(dy.gpu().kernel(tile.choose(kernel), dy.dtype()), pixels, c_in, classes);
        let launch = launch.output(&dx).input(dy).input(weight).int(n);
        self.shape(launch, [ho, wo]).launch()?;
        Ok(dx)
    }

    /// The gradient of the weights, f32.
    pub fn wgrad(&self, dy: &Buffer, x: &Buffer) -> Result<Buffer> {
        let [ho, wo] = self.output()?;
        let Self { n, c_out, .. } = *self;
        let (pixels, width) = (n * ho * wo, self.weights() / c_out.max(1));
        self.expect_x(x)?;
        expect(OP, &[("dy", dy, pixels * c_out)])?;
        let (tile, slice) = Tile::sliced(c_out, width, pixels.max(1), x.dtype());
        let slices = pixels.div_ceil(slice).max(1);
        let parts = x.gpu().buffer(DType::F32, slices * self.weights())?;
        let small = &kernels::CONV2D_WGRAD_SMALL;
        let kernel = tile.choose([&kernels::CONV2D_WGRAD_LARGE, small, small]);
        let launch = tile.over(x.gpu().kernel(kernel, x.dtype()), c_out, width, slices);
        let launch = launch.output(&parts).input(dy).input(x).int(n).int(slice);
        self.shape(launch, [ho, wo]).int(self.doubled.into()).launch()?;
        if slices == 1 { Ok(parts) } else { sum_rows(&parts, slices, self.weights()) }
    }

    fn weights(&self) -> usize {
        self.c_out * self.kh * self.kw * self.c_in
    }

    fn expect_x(&self, x: &Buffer) -> Result<()> {
        let shrink = if self.doubled { 4 } else { 1 };
        expect(OP, &[("x", x, self.n * self.h * self.w * self.c_in / shrink)])
    }

    /// The arguments from h to left.
    fn shape<'a>(&self, launch: Launcher<'a>, [ho, wo]: [usize; 2]) -> Launcher<'a> {
        let launch = launch.int(self.h).int(self.w).int(self.c_in).int(ho).int(wo).int(self.c_out);
        let launch = launch.int(self.kh).int(self.kw).int(self.stride);
        launch.int(self.padding.top).int(self.padding.left)
    }
}
