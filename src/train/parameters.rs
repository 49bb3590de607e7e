//! All trainable parameters of a run in flat buffers, so that norm, clip, AdamW and checkpoint are one pass each.

use crate::autograd::Gradients;
use crate::nn::Param;
use crate::ops::optimizer::{AdamW, adamw, move_average, squared_norm};
use crate::tensor::{DType, Tensor};

/// Master copy (f32), gradient sums and the two AdamW moments of a list of parameters; each parameter of the model is
/// a view into one mirror of the master in the model's precision.
pub struct FlatParameters {
    params: Vec<Param>,
    dtype: DType,
    pub master: Vec<f32>,
    pub gradient: Vec<f32>,
    pub first_moment: Vec<f32>,
    pub second_moment: Vec<f32>,
    /// A running mean of the master copy, where the run keeps one.
    pub average: Option<Average>,
    /// Optimizer steps taken.
    pub step: u64,
}

/// An exponential moving average of the weights.
pub struct Average {
    pub values: Vec<f32>,
    decay: f64,
}

impl FlatParameters {
    /// Takes the present values of `params` as the start; `dtype` is the precision of the model.
    pub fn new(params: Vec<Param>, dtype: DType) -> Self {
        let master: Vec<f32> = params
            .iter()
            .flat_map(|p| p.get().reals::<f32>().into_owned())
            .collect();
        let zeros = vec![0.0; master.len()];
        let (gradient, first_moment, second_moment) = (zeros.clone(), zeros.clone(), zeros);
        let flat = Self {
            params,
            dtype,
            master,
            gradient,
            first_moment,
            second_moment,
            average: None,
            step: 0,
        };
        flat.publish();
        flat
    }

    /// Keeps an exponential moving average from here on. After step t it decays by `decay`, or by (1 + t) / (10 + t)
    /// where that is less, so that the start is soon forgotten (as diffusers' and TensorFlow's averages do).
    pub fn keep_average(&mut self, decay: f64) {
        let values = self.master.clone();
        self.average = Some(Average { values, decay });
    }

    /// Numbers that are trained.
    pub fn len(&self) -> usize {
        self.master.len()
    }

    pub fn is_empty(&self) -> bool {
        self.master.is_empty()
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The tensors that a tape watches.
    pub fn leaves(&self) -> Vec<Tensor> {
        self.params.iter().map(Param::get).collect()
    }

    /// Makes the model see the master copy. Called after every change of it.
    pub fn publish(&self) {
        self.show(&self.master);
    }

    /// Makes the model see the average, until the next [`FlatParameters::publish`]; the master copy where there is none.
    pub fn publish_average(&self) {
        self.show(self.average.as_ref().map_or(&self.master, |average| &average.values));
    }

    fn show(&self, values: &[f32]) {
        let mirror = Tensor::new(values.to_vec(), &[values.len()]).cast(self.dtype);
        let mut offset = 0;
        for param in &self.params {
            let shape = param.get().shape().to_vec();
            param.set(mirror.view(offset, &shape));
            offset += shape.iter().product::<usize>();
        }
    }

    /// Adds one micro-batch's gradients. A parameter that the loss did not depend on adds nothing.
    pub fn accumulate(&mut self, gradients: &Gradients) {
        let mut offset = 0;
        for param in &self.params {
            let value = param.get();
            let sum = &mut self.gradient[offset..][..value.len()];
            if let Some(gradient) = gradients.get(&value) {
                for (s, &g) in sum.iter_mut().zip(gradient.reals::<f32>().iter()) {
                    *s += g;
                }
            }
            offset += value.len();
        }
    }

    /// Global 2-norm of the accumulated gradient.
    pub fn gradient_norm(&self) -> f64 {
        squared_norm(&self.gradient).sqrt()
    }

    /// One AdamW step with the gradient clipped to a global norm of `max_norm` (0: not clipped); clears the gradient
    /// and returns its norm before clipping. The factor is PyTorch's: max / (norm + 1e-6), where that is below 1.
    pub fn update(&mut self, settings: AdamW, max_norm: f64) -> f64 {
        let norm = self.gradient_norm();
        let factor = if max_norm > 0.0 {
            (max_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        self.step += 1;
        let (m, v) = (&mut self.first_moment, &mut self.second_moment);
        adamw(&mut self.master, &self.gradient, m, v, settings, self.step, factor);
        self.gradient.fill(0.0);
        if let Some(average) = &mut self.average {
            let t = self.step as f64;
            let decay = average.decay.min((1.0 + t) / (10.0 + t));
            move_average(&mut average.values, &self.master, decay);
        }
        self.publish();
        norm
    }
}
