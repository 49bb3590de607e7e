//! The tape. It is an argument, never a global; what needs no gradient is not recorded.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::later::{Later, Waiting};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Takes the gradient of each output, where there is one.
type Backward = Box<dyn FnOnce(&[Option<Tensor>], &mut Gradients) -> Result<()>>;
/// The gradients of an op's inputs: those that are there now, and those that may wait.
pub(crate) type Made<G> = Result<(G, Vec<Later>)>;

struct Entry {
    op: &'static str,
    outputs: Vec<u64>,
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
        self.record_late(op, inputs, output, |dy, wants, onto| Ok((backward(dy, wants, onto)?, Vec::new())));
    }

    /// [`Tape::record_onto`] of an op that can let gradients wait for others alike. They do where they are those of leaves:
    /// no other gradient reads these.
    pub(crate) fn record_late<'a, const N: usize>(
        &self,
        op: &'static str,
        inputs: [impl Into<Option<&'a Tensor>>; N],
        output: &Tensor,
        backward: impl FnOnce(&Tensor, [bool; N], Option<Tensor>) -> Made<[Option<Tensor>; N]> + 'static,
    ) {
        let inputs = inputs.map(Into::into);
        self.record_many(op, &inputs, std::slice::from_ref(output), move |dy, wants, onto| {
            let wants = std::array::from_fn(|i| wants[i]);
            let dy = dy[0].as_ref().ok_or_else(|| Error::Failed("no gradient of the result".into()))?;
            let (now, later) = backward(dy, wants, onto)?;
            Ok((now.into(), later))
        });
    }

    /// [`Tape::record_late`] of an op of several outputs. `backward` is given the gradients of those that something depends on.
    pub(crate) fn record_many(
        &self,
        op: &'static str,
        inputs: &[Option<&Tensor>],
        outputs: &[Tensor],
        backward: impl FnOnce(&[Option<Tensor>], &[bool], Option<Tensor>) -> Made<Vec<Option<Tensor>>> + 'static,
    ) {
        let tracked: Vec<_> = inputs.iter().map(|x| x.filter(|x| self.wants(x)).map(Tensor::id)).collect();
        let wants: Vec<bool> = tracked.iter().map(Option::is_some).collect();
        if !wants.contains(&true) {
            return;
        }
        let nothing_reads: Vec<bool> = tracked.iter().map(|id| id.is_none_or(|id| self.is_mere_leaf(id))).collect();
        self.record_entry(op, outputs, move |dy, gradients| {
            let onto = tracked.first().copied().flatten().and_then(|id| gradients.by_id.remove(&id));
            let (now, later) = backward(dy, &wants, onto)?;
            for (id, gradient) in tracked.iter().zip(now) {
                if let (Some(id), Some(gradient)) = (*id, gradient) {
                    gradients.add(id, gradient)?;
                }
            }
            later.into_iter().try_for_each(|later| {
                let may_wait = later.inputs.iter().all(|&input| nothing_reads[input]);
                let ids = later.inputs.iter().map(|&input| tracked[input]).collect();
                gradients.wait(Waiting { op, ids, later }, may_wait)
            })
        });
    }

    /// Whether this is a leaf that no recorded op made.
    fn is_mere_leaf(&self, id: u64) -> bool {
        self.0.as_ref().is_some_and(|recording| {
            let recording = recording.borrow();
            recording.leaves.contains(&id) && recording.entries.iter().all(|entry| !entry.outputs.contains(&id))
        })
    }

    /// Like [`Tape::record`], for ops whose inputs are not known one by one (a recomputed block).
    pub(super) fn record_entry(
        &self,
        op: &'static str,
        outputs: &[Tensor],
        backward: impl FnOnce(&[Option<Tensor>], &mut Gradients) -> Result<()> + 'static,
    ) {
        if let Some(recording) = &self.0 {
            let mut recording = recording.borrow_mut();
            let outputs: Vec<u64> = outputs.iter().map(Tensor::id).collect();
            recording.tracked.extend(&outputs);
            recording.entries.push(Entry { op, outputs, backward: Box::new(backward) });
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
        while let Some(Entry { op, outputs, backward }) = entries.pop() {
            let of_output = |id: &u64| match leaves.contains(id) {
                true => gradients.by_id.get(id).cloned(),
                false => gradients.by_id.remove(id),
            };
            let dy: Vec<Option<Tensor>> = outputs.iter().map(of_output).collect();
            if dy.iter().any(Option::is_some) {
                named(op, || backward(&dy, &mut gradients))?;
            }
        }
        gradients.make_all()?;
        gradients.by_id.retain(|id, _| leaves.contains(id));
        Ok(gradients)
    }
}

/// Names the op in the message of an error that its gradient ran into.
fn named<T>(op: &'static str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    run().map_err(|e| Error::Failed(format!("gradient of {op}: {e}")))
}

/// Gradients by tensor.
#[derive(Default)]
pub struct Gradients {
    by_id: HashMap<u64, Tensor>,
    /// Groups of those that wait for others alike.
    waiting: Vec<Vec<Waiting>>,
}

impl Gradients {
    pub fn get(&self, x: &Tensor) -> Option<&Tensor> {
        self.by_id.get(&x.id())
    }

    /// Takes the gradient of `x` out.
    pub fn remove(&mut self, x: &Tensor) -> Option<Tensor> {
        self.by_id.remove(&x.id())
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (u64, Tensor)> {
        self.by_id.into_iter()
    }

    /// Adds to the gradient of a tensor that several ops read.
    pub(super) fn add(&mut self, id: u64, gradient: Tensor) -> Result<()> {
        let sum = match self.by_id.remove(&id) {
            None => gradient,
            Some(old) => old.accumulate(gradient)?,
        };
        self.by_id.insert(id, sum);
        Ok(())
    }

    /// Makes these with others alike as soon as there are enough of them, or at once where they may not wait.
    fn wait(&mut self, one: Waiting, may_wait: bool) -> Result<()> {
        let most = one.later.kind.most;
        if !may_wait || most <= 1 {
            return self.make(vec![one]);
        }
        let alike = self.waiting.iter().position(|group| group[0].is_like(&one));
        let place = alike.unwrap_or(self.waiting.len());
        if alike.is_none() {
            self.waiting.push(Vec::new());
        }
        self.waiting[place].push(one);
        if self.waiting[place].len() < most {
            return Ok(());
        }
        let group = self.waiting.remove(place);
        self.make(group)
    }

    fn make(&mut self, group: Vec<Waiting>) -> Result<()> {
        let (op, kind, factor) = (group[0].op, group[0].later.kind, group[0].later.factor);
        let (ids, from): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.ids, one.later.from)).unzip();
        let made = named(op, || (kind.make)(&from, factor))?;
        for (id, gradient) in ids.into_iter().flatten().zip(made.into_iter().flatten()) {
            if let (Some(id), Some(gradient)) = (id, gradient) {
                self.add(id, gradient)?;
            }
        }
        Ok(())
    }

    /// Makes those that no others have come for.
    fn make_all(&mut self) -> Result<()> {
        std::mem::take(&mut self.waiting).into_iter().try_for_each(|group| self.make(group))
    }
}
