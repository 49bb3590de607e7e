//! What a LoRA training step launches on a GPU, without a GPU and without memory for weights; and which operations with several
//! kernels are among it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::{LR, noise, schedule, sd15};
use crate::data::batch::MicroBatch;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::choice::{Case, Choice, Chooser};
use crate::device::gpu::dry_run::Listed;
use crate::diffusion::Prediction;
use crate::error::{Error, Result};
use crate::lora::{Targets, attach};
use crate::nn::{AddedConditions, Param, UNet};
use crate::tensor::{DType, Tensor};
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;
use crate::train::steps::Steps;

/// The training steps that can be listed.
pub const LISTED: [&str; 3] = [super::GPU_CASE, "sdxl_1024", DORA];
/// [`super::GPU_CASE`] with DoRA.
const DORA: &str = "sd15_512_dora";
/// Of the LoRA.
const RANK: usize = 128;
const TOKENS: usize = 77;

/// A LoRA training step that is not done.
pub struct ListedStep {
    /// `unet/config.json`.
    pub config: Value,
    /// Latents of a side.
    pub latent: usize,
    /// Samples.
    pub batch: usize,
    pub rank: usize,
    /// Whether the LoRA has DoRA's lengths.
    pub decomposes: bool,
}

/// The commands of one micro-batch of `batch` samples, and those of the update behind it.
///
/// # Errors
/// [`Error::Usage`] for another case than those of [`LISTED`].
pub fn launches(case: &str, batch: usize, dtype: DType) -> Result<[Vec<Listed>; 2]> {
    if !LISTED.contains(&case) {
        return Err(Error::Usage(format!("launches of {case}: expected one of {}", LISTED.join(", "))));
    }
    let (gpu, commands) = Gpu::dry_run();
    let mut parts = Vec::new();
    ListedStep::named(case, batch)?.launch(&gpu, dtype, || parts.push(commands.take()))?;
    let [_, micro_batch, update] = parts.try_into().expect("three parts");
    Ok([micro_batch, update])
}

/// Collects what is asked, and takes the cost model's choice.
#[derive(Default)]
struct Asked {
    known: Mutex<HashSet<Case>>,
    /// Each once, in their order.
    cases: Mutex<Vec<(Case, Choice)>>,
}

impl Chooser for Asked {
    fn choose(&self, case: &Case, model: Choice) -> Result<Choice> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(case.clone()) {
            self.cases.lock().unwrap_or_else(PoisonError::into_inner).push((case.clone(), model));
        }
        Ok(model)
    }
}

impl ListedStep {
    /// One of [`LISTED`], or `tiny`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name.
    pub fn named(case: &str, batch: usize) -> Result<Self> {
        let (config, latent, rank) = match case {
            super::GPU_CASE | DORA => (sd15(), 64, RANK),
            "sdxl_1024" => (sdxl(), 128, RANK),
            "tiny" => (super::tiny(), 16, 8),
            _ => {
                let cases = LISTED.join(", ");
                return Err(Error::Usage(format!("no training step {case}: expected one of {cases}, tiny")));
            }
        };
        Ok(Self { config, latent, batch, rank, decomposes: case == DORA })
    }

    /// The operations with several kernels, each once, with what the cost model takes.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn choices(&self, dtype: DType) -> Result<Vec<(Case, Choice)>> {
        let (gpu, _) = Gpu::dry_run();
        let asked = Arc::new(Asked::default());
        gpu.set_chooser(asked.clone());
        self.launch(&gpu, dtype, || {})?;
        let mut cases = asked.cases.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *cases))
    }

    /// Launches the step on a device that executes nothing. `done` is told of the preparation, the micro-batch and the update.
    fn launch(&self, gpu: &Gpu, dtype: DType, mut done: impl FnMut()) -> Result<()> {
        let number = |key: &str| self.config[key].as_u64().map(|number| number as usize);
        let context = number("cross_attention_dim").unwrap_or(0);
        let times = 6 * number("addition_time_embed_dim").unwrap_or(0);
        let pooled = number("projection_class_embeddings_input_dim").and_then(|all| all.checked_sub(times));
        let Self { latent, batch, rank, decomposes, .. } = *self;
        let mut unet = UNet::unset(self.config.clone(), gpu, dtype)?;
        let params = branches(&mut unet, gpu, (rank, decomposes), dtype)?;
        let trained = params.iter().map(|param| param.get().len()).sum();
        let values = Tensor::on_gpu(gpu.buffer(DType::F32, trained)?, &[trained]);
        let mut flat = FlatParameters::over(params, values, dtype, super::adamw())?;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype);
        let batch = MicroBatch {
            latents: zeros(&[batch, latent, latent, 4]),
            noise: noise(batch, 0),
            timesteps: vec![500; batch],
            weights: vec![1.0; batch],
            mask: None,
            context: zeros(&[batch, TOKENS, context]),
            // What SDXL's second text encoder gives for a whole prompt, and sizes.
            added: pooled.map(|pooled| AddedConditions {
                text_embeds: zeros(&[batch, pooled]),
                time_ids: Tensor::zeros(&[batch, 6], DType::F32),
            }),
        };
        let objective = Objective {
            schedule: schedule()?,
            prediction: Prediction::Epsilon,
            snr_gamma: None,
            loss: Loss::default(),
        };
        let mut steps = Steps::new(&Device::Gpu(gpu.clone()), 1, vec![LR], &[1.0])?;
        done();
        steps.micro_batch(&objective, &unet, &mut flat, &batch, 1.0)?;
        done();
        steps.update(&mut flat, 1.0)?;
        done();
        Ok(())
    }
}

