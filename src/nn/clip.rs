//! CLIPTextModel and CLIPTextModelWithProjection.

use std::path::Path;

use serde_json::json;

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::encoder_layer::{Activation, EncoderLayer, LayerConfig};
use crate::nn::{Config, LayerNorm, Linear, Param, Visitor, Weights, move_to};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// `text_encoder/config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub projection_dim: usize,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    pub eos_token_id: usize,
    pub activation: Activation,
}

impl ClipConfig {
    /// # Errors
    /// [`Error::File`] naming the key and the value that is not supported.
    pub fn parse(c: &Config) -> Result<Self> {
        c.only(&[
            ("attention_dropout", json!(0)),
            ("dropout", json!(0)),
            ("add_cross_attention", json!(false)),
            ("is_encoder_decoder", json!(false)),
        ])?;
        let hidden_size = c.size("hidden_size", 512)?;
        let num_attention_heads = c.size("num_attention_heads", 8)?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(c.refuse("num_attention_heads", "it does not divide `hidden_size`"));
        }
        c.choice("model_type", &["clip_text_model"])?;
        // What is left says how weights were first drawn and stored, or what Python returns.
        c.ignore(&[
            "architectures",
            "torch_dtype",
            "dtype",
            "transformers_version",
            "initializer_factor",
            "initializer_range",
            "bos_token_id",
            "pad_token_id",
            "use_cache",
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "tie_word_embeddings",
            "use_attention_mask",
            "chunk_size_feed_forward",
            "id2label",
            "label2id",
            "problem_type",
            "is_decoder",
        ]);
        let config = Self {
            vocab_size: c.size("vocab_size", 49408)?,
            hidden_size,
            num_hidden_layers: c.size("num_hidden_layers", 12)?,
            num_attention_heads,
            intermediate_size: c.size("intermediate_size", 2048)?,
            projection_dim: c.size("projection_dim", 512)?,
            max_position_embeddings: c.size("max_position_embeddings", 77)?,
            layer_norm_eps: c.number("layer_norm_eps", 1e-5)?,
            eos_token_id: c.size("eos_token_id", 49407)?,
            activation: [Activation::QuickGelu, Activation::Gelu][c.choice("hidden_act", &["quick_gelu", "gelu"])?],
        };
        c.finish()?;
        Ok(config)
    }

    fn layer(&self) -> LayerConfig {
        LayerConfig {
            width: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            activation: self.activation,
            causal: true,
        }
    }
}

/// What an encoder reads of a batch of texts: all that differs from one batch to the next, so that it alone has to change where
/// work is replayed.
pub struct ClipInput {
    /// i64 `[n, t]`.
    pub ids: Tensor,
    /// i64 `[n, t]`: where in its text a token is.
    pub positions: Tensor,
    /// i64 `[n]`: where each text ends, counted through all texts.
    pub ends: Tensor,
}

impl ClipInput {
    /// All of them, always in the same order.
    pub fn tensors(&mut self) -> [&mut Tensor; 3] {
        [&mut self.ids, &mut self.positions, &mut self.ends]
    }
}

/// What the encoder makes of token ids.
pub struct ClipOutput {
    /// The last layer's output after the final norm, `[n, t, c]`.
    pub last_hidden_state: Tensor,
    /// The embedding's output and then each layer's, without the final norm.
    pub hidden_states: Vec<Tensor>,
    /// The final norm's output at the end-of-text token, `[n, c]`.
    pub pooled: Tensor,
    /// `pooled` projected, `[n, p]`, where the model has a projection.
    pub text_embeds: Option<Tensor>,
}

#[derive(Clone)]
pub struct ClipText {
    pub config: ClipConfig,
    token_embedding: Param,
    /// Rows of tokens that follow the vocabulary, `[k, c]`.
    added: Option<Param>,
    position_embedding: Param,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
    parameters: Vec<Param>,
}

