//! One network's optimisation: its loop, its states, its records.

use std::path::PathBuf;

use super::Pretraining;
use crate::autograd::Gradients;
use crate::error::{Error, Result};
use crate::nn::Param;
use crate::ops::optimizer::AdamW;
use crate::tensor::{DType, Tensor};
use crate::train::checkpoint::{self, RunIdentity, State};
use crate::train::lr_schedule::{LrSchedule, Shape};
use crate::train::metrics::Metrics;
use crate::train::parameters::FlatParameters;
use crate::train::watcher::{StepReport, Watcher};

const MAX_GRAD_NORM: f64 = 1.0;

/// What one step computed; `losses` begin with the one that was differentiated.
pub(super) struct StepOutput {
    pub gradients: Gradients,
    pub losses: Vec<(&'static str, f64)>,
}

/// How a network is trained.
pub(super) struct Recipe {
    /// The name of its states and records.
    pub stage: String,
    /// What the progress bar counts.
    pub what: &'static str,
    pub steps: u64,
    /// The highest rate: after the warm-up it falls along a cosine to 0 at the last step.
    pub lr: f64,
    pub warmup: u64,
    pub weight_decay: f64,
    /// Decay of the weights' average.
    pub average: f64,
}

pub(super) struct Stage {
    recipe: Recipe,
    save_every: u64,
    states: PathBuf,
    identity: RunIdentity,
    metrics: Metrics,
    pub flat: FlatParameters,
}

impl Stage {
    /// Goes on from the newest state there is. `identity`: all else that decides the numbers.
    pub fn open(run: &Pretraining, recipe: Recipe, params: Vec<Param>, identity: RunIdentity) -> Result<Self> {
        let states = run.states(&recipe.stage);
        let adamw = AdamW { betas: (0.9, 0.99), eps: 1e-8, weight_decay: recipe.weight_decay };
        let mut flat = FlatParameters::new(params, DType::F32, Box::new(adamw))?;
        flat.keep_average(recipe.average)?;
        if let Some(newest) = checkpoint::list(&states)?.last() {
            State::open(newest, &identity)?.restore(&mut flat)?;
        }
        let records = run.out.join(format!("metrics-{}.jsonl", recipe.stage));
        Ok(Self {
            metrics: Metrics::resume(&records, flat.step)?,
            save_every: run.save_every,
            states,
            identity,
            flat,
            recipe,
        })
    }

    /// Runs the steps that are left; `compute` gets the leaves to differentiate for and the number of the step from 0 on,
    /// `saved` is called after each saved state. In the end the network has the averaged weights.
    ///
    /// # Errors
    /// [`Error::Failed`] when the loss is no longer a number; [`Error::Interrupted`] after a stop.
    pub fn run(
        &mut self,
        watcher: &mut dyn Watcher,
        mut compute: impl FnMut(&[Tensor], u64) -> Result<StepOutput>,
        mut saved: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Recipe { what, steps, .. } = self.recipe;
        watcher.prepared(what, self.flat.step as usize, steps as usize);
        while self.flat.step < steps {
            let done = self.one_step(&mut compute)?;
            watcher.step(&done);
            let (last, stopped) = (done.step == steps, watcher.stopped());
            if last || stopped || done.step.is_multiple_of(self.save_every) {
                self.metrics.flush()?;
                checkpoint::save(&self.states, &self.flat, &self.identity, 1)?;
                self.flat.publish_average()?;
                saved()?;
                self.flat.publish();
            }
            if stopped {
                let message = format!(
                    "stopped after {} of {steps} {what}, which are saved; the same command with --resume goes on",
                    done.step
                );
                return Err(Error::Interrupted(message));
            }
        }
        self.flat.publish_average()?;
        Ok(())
    }

    fn one_step(&mut self, compute: &mut impl FnMut(&[Tensor], u64) -> Result<StepOutput>) -> Result<StepReport> {
        let StepOutput { gradients, losses } = compute(&self.flat.leaves(), self.flat.step)?;
        self.flat.accumulate(&gradients)?;
        let r = &self.recipe;
        let lr = LrSchedule::new(Shape::Cosine, r.lr, r.warmup, r.steps).at(self.flat.step);
        let loss = losses[0].1;
        if !loss.is_finite() || !self.flat.gradient_norm()?.is_finite() {
            let step = self.flat.step + 1;
            return Err(Error::Failed(format!(
                "the loss or its gradient is no longer a number at step {step} of {}",
                r.what
            )));
        }
        let grad_norm = self.flat.update(lr, MAX_GRAD_NORM)?;
        let step = self.flat.step;
        let values = [&losses[..], &[("lr", lr), ("grad_norm", grad_norm)]].concat();
        self.metrics.append(step, &values)?;
        Ok(StepReport { step, loss, grad_norm, loss_scale: None, lr })
    }
}
