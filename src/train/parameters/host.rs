//! The flat buffers in the CPU's memory.

use std::borrow::Cow;

use super::{Progress, Settings};
use crate::ops::optimizer::{Codes, adamw, adamw_8bit, clip_factor, move_average, squared_norm};
use crate::tensor::{DType, Tensor};

/// AdamW's running means of every gradient and of its square.
#[derive(Clone)]
pub enum Moments {
    Floats([Vec<f32>; 2]),
    /// In 8 bits a value.
    Codes([Codes; 2]),
}

impl Moments {
    pub fn values(&self) -> [Cow<'_, [f32]>; 2] {
        match self {
            Moments::Floats(both) => both.each_ref().map(|moment| Cow::Borrowed(&moment[..])),
            Moments::Codes(both) => both.each_ref().map(|moment| Cow::Owned(moment.values())),
        }
    }

    pub(super) fn in_8_bits(&self) -> Self {
        let [first, second] = self.values();
        Moments::Codes([Codes::new(&first, true), Codes::new(&second, false)])
    }
}

/// Of one length each.
#[derive(Clone)]
pub struct Buffers {
    pub master: Vec<f32>,
    pub gradient: Vec<f32>,
    pub moments: Moments,
    /// A running mean of the master copy, where the run keeps one.
    pub average: Option<Vec<f32>>,
    pub progress: Progress,
}

impl Buffers {
    pub fn new(master: Vec<f32>, dtype: DType) -> Self {
        let zeros = vec![0.0; master.len()];
        Self {
            master,
            gradient: zeros.clone(),
            moments: Moments::Floats([zeros.clone(), zeros]),
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
        let Settings { adamw: settings, max_norm, average_keeps } = settings;
        let norm = self.gradient_norm();
        let factor = if max_norm > 0.0 { clip_factor(norm, max_norm) } else { 1.0 };
        let factor = factor / f64::from(self.progress.scale);
        self.progress.advance(norm.is_finite());
        if norm.is_finite() {
            let (values, gradient, update) = (&mut self.master, &self.gradient, self.progress.updates);
            match &mut self.moments {
                Moments::Floats([m, v]) => adamw(values, gradient, m, v, settings, update, factor),
                Moments::Codes(both) => adamw_8bit(values, gradient, both, settings, update, factor),
            }
        }
        self.gradient.fill(0.0);
        if let Some(average) = &mut self.average {
            move_average(average, &self.master, average_keeps);
        }
        norm
    }
}
