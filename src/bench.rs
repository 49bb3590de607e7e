//! Work that is timed: ops, and whole training steps with random weights, the same for `selma bench`, `cargo bench` and the
//! scripts in `benches/peers` that time PyTorch beside it.

pub mod beside;
pub mod launches;
pub mod ops;

use std::time::Instant;

use serde_json::{Value, json};

use crate::data::batch::{MicroBatch, Noise};
use crate::device::Device;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::lora::{Targets, attach};
use crate::nn::{Param, UNet, Visitor};
use crate::ops::optimizer::AdamW;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;
use crate::train::steps::Steps;

/// The names of the training steps that any machine can do.
pub const CASES: [&str; 2] = ["tiny", "sd15"];
/// The training step that GPUs are compared by.
pub const GPU_CASE: &str = "sd15_512";
/// The same at batch 1 and 4: on cards with less memory.
pub const SMALL_GPU_CASES: [&str; 2] = ["sd15_512_b1", "sd15_512_b4"];
/// What [`GPU_CASE`] computes: forward, the gradients that are needed, and the LoRA in its factored form.
pub const GPU_CASE_FLOPS: f64 = 16.0 * (803.273e9 + 962.406e9 + 107.89e9);

const LR: f64 = 3e-4;

/// One LoRA training step: draw and add noise, forward, loss, backward, clip to norm 1, AdamW. Attention LoRA.
pub struct TrainStep {
    unet: UNet,
    flat: FlatParameters,
    objective: Objective,
    batch: MicroBatch,
    steps: Steps,
    /// Steps that were run.
    count: u64,
}

impl TrainStep {
    /// `tiny` is a two-block UNet, batch 16, 16x16 latents, rank 8; `sd15` the UNet of Stable Diffusion 1.5, batch 1, 32x32,
    /// rank 8; `sd15_512` the same at batch 16, 64x64, rank 128, and `sd15_512_b1` and `sd15_512_b4` at batch 1 and 4.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name; where the device has no room.
    pub fn new(case: &str, device: &Device, dtype: DType) -> Result<Self> {
        let (config, batch, latent, rank) = match case {
            "tiny" => (tiny(), 16, 16, 8),
            "sd15" => (sd15(), 1, 32, 8),
            "sd15_512_b1" => (sd15(), 1, 64, 128),
            "sd15_512_b4" => (sd15(), 4, 64, 128),
            GPU_CASE => (sd15(), 16, 64, 128),
            _ => {
                let cases = CASES.join(", ");
                return Err(Error::Usage(format!("no case {case}: expected one of {cases}, {GPU_CASE}")));
            }
        };
        let context = config["cross_attention_dim"].as_u64().unwrap_or(0) as usize;
        let mut unet = UNet::initial(config, 0, dtype)?;
        unet.to(device)?;
        let params = branches(&mut unet, rank, dtype)?;
        let normals =
            |stream, shape: &[usize]| Tensor::new(random::normals(0, stream, 0, 0, shape.iter().product()), shape);
        let map = [batch, latent, latent, 4];
        Ok(Self {
            flat: FlatParameters::new(params, dtype, adamw())?,
            unet,
            objective: Objective {
                schedule: schedule()?,
                prediction: Prediction::Epsilon,
                snr_gamma: None,
                loss: Loss::default(),
            },
            batch: MicroBatch {
                latents: normals(Stream::Latents, &map).cast(dtype),
                noise: noise(batch, 0),
                timesteps: (0..batch).map(|i| (i * 397 + 211) % 1000).collect(),
                weights: vec![1.0; batch],
                mask: None,
                context: normals(Stream::Posterior, &[batch, 77, context]).cast(dtype),
                added: None,
            },
            steps: Steps::new(device, 1, vec![LR], &[1.0])?,
            count: 0,
        })
    }

    /// Runs the step and returns its loss.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&mut self) -> Result<f64> {
        self.queue()?;
        self.loss()
    }

    /// Runs the step and returns its seconds, on a GPU by the device's clock.
    ///
    /// # Errors
    /// [`Error::Failed`] where the loss is no number; what the device says.
    pub fn seconds(&mut self) -> Result<f64> {
        let seconds = match self.unet.device() {
            Device::Gpu(gpu) => gpu.seconds(|| self.queue())?,
            Device::Cpu => {
                let begin = Instant::now();
                self.queue()?;
                begin.elapsed().as_secs_f64()
            }
        };
        let loss = self.loss()?;
        if !loss.is_finite() {
            return Err(Error::Failed(format!("the loss is {loss}: the time would mean nothing")));
        }
        Ok(seconds)
    }

    /// Runs the step; its loss may stay in a GPU's memory.
    fn queue(&mut self) -> Result<()> {
        self.batch.noise = noise(self.batch.timesteps.len(), self.count);
        self.count += 1;
        self.steps.micro_batch(&self.objective, &self.unet, &mut self.flat, &self.batch, 1.0)?;
        self.steps.update(&mut self.flat, 1.0)
    }

    /// The loss of the step that ran last.
    fn loss(&mut self) -> Result<f64> {
        Ok(self.steps.reports()?.last().map_or(f64::NAN, |report| report.loss))
    }
}

/// The optimizer of every case.
fn adamw() -> Box<AdamW> {
    Box::new(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 })
}

/// That of Stable Diffusion.
fn schedule() -> Result<NoiseSchedule> {
    let schedule = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
    NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &schedule)?)
}

/// That of a step.
fn noise(batch: usize, step: u64) -> Noise {
    let positions = (step * batch as u64..).take(batch).collect();
    Noise::Drawn { seed: 0, positions }
}

/// LoRA branches on the attention of a network.
pub(crate) fn branches(unet: &mut UNet, rank: usize, dtype: DType) -> Result<Vec<Param>> {
    let targets = Targets::default();
    branches_where(&mut |f| unet.visit(f), &|name, shape| targets.matches(name, shape), rank, dtype)
}

/// LoRA branches on the layers of a network whose names end in `suffix`.
#[cfg(all(test, feature = "simulator"))]
pub(crate) fn branches_of(
    visit: &mut dyn FnMut(&mut Visitor),
    suffix: &str,
    rank: usize,
    dtype: DType,
) -> Result<Vec<Param>> {
    branches_where(visit, &|name, _| name.ends_with(suffix), rank, dtype)
}

fn branches_where(
    visit: &mut dyn FnMut(&mut Visitor),
    chosen: &dyn Fn(&str, &[usize]) -> bool,
    rank: usize,
    dtype: DType,
) -> Result<Vec<Param>> {
    let (mut params, mut failure) = (Vec::new(), None);
    visit(&mut |mut layer| {
        let shape = attach::weight_shape(&layer);
        if !chosen(layer.name(), &shape) {
            return;
        }
        let index = params.len() as u64;
        let a = random::normals(1, Stream::Init, index, 0, rank * shape[1]);
        let a = Tensor::new(a.into_iter().map(|x| x / rank as f32).collect(), &[rank, shape[1]]);
        let b = Tensor::zeros(&[shape[0], rank], DType::F32);
        match attach::branch(&mut layer, &a, &b, 1.0, dtype) {
            Ok(pair) => params.extend(pair),
            Err(e) => failure = Some(e),
        }
    });
    failure.map_or(Ok(params), Err)
}

/// `unet/config.json` of Stable Diffusion 1.5.
pub fn sd15() -> Value {
    json!({
        "sample_size": 64, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "cross_attention_dim": 768,
        "attention_head_dim": 8, "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu",
    })
}

fn tiny() -> Value {
    json!({
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 64,
        "attention_head_dim": 4, "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu",
    })
}
