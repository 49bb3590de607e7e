//! What the backward pass of a training step needs from the forward pass, in bytes: the sizes of the tensors that the
//! ops of [`crate::nn`] record, without computing anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::nn::UNetConfig;
use crate::tensor::DType;

/// One micro-batch through a UNet whose modules `adapted` have LoRA branches.
pub struct Activations<'a> {
    pub config: &'a UNetConfig,
    /// Samples.
    pub batch: usize,
    /// Pixels of a latent's side.
    pub side: usize,
    /// Tokens of a caption.
    pub text: usize,
    pub adapted: &'a BTreeSet<String>,
    pub rank: usize,
    /// Whether the branches are DoRA.
    pub dora: bool,
    pub dtype: DType,
    pub checkpointing: bool,
    /// Whether a GPU computes: its ops round what they write, and freed memory goes to whoever asks next.
    pub on_gpu: bool,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Kept until the backward pass has used it.
    pub kept: u64,
    /// Needed for a moment by single ops, in either direction. Buffers are held ready for the next op of the same size,
    /// so every size of feature map and of operand counts once.
    pub passing: u64,
}

/// What tensors hold back of freed memory at most.
const POOL: u64 = 1 << 30;

/// One layer's values a sample, before they are put together.
#[derive(Clone, Copy, Default)]
struct Layer {
    pixels: usize,
    input: usize,
    kept: usize,
    passing: usize,
    /// Copies of operands for the matrix products, of the whole batch.
    packed: usize,
}

