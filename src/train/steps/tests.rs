//! Replayed steps against steps that are done as they come, on the simulator: what a replay reads, and what it must not have
//! fixed, is the same on any GPU.

mod run;
mod texts;

use super::*;
use crate::autograd::Tape;
use crate::data::batch::MicroBatch;
use crate::device::gpu::Gpu;
use crate::device::gpu::{Checks, Order};
use crate::tensor::DType;
use run::{End, Run};

const ACCUMULATED: usize = 2;
const MAX_NORM: f64 = 1e-3;

/// The learning rate of an update.
fn rate(update: u64) -> f64 {
    1e-3 / (update + 1) as f64
}

/// Compares `steps` replayed steps with direct ones, and returns what both told and came to.
fn compare(dtype: DType, steps: u64, batch: impl Fn(&Run, u64) -> MicroBatch) -> (Vec<StepReport>, End) {
    let mut direct = Run::new(dtype);
    let expected = direct.direct(steps, &batch);
    let mut run = Run::new(dtype);
    let mut replay = run.replay(steps);
    for step in 0..steps {
        run.replayed(&mut replay, step, &batch);
    }
    assert!(replay.micro_batch.graph().is_some() && replay.update.graph().is_some());
    let told = replay.reports().expect("a device");
    assert!(told.iter().map(|report| report.step).eq(1..=steps));
    let values = |report: &StepReport| {
        let StepReport { loss, grad_norm, lr, .. } = *report;
        (loss.to_bits(), grad_norm.to_bits(), lr.to_bits(), report.loss_scale)
    };
    assert!(told.iter().map(values).eq(expected.iter().map(values)), "{told:?}, {expected:?}");
    let (ours, theirs) = (run.end(), direct.end());
    for ((name, ours), (_, theirs)) in ours.tensors.iter().zip(&theirs.tensors) {
        assert!(ours.bytes() == theirs.bytes(), "{name} differs");
    }
    assert_eq!(ours.progress, theirs.progress);
    assert_ne!(ours.of("master").bytes(), ours.of("average").bytes());
    (told, ours)
}

/// That all steps were updates whose gradients were clipped.
fn all_clipped((told, _): (Vec<StepReport>, End)) {
    let clipped =
        |report: &StepReport| report.loss.is_finite() && report.grad_norm.is_finite() && report.grad_norm > MAX_NORM;
    assert!(told.iter().all(clipped), "{told:?}");
}

#[test]
fn replayed_steps_give_the_same_bytes() {
    all_clipped(compare(DType::F32, 4, |run, number| run.batch(number, 2, false)));
}

#[test]
fn replayed_steps_give_the_same_bytes_in_bf16_with_given_noise() {
    all_clipped(compare(DType::Bf16, 4, |run, number| run.batch(number, 2, true)));
}

/// A step whose gradients leave f16, in a step that is replayed: nothing changes but the scale, which halves, and the next
/// step is the update that this one was not, at its rate.
#[test]
fn a_replayed_step_that_overflows_is_skipped() {
    const BROKEN: u64 = 3;
    let batch = |run: &Run, number: u64| {
        let mut batch = run.batch(number, 2, false);
        if number == BROKEN * ACCUMULATED as u64 {
            // The velocity has their size, and its gradient 2 / 512 of that times the scale.
            let wide = batch.latents.reals::<f32>().iter().map(|x| 4000.0 * x).collect();
            batch.latents = Tensor::new::<f32>(wide, batch.latents.shape()).cast(DType::F16);
        }
        batch
    };
    let (told, ended) = compare(DType::F16, BROKEN + 2, batch);
    let skipped: Vec<bool> = told.iter().map(|report| !report.grad_norm.is_finite()).collect();
    assert_eq!(skipped, [false, false, false, true, false], "{told:?}");
    assert!(told.iter().all(|report| report.loss.is_finite()), "{told:?}");
    let scales: Vec<_> = told.iter().filter_map(|report| report.loss_scale).collect();
    assert_eq!(scales, [65536.0, 65536.0, 65536.0, 65536.0, 32768.0]);
    let rates: Vec<f64> = told.iter().map(|report| report.lr).collect();
    assert_eq!(rates, [0, 1, 2, 3, 3].map(rate));
    assert_eq!(ended.progress.values(), [32768.0, 1.0, BROKEN as f32 + 1.0]);
    let (_, before) = compare(DType::F16, BROKEN, batch);
    let (_, after) = compare(DType::F16, BROKEN + 1, batch);
    for name in ["master", "first_moment", "second_moment"] {
        assert_eq!(before.of(name).bytes(), after.of(name).bytes(), "{name}");
    }
}

