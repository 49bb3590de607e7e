//! Linear combinations.

use super::of;
use crate::device::gpu::Buffer;
use crate::device::gpu::combine::{INPUTS, LINES, Line, combine as launch};
use crate::error::Result;
use crate::ops::combination::{Lines, Place};
use crate::tensor::Tensor;

/// As `ops::combine` of at least one term; rounded in between where there are more than a launch takes.
pub fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let (now, later) = terms.split_at(terms.len().min(INPUTS));
    let mut line = Line::EMPTY;
    for (to, (c, _)) in line.of_inputs.iter_mut().zip(now) {
        *to = *c as f32;
    }
    let memory: Vec<Buffer> = now.iter().map(|(_, x)| of(x)).collect::<Result<_>>()?;
    let sum = launch(&memory.iter().collect::<Vec<_>>(), &[line])?;
    let sum = Tensor::on_gpu(sum, terms[0].1.shape());
    if later.is_empty() {
        return Ok(sum);
    }
    let rest: Vec<(f64, &Tensor)> = std::iter::once((1.0, &sum)).chain(later.iter().copied()).collect();
    combine(&rest)
}

/// The values of all lines by one launch; None where they are more than it takes.
pub fn combine_lines(lines: &Lines) -> Result<Option<Vec<Tensor>>> {
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
    let memory: Vec<Buffer> = lines.inputs.iter().map(of).collect::<Result<_>>()?;
    let y = launch(&memory.iter().collect::<Vec<_>>(), &numbers[..n])?;
    let (shape, len) = (lines.inputs[0].shape(), lines.inputs[0].len());
    Ok(Some((0..n).map(|i| Tensor::on_gpu(y.view(i * len, len), shape)).collect()))
}