impl Activations<'_> {
    pub fn sizes(&self) -> Sizes {
        let layers = self.layers();
        let sum = |f: fn(&Layer) -> usize| layers.iter().map(f).sum::<usize>();
        let largest = |f: fn(&Layer) -> usize| layers.iter().map(f).max().unwrap_or(0);
        // A recomputed layer keeps its input; while its turn is, also what it would have kept.
        let kept = match self.checkpointing {
            false => sum(|l| l.kept),
            true => sum(|l| l.input) + largest(|l| l.kept),
        };
        let mut maps = BTreeMap::new();
        for layer in &layers {
            let widest: &mut usize = maps.entry(layer.pixels).or_default();
            *widest = layer.passing.max(*widest);
        }
        let operands: BTreeSet<usize> = layers.iter().map(|l| l.packed).collect();
        let kept = (kept * self.batch * self.dtype.size()) as u64;
        if self.on_gpu {
            let passing = (largest(|l| l.passing) * self.batch * self.dtype.size()) as u64;
            return Sizes { kept, passing };
        }
        // Ops compute in f32 whatever is stored.
        let bytes = |values: usize| (values * DType::F32.size()) as u64;
        let most = bytes(largest(|l| l.passing) * self.batch + largest(|l| l.packed));
        let all = bytes(maps.values().sum::<usize>() * self.batch + operands.iter().sum::<usize>());
        Sizes { kept, passing: all.min(most + POOL) }
    }

    /// Every resnet with its transformer, in the order of the network.
    fn layers(&self) -> Vec<Layer> {
        let c = &self.config.block_out_channels;
        let blocks = c.len();
        let pixels = |level: usize| self.side.div_ceil(1 << level).pow(2);
        let mut layers = Vec::new();
        // Widths of the skips: conv_in, every layer, every downsampler.
        let mut skips = vec![c[0]];
        for i in 0..blocks {
            for j in 0..self.config.layers_per_block[i] {
                let c_in = if j == 0 { c[i.saturating_sub(1)] } else { c[i] };
                let name = format!("down_blocks.{i}");
                layers.push(self.layer(&name, j, [c_in, c[i]], pixels(i), self.config.down_attention[i].then_some(i)));
                skips.push(c[i]);
            }
            if i + 1 < blocks {
                layers.push(self.resampled(&format!("down_blocks.{i}.downsamplers.0.conv"), c[i], pixels(i)));
                skips.push(c[i]);
            }
        }
        let (last, deepest) = (c[blocks - 1], pixels(blocks - 1));
        layers.push(self.layer("mid_block", 0, [last, last], deepest, Some(blocks - 1)));
        layers.push(self.layer("mid_block", 1, [last, last], deepest, None));
        let mut hidden = last;
        for i in 0..blocks {
            let level = blocks - 1 - i;
            for j in 0..=self.config.layers_per_block[level] {
                let c_in = hidden + skips.pop().unwrap_or(0);
                let name = format!("up_blocks.{i}");
                let attends = self.config.up_attention[i].then_some(level);
                layers.push(self.layer(&name, j, [c_in, c[level]], pixels(level), attends));
                hidden = c[level];
            }
            if level > 0 {
                layers.push(self.resampled(&format!("up_blocks.{i}.upsamplers.0.conv"), hidden, pixels(level - 1)));
            }
        }
        layers
    }

    /// Resnet `j` of a block and the transformer after it, whose sizes are those of level `attends`.
    fn layer(&self, block: &str, j: usize, [c_in, c]: [usize; 2], pixels: usize, attends: Option<usize>) -> Layer {
        let resnet = format!("{block}.resnets.{j}");
        // The norms keep what they read; an adapted convolution also what it reads, and the low-rank product.
        let mut kept = c_in + c;
        kept += self.branch(&format!("{resnet}.conv1"), c_in, c);
        kept += self.branch(&format!("{resnet}.conv2"), c, c);
        kept += self.branch(&format!("{resnet}.conv_shortcut"), 0, c);
        let mut text = 0;
        if let Some(level) = attends {
            let attention = format!("{block}.attentions.{j}");
            kept += c + self.branch(&format!("{attention}.proj_in"), c, c);
            kept += self.branch(&format!("{attention}.proj_out"), c, c);
            for i in 0..self.config.transformer_depth[level] {
                let (more, of_text) = self.transformer_block(&format!("{attention}.transformer_blocks.{i}"), c);
                (kept, text) = (kept + more, text + of_text);
            }
        }
        // Around the gated layer: its input of 8c, the gradients of that and of its output, and two of the state.
        let widest = if attends.is_some() { 22 * c } else { 3 * (c_in + c) };
        Layer {
            pixels,
            input: c_in * pixels,
            kept: kept * pixels + text * self.text,
            passing: widest * pixels,
            packed: self.packed(c_in, c, pixels) + self.packed(c, c, pixels),
        }
    }

    /// The smaller operand of a 3x3 convolution, in both directions.
    fn packed(&self, c_in: usize, c: usize, pixels: usize) -> usize {
        let pixels = pixels * self.batch;
        9 * (c_in * pixels.min(c) + c * pixels.min(c_in))
    }

    /// Values kept a pixel, and a token of the text.
    fn transformer_block(&self, name: &str, c: usize) -> (usize, usize) {
        let branch = |module: &str, c_in: usize, c_out| self.branch(&format!("{name}.{module}"), c_in, c_out);
        let any = |modules: &[&str]| {
            let found = modules.iter().any(|m| self.adapted.contains(&format!("{name}.{m}")));
            if found { c } else { 0 }
        };
        // Three norms' inputs, and the input of the gated layer.
        let mut kept = 3 * c + 8 * c;
        // Queries, keys, values and the result; projections share what they read.
        kept += 4 * c + any(&["attn1.to_q", "attn1.to_k", "attn1.to_v"]);
        kept += 2 * c + any(&["attn2.to_q"]);
        for module in ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0"] {
            kept += branch(module, 0, c);
        }
        kept += branch("ff.net.0.proj", c, 8 * c) + branch("ff.net.2", 4 * c, c);
        let text = 2 * c + branch("attn2.to_k", 0, c) + branch("attn2.to_v", 0, c);
        (kept, text)
    }

    /// A convolution between two levels, over `pixels` of the larger one.
    fn resampled(&self, name: &str, c: usize, pixels: usize) -> Layer {
        Layer {
            pixels,
            input: 0,
            kept: self.branch(name, c, c) * pixels,
            passing: 3 * c * pixels,
            packed: self.packed(c, c, pixels),
        }
    }

    /// What an adapted module keeps a pixel: `c_in` values, unless they are kept anyway, the low-rank product, and with DoRA what
    /// it is multiplied with, of its `c_out` channels.
    fn branch(&self, module: &str, c_in: usize, c_out: usize) -> usize {
        match self.adapted.contains(module) {
            true => c_in + self.rank + if self.dora { c_out } else { 0 },
            false => 0,
        }
    }
}
