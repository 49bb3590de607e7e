//! BLIP: a vision tower and BERTs that attend to it. BLIP-VQA answers questions, ImageReward scores a text.

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::nn::bert::{Bert, BertConfig, CrossStates};
use crate::nn::encoder_layer::{Activation, LayerConfig};
use crate::nn::{LayerNorm, Linear, Param, ScoreHead, VisionConfig, VisionTower, Weights, move_to};
use crate::ops;
use crate::tensor::Tensor;

/// What the weights do not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlipSettings {
    pub vision_heads: usize,
    /// 1e-6 in the original code, 1e-5 in transformers.
    pub vision_eps: f64,
    /// Width and height of the images; none for what the position table is for.
    pub image: Option<usize>,
    pub text: BertConfig,
}

/// `vision_model`, with its norm over all tokens.
#[derive(Clone)]
pub struct BlipVision(VisionTower);

impl BlipVision {
    fn load(root: &Weights, settings: &BlipSettings) -> Result<Self> {
        let w = root.scope("vision_model");
        let patch = w.shape("embeddings.patch_embedding.weight")?;
        let (width, patch) = (patch[0], patch.last().copied().unwrap_or(1).max(1));
        let positions = w.shape("embeddings.position_embedding")?.iter().rev().nth(1).copied().unwrap_or(0);
        let config = VisionConfig {
            layer: LayerConfig {
                width,
                inner: w.shape("encoder.layers.0.mlp.fc1.weight")?[0],
                heads: settings.vision_heads,
                eps: settings.vision_eps,
                activation: Activation::Gelu,
                causal: false,
            },
            layers: w.count("encoder.layers"),
            patch,
            image: settings.image.unwrap_or(positions.saturating_sub(1).isqrt() * patch),
            clip: false,
        };
        VisionTower::load(&w, config).map(Self)
    }

    /// Width and height of the images that it takes.
    pub fn image_size(&self) -> usize {
        self.0.config.image
    }

    /// `pixels` `[n, h, w, 3]`, normalised -> `[n, 1 + patches, c]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for images of another size.
    pub fn forward(&self, tape: &Tape, pixels: &Tensor) -> Result<Tensor> {
        self.0.post_layernorm(tape, &self.0.forward(tape, pixels)?)
    }
}

/// `BlipForQuestionAnswering`, under the names of transformers.
#[derive(Clone)]
pub struct BlipVqa {
    pub vision: BlipVision,
    pub text_encoder: Bert,
    pub text_decoder: Bert,
    transform: Linear,
    transform_norm: LayerNorm,
    /// `[vocabulary, c]` and `[vocabulary]`.
    output: Param,
    output_bias: Param,
    parameters: Vec<Param>,
    /// Tensors of the file that the model does not have.
    pub unread: Vec<String>,
}

impl BlipVqa {
    /// # Errors
    /// [`crate::Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(root: Weights, settings: &BlipSettings) -> Result<Self> {
        let vision = BlipVision::load(&root, settings)?;
        let text_encoder = Bert::load(&root.scope("text_encoder"), &settings.text)?;
        let text_decoder = Bert::load(&root.scope("text_decoder.bert"), &settings.text)?;
        let head = root.scope("text_decoder.cls.predictions");
        let words = text_decoder.word_embeddings();
        let [vocabulary, width] = words.get().dims("BLIP")?;
        // The matrix is tied to the embedding, and need not be stored again.
        let output = match head.contains("decoder.weight") {
            true => head.matrix("decoder.weight", vocabulary, width)?,
            false => words.clone(),
        };
        let bias = if head.contains("decoder.bias") { "decoder.bias" } else { "bias" };
        let output_bias = head.vector(bias, vocabulary)?;
        let transform = head.scope("transform");
        let (transform, transform_norm) = (
            Linear::load(&transform.scope("dense"), width, width, true)?,
            LayerNorm::load(&transform.scope("LayerNorm"), width, settings.text.eps)?,
        );
        let (parameters, unread) = root.finish_with_unread();
        Ok(Self {
            vision,
            text_encoder,
            text_decoder,
            transform,
            transform_norm,
            output,
            output_bias,
            parameters,
            unread,
        })
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

    /// The logits `[n, t, vocabulary]` of what follows each token of `ids` `[n, t]`.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn logits(&self, tape: &Tape, ids: &Tensor, question: &CrossStates) -> Result<Tensor> {
        let t = ids.shape().last().copied().unwrap_or(0);
        let h = self.text_decoder.forward(tape, ids, t, question, true)?;
        let h = ops::gelu(tape, &self.transform.forward(tape, &h)?)?;
        let h = self.transform_norm.forward(tape, &h)?;
        ops::linear(tape, &h, &self.output.get(), Some(&self.output_bias.get()))
    }
}

/// ImageReward: a BERT that reads the prompt and looks at the image, and a head on its first token.
#[derive(Clone)]
pub struct ImageReward {
    pub vision: BlipVision,
    pub text_encoder: Bert,
    pub head: ScoreHead,
    parameters: Vec<Param>,
    /// Tensors of the file that the model does not have.
    pub unread: Vec<String>,
}

impl ImageReward {
    /// # Errors
    /// [`crate::Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(root: Weights, settings: &BlipSettings) -> Result<Self> {
        let vision = BlipVision::load(&root, settings)?;
        let text_encoder = Bert::load(&root.scope("text_encoder"), &settings.text)?;
        let head = ScoreHead::load(&root.scope("mlp"))?;
        let (parameters, unread) = root.finish_with_unread();
        Ok(Self { vision, text_encoder, head, parameters, unread })
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

    /// The first token's last state `[n, c]` of `ids` `[n, t]`, all of which are seen.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn text_cls(&self, tape: &Tape, ids: &Tensor, image: &CrossStates) -> Result<Tensor> {
        let [n, t] = ids.dims("ImageReward")?;
        let states = self.text_encoder.forward(tape, ids, t, image, false)?;
        ops::select_rows(tape, &states, &vec![0; n])
    }
}
