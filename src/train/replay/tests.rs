//! Replayed steps against steps that are done as they come, on the simulator: what a replay reads, and what it must not have
//! fixed, is the same on any GPU.

use serde_json::json;

use super::*;
use crate::bench::branches;
use crate::device::gpu::{Checks, Order};
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::tensor::random::{self, Stream};
use crate::train::parameters::HostBuffers;
use crate::train::step::Noise;

const ACCUMULATED: usize = 2;
const MAX_NORM: f64 = 1e-3;

/// A network with everything that a step needs.
struct Run {
    gpu: Gpu,
    unet: UNet,
    flat: FlatParameters,
    objective: Objective,
    dtype: DType,
}

impl Run {
    fn new(dtype: DType) -> Self {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
        let config = json!({
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [16, 16], "layers_per_block": 1, "cross_attention_dim": 8,
            "attention_head_dim": 2, "norm_num_groups": 4, "norm_eps": 1e-5, "act_fn": "silu",
        });
        let mut unet = UNet::initial(config, 0, dtype).expect("a network");
        unet.place(&Device::Gpu(gpu.clone())).expect("room");
        let params = branches(&mut unet, 4, dtype).expect("modules");
        let mut flat = FlatParameters::new(params, dtype).expect("room");
        flat.keep_average(0.9).expect("room");
        let schedule = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
        let schedule = SchedulerConfig::parse(Class::Ddpm, &schedule).expect("a schedule");
        let objective = Objective {
            schedule: NoiseSchedule::new(&schedule).expect("a schedule"),
            prediction: Prediction::V,
            snr_gamma: Some(5.0),
        };
        Self {
            gpu,
            unet,
            flat,
            objective,
            dtype,
        }
    }

    /// Micro-batch `number` of `n` samples: other values, positions and timesteps each.
    fn batch(&self, number: u64, n: usize, given: bool) -> MicroBatch {
        let normals = |stream, shape: &[usize]| {
            Tensor::new(random::normals(7, stream, number, 0, shape.iter().product()), shape).cast(self.dtype)
        };
        let map = [n, 8, 8, 4];
        MicroBatch {
            latents: normals(Stream::Latents, &map),
            noise: match given {
                true => Noise::Given(normals(Stream::Noise, &map)),
                false => Noise::Drawn {
                    seed: 7,
                    positions: (number * n as u64..).take(n).collect(),
                },
            },
            timesteps: (0..n).map(|i| (i * 397 + number as usize * 211) % 1000).collect(),
            context: normals(Stream::Posterior, &[n, 5, 8]),
            added: None,
        }
    }

