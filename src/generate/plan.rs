//! The memory that images take on a GPU, computed from the model's sizes before anything is allocated.

use super::StableDiffusion;
use super::generation::Generation;
use super::loras::Strength;
use crate::device::gpu::Gpu;
use crate::device::memory::format_bytes;
use crate::device::plan::{MemoryPlan, Phase};
use crate::error::Result;
use crate::formats::safetensors::Safetensors;
use crate::nn::{Param, UNetConfig, VaeConfig};
use crate::tensor::DType;

/// Tokens of one part of a prompt.
const TOKENS: usize = 77;
/// Values that a layer of a text encoder has for a token at once, in units of its width: two projections to four widths,
/// and states.
const TEXT_STATES: usize = 20;
/// Latents that a sampler holds at once, with noise and the network's outputs, in f32: UniPC's third order.
const LATENTS: usize = 12;
/// Scores of the VAE's attention: those of as many queries at a time as keep below this many bytes.
const SCORES: u64 = 64 << 20;
/// Timesteps, coefficients and what norms add up.
const SMALL: u64 = 1 << 20;

/// Images of one size, so many at once.
pub struct Workload<'a> {
    pub model: &'a StableDiffusion,
    pub generation: Generation,
    pub loras: &'a [Strength],
    pub batch: usize,
    /// Texts of 77 tokens that the longest prompt is read as.
    pub parts: usize,
    /// Whether they start from an image.
    pub from_image: bool,
}

impl Workload<'_> {
    /// Says what is planned on `gpu` and what is free there, line by line to `note`, and takes it.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] where the images do not fit, with what would make them; what the GPU says.
    pub fn reserve(&self, gpu: &Gpu, note: &mut dyn FnMut(String)) -> Result<()> {
        let (plan, available) = (self.plan()?, gpu.available()?);
        let title = format!("planned memory on {}", gpu.name());
        plan.lines(&title, available).into_iter().for_each(note);
        if let Some(available) = available {
            plan.check("generating images", &format!(" on {}", gpu.name()), available, &self.ways())?;
        }
        gpu.reserve(plan.peak())
    }

    /// What is in memory in each phase; the networks are there throughout.
    ///
    /// # Errors
    /// [`crate::Error::File`] for a LoRA file that cannot be read.
    pub fn plan(&self) -> Result<MemoryPlan> {
        let model = self.model;
        let weights = parameters(model).map(|param| param.get().byte_len() as u64).sum();
        let mut loras = 0;
        for lora in self.loras {
            let file = Safetensors::open(&lora.path)?;
            let values = |name| file.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
            loras += file.names().map(values).sum::<usize>() * model.dtype.size();
        }
        let [read, drawn, decoded, encoded] = self.activations();
        let phase = |name, part, bytes| {
            let mut parts = vec![("networks", weights)];
            parts.extend((loras > 0).then_some(("LoRAs", loras as u64)));
            parts.push((part, bytes));
            Phase { name, parts }
        };
        let mut phases = vec![
            phase("reading prompts", "text states", read),
            phase("denoising", "feature maps", drawn),
            phase("decoding", "feature maps", decoded),
        ];
        if self.from_image {
            phases.insert(0, phase("encoding an image", "feature maps", encoded));
        }
        Ok(MemoryPlan { phases, program: SMALL })
    }

    /// Bytes besides weights: of reading the prompts, of a step, of decoding a batch and of encoding an image.
    fn activations(&self) -> [u64; 4] {
        let model = self.model;
        let (unet, vae) = (&model.unet.config, &model.vae.config);
        let (height, width) = self.generation.size;
        let factor = vae.downscale();
        let latent = [height / factor, width / factor];
        let rows = if self.generation.guidance.scale > 1.0 { 2 } else { 1 } * self.batch;
        let tokens = TOKENS * self.parts;
        let stored = |values: usize| (values * model.dtype.size()) as u64;
        let wide = |values: usize| (values * DType::F32.size()) as u64;
        let context = unet.cross_attention_dim.iter().max().copied().unwrap_or(0);
        let of_text = stored(rows * tokens * TEXT_STATES * context);
        let latents = wide(LATENTS * self.batch * latent[0] * latent[1] * vae.latent_channels);
        let drawn = stored(rows * (unet_values(unet, latent, tokens, !self.loras.is_empty()) + tokens * context));
        // The middle's head is computed in f32.
        let (deepest, last) = (latent[0] * latent[1], vae.block_out_channels[vae.block_out_channels.len() - 1]);
        let head = self.batch * deepest * last;
        let middle = stored(6 * head) + wide(4 * head) + SCORES.min(wide(deepest * deepest));
        let decoded = stored(self.batch * decoder_values(vae, height * width)) + wide(self.batch * height * width * 3);
        let encoded = stored(6 * vae.block_out_channels[0] * height * width) + wide(height * width * 3);
        [of_text, drawn + latents, decoded.max(middle) + latents, encoded.max(middle)]
    }

    fn ways(&self) -> Vec<String> {
        let [_, drawn, decoded, _] = self.activations();
        let mut ways = Vec::new();
        if self.batch > 1 {
            let an_image = format_bytes(drawn.max(decoded) / self.batch as u64);
            ways.push(format!("a smaller --batch-size (an image takes {an_image})"));
        }
        ways.push("a smaller --width and --height".into());
        if self.model.dtype == DType::F32 {
            ways.push("--precision bf16".into());
        }
        ways
    }
}

