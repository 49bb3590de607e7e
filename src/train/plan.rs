//! The memory that a run will take, worked out from configurations and file headers before anything is loaded.

mod adapted;
mod disk;

use std::collections::BTreeSet;
use std::path::Path;

use super::activations::{Activations, Sizes};
use super::config::TrainConfig;
use super::samples::Asked;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::memory::{self, format_bytes};
use crate::device::plan::{MemoryPlan, Phase};
use crate::error::Result;
use crate::formats::component::Component;
use crate::formats::model_dir::ModelDir;
use crate::generate::plan::unet_values;
use crate::nn::{UNetConfig, VaeConfig};
use crate::tensor::DType;
pub use adapted::Adapted;
use adapted::text_configs;
pub use disk::DiskPlan;

/// The program and its threads.
const PROGRAM: u64 = 32 << 20;
/// A tokenizer.
const VOCABULARY: u64 = 48 << 20;
/// The VAE's feature maps at full size that are alive at once, in units of its first width.
const ENCODER_MAPS: u64 = 4;
const DECODER_MAPS: u64 = 7;

/// The memory of this machine, and that of the GPU of the run.
#[derive(Clone, Debug)]
pub struct Plans {
    pub host: MemoryPlan,
    pub gpu: Option<(Gpu, MemoryPlan)>,
    /// Of the activations, what one sample more costs.
    a_sample: u64,
    pub disk: DiskPlan,
}

impl Plans {
    /// Reads headers only. `side` is the training resolution in pixels; `samples` are drawn on the way.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a component without weights.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        config: &TrainConfig,
        layers: &Adapted,
        files: &ModelDir,
        vae_folder: &Path,
        (unet, vae): (&UNetConfig, &VaeConfig),
        (side, samples): (usize, &[Asked]),
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let trained = layers.trained + layers.rows;
        let adapted: BTreeSet<String> = layers.of_unet().map(|chosen| chosen.module.clone()).collect();
        let activations = Activations {
            config: unet,
            batch: config.batch_size,
            side: side.div_ceil(vae.downscale()),
            text: layers.text,
            adapted: &adapted,
            rank: layers.of_unet().map(|chosen| chosen.rank).max().unwrap_or(0),
            dora: config.dora,
            dtype,
            checkpointing: config.checkpointing,
            on_gpu: *device != Device::Cpu,
        };
        let Sizes { kept, passing } = activations.sizes();
        let mut text = weights(&files.text_encoder, dtype)?;
        if let Some(second) = &files.text_encoder_2 {
            text += weights(second, dtype)?;
        }
        let (unet_weights, vae_weights) = (weights(&files.unet, dtype)?, weights(vae_folder, dtype)?);
        let map = |pixels: usize| (pixels * pixels * vae.block_out_channels[0] * DType::F32.size()) as u64;
        // Master copy, gradient, the optimizer's state, the average, the network's copy, and the gradient as it comes from the tape.
        let average = if config.ema > 0.0 { DType::F32.size() } else { 0 };
        let a_value = 3 * DType::F32.size() + average + config.optimizer.state_bytes() + dtype.size();
        let state = (trained * a_value) as u64;
        let disk = DiskPlan::new(config, layers);
        let a_sample = (kept + passing) / config.batch_size as u64;
        let mut phases = Vec::new();
        if !config.train_text_encoder {
            // Tokens that are learned do not spare it: captions are encoded ahead all the same.
            phases.push(Phase { name: "encoding captions", parts: vec![("text encoders", text)] });
        }
        phases.extend([
            Phase {
                name: "encoding images",
                parts: vec![("VAE", vae_weights), ("activations", ENCODER_MAPS * map(side)), ("image", layers.image)],
            },
            Phase {
                name: "training",
                parts: vec![
                    ("UNet", unet_weights),
                    ("trained values", state),
                    ("kept for backward", kept),
                    ("working space", passing),
                ],
            },
        ]);
        if let Some(training) = phases.last_mut().filter(|_| layers.trains_texts() || layers.texts_vary) {
            training.parts.push(("text encoders", text));
        }
        if layers.trains_texts() {
            let kept = text_activations(files, config.batch_size, layers.text, dtype)?;
            phases.last_mut().expect("a phase").parts.push(("kept for the text encoders", kept));
        }
        if config.sample_every > 0 {
            phases.push(Phase {
                name: "drawing samples",
                parts: vec![
                    ("UNet", unet_weights),
                    ("trained values", state),
                    ("VAE", vae_weights),
                    ("activations", drawn(samples, unet, vae, layers.text, dtype)),
                ],
            });
        }
        let plan = |mut phases: Vec<Phase>| {
            phases[0].parts.push(("vocabulary", VOCABULARY));
            MemoryPlan { phases, program: PROGRAM }
        };
        let Device::Gpu(gpu) = device else {
            let host = plan(phases);
            return Ok(Self { host, gpu: None, a_sample, disk });
        };
        // Networks pass through on their way, and what is trained when it is saved.
        let passing = |name, part, bytes| Phase { name, parts: vec![(part, bytes)] };
        let host = plan(vec![
            passing("encoding captions", "text encoders", text),
            passing("encoding images", "VAE, or the largest image", vae_weights.max(layers.image)),
            passing("training", "UNet, or saved values", unet_weights.max(2 * state)),
        ]);
        let there = MemoryPlan { phases, program: 0 };
        Ok(Self { host, gpu: Some((gpu.clone(), there)), a_sample, disk })
    }

    /// A line or more for each memory: what is planned, what is free, and how it divides into phases.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn lines(&self) -> Result<Vec<String>> {
        let mut lines = self.host.lines("planned memory", memory::available());
        if let Some((gpu, plan)) = &self.gpu {
            lines.extend(plan.lines(&format!("planned memory on {}", gpu.name()), gpu.available()?));
        }
        lines.push(self.disk.line());
        Ok(lines)
    }

    /// Takes from the GPU what is planned there.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] where the run does not fit, with what would make it smaller.
    pub fn check(&self, config: &TrainConfig) -> Result<()> {
        let ways = self.ways(config);
        if let Some(available) = memory::available() {
            self.host.check("training", "", available, &ways)?;
        }
        let Some((gpu, plan)) = &self.gpu else { return Ok(()) };
        if let Some(available) = gpu.available()? {
            plan.check("training", &format!(" on {}", gpu.name()), available, &ways)?;
        }
        gpu.reserve(plan.peak())
    }

    /// What would make the run smaller.
    fn ways(&self, config: &TrainConfig) -> Vec<String> {
        let mut ways = Vec::new();
        if config.batch_size > 1 {
            ways.push(format!(
                "a smaller --batch-size with a larger --grad-accum (a sample takes {})",
                format_bytes(self.a_sample)
            ));
        }
        if !config.checkpointing {
            ways.push("--checkpointing".into());
        }
        ways.push("a lower --resolution or --rank".into());
        ways
    }
}