    fn settings(&self, step: u64) -> AdamW {
        AdamW {
            lr: 1e-3 / (step + 1) as f64,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }

    /// Everything that is trained, and the loss and norm of each step.
    fn end(&self, reports: Vec<(f64, f64)>) -> (HostBuffers, Vec<(f64, f64)>) {
        (self.flat.buffers().expect("a device").into_owned(), reports)
    }

    /// Steps as they come, with the micro-batches that `batch` makes.
    fn direct(&mut self, steps: u64, batch: impl Fn(&Self, u64) -> MicroBatch) -> Vec<(f64, f64)> {
        let mut reports = Vec::new();
        for step in 0..steps {
            let mut loss = 0.0;
            for i in 0..ACCUMULATED as u64 {
                let batch = batch(self, step * ACCUMULATED as u64 + i);
                let factor = 1.0 / ACCUMULATED as f64;
                let computed =
                    self.objective
                        .compute(&self.unet, &batch, &self.flat.leaves(), factor, self.flat.loss_scale());
                let computed = computed.expect("a step");
                loss += computed.loss.to_cpu().expect("a device").item() / ACCUMULATED as f64;
                self.flat.accumulate(&computed.gradients).expect("a device");
            }
            reports.push((loss, self.flat.update(self.settings(step), MAX_NORM).expect("a device")));
        }
        reports
    }

    fn replayed(&mut self, replay: &mut Replay, step: u64, batch: impl Fn(&Self, u64) -> MicroBatch) {
        for i in 0..ACCUMULATED as u64 {
            let batch = batch(self, step * ACCUMULATED as u64 + i);
            let factor = 1.0 / ACCUMULATED as f64;
            let done = replay.micro_batch(&self.objective, &self.unet, &mut self.flat, &batch, factor);
            done.expect("a micro-batch");
        }
        let settings = self.settings(step);
        replay.update(&mut self.flat, settings, MAX_NORM).expect("an update");
    }
}

/// Compares `steps` replayed steps with direct ones.
fn compare(dtype: DType, steps: u64, batch: impl Fn(&Run, u64) -> MicroBatch) {
    let mut direct = Run::new(dtype);
    let reports = direct.direct(steps, &batch);
    let mut run = Run::new(dtype);
    let mut replay = Replay::new(&run.gpu, ACCUMULATED).expect("room");
    for step in 0..steps {
        run.replayed(&mut replay, step, &batch);
    }
    assert!(replay.micro_batch.graph().is_some() && replay.update.graph().is_some());
    let told = replay.reports().expect("a device");
    assert!(told.iter().map(|report| report.step).eq(1..=steps));
    let told = told.iter().map(|report| (report.loss, report.grad_norm)).collect();
    let ((ours, told), (theirs, expected)) = (run.end(told), direct.end(reports));
    assert_eq!(told, expected);
    assert!(
        told.iter().all(|&(loss, norm)| loss.is_finite() && norm > MAX_NORM),
        "{told:?}"
    );
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (name, ours, theirs) in [
        ("master", &ours.master, &theirs.master),
        ("gradient", &ours.gradient, &theirs.gradient),
        ("first moment", &ours.first_moment, &theirs.first_moment),
        ("second moment", &ours.second_moment, &theirs.second_moment),
        (
            "average",
            ours.average.as_ref().unwrap(),
            theirs.average.as_ref().unwrap(),
        ),
    ] {
        assert!(bits(ours) == bits(theirs), "{name} differs");
    }
    assert_ne!(ours.master, ours.average.unwrap());
}

#[test]
fn replayed_steps_give_the_same_bytes() {
    compare(DType::F32, 4, |run, number| run.batch(number, 2, false));
}

#[test]
fn replayed_steps_give_the_same_bytes_in_bf16_with_given_noise() {
    compare(DType::Bf16, 4, |run, number| run.batch(number, 2, true));
}

/// Micro-batches of another size, which are recorded anew: also where they take the same bytes.
#[test]
fn sizes_may_change() {
    let sizes = |number: u64| match number {
        4..6 => 1,
        _ => 2,
    };
    compare(DType::F32, 6, |run, number| run.batch(number, sizes(number), false));
    compare(DType::F32, 6, |run, number| {
        let mut batch = run.batch(number, 2, false);
        if (4..6).contains(&number) {
            batch.latents = batch.latents.with_shape(&[2, 4, 16, 4]);
        }
        batch
    });
}

/// What is recorded at one step is what would be recorded at any other: all that differs is in memory. And after the first
/// step nothing is asked of the driver.
#[test]
fn nothing_of_a_step_is_fixed() {
    let mut run = Run::new(DType::F32);
    let mut replay = Replay::new(&run.gpu, ACCUMULATED).expect("room");
    let batch = |run: &Run, number| run.batch(number, 2, false);
    run.replayed(&mut replay, 0, batch);
    let after_first = run.gpu.usage();
    run.replayed(&mut replay, 1, batch);
    let recorded = [&replay.micro_batch, &replay.update].map(|work| work.graph().expect("recorded").commands());
    for step in 2..4 {
        // As if nothing had been recorded yet.
        replay.micro_batch = Repeated::Done(run.gpu.memory_state());
        replay.update = Repeated::Done(run.gpu.memory_state());
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
    let x = gpu.upload(&Tensor::full(&[64], 1.0, DType::F32)).expect("room");
    let scaled = |factor: f32| {
        let work = || crate::device::gpu::elementwise::scale(&x, factor).map(drop);
        gpu.record(work).expect("a recording").commands()
    };
    assert_eq!(scaled(0.5), scaled(0.5));
    assert_ne!(scaled(0.5), scaled(0.25));
    let read = gpu.record(|| x.download(&[64]).map(drop));
    assert!(read.err().expect("refused").to_string().contains("read by the host"));
    let copied = gpu.record(|| gpu.upload(&Tensor::full(&[1], 1.0, DType::F32)).map(drop));
    assert!(
        copied
            .err()
            .expect("refused")
            .to_string()
            .contains("copies from the host")
    );
    let mut left = None;
    let leaves = gpu.record(|| {
        left = Some(gpu.buffer(DType::F32, 1)?);
        Ok(())
    });
    assert!(
        leaves
            .err()
            .expect("refused")
            .to_string()
            .contains("leaves other buffers behind")
    );
    // After all that the device does as it is told.
    let graph = gpu.record(|| x.clear()).expect("a recording");
    assert_eq!(x.download(&[64]).expect("a device").data::<f32>()[0], 1.0);
    graph.replay().expect("a device");
    assert_eq!(x.download(&[64]).expect("a device").data::<f32>()[0], 0.0);
    drop(left);
    assert!(
        graph
            .replay()
            .expect_err("refused")
            .to_string()
            .contains("came or went")
    );
}