/// Micro-batches of another size, which are recorded anew: also where they take the same bytes.
#[test]
fn sizes_may_change() {
    let sizes = |number: u64| match number {
        4..6 => 1,
        _ => 2,
    };
    all_clipped(compare(DType::F32, 6, |run, number| run.batch(number, sizes(number), false)));
    all_clipped(compare(DType::F32, 6, |run, number| {
        let mut batch = run.batch(number, 2, false);
        if (4..6).contains(&number) {
            batch.latents = batch.latents.with_shape(&[2, 4, 16, 4]);
        }
        batch
    }));
}

/// What steps measured stays on the device until there are sixteen of them; then there is room for as many again.
#[test]
fn sixteen_steps_are_told_at_once() {
    let mut run = Run::new(DType::F32);
    let mut replay = run.replay(1);
    let batch = |run: &Run, number| run.batch(number, 1, false);
    for first in [0, STEPS as u64] {
        for step in first..first + STEPS as u64 {
            run.replayed(&mut replay, step, batch);
        }
        assert!(replay.is_full());
        let told = replay.reports().expect("a device");
        let losses: Vec<f64> = told.iter().map(|report| report.loss).collect();
        assert!(told.iter().map(|report| report.step).eq(first + 1..=first + STEPS as u64));
        assert!(losses.windows(2).all(|pair| pair[0] != pair[1]) && losses.iter().all(|loss| *loss > 0.0));
        assert!(!replay.is_full());
    }
}

/// What is recorded at one step is what would be recorded at any other: all that differs is in memory. And after the first
/// step nothing is asked of the driver.
#[test]
fn nothing_of_a_step_is_fixed() {
    let mut run = Run::new(DType::F32);
    let mut replay = run.replay(4);
    let batch = |run: &Run, number| run.batch(number, 2, false);
    run.replayed(&mut replay, 0, batch);
    let after_first = run.gpu.usage();
    run.replayed(&mut replay, 1, batch);
    let recorded = [&replay.micro_batch, &replay.update].map(|work| work.graph().expect("recorded").commands());
    for step in 2..4 {
        // As if nothing had been recorded yet.
        replay.micro_batch = CachedGraph::Done(run.gpu.memory_state());
        replay.update = CachedGraph::Done(run.gpu.memory_state());
        run.replayed(&mut replay, step, batch);
        let again = [&replay.micro_batch, &replay.update].map(|work| work.graph().expect("recorded").commands());
        for (first, now) in recorded.iter().zip(&again) {
            assert!(!first.is_empty());
            assert_eq!(first.len(), now.len());
            for (first, now) in first.iter().zip(now) {
                assert_eq!(first, now, "step {step}");
            }
        }
    }
    assert_eq!(run.gpu.usage().growths, after_first.growths);
}

/// A number that the host passes is seen to differ, and a number that it reads is refused.
#[test]
fn work_that_cannot_be_replayed_is_told() {
    let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
    let x = gpu.upload(&[1.0_f32; 64]).expect("room");
    let tensor = Tensor::on_gpu(x.clone(), &[64]);
    let scaled = |factor: f64| {
        let work = || crate::ops::scale(&Tape::off(), &tensor, factor).map(drop);
        gpu.record(work).expect("a recording").commands()
    };
    assert_eq!(scaled(0.5), scaled(0.5));
    assert_ne!(scaled(0.5), scaled(0.25));
    let read = gpu.record(|| x.download::<f32>().map(drop));
    assert!(read.err().expect("refused").to_string().contains("read by the host"));
    let copied = gpu.record(|| gpu.upload(&[1.0_f32]).map(drop));
    assert!(copied.err().expect("refused").to_string().contains("copies from the host"));
    let mut left = None;
    let leaves = gpu.record(|| {
        left = Some(gpu.buffer(DType::F32, 1)?);
        Ok(())
    });
    assert!(leaves.err().expect("refused").to_string().contains("leaves other buffers behind"));
    // After all that the device does as it is told.
    let graph = gpu.record(|| x.clear()).expect("a recording");
    assert_eq!(x.download::<f32>().expect("a device")[0], 1.0);
    graph.replay().expect("a device");
    assert_eq!(x.download::<f32>().expect("a device")[0], 0.0);
    drop(left);
    assert!(graph.replay().expect_err("refused").to_string().contains("came or went"));
}