fn parameters(model: &StableDiffusion) -> impl Iterator<Item = &Param> {
    let text = model.text.encoders.iter().flat_map(|encoder| encoder.model.parameters());
    model.unet.parameters().iter().chain(model.vae.parameters()).chain(text)
}

/// Values of a sample that are alive at once in a UNet's forward pass over latents of `[height, width]`: the skips, and what
/// a resnet or a transformer makes on its way.
pub(crate) fn unet_values(config: &UNetConfig, [height, width]: [usize; 2], tokens: usize, adapted: bool) -> usize {
    let c = &config.block_out_channels;
    let blocks = c.len();
    let pixels = |level: usize| height.div_ceil(1 << level) * width.div_ceil(1 << level);
    // Of a resnet two maps of its input's width and four of its output's. Of a transformer its input, three maps around its
    // blocks, six in one, and the gated layer's four; an adapted one stores what lies before its gate, eight more.
    let working = |c_in: usize, c: usize, pixels: usize, attends: bool| {
        let resnet = (2 * c_in + 4 * c) * pixels;
        let gated = if adapted { 22 } else { 14 };
        let transformer = (c_in + gated * c) * pixels + 2 * c * tokens;
        if attends { resnet.max(transformer) } else { resnet }
    };
    let mut skips = vec![(c[0], pixels(0))];
    let mut alive = c[0] * pixels(0);
    let mut most = alive;
    for level in 0..blocks {
        for j in 0..config.layers_per_block[level] {
            let c_in = if j == 0 { c[level.saturating_sub(1)] } else { c[level] };
            most = most.max(alive + working(c_in, c[level], pixels(level), config.down_attention[level]));
            skips.push((c[level], pixels(level)));
            alive += c[level] * pixels(level);
        }
        if level + 1 < blocks {
            skips.push((c[level], pixels(level + 1)));
            alive += c[level] * pixels(level + 1);
        }
    }
    let mut hidden = c[blocks - 1];
    most = most.max(alive + working(hidden, hidden, pixels(blocks - 1), true));
    for i in 0..blocks {
        let level = blocks - 1 - i;
        for _ in 0..=config.layers_per_block[level] {
            let (skip, of_skip) = skips.pop().unwrap_or_default();
            let attends = config.up_attention[i];
            most = most.max(alive + working(hidden + skip, c[level], pixels(level), attends));
            alive -= skip * of_skip;
            hidden = c[level];
        }
        if level > 0 {
            most = most.max(alive + hidden * (pixels(level) + pixels(level - 1)));
        }
    }
    most
}

/// Values of an image of so many pixels that are alive at once in the VAE's decoder.
fn decoder_values(config: &VaeConfig, pixels: usize) -> usize {
    let c = &config.block_out_channels;
    let of_level = |level: usize| {
        // The first resnet of a level has the width of the one below; its input is held by the block as well.
        let c_in = c[(level + 1).min(c.len() - 1)];
        (2 * c_in + 4 * c[level]).max(c_in + 6 * c[level]) * pixels.div_ceil(1 << (2 * level))
    };
    (0..c.len()).map(of_level).max().unwrap_or(0)
}
