//! Pooling over windows of `[n, h, w, c]`: the maximum, and the mean. Pixels outside of the image do not count in either.

mod cpu;
mod gpu;

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, device_of, float};

/// The windows of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    pub stride: usize,
    /// Above and below, left and right.
    pub padding: [usize; 2],
}

impl Window {
    pub const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride, padding: [padding; 2] }
    }
}

/// The sizes of one pooling, checked: every window holds a pixel of the image.
#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    ho: usize,
    wo: usize,
    window: Window,
}

impl Shape {
    fn check(op: &'static str, x: &Tensor, window: Window) -> Result<Self> {
        float(op, x)?;
        let [n, h, w, c] = x.dims(op)?;
        let Window { kernel: [kh, kw], stride, padding: [py, px] } = window;
        let fits = |size: usize, kernel: usize, padding: usize| padding < kernel && size + 2 * padding >= kernel;
        if stride == 0 || !fits(h, kh, py) || !fits(w, kw, px) || x.is_empty() {
            return Err(Error::shape(op, format!("no output: {window:?} over {x:?}")));
        }
        let (ho, wo) = ((h + 2 * py - kh) / stride + 1, (w + 2 * px - kw) / stride + 1);
        Ok(Self { n, h, w, c, ho, wo, window })
    }

    fn output(&self) -> [usize; 4] {
        [self.n, self.ho, self.wo, self.c]
    }

    fn input(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.c]
    }
}

/// The largest value of each window; its gradient goes to the first of equal ones. `[n, h, w, c]` -> `[n, ho, wo, c]`.
///
/// # Errors
/// [`Error::Shape`] where no window fits, or the padding is as large as the window.
pub fn max_pool2d(tape: &Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    const OP: &str = "max_pool2d";
    let shape = Shape::check(OP, x, window)?;
    let device = device_of(OP, &[x])?;
    let y = on!(device, max(&shape, x))?;
    let saved = x.clone();
    tape.record(OP, [x], &y, move |dy, _| Ok([Some(on!(device, max_backward(&shape, dy, &saved))?)]));
    Ok(y)
}

/// The mean of each window's pixels. `[n, h, w, c]` -> `[n, ho, wo, c]`.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(tape: &Tape, x: &Tensor, window: Window) -> Result<Tensor> {
    const OP: &str = "avg_pool2d";
    let shape = Shape::check(OP, x, window)?;
    let device = device_of(OP, &[x])?;
    let y = on!(device, avg(&shape, x))?;
    tape.record(OP, [x], &y, move |dy, _| Ok([Some(on!(device, avg_backward(&shape, dy))?)]));
    Ok(y)
}
