//! Launches of `combine.cu`.

use super::Buffer;
use super::buffer::expect;
use super::table::kernels;
use crate::error::{Error, Result};

const OP: &str = "combine";
const THREADS: usize = kernels::COMBINE_THREADS;
/// The most inputs and lines of one launch.
pub const INPUTS: usize = kernels::COMBINE_INPUTS;
pub const LINES: usize = kernels::COMBINE_LINES;

/// One combination, limited to `[-limit, limit]`.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub of_inputs: [f32; INPUTS],
    /// Of the lines before it; the rest is not read.
    pub of_lines: [f32; LINES],
    pub limit: f32,
}

impl Line {
    /// Zero, without a limit.
    pub const EMPTY: Self = Self { of_inputs: [0.0; INPUTS], of_lines: [0.0; LINES], limit: f32::INFINITY };
}

/// The lines `[lines, n]` of inputs of n elements and one type, which is theirs.
///
/// # Errors
/// [`Error::Shape`] where inputs differ in length, or there are none or too many inputs or lines.
pub fn combine(inputs: &[&Buffer], lines: &[Line]) -> Result<Buffer> {
    let first = match inputs {
        [first, ..] if inputs.len() <= INPUTS && (1..=LINES).contains(&lines.len()) => *first,
        _ => {
            let (inputs, lines) = (inputs.len(), lines.len());
            let message = format!("{inputs} inputs and {lines} lines; expected 1 to {INPUTS} and 1 to {LINES}");
            return Err(Error::shape(OP, message));
        }
    };
    for x in inputs {
        expect(OP, &[("x", x, first.len())])?;
    }
    let mut numbers = Vec::with_capacity(LINES * kernels::COMBINE_NUMBERS);
    for i in 0..LINES {
        let line = lines.get(i).unwrap_or(&Line::EMPTY);
        numbers.extend(line.of_inputs);
        numbers.extend(&line.of_lines[..LINES - 1]);
        numbers.push(line.limit);
    }
    let gpu = first.gpu();
    let numbers = gpu.upload(&numbers)?;
    let y = gpu.buffer(first.dtype(), lines.len() * first.len())?;
    let mut launch = gpu
        .kernel(&kernels::COMBINE, first.dtype())
        .grid([first.len().div_ceil(THREADS * first.pack()), 1, 1])
        .block(THREADS)
        .output(&y)
        .input(&numbers);
    for i in 0..INPUTS {
        launch = launch.input_if(inputs.get(i).copied());
    }
    launch.int(inputs.len()).int(lines.len()).long(first.len()).launch()?;
    Ok(y)
}
