//! Learning rates by optimizer step, equal to those of `diffusers.optimization.get_scheduler` (0.42.1). A step that f16 skips
//! because its gradients overflowed does not count, as in accelerate, which diffusers' and peft's scripts train with, and in
//! transformers' `Trainer`. (PyTorch's own example of `torch.amp.GradScaler` moves its schedule at every step.)

use std::f64::consts::PI;

use crate::settings::named;

/// The end of the polynomial schedule, as diffusers' default `lr_end`.
const POLYNOMIAL_END: f64 = 1e-7;

/// How the rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    // A constant rate with a warm-up is what `constant` and a warm-up mean here.
    #[value(aliases = ["constant_with_warmup", "constant-with-warmup"])]
    Constant,
    /// Falls in a line to 0
    Linear,
    /// Half a cosine wave down to 0
    Cosine,
    /// One or more half waves, each from the full rate down to 0 (diffusers' `cosine_with_restarts`)
    #[value(aliases = ["cosine_restarts", "cosine_with_restarts", "cosine-with-restarts"])]
    CosineRestarts,
    /// `(1 - progress)^power`, down to 1e-7
    Polynomial,
}

named!(Shape, "learning-rate schedule");

/// The learning rate of every optimizer step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct LrSchedule {
    pub shape: Shape,
    /// The rate after the warm-up.
    pub lr: f64,
    /// Steps of the linear rise from 0.
    pub warmup: u64,
    /// Optimizer steps of the run, warm-up included.
    pub steps: u64,
    /// Half waves of [`Shape::CosineRestarts`].
    pub cycles: f64,
    /// Exponent of [`Shape::Polynomial`].
    pub power: f64,
}

impl LrSchedule {
    /// With diffusers' defaults: one cycle, power 1.
    pub fn new(shape: Shape, lr: f64, warmup: u64, steps: u64) -> Self {
        Self { shape, lr, warmup, steps, cycles: 1.0, power: 1.0 }
    }

    /// The rates of all optimizer steps of the run, up to the last that differs from the one before; at least one.
    pub fn rates(&self) -> Vec<f64> {
        let differing = match self.shape {
            Shape::Constant => self.warmup.min(self.steps) + 1,
            _ => self.steps.max(1),
        };
        (0..differing).map(|step| self.at(step)).collect()
    }

    /// The rate of optimizer step `step`, counted from 0: step 0 of a warm-up has rate 0, as in diffusers.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * step as f64 / self.warmup as f64;
        }
        let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / length;
        match self.shape {
            Shape::Constant => self.lr,
            Shape::Linear => self.lr * (1.0 - progress).max(0.0),
            // Past the end the wave would rise again: diffusers lets it, and no run gets there.
            Shape::Cosine => self.lr * (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
            Shape::CosineRestarts if progress >= 1.0 => 0.0,
            Shape::CosineRestarts => self.lr * (0.5 * (1.0 + (PI * ((self.cycles * progress) % 1.0)).cos())).max(0.0),
            // A rate below the end point would otherwise rise towards it.
            Shape::Polynomial if self.lr <= POLYNOMIAL_END => self.lr,
            Shape::Polynomial if step > self.steps => POLYNOMIAL_END,
            Shape::Polynomial => (self.lr - POLYNOMIAL_END) * (1.0 - progress).powf(self.power) + POLYNOMIAL_END,
        }
    }
}
