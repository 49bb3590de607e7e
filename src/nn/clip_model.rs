//! CLIPModel: a vision tower and a text encoder whose projections meet.

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::nn::encoder_layer::{Activation, LayerConfig};
use crate::nn::{ClipConfig, ClipOutput, ClipText, Linear, Param, VisionConfig, VisionTower, Weights, move_to};
use crate::ops;
use crate::tensor::Tensor;

/// What the weights do not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipSettings {
    pub vision_heads: usize,
    pub text_heads: usize,
    pub activation: Activation,
    pub vision_eps: f64,
    pub text_eps: f64,
    /// The id that ends a text; 2, or one outside of the vocabulary, stands for the largest id.
    pub eos_token_id: usize,
}

/// What the vision tower makes of images.
pub struct ImageOutput {
    /// Before the last norm, `[n, 1 + patches, c]`.
    pub last_hidden_state: Tensor,
    /// The class token after it, `[n, c]`.
    pub pooled: Tensor,
    /// Projected, `[n, p]`.
    pub embeds: Tensor,
}

#[derive(Clone)]
pub struct ClipModel {
    vision: VisionTower,
    visual_projection: Linear,
    /// None in files of a vision tower alone.
    text: Option<ClipText>,
    /// exp(logit_scale).
    pub logit_scale: f64,
    parameters: Vec<Param>,
    /// Tensors of the file that the model does not have.
    pub unread: Vec<String>,
}

impl ClipModel {
    /// Under the names of transformers. Sizes follow from the weights.
    ///
    /// # Errors
    /// [`crate::Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(root: Weights, settings: &ClipSettings) -> Result<Self> {
        let w = root.scope("vision_model");
        let patch = w.shape("embeddings.patch_embedding.weight")?;
        let (width, patch) = (patch[0], patch.last().copied().unwrap_or(1).max(1));
        let positions = w.shape("embeddings.position_embedding.weight")?[0];
        let config = VisionConfig {
            layer: LayerConfig {
                width,
                inner: w.shape("encoder.layers.0.mlp.fc1.weight")?[0],
                heads: settings.vision_heads,
                eps: settings.vision_eps,
                activation: settings.activation,
                causal: false,
            },
            layers: w.count("encoder.layers"),
            patch,
            image: positions.saturating_sub(1).isqrt() * patch,
            clip: true,
        };
        let vision = VisionTower::load(&w, config)?;
        let embed = root.shape("visual_projection.weight")?[0];
        let visual_projection = Linear::load(&root.scope("visual_projection"), width, embed, false)?;
        let text = match root.contains("text_model.embeddings.token_embedding.weight") {
            true => Some(ClipText::build(text_config(&root, settings, embed)?, &root, "text_model", true)?),
            false => None,
        };
        let logit_scale = match root.contains("logit_scale") {
            true => root.value("logit_scale", &[])?.reals::<f64>()[0].exp(),
            false => 100.0,
        };
        let (parameters, unread) = root.finish_with_unread();
        Ok(Self { vision, visual_projection, text, logit_scale, parameters, unread })
    }

    /// Width and height of the images that it takes.
    pub fn image_size(&self) -> usize {
        self.vision.config.image
    }

    /// Brings every weight to `device`, where the network then computes.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        move_to(&self.parameters, device)
    }

    pub fn parameters(&self) -> &[Param] {
        &self.parameters
    }

    /// `pixels` `[n, h, w, 3]`, normalised.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for images of another size.
    pub fn image(&self, tape: &Tape, pixels: &Tensor) -> Result<ImageOutput> {
        let last_hidden_state = self.vision.forward(tape, pixels)?;
        let first = vec![0; pixels.shape()[0]];
        let class = ops::select_rows(tape, &last_hidden_state, &first)?;
        let pooled = self.vision.post_layernorm(tape, &class)?;
        let embeds = self.visual_projection.forward(tape, &pooled)?;
        Ok(ImageOutput { last_hidden_state, pooled, embeds })
    }

    /// The text encoder, which files of a vision tower alone do not have.
    pub fn text(&self) -> Option<&ClipText> {
        self.text.as_ref()
    }

    /// The projection `[n, p]` of `ids` `[n, t]`.
    ///
    /// # Errors
    /// As [`ClipText::forward`]; [`crate::Error::Failed`] where there is no text encoder.
    pub fn text_output(&self, tape: &Tape, ids: &Tensor) -> Result<ClipOutput> {
        let text = self.text.as_ref();
        let none = || crate::Error::Failed("this CLIP model has no text encoder: its file is of a vision tower".into());
        text.ok_or_else(none)?.forward(tape, ids)
    }
}

fn text_config(root: &Weights, settings: &ClipSettings, embed: usize) -> Result<ClipConfig> {
    let w = root.scope("text_model");
    let tokens = w.shape("embeddings.token_embedding.weight")?;
    let vocab_size = tokens[0];
    Ok(ClipConfig {
        vocab_size,
        hidden_size: tokens.last().copied().unwrap_or(0),
        num_hidden_layers: w.count("encoder.layers"),
        num_attention_heads: settings.text_heads,
        intermediate_size: w.shape("encoder.layers.0.mlp.fc1.weight")?[0],
        projection_dim: embed,
        max_position_embeddings: w.shape("embeddings.position_embedding.weight")?[0],
        layer_norm_eps: settings.text_eps,
        // The largest id is meant, by 2 too.
        eos_token_id: if settings.eos_token_id < vocab_size { settings.eos_token_id } else { 2 },
        activation: settings.activation,
    })
}