impl ClipText {
    /// Loads `dir` (a model's `text_encoder` folder) with matrices in `dtype`. Module names always begin with
    /// `text_model.`, which newer files leave out.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        let config = ClipConfig::parse(&Config::open(&dir.join("config.json"))?)?;
        let root = Weights::open(dir, dtype)?;
        let prefixed = root.contains("text_model.embeddings.token_embedding.weight");
        let projected = root.contains("text_projection.weight");
        Self::whole(config, root, if prefixed { "text_model" } else { "" }, projected)
    }

    /// An encoder with fresh weights, for the keys of a `config.json`; `projected` makes it a
    /// CLIPTextModelWithProjection.
    ///
    /// # Errors
    /// As [`ClipText::load`] for the configuration.
    pub fn initial(config: serde_json::Value, projected: bool, seed: u64, dtype: DType) -> Result<Self> {
        let config = ClipConfig::parse(&Config::from_value(Path::new("config.json"), config)?)?;
        Self::whole(config, Weights::initial(seed, dtype), "text_model", projected)
    }

    fn whole(config: ClipConfig, root: Weights, prefix: &str, projected: bool) -> Result<Self> {
        let text = Self::build(config, &root, prefix, projected)?;
        Ok(Self { parameters: root.finish()?, ..text })
    }

    /// The encoder as a part of a model, whose parameters it leaves to the model. `prefix`: what the file has for
    /// `text_model`.
    pub(super) fn build(config: ClipConfig, root: &Weights, prefix: &str, projected: bool) -> Result<Self> {
        let w = root.scope_as("text_model", prefix);
        let c = config.hidden_size;
        let text_projection = projected
            .then(|| Linear::load(&root.scope("text_projection"), c, config.projection_dim, false))
            .transpose()?;
        let embeddings = w.scope("embeddings");
        Ok(Self {
            added: None,
            token_embedding: embeddings.matrix("token_embedding.weight", config.vocab_size, c)?,
            position_embedding: embeddings.matrix("position_embedding.weight", config.max_position_embeddings, c)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::load(&w.scope(&format!("encoder.layers.{i}")), &config.layer()))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::load(&w.scope("final_layer_norm"), c, config.layer_norm_eps)?,
            text_projection,
            parameters: Vec::new(),
            config,
        })
    }

    /// Brings every weight to `device`, where the network then computes. LoRA branches that are attached later go there
    /// too.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        move_to(&self.parameters, device)?;
        move_to(self.added.as_slice(), device)
    }

    /// The embedding of one token of the vocabulary, `[c]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another id.
    pub fn token(&self, id: i64) -> Result<Tensor> {
        let row = ops::embedding(&Tape::off(), &self.token_embedding.get(), &Tensor::new(vec![id], &[1]))?;
        Ok(row.with_shape(&[self.config.hidden_size]))
    }

    pub fn device(&self) -> Device {
        self.token_embedding.get().device()
    }

    /// What the encoder reads of `ids` `[n, t]`, i64, all on the CPU.
    ///
    /// # Errors
    /// [`Error::Shape`] for too many tokens, or an id outside the vocabulary.
    pub fn input(&self, ids: &Tensor) -> Result<ClipInput> {
        self.input_with(ids, self.added.as_ref().map_or(0, |rows| rows.get().shape()[0]))
    }

    /// The same where `added` tokens follow the vocabulary.
    fn input_with(&self, ids: &Tensor, added: usize) -> Result<ClipInput> {
        let [n, t] = ids.dims("CLIPTextModel")?;
        let limit = self.config.max_position_embeddings;
        if t == 0 || t > limit || ids.dtype() != DType::I64 {
            let message = format!("expected i64 ids of 1 to {limit} tokens, got {ids:?}");
            return Err(Error::shape("CLIPTextModel", message));
        }
        let vocabulary = self.config.vocab_size + added;
        if let Some(id) = ids.data::<i64>().iter().find(|&&id| id < 0 || id >= vocabulary as i64) {
            let message = format!("id {id} is not in a vocabulary of {vocabulary} tokens");
            return Err(Error::shape("CLIPTextModel", message));
        }
        let ends = ids.data::<i64>().chunks_exact(t).enumerate().map(|(i, row)| (i * t + self.end(row)) as i64);
        Ok(ClipInput {
            positions: Tensor::new((0..n).flat_map(|_| 0..t as i64).collect(), &[n, t]),
            ends: Tensor::new(ends.collect(), &[n]),
            ids: ids.clone(),
        })
    }

    /// `ids` `[n, t]`, i64, on the CPU. Causal; padding is attended to like any token.
    ///
    /// # Errors
    /// [`Error::Shape`] for too many tokens, or an id outside the vocabulary.
    pub fn forward(&self, tape: &Tape, ids: &Tensor) -> Result<ClipOutput> {
        self.forward_with(tape, ids, self.added.as_ref().map(Param::get).as_ref())
    }

    /// Gives the encoder the rows of tokens that follow its vocabulary, `[k, c]`, in the place of earlier ones.
    pub fn set_added(&mut self, rows: Option<Param>) {
        self.added = rows;
    }

    /// The rows of tokens that follow the vocabulary.
    pub fn added(&self) -> Option<&Param> {
        self.added.as_ref()
    }

    /// As [`ClipText::forward`], with the rows of `new` `[k, c]` as the tokens that follow the vocabulary.
    ///
    /// # Errors
    /// As [`ClipText::forward`]; [`Error::Shape`] for rows of another width.
    pub fn forward_with(&self, tape: &Tape, ids: &Tensor, new: Option<&Tensor>) -> Result<ClipOutput> {
        let mut input = self.input_with(ids, new.map_or(0, |rows| rows.shape()[0]))?;
        let tokens = match new {
            None => ops::embedding(tape, &self.token_embedding.get(), ids)?,
            Some(rows) => self.embedding_with(tape, ids, rows)?,
        };
        // The table of positions may have a gradient, which needs them on the host.
        input.ends = input.ends.to(&self.device())?;
        self.states(tape, &tokens, &input)
    }

    /// As [`ClipText::forward`], of what [`ClipText::input`] made and somebody brought to the encoder's device: nothing comes
    /// from the host. Of tokens that follow the vocabulary there may be none.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are such tokens, or the input is elsewhere.
    pub fn forward_input(&self, tape: &Tape, input: &ClipInput) -> Result<ClipOutput> {
        if self.added.is_some() {
            return Err(Error::shape("CLIPTextModel", "tokens were added; their rows are looked up on the host"));
        }
        let tokens = ops::embedding(tape, &self.token_embedding.get(), &input.ids)?;
        self.states(tape, &tokens, input)
    }

    /// From the embeddings of the tokens on.
    fn states(&self, tape: &Tape, tokens: &Tensor, input: &ClipInput) -> Result<ClipOutput> {
        let positions = ops::embedding(tape, &self.position_embedding.get(), &input.positions)?;
        let mut h = ops::add(tape, tokens, &positions)?;
        let mut hidden_states = vec![h.clone()];
        for layer in &self.layers {
            h = layer.forward(tape, &h, &self.config.layer())?;
            hidden_states.push(h.clone());
        }
        let last_hidden_state = self.final_layer_norm(tape, &h)?;
        let pooled = ops::select_numbered_rows(tape, &last_hidden_state, &input.ends)?;
        let text_embeds =
            (self.text_projection.as_ref()).map(|projection| projection.forward(tape, &pooled)).transpose()?;
        Ok(ClipOutput { last_hidden_state, hidden_states, pooled, text_embeds })
    }

    /// The norm that ends the encoder, for callers who take an earlier layer's output. `[n, t, c]` -> the same shape.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the width of `x` is another; what a GPU says.
    pub fn final_layer_norm(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        self.final_layer_norm.forward(tape, x)
    }

    /// Looks up tokens of which some are rows of `new`. Only the rows of the vocabulary that occur are joined with them: the
    /// whole table would be copied, and have a gradient.
    fn embedding_with(&self, tape: &Tape, ids: &Tensor, new: &Tensor) -> Result<Tensor> {
        let ([k, c], known) = (new.dims("CLIPTextModel")?, self.config.vocab_size as i64);
        if c != self.config.hidden_size {
            let message = format!("new tokens of width {c}; expected {}", self.config.hidden_size);
            return Err(Error::shape("CLIPTextModel", message));
        }
        let mut used: Vec<i64> = ids.data::<i64>().iter().copied().filter(|&id| id < known).collect();
        used.sort_unstable();
        used.dedup();
        let place = |&id: &i64| match used.binary_search(&id) {
            Ok(place) => place as i64,
            Err(_) => used.len() as i64 + id - known,
        };
        let places = Tensor::new(ids.data::<i64>().iter().map(place).collect(), ids.shape());
        let n = used.len();
        let old = ops::embedding(&Tape::off(), &self.token_embedding.get(), &Tensor::new(used, &[n]))?;
        let flat = ops::reshape(tape, new, &[1, k * c])?;
        let joined = ops::concat_channels(tape, &old.with_shape(&[1, n * c]), &flat)?;
        ops::embedding(tape, &ops::reshape(tape, &joined, &[n + k, c])?, &places)
    }

    /// Where the text ends. Old configurations say 2, which never was the token: there the largest id of the vocabulary is
    /// meant; tokens that were added later have larger ones.
    fn end(&self, ids: &[i64]) -> usize {
        let wanted = match self.config.eos_token_id {
            2 => ids.iter().filter(|&&id| id < self.config.vocab_size as i64).max().copied(),
            id => i64::try_from(id).ok(),
        };
        ids.iter().position(|&id| Some(id) == wanted).unwrap_or(0)
    }

    /// Hands every linear layer to `f`, in the order of the modules.
    pub fn visit(&mut self, f: &mut Visitor) {
        for layer in &mut self.layers {
            layer.visit(f);
        }
        if let Some(projection) = &mut self.text_projection {
            projection.visit(f);
        }
    }

    /// Every weight of the base model, without LoRA factors.
    pub fn parameters(&self) -> &[Param] {
        &self.parameters
    }
}
