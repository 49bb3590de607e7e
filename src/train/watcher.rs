//! What a run tells its caller while it works, and how it is told to stop.

/// What one optimizer step measured.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean over the micro-batches.
    pub loss: f64,
    /// Global gradient norm before clipping; not finite where the step changed nothing but the loss scale.
    pub grad_norm: f64,
    /// What the loss was multiplied by, in f16.
    pub loss_scale: Option<f64>,
    pub lr: f64,
}

/// The person or program that started a run.
pub trait Watcher {
    /// A sentence to read.
    fn note(&mut self, text: &str);

    /// `done` of `total` are prepared; `what` names them, such as "images encoded".
    fn prepared(&mut self, what: &'static str, done: usize, total: usize);

    fn step(&mut self, report: &StepReport);

    /// Whether the run should stop where it can be resumed.
    fn stopped(&self) -> bool;
}
