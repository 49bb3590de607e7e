//! Launches of `group_norm.cu`.

use super::Buffer;
use super::buffer::expect;
use super::sums::sum_rows;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "group_norm";
const THREADS: usize = kernels::GROUP_NORM_THREADS;
/// Values of a slab, about: 32 KiB in 16 bits, small enough for its second read to come from the cache. The order of all
/// sums follows from it.
const SLAB_VALUES: usize = 1 << 14;

/// The shape of a GroupNorm over `[n, pixels, c]`, optionally followed by SiLU.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    pub n: usize,
    pub pixels: usize,
    pub c: usize,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

/// Mean and 1 / sqrt(variance + eps), f32 `[n, groups]`.
pub struct Statistics {
    mean: Buffer,
    rstd: Buffer,
}

/// Gradients of the input, and where they were asked for of weight and bias, f32 `[c]`.
pub struct Gradients {
    pub dx: Buffer,
    pub parameters: Option<[Buffer; 2]>,
}

impl GroupNorm {
    /// `x` normalised, and what [`GroupNorm::backward`] needs. `weight` and `bias` are f32 `[c]`.
    pub fn forward(&self, x: &Buffer, weight: &Buffer, bias: &Buffer) -> Result<(Buffer, Statistics)> {
        let Self { n, pixels, c, groups, .. } = *self;
        self.check(&[("x", x, n * pixels * c), ("weight", weight, c), ("bias", bias, c)])?;
        let gpu = x.gpu();
        let grid = [self.slabs(), n, 1];
        let partial = gpu.buffer(DType::F32, n * self.slabs() * groups * 2)?;
        let launch = gpu.kernel(&kernels::GROUP_NORM_SLABS, x.dtype()).grid(grid).block(THREADS);
        let launch = launch.dynamic_shared(floats(THREADS * x.pack() + c + groups));
        let launch = launch.output(&partial).input(x);
        launch.int(pixels).int(c).int(groups).int(self.slab_pixels()).launch()?;

        let y = gpu.buffer(x.dtype(), x.len())?;
        let mean = gpu.buffer(DType::F32, n * groups)?;
        let rstd = gpu.buffer(DType::F32, n * groups)?;
        let launch = gpu.kernel(&kernels::GROUP_NORM_FORWARD, x.dtype()).grid(grid).block(THREADS);
        let launch = launch.dynamic_shared(floats(2 * groups)).output(&y).output(&mean).output(&rstd);
        let launch = launch.input(x).input(weight).input(bias).input(&partial);
        let launch = launch.int(pixels).int(c).int(groups).int(self.slab_pixels());
        launch.float(self.eps).int(self.silu.into()).launch()?;
        Ok((y, Statistics { mean, rstd }))
    }

    /// The gradients, with what SiLU read computed once more.
    pub fn backward(
        &self,
        dy: &Buffer,
        x: &Buffer,
        weight: &Buffer,
        bias: &Buffer,
        statistics: &Statistics,
        parameters: bool,
    ) -> Result<Gradients> {
        let Self { n, pixels, c, groups, .. } = *self;
        let Statistics { mean, rstd } = statistics;
        self.check(&[
            ("dy", dy, n * pixels * c),
            ("x", x, n * pixels * c),
            ("weight", weight, c),
            ("bias", bias, c),
            ("mean", mean, n * groups),
            ("rstd", rstd, n * groups),
        ])?;
        let gpu = x.gpu();
        let grid = [self.slabs(), n, 1];
        let partial = gpu.buffer(DType::F32, n * self.slabs() * 2 * c)?;
        let launch = gpu.kernel(&kernels::GROUP_NORM_BACKWARD_SLABS, x.dtype());
        let launch = launch.grid(grid).block(THREADS);
        let launch = launch.dynamic_shared(floats(2 * THREADS * x.pack() + 2 * c)).output(&partial);
        let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
        let launch = launch.int(pixels).int(c).int(groups).int(self.slab_pixels());
        launch.int(self.silu.into()).launch()?;

        let sums = gpu.buffer(DType::F32, n * 2 * c)?;
        let averages = gpu.buffer(DType::F32, n * groups * 2)?;
        let launch = gpu.kernel(&kernels::GROUP_NORM_BACKWARD_GROUPS, x.dtype());
        let launch = launch.grid([groups, n, 1]).block(THREADS).output(&sums).output(&averages);
        let launch = launch.input(&partial).input(weight);
        launch.int(pixels).int(c).int(self.slabs()).launch()?;

        let dx = gpu.buffer(x.dtype(), x.len())?;
        let launch = gpu.kernel(&kernels::GROUP_NORM_BACKWARD, x.dtype());
        let launch = launch.grid(grid).block(THREADS).output(&dx);
        let launch = launch.input(dy).input(x).input(weight).input(bias).input(mean).input(rstd);
        let launch = launch.input(&averages).int(pixels).int(c).int(groups).int(self.slab_pixels());
        launch.int(self.silu.into()).launch()?;

        let parameters = if parameters {
            let both = sum_rows(&sums, n, 2 * c)?;
            Some([both.view(c, c), both.view(0, c)])
        } else {
            None
        };
        Ok(Gradients { dx, parameters })
    }

    fn check(&self, lengths: &[(&str, &Buffer, usize)]) -> Result<()> {
        let Self { n, pixels, c, groups, .. } = *self;
        if n * pixels * c == 0 || groups == 0 || !c.is_multiple_of(groups) {
            return Err(Error::shape(OP, format!("{groups} groups do not fit [{n}, {pixels}, {c}]")));
        }
        expect(OP, lengths)
    }

    fn slab_pixels(&self) -> usize {
        (SLAB_VALUES / self.c).max(1)
    }

    fn slabs(&self) -> usize {
        self.pixels.div_ceil(self.slab_pixels())
    }
}

/// Bytes of dynamic shared memory for so many floats.
fn floats(count: usize) -> usize {
    (count * size_of::<f32>()).next_multiple_of(16)
}
