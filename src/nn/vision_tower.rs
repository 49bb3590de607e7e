//! The vision towers of CLIP and BLIP: patches of an image as tokens behind a class token.

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::nn::encoder_layer::{EncoderLayer, LayerConfig};
use crate::nn::{LayerNorm, Param, Weights, input};
use crate::ops::{self, Padding};
use crate::tensor::Tensor;

/// What tells the towers apart; widths and depth follow from the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VisionConfig {
    pub layer: LayerConfig,
    pub layers: usize,
    /// Width and height of a patch.
    pub patch: usize,
    /// Width and height of the images; a multiple of `patch`.
    pub image: usize,
    /// CLIP has a norm before its layers, and a patch convolution without bias.
    pub clip: bool,
}

#[derive(Clone)]
pub struct VisionTower {
    pub config: VisionConfig,
    /// `[1, c]`.
    class_embedding: Param,
    /// `[c, patch, patch, 3]`.
    patch_weight: Param,
    patch_bias: Option<Param>,
    /// `[1 + (image / patch)^2, c]`.
    position_embedding: Param,
    pre_layernorm: Option<LayerNorm>,
    layers: Vec<EncoderLayer>,
    post_layernorm: LayerNorm,
}

impl VisionTower {
    /// From `vision_model`, under the names of transformers. A position table of another size is interpolated.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(w: &Weights, config: VisionConfig) -> Result<Self> {
        let VisionConfig { layer, layers, patch, image, clip } = config;
        let (c, embeddings) = (layer.width, w.scope("embeddings"));
        let norm = |name| LayerNorm::load(&w.scope(name), c, layer.eps);
        Ok(Self {
            class_embedding: embeddings.table("class_embedding", 1, c)?,
            patch_weight: embeddings.kernel("patch_embedding.weight", c, 3, patch)?,
            patch_bias: (!clip).then(|| embeddings.vector("patch_embedding.bias", c)).transpose()?,
            position_embedding: positions(&embeddings, image / patch, c)?,
            pre_layernorm: clip.then(|| norm("pre_layrnorm")).transpose()?,
            layers: (0..layers)
                .map(|i| EncoderLayer::load(&w.scope(&format!("encoder.layers.{i}")), &layer))
                .collect::<Result<_>>()?,
            post_layernorm: norm("post_layernorm")?,
            config,
        })
    }

    /// `pixels` `[n, h, w, 3]` -> `[n, 1 + patches, c]`: the last layer's output, before the norm.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size than the configuration's.
    pub fn forward(&self, tape: &Tape, pixels: &Tensor) -> Result<Tensor> {
        const OP: &str = "vision tower";
        let [n, h, w, _] = pixels.dims(OP)?;
        let VisionConfig { layer, patch, image, .. } = self.config;
        if [h, w] != [image, image] || n == 0 {
            return Err(Error::shape(OP, format!("expected images of {image} x {image}, got {pixels:?}")));
        }
        let class = self.class_embedding.get();
        let pixels = input(tape, pixels, &class.device(), class.dtype())?;
        let bias = self.patch_bias.as_ref().map(Param::get);
        let patches = ops::conv2d(tape, &pixels, &self.patch_weight.get(), bias.as_ref(), patch, Padding::all(0))?;
        let (tokens, c) = (1 + (image / patch).pow(2), layer.width);
        let patches = ops::reshape(tape, &patches, &[n, (tokens - 1) * c])?;
        let class = ops::embedding(tape, &class, &Tensor::new(vec![0_i64; n], &[n]))?;
        let h = ops::reshape(tape, &ops::concat_channels(tape, &class, &patches)?, &[n, tokens, c])?;
        let places = Tensor::new((0..n).flat_map(|_| 0..tokens as i64).collect(), &[n, tokens]);
        let mut h = ops::add(tape, &h, &ops::embedding(tape, &self.position_embedding.get(), &places)?)?;
        if let Some(norm) = &self.pre_layernorm {
            h = norm.forward(tape, &h)?;
        }
        for encoder_layer in &self.layers {
            h = encoder_layer.forward(tape, &h, &layer)?;
        }
        Ok(h)
    }

    /// The norm that ends the tower: CLIP's of the class token alone, BLIP's of all. `[.., c]` -> the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width.
    pub fn post_layernorm(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.post_layernorm.forward(tape, x)
    }
}

/// The position table for `side x side` patches.
fn positions(w: &Weights, side: usize, c: usize) -> Result<Param> {
    // CLIP has an embedding here, BLIP a parameter.
    let key = if w.contains("position_embedding.weight") { "position_embedding.weight" } else { "position_embedding" };
    let shape = w.shape(key)?;
    let rows = shape.iter().rev().nth(1).copied().unwrap_or(0);
    let stored = rows.saturating_sub(1).isqrt();
    if stored == side || stored == 0 || 1 + stored * stored != rows {
        return w.table(key, 1 + side * side, c);
    }
    let table = w.table(key, rows, c)?.get();
    let table = interpolated(&table.reals::<f32>(), stored, side, c);
    Ok(w.param(key, Tensor::new(table, &[1 + side * side, c]).cast(w.dtype())))
}

/// The class row, and the grid by torch's bicubic interpolation: a = -0.75, half-pixel centres, four taps, borders
/// repeated.
fn interpolated(table: &[f32], from: usize, to: usize, c: usize) -> Vec<f32> {
    let taps: Vec<[(usize, f64); 4]> = (0..to).map(|i| cubic_taps(i, from, to)).collect();
    let mut out = table[..c].to_vec();
    for y in &taps {
        for x in &taps {
            let value = |channel: usize| -> f64 {
                let row = |row: usize| -> f64 {
                    x.iter().map(|(column, w)| w * f64::from(table[(1 + row * from + column) * c + channel])).sum()
                };
                y.iter().map(|&(at, w)| w * row(at)).sum()
            };
            out.extend((0..c).map(|channel| value(channel) as f32));
        }
    }
    out
}

fn cubic_taps(i: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    const A: f64 = -0.75;
    let at = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let (whole, t) = (at.floor(), at - at.floor());
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    std::array::from_fn(|k| {
        let place = whole as isize + k as isize - 1;
        (place.clamp(0, from as isize - 1) as usize, weights[k])
    })
}
