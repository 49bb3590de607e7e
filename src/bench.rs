//! Work that is timed: whole training steps with random weights, the same for `selma bench`, `cargo bench` and the
//! scripts in `benches/peers` that time PyTorch beside it.

use serde_json::{Value, json};

use crate::device::Device;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::{Error, Result};
use crate::lora::{Targets, attach};
use crate::nn::{Param, UNet};
use crate::ops::optimizer::AdamW;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::parameters::FlatParameters;
use crate::train::step::{MicroBatch, Noise, Objective};

/// The names of the training steps.
pub const CASES: [&str; 2] = ["tiny", "sd15"];

/// One LoRA training step: draw and add noise, forward, loss, backward, clip to norm 1, AdamW. Attention LoRA of rank 8.
pub struct TrainStep {
    unet: UNet,
    flat: FlatParameters,
    objective: Objective,
    batch: MicroBatch,
    /// Steps that were run.
    steps: u64,
}

impl TrainStep {
    /// `tiny` is a two-block UNet, batch 16, 16x16 latents; `sd15` the UNet of Stable Diffusion 1.5, batch 1, 32x32.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name; where the device has no room.
    pub fn new(case: &str, device: &Device, dtype: DType) -> Result<Self> {
        let (config, batch, latent) = match case {
            "tiny" => (tiny(), 16, 16),
            "sd15" => (sd15(), 1, 32),
            _ => {
                return Err(Error::Usage(format!(
                    "no case {case}: expected one of {}",
                    CASES.join(", ")
                )));
            }
        };
        let context = config["cross_attention_dim"].as_u64().unwrap_or(0) as usize;
        let mut unet = UNet::initial(config, 0, dtype)?;
        unet.place(device)?;
        let params = branches(&mut unet, dtype)?;
        let normals =
            |stream, shape: &[usize]| Tensor::new(random::normals(0, stream, 0, 0, shape.iter().product()), shape);
        let map = [batch, latent, latent, 4];
        let schedule = json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
        Ok(Self {
            flat: FlatParameters::new(params, dtype)?,
            unet,
            objective: Objective {
                schedule: NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &schedule)?)?,
                prediction: Prediction::Epsilon,
                snr_gamma: None,
            },
            batch: MicroBatch {
                latents: normals(Stream::Latents, &map).cast(dtype),
                noise: noise(batch, 0),
                timesteps: (0..batch).map(|i| (i * 397 + 211) % 1000).collect(),
                context: normals(Stream::Posterior, &[batch, 77, context]).cast(dtype),
                added: None,
            },
            steps: 0,
        })
    }

    /// Runs the step and returns its loss.
    pub fn run(&mut self) -> Result<f64> {
        self.batch.noise = noise(self.batch.timesteps.len(), self.steps);
        self.steps += 1;
        let computed = self.objective.compute(
            &self.unet,
            &self.batch,
            &self.flat.leaves(),
            1.0,
            self.flat.loss_scale(),
        )?;
        self.flat.accumulate(&computed.gradients)?;
        let settings = AdamW {
            lr: 3e-4,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
        };
        self.flat.update(settings, 1.0)?;
        Ok(computed.loss)
    }
}

/// That of a step.
fn noise(batch: usize, step: u64) -> Noise {
    let positions = (step * batch as u64..).take(batch).collect();
    Noise::Drawn { seed: 0, positions }
}

fn branches(unet: &mut UNet, dtype: DType) -> Result<Vec<Param>> {
    const RANK: usize = 8;
    let targets = Targets::default();
    let (mut params, mut failure) = (Vec::new(), None);
    unet.visit(&mut |mut layer| {
        let shape = attach::weight_shape(&layer);
        if !targets.matches(layer.name(), &shape) {
            return;
        }
        let index = params.len() as u64;
        let a = random::normals(1, Stream::Init, index, 0, RANK * shape[1]);
        let a = Tensor::new(a.into_iter().map(|x| x / RANK as f32).collect(), &[RANK, shape[1]]);
        let b = Tensor::zeros(&[shape[0], RANK], DType::F32);
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
