//! Ops that are timed, with the FLOPs that they do and the bytes that they must at least move.

mod stable_diffusion;

use std::sync::Arc;

use crate::autograd::Tape;
use crate::device::Device;
use crate::device::gpu::library::Work as Library;
use crate::error::Result;
use crate::ops::{LoraOrder, LoraSizes};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
pub use stable_diffusion::ops;

type Run = Arc<dyn Fn(&Tape, &[Tensor]) -> Result<Tensor>>;

/// An op that is timed forward, and forward with the backward pass behind it.
pub struct Op {
    pub name: String,
    /// Shapes of what is computed with; the first so many get gradients.
    inputs: Vec<Vec<usize>>,
    tracked: usize,
    /// Vectors, which stay in f32.
    vectors: usize,
    run: Run,
    /// Of the two passes.
    flops: [f64; 2],
    /// Values that are read or written at least, in the two passes.
    values: [f64; 2],
    /// What NVIDIA's libraries do instead in the two passes, where they have it.
    library: [Vec<Library>; 2],
    /// That of a LoRA layer, and the layer's sizes where it is trained.
    order: Option<(LoraOrder, LoraSizes)>,
}

/// What an op takes, once its inputs are on a device.
pub struct Loaded {
    inputs: Vec<Tensor>,
    dy: Tensor,
    tracked: usize,
    run: Run,
}

/// FLOPs and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

impl Op {
    /// Forward, or with `backward` both passes together.
    pub fn work(&self, backward: bool, dtype: DType) -> Work {
        let passes = 1 + usize::from(backward);
        let sum = |of: &[f64; 2]| of[..passes].iter().sum::<f64>();
        Work { flops: sum(&self.flops), bytes: sum(&self.values) * dtype.size() as f64 }
    }

    /// The exact order that a LoRA layer's products are made in, and whether the planner takes it.
    pub fn order(&self, backward: bool, device: &Device, dtype: DType) -> Option<(LoraOrder, bool)> {
        let (order, sizes) = self.order?;
        let sizes = LoraSizes { wants_dx: backward, wants_factors: backward, ..sizes };
        let chosen = LoraOrder::Auto.taken(&sizes, device, dtype);
        let taken = order.taken(&sizes, device, dtype);
        Some((taken, taken == chosen))
    }

    /// What one of NVIDIA's libraries does instead; empty where none has this op.
    pub fn library(&self, backward: bool) -> Vec<Library> {
        self.library[..=usize::from(backward)].concat()
    }

    /// Inputs of random numbers.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Loaded> {
        let normal = |i: usize, shape: &[usize], dtype| {
            let len: usize = shape.iter().product();
            let values = random::normals(0, Stream::Noise, i as u64, 0, len);
            // Weights of the size of trained ones keep results near 1.
            let scale = match shape {
                [rows, _] if *rows > 1 && i > 0 => 0.02,
                [_, 3, 3, _] => 0.02,
                _ => 1.0,
            };
            let values = values.into_iter().map(|x| scale * x).collect();
            Tensor::new(values, shape).cast(dtype).to(device)
        };
        let first_vector = self.inputs.len() - self.vectors;
        let inputs = self.inputs.iter().enumerate();
        let inputs: Vec<Tensor> = inputs
            .map(|(i, shape)| normal(i, shape, if i < first_vector { dtype } else { DType::F32 }))
            .collect::<Result<_>>()?;
        let y = (self.run)(&Tape::off(), &inputs)?;
        Ok(Loaded { dy: normal(99, y.shape(), y.dtype())?, inputs, tracked: self.tracked, run: self.run.clone() })
    }
}

impl Loaded {
    /// Does it once.
    ///
    /// # Errors
    /// What the op or the device say.
    pub fn run(&self, backward: bool) -> Result<()> {
        if !backward {
            return (self.run)(&Tape::off(), &self.inputs).map(drop);
        }
        let tape = Tape::watching(&self.inputs[..self.tracked]);
        let y = (self.run)(&tape, &self.inputs)?;
        tape.backward_from(&y, self.dy.clone()).map(drop)
    }
}

#[cfg(test)]
mod tests;
