//! Launches of `combine.cu`, and the clamp of `elementwise.cu`.

use super::combination::{Lines, Place};
use crate::device::gpu::pack;
use crate::device::gpu::table::kernels;
use crate::error::Result;
use crate::tensor::Tensor;

/// The most inputs and lines of one launch.
const INPUTS: usize = kernels::COMBINE_INPUTS;
const LINES: usize = kernels::COMBINE_LINES;

/// One combination, limited to `[-limit, limit]`.
#[derive(Clone, Copy)]
struct Line {
    of_inputs: [f32; INPUTS],
    /// Of the lines before it; the rest is not read.
    of_lines: [f32; LINES],
    limit: f32,
}

impl Line {
    /// Zero, without a limit.
    const EMPTY: Self = Self { of_inputs: [0.0; INPUTS], of_lines: [0.0; LINES], limit: f32::INFINITY };
}

/// Rounded in between where there are more terms than a launch takes.
pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let (now, later) = terms.split_at(terms.len().min(INPUTS));
    let mut line = Line::EMPTY;
    for (to, (c, _)) in line.of_inputs.iter_mut().zip(now) {
        *to = *c as f32;
    }
    let inputs: Vec<&Tensor> = now.iter().map(|(_, x)| *x).collect();
    let sum = launch(&inputs, &[line])?.with_shape(inputs[0].shape());
    if later.is_empty() {
        return Ok(sum);
    }
    let rest: Vec<(f64, &Tensor)> = std::iter::once((1.0, &sum)).chain(later.iter().copied()).collect();
    combine(&rest)
}

/// The values of all lines by one launch; None where they are more than it takes.
pub fn lines(lines: &Lines) -> Result<Option<Vec<Tensor>>> {
    let n = lines.lines.len();
    if lines.inputs.len() > INPUTS || n > LINES || n == 0 {
        return Ok(None);
    }
    let mut numbers = [Line::EMPTY; LINES];
    for (to, line) in numbers.iter_mut().zip(&lines.lines) {
        to.limit = line.limit as f32;
        for &(c, place) in &line.terms {
            match place {
                Place::Input(i) => to.of_inputs[i] += c as f32,
                Place::Line(i) => to.of_lines[i] += c as f32,
            }
        }
    }
    let y = launch(&lines.inputs.iter().collect::<Vec<_>>(), &numbers[..n])?;
    let (shape, len) = (lines.inputs[0].shape(), lines.inputs[0].len());
    Ok(Some((0..n).map(|i| y.view(i * len, shape)).collect()))
}

/// The lines `[lines, n]` of 1 to [`INPUTS`] inputs of n elements.
fn launch(inputs: &[&Tensor], lines: &[Line]) -> Result<Tensor> {
    let first = inputs[0];
    let mut numbers = Vec::with_capacity(LINES * kernels::COMBINE_NUMBERS);
    for i in 0..LINES {
        let line = lines.get(i).unwrap_or(&Line::EMPTY);
        numbers.extend(line.of_inputs);
        numbers.extend(&line.of_lines[..LINES - 1]);
        numbers.push(line.limit);
    }
    let numbers = first.gpu()?.upload(&numbers)?;
    let y = first.new_empty(&[lines.len(), first.len()], first.dtype())?;
    let threads = kernels::COMBINE_THREADS;
    let grid = [first.len().div_ceil(threads * pack(first.dtype())), 1, 1];
    let mut launch = first.kernel(&kernels::COMBINE)?.grid(grid).block(threads).output(&y).input(&numbers);
    for i in 0..INPUTS {
        launch = launch.input_if(inputs.get(i).copied());
    }
    launch.int(inputs.len()).int(lines.len()).long(first.len()).launch()?;
    Ok(y)
}

pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let y = x.empty_like()?;
    let threads = kernels::ELEMENTWISE_THREADS;
    let grid = [x.len().div_ceil(pack(x.dtype())).div_ceil(threads), 1, 1];
    let launch = x.kernel(&kernels::CLAMP_FORWARD)?.grid(grid).block(threads).output(&y).input(x);
    launch.long(x.len()).float(low as f32).float(high as f32).launch()?;
    Ok(y)
}