/// Branches of attention, and DoRA's lengths where it `decomposes`, with unspecified values.
fn branches(unet: &mut UNet, gpu: &Gpu, (rank, decomposes): (usize, bool), dtype: DType) -> Result<Vec<Param>> {
    let targets = Targets::default();
    let (mut params, mut failure) = (Vec::new(), None);
    unet.visit(&mut |mut layer| {
        let shape = attach::weight_shape(&layer);
        if !targets.matches(layer.name(), &shape) {
            return;
        }
        let unset = |rows: usize, columns: usize| -> Result<Tensor> {
            Ok(Tensor::on_gpu(gpu.buffer(dtype, rows * columns)?, &[rows, columns]))
        };
        let attached =
            unset(rank, shape[1]).and_then(|a| attach::branch(&mut layer, &a, &unset(shape[0], rank)?, 1.0, dtype));
        let lengths =
            decomposes.then(|| unset(shape[0], 1).and_then(|x| attach::decompose(&mut layer, Some(&x), dtype)));
        match attached.and_then(|pair| Ok((pair, lengths.transpose()?))) {
            Ok((pair, lengths)) => params.extend(pair.into_iter().chain(lengths)),
            Err(e) => failure = Some(e),
        }
    });
    failure.map_or(Ok(params), Err)
}

/// `unet/config.json` of Stable Diffusion XL.
fn sdxl() -> Value {
    json!({
        "sample_size": 128, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816, "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the ops ask for and what the kernels are known to do agree.
    #[test]
    fn the_cost_model_takes_kernels_that_there_are() {
        for (step, least) in [("sd15_512", 100), ("sdxl_1024", 80), ("tiny", 50)] {
            for dtype in [DType::F32, DType::Bf16] {
                let choices = ListedStep::named(step, 4).unwrap().choices(dtype).unwrap();
                assert!(choices.len() >= least, "{step}: {}", choices.len());
                assert!(choices.iter().any(|(case, model)| *model != case.reference()), "{step}");
                for (case, model) in choices {
                    assert!(case.is_sound() && case.permits(model), "{case}: {model}");
                }
            }
        }
    }

    fn count(listed: &[Listed], kernel: &str) -> usize {
        let named = |command: &&Listed| matches!(command, Listed::Launch(launch) if launch.kernel.starts_with(kernel));
        listed.iter().filter(named).count()
    }

    /// SD 1.5 has 16 transformers, each with attention to itself and to the text; SDXL has 70 layers of them.
    #[test]
    fn a_step_launches_what_the_network_has() {
        for (case, layers) in [("sd15_512", 16), ("sdxl_1024", 70)] {
            let [micro_batch, update] = launches(case, 4, DType::Bf16).unwrap();
            for kernel in ["attention_forward", "attention_backward_q", "attention_backward_kv"] {
                assert_eq!(count(&micro_batch, kernel), 2 * layers, "{case}: {kernel}");
            }
            assert_eq!(count(&micro_batch, "layer_norm_forward"), 3 * layers);
            assert_eq!((count(&update, "adamw"), count(&update, "attention")), (2, 0), "{case}");
        }
        let [with_dora, _] = launches(DORA, 4, DType::Bf16).unwrap();
        assert_eq!(count(&with_dora, "dora_norms"), 16 * 8);
        assert_eq!(count(&with_dora, "attention_forward"), 2 * 16);
        assert!(launches("tiny", 1, DType::Bf16).unwrap_err().to_string().contains("sd15_512, sdxl_1024"));
    }
}
