//! The tape. It is an argument, never a global; what needs no gradient is not recorded.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::tensor::Tensor;

type Backward = Box<dyn FnOnce(&Tensor, &mut Gradients) -> Result<()>>;

struct Entry {
    op: &'static str,
    output: u64,
    backward: Backward,
}

/// Records ops on tracked tensors. [`Tape::off`] records nothing and costs nothing.
#[derive(Default)]
pub struct Tape(Option<RefCell<Recording>>);

#[derive(Default)]
struct Recording {
    /// Tensors whose gradient somebody asked for; their gradients survive [`Tape::backward`].
    leaves: HashSet<u64>,
    /// Leaves, and everything computed from them.
    tracked: HashSet<u64>,
    entries: Vec<Entry>,
}

impl Tape {
    /// A tape for inference: nothing is tracked.
    pub fn off() -> Self {
        Self(None)
    }

    /// A tape that tracks `leaves` and all that is computed from them.
    pub fn watching<'a>(leaves: impl IntoIterator<Item = &'a Tensor>) -> Self {
        Self::watching_ids(leaves.into_iter().map(Tensor::id).collect())
    }

    pub(super) fn watching_ids(leaves: HashSet<u64>) -> Self {
        let tracked = leaves.clone();
        Self(Some(RefCell::new(Recording { leaves, tracked, entries: Vec::new() })))
    }

    pub(super) fn leaves(&self) -> HashSet<u64> {
        self.0.as_ref().map(|r| r.borrow().leaves.clone()).unwrap_or_default()
    }

    /// Whether a gradient for `x` is needed.
    pub fn wants(&self, x: &Tensor) -> bool {
        self.0.as_ref().is_some_and(|r| r.borrow().tracked.contains(&x.id()))
    }

    /// Appends one op of N `inputs`: tensors, or `Option`s of them where some may be missing. `backward` is given the
    /// output's gradient and for each input whether its gradient is wanted, and returns the gradients in the same order:
    /// `None` where it is not wanted. Dropped unrecorded if no input is tracked.
    pub fn record<'a, const N: usize>(
        &self,
        op: &'static str,
        inputs: [impl Into<Option<&'a Tensor>>; N],
        output: &Tensor,
        backward: impl FnOnce(&Tensor, [bool; N]) -> Result<[Option<Tensor>; N]> + 'static,
    ) {
        self.record_onto(op, inputs, output, |dy, wants, onto| {
            let mut gradients = backward(dy, wants)?;
            if let (Some(first), Some(onto)) = (gradients.first_mut(), onto) {
                *first = Some(match first.take() {
                    Some(gradient) => onto.accumulate(gradient)?,
                    None => onto,
                });
            }
            Ok(gradients)
        });
    }

    /// [`Tape::record`] of an op that can add to what is there of the gradient of its first input, in the pass that makes its
    /// own part: `backward` is given that too, where there is some, and returns the sum.
    pub fn record_onto<'a, const N: usize>(
        &self,
        op: &'static str,
        inputs: [impl Into<Option<&'a Tensor>>; N],
        output: &Tensor,
        backward: impl FnOnce(&Tensor, [bool; N], Option<Tensor>) -> Result<[Option<Tensor>; N]> + 'static,
    ) {
        let tracked = inputs.map(|x| x.into().filter(|x| self.wants(x)).map(Tensor::id));
        let wants = tracked.map(|id| id.is_some());
        if !wants.contains(&true) {
            return;
        }
        self.record_entry(op, output, move |dy, gradients| {
            let onto = tracked.first().copied().flatten().and_then(|id| gradients.0.remove(&id));
            for (id, gradient) in tracked.into_iter().zip(backward(dy, wants, onto)?) {
                if let (Some(id), Some(gradient)) = (id, gradient) {
                    gradients.add(id, gradient)?;
                }
            }
            Ok(())
        });
    }

    /// Like [`Tape::record`], for ops whose inputs are not known one by one (a recomputed block).
    pub(super) fn record_entry(
        &self,
        op: &'static str,
        output: &Tensor,
        backward: impl FnOnce(&Tensor, &mut Gradients) -> Result<()> + 'static,
    ) {
        if let Some(recording) = &self.0 {
            let mut recording = recording.borrow_mut();
            recording.tracked.insert(output.id());
            recording.entries.push(Entry { op, output: output.id(), backward: Box::new(backward) });
        }
    }

    /// For an op without a backward pass: fails if `x` is tracked.
    ///
    /// # Errors
    /// [`Error::NoGradient`] where `x` is tracked.
    pub fn refuse(&self, op: &'static str, x: &Tensor) -> Result<()> {
        if self.wants(x) { Err(Error::NoGradient { op }) } else { Ok(()) }
    }

    /// Gradients of a scalar with respect to every leaf that it depends on. Uses the tape up; what the ops saved is
    /// freed as it goes.
    ///
    /// # Errors
    /// [`Error::Shape`] where `loss` is not a scalar; what the gradient of an op says, with the op's name.
    pub fn backward(self, loss: &Tensor) -> Result<Gradients> {
        if loss.len() != 1 {
            return Err(Error::shape("backward", format!("the loss must be a scalar, not {:?}", loss.shape())));
        }
        let one = Tensor::full(loss.shape(), 1.0, loss.dtype()).to(&loss.device())?;
        self.backward_from(loss, one)
    }

    /// As [`Tape::backward`], from a given gradient of `output`.
    ///
    /// # Errors
    /// What the gradient of an op says, with the op's name.
    pub fn backward_from(self, output: &Tensor, gradient: Tensor) -> Result<Gradients> {
        let Some(recording) = self.0 else {
            return Ok(Gradients::default());
        };
        let Recording { leaves, mut entries, .. } = recording.into_inner();
        let mut gradients = Gradients::default();
        gradients.add(output.id(), gradient)?;
        while let Some(Entry { op, output, backward }) = entries.pop() {
            let dy =
                if leaves.contains(&output) { gradients.0.get(&output).cloned() } else { gradients.0.remove(&output) };
            if let Some(dy) = dy {
                named(op, || backward(&dy, &mut gradients))?;
            }
        }
        gradients.0.retain(|id, _| leaves.contains(id));
        Ok(gradients)
    }
}

/// Names the op in the message of an error that its gradient ran into.
fn named(op: &'static str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    run().map_err(|e| Error::Failed(format!("gradient of {op}: {e}")))
}

/// Gradients by tensor.
#[derive(Default)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    pub fn get(&self, x: &Tensor) -> Option<&Tensor> {
        self.0.get(&x.id())
    }

    /// Takes the gradient of `x` out.
    pub fn remove(&mut self, x: &Tensor) -> Option<Tensor> {
        self.0.remove(&x.id())
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (u64, Tensor)> {
        self.0.into_iter()
    }

    /// Adds to the gradient of a tensor that several ops read.
    pub(super) fn add(&mut self, id: u64, gradient: Tensor) -> Result<()> {
        let sum = match self.0.remove(&id) {
            None => gradient,
            Some(old) => old.accumulate(gradient)?,
        };
        self.0.insert(id, sum);
        Ok(())
    }
}
