//! The flat buffers in the CPU's memory.

use super::{Progress, Settings};
use crate::ops::optimizer::{adamw, clip_factor, move_average, squared_norm};
use crate::tensor::{DType, Tensor};

/// Of one length each.
#[derive(Clone)]
pub struct Buffers {
    pub master: Vec<f32>,
    pub gradient: Vec<f32>,
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
    /// A running mean of the master copy, where the run keeps one.
    pub average: Option<Vec<f32>>,
    pub progress: Progress,
}

impl Buffers {
    pub fn new(master: Vec<f32>, dtype: DType) -> Self {
        let zeros = vec![0.0; master.len()];
        let (gradient, first_moment, second_moment) = (zeros.clone(), zeros.clone(), zeros);
        Self {
            master,
            gradient,
            first_moment,
            second_moment,
            average: None,
            progress: Progress::new(dtype),
        }
    }

    /// Values in the precision of the model.
    pub fn mirror(values: &[f32], dtype: DType) -> Tensor {
        Tensor::new(values.to_vec(), &[values.len()]).cast(dtype)
    }

    pub fn accumulate(&mut self, offset: usize, gradient: &Tensor) {
        let sum = &mut self.gradient[offset..][..gradient.len()];
        for (s, &g) in sum.iter_mut().zip(gradient.reals::<f32>().iter()) {
            *s += g;
        }
    }

    pub fn gradient_norm(&self) -> f64 {
        squared_norm(&self.gradient).sqrt() / f64::from(self.progress.scale)
    }

    pub(super) fn update(&mut self, settings: Settings) -> f64 {
        let Settings {
            adamw: settings,
            max_norm,
            average_keeps,
        } = settings;
        let norm = self.gradient_norm();
        let factor = if max_norm > 0.0 {
            clip_factor(norm, max_norm)
        } else {
            1.0
        };
        let factor = factor / f64::from(self.progress.scale);
        self.progress.advance(norm.is_finite());
        if norm.is_finite() {
            let (m, v, update) = (&mut self.first_moment, &mut self.second_moment, self.progress.updates);
            adamw(&mut self.master, &self.gradient, m, v, settings, update, factor);
        }
        self.gradient.fill(0.0);
        if let Some(average) = &mut self.average {
            move_average(average, &self.master, average_keeps);
        }
        norm
    }
}