/// What the largest of `samples` takes at once: the network's feature maps with and without its prompt of so many `tokens`, or
/// the decoder's.
fn drawn(samples: &[Asked], unet: &UNetConfig, vae: &VaeConfig, tokens: usize, dtype: DType) -> u64 {
    let factor = vae.downscale();
    let of = |asked: &Asked| {
        let (height, width) = asked.request.generation.size;
        let network = 2 * unet_values(unet, [height / factor, width / factor], tokens, true) * dtype.size();
        let decoder = height * width * vae.block_out_channels[0] * DType::F32.size();
        (network as u64).max(DECODER_MAPS * decoder as u64)
    };
    samples.iter().map(of).max().unwrap_or(0)
}

/// What the backward pass of text encoders needs, in bytes: in each layer what the norms, attention and the feed-forward part
/// keep of the tokens of all captions.
fn text_activations(files: &ModelDir, batch: usize, tokens: usize, dtype: DType) -> Result<u64> {
    let mut bytes = 0;
    for config in text_configs(files)? {
        // Both norms and what they read, q, k, v, attention; before and behind the activation.
        let values = 8 * config.hidden_size + 2 * config.intermediate_size;
        bytes += config.num_hidden_layers * batch * tokens * values * dtype.size();
    }
    Ok(bytes as u64)
}

/// Bytes of a component's weights in memory: matrices in `dtype`, vectors in its accumulator.
fn weights(folder: &Path, dtype: DType) -> Result<u64> {
    let mut bytes = 0;
    let tensors = Component::open(folder)?;
    for shape in tensors.names().filter_map(|name| tensors.shape(name)) {
        let size = if shape.len() < 2 { dtype.master_dtype() } else { dtype }.size();
        bytes += shape.iter().product::<usize>() * size;
    }
    Ok(bytes as u64)
}
