//! A small network that is trained, by steps as they come or by replays.

use serde_json::json;

use super::{ACCUMULATED, MAX_NORM, rate};
use crate::bench::branches;
use crate::data::batch::{MicroBatch, Noise};
use crate::device::Device;
use crate::device::gpu::{Checks, Gpu, Order};
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::nn::UNet;
use crate::ops::optimizer::{AdamW, Progress};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;
use crate::train::steps::Steps;
use crate::train::watcher::StepReport;

/// A network with everything that a step needs.
pub struct Run {
    pub gpu: Gpu,
    unet: UNet,
    flat: FlatParameters,
    objective: Objective,
    dtype: DType,
}

/// Stable Diffusion's noise.
pub fn schedule() -> NoiseSchedule {
    let schedule = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
    let schedule = SchedulerConfig::parse(Class::Ddpm, &schedule).expect("a schedule");
    NoiseSchedule::new(&schedule).expect("a schedule")
}

/// What a run has come to.
pub struct End {
    pub tensors: Vec<(String, Tensor)>,
    pub progress: Progress,
}

impl End {
    pub fn of(&self, name: &str) -> &Tensor {
        &self.tensors.iter().find(|(other, _)| other == name).expect("a tensor of the run").1
    }
}

impl Run {
    pub fn new(dtype: DType) -> Self {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
        let config = json!({
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [16, 16], "layers_per_block": 1, "cross_attention_dim": 8,
            "attention_head_dim": 2, "norm_num_groups": 4, "norm_eps": 1e-5, "act_fn": "silu",
        });
        let mut unet = UNet::initial(config, 0, dtype).expect("a network");
        unet.to(&Device::Gpu(gpu.clone())).expect("room");
        let params = branches(&mut unet, 4, dtype).expect("modules");
        let adamw = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 };
        let mut flat = FlatParameters::new(params, dtype, Box::new(adamw)).expect("room");
        flat.keep_average(0.9).expect("room");
        let objective =
            Objective { schedule: schedule(), prediction: Prediction::V, snr_gamma: Some(5.0), loss: Loss::default() };
        Self { gpu, unet, flat, objective, dtype }
    }

    /// Micro-batch `number` of `n` samples: other values, positions and timesteps each.
    pub fn batch(&self, number: u64, n: usize, given: bool) -> MicroBatch {
        let normals = |stream, shape: &[usize]| {
            Tensor::new(random::normals(7, stream, number, 0, shape.iter().product()), shape).cast(self.dtype)
        };
        let map = [n, 8, 8, 4];
        MicroBatch {
            latents: normals(Stream::Latents, &map),
            noise: match given {
                true => Noise::Given(normals(Stream::Noise, &map)),
                false => Noise::Drawn { seed: 7, positions: (number * n as u64..).take(n).collect() },
            },
            timesteps: (0..n).map(|i| (i * 397 + number as usize * 211) % 1000).collect(),
            weights: vec![1.0; n],
            mask: None,
            context: normals(Stream::Posterior, &[n, 5, 8]),
            added: None,
        }
    }

    /// The rate of the next update.
    fn rate(&self) -> f64 {
        rate(self.flat.progress().expect("a device").updates)
    }

    /// Everything that is trained.
    pub fn end(&self) -> End {
        let mut tensors = self.flat.saved().expect("a device");
        tensors.push(("gradient".into(), self.flat.gradient().expect("a device")));
        End { tensors, progress: self.flat.progress().expect("a device") }
    }

    /// Steps as they come, with the micro-batches that `batch` makes.
    pub fn direct(&mut self, steps: u64, batch: impl Fn(&Self, u64) -> MicroBatch) -> Vec<StepReport> {
        let mut reports = Vec::new();
        for step in 0..steps {
            let mut loss = 0.0;
            for i in 0..ACCUMULATED as u64 {
                let batch = batch(self, step * ACCUMULATED as u64 + i);
                let factor = 1.0 / ACCUMULATED as f64;
                let computed =
                    self.objective.compute(&self.unet, &batch, &self.flat.leaves(), factor, self.flat.loss_scale());
                let computed = computed.expect("a step");
                loss += computed.loss.to_cpu().expect("a device").item() / ACCUMULATED as f64;
                self.flat.accumulate(&computed.gradients).expect("a device");
            }
            let (lr, progress) = (self.rate(), self.flat.progress().expect("a device"));
            let grad_norm = self.flat.update(lr, MAX_NORM).expect("a device");
            reports.push(StepReport {
                step: step + 1,
                loss,
                grad_norm,
                loss_scale: progress.adapts().then_some(f64::from(progress.scale)),
                lr,
            });
        }
        reports
    }

    pub fn replay(&self, steps: u64) -> Steps {
        Steps::new(&Device::Gpu(self.gpu.clone()), ACCUMULATED, (0..steps).map(rate).collect(), &self.flat.factors())
            .expect("room")
    }

    pub fn replayed(&mut self, replay: &mut Steps, step: u64, batch: impl Fn(&Self, u64) -> MicroBatch) {
        for i in 0..ACCUMULATED as u64 {
            let batch = batch(self, step * ACCUMULATED as u64 + i);
            let factor = 1.0 / ACCUMULATED as f64;
            let done = replay.micro_batch(&self.objective, &self.unet, &mut self.flat, &batch, factor);
            done.expect("a micro-batch");
        }
        replay.update(&mut self.flat, MAX_NORM).expect("an update");
    }
}
