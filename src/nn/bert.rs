//! BERT with cross-attention in every layer, as BLIP uses it: an encoder of questions, and with a causal mask a decoder of
//! answers. Norms come after the sums (Devlin et al. 2019, arXiv:1810.04805; Li et al. 2022, arXiv:2201.12086).

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::nn::{LayerNorm, Linear, Param, Weights};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// What the weights do not tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BertConfig {
    pub heads: usize,
    pub eps: f64,
}

/// Keys and values of what a layer attends to, each `[1, l, c]`.
pub type CrossStates = Vec<[Tensor; 2]>;

#[derive(Clone)]
pub struct Bert {
    word_embeddings: Param,
    position_embeddings: Param,
    norm: LayerNorm,
    layers: Vec<BertLayer>,
    heads: usize,
}

impl Bert {
    /// Sizes follow from the weights.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is missing or does not fit.
    pub fn load(w: &Weights, config: &BertConfig) -> Result<Self> {
        let embeddings = w.scope("embeddings");
        let words = embeddings.shape("word_embeddings.weight")?;
        let width = words.last().copied().unwrap_or(0);
        let BertConfig { heads, eps } = *config;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::Failed(format!(
                "{}: {heads} attention heads do not divide a width of {width}",
                w.name()
            )));
        }
        let positions = embeddings.shape("position_embeddings.weight")?[0];
        let layer = |i| BertLayer::load(&w.scope(&format!("encoder.layer.{i}")), width, eps);
        Ok(Self {
            word_embeddings: embeddings.matrix("word_embeddings.weight", words[0], width)?,
            position_embeddings: embeddings.matrix("position_embeddings.weight", positions, width)?,
            norm: LayerNorm::load(&embeddings.scope("LayerNorm"), width, eps)?,
            layers: (0..w.count("encoder.layer")).map(layer).collect::<Result<_>>()?,
            heads,
        })
    }

    /// `[vocabulary, c]`.
    pub fn word_embeddings(&self) -> &Param {
        &self.word_embeddings
    }

    /// What each layer's cross-attention needs of `states` `[1, l, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width than the weights'.
    pub fn cross_states(&self, tape: &Tape, states: &Tensor) -> Result<CrossStates> {
        self.layers.iter().map(|layer| layer.cross.keys_and_values(tape, states)).collect()
    }

    /// `ids` `[n, t]`, of which every token sees the first `visible`, and with `causal` none behind itself -> the last
    /// layer's states `[n, t, c]`. All n texts attend to the same `cross`.
    ///
    /// # Errors
    /// [`Error::Shape`] for too many tokens, or an id outside of the vocabulary.
    pub fn forward(
        &self,
        tape: &Tape,
        ids: &Tensor,
        visible: usize,
        cross: &CrossStates,
        causal: bool,
    ) -> Result<Tensor> {
        const OP: &str = "BERT";
        let [n, t] = ids.dims(OP)?;
        let limit = self.position_embeddings.get().shape()[0];
        if t == 0 || t > limit || visible == 0 || visible > t || (causal && visible < t) || ids.dtype() != DType::I64 {
            let message = format!("expected i64 ids of 1 to {limit} tokens, got {ids:?}, of which {visible} are seen");
            return Err(Error::shape(OP, message));
        }
        let places = Tensor::new((0..n).flat_map(|_| 0..t as i64).collect(), &[n, t]);
        let words = ops::embedding(tape, &self.word_embeddings.get(), ids)?;
        let places = ops::embedding(tape, &self.position_embeddings.get(), &places)?;
        let mut h = self.norm.forward(tape, &ops::add(tape, &words, &places)?)?;
        for (layer, [k, v]) in self.layers.iter().zip(cross) {
            h = layer.attention.forward(tape, &h, visible, self.heads, causal)?;
            h = layer.cross.forward_to(tape, &h, k, v, self.heads)?;
            h = layer.feed_forward(tape, &h)?;
        }
        Ok(h)
    }
}

/// The first `rows` of each of `x` `[n, t, c]`.
///
/// # Errors
/// [`crate::Error::Shape`] where `x` has fewer rows or other dimensions; what a GPU says.
pub fn first_rows(tape: &Tape, x: &Tensor, rows: usize) -> Result<Tensor> {
    let [n, t, c] = x.dims("first_rows")?;
    if rows == t {
        return Ok(x.clone());
    }
    let flat = ops::reshape(tape, x, &[n, t * c])?;
    ops::reshape(tape, &ops::slice_channels(tape, &flat, 0, rows * c)?, &[n, rows, c])
}

#[derive(Clone)]
struct BertLayer {
    attention: Attention,
    cross: Attention,
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
}

impl BertLayer {
    fn load(w: &Weights, width: usize, eps: f64) -> Result<Self> {
        let inner = w.shape("intermediate.dense.weight")?[0];
        Ok(Self {
            attention: Attention::load(&w.scope("attention"), width, eps)?,
            cross: Attention::load(&w.scope("crossattention"), width, eps)?,
            intermediate: Linear::load(&w.scope("intermediate.dense"), width, inner, true)?,
            output: Linear::load(&w.scope("output.dense"), inner, width, true)?,
            norm: LayerNorm::load(&w.scope("output.LayerNorm"), width, eps)?,
        })
    }

    fn feed_forward(&self, tape: &Tape, x: &Tensor) -> Result<Tensor> {
        let h = ops::gelu(tape, &self.intermediate.forward(tape, x)?)?;
        self.norm.forward(tape, &self.output.forward_residual(tape, x, &h)?)
    }
}

#[derive(Clone)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    dense: Linear,
    norm: LayerNorm,
}

impl Attention {
    fn load(w: &Weights, width: usize, eps: f64) -> Result<Self> {
        let inner = w.scope("self");
        // Of the vision tower in cross-attention, whatever a configuration says.
        let context = inner.shape("key.weight")?.last().copied().unwrap_or(0);
        Ok(Self {
            query: Linear::load(&inner.scope("query"), width, width, true)?,
            key: Linear::load(&inner.scope("key"), context, width, true)?,
            value: Linear::load(&inner.scope("value"), context, width, true)?,
            dense: Linear::load(&w.scope("output.dense"), width, width, true)?,
            norm: LayerNorm::load(&w.scope("output.LayerNorm"), width, eps)?,
        })
    }

    fn keys_and_values(&self, tape: &Tape, states: &Tensor) -> Result<[Tensor; 2]> {
        Ok([self.key.forward(tape, states)?, self.value.forward(tape, states)?])
    }

    /// Self-attention to the first `visible` tokens.
    fn forward(&self, tape: &Tape, x: &Tensor, visible: usize, heads: usize, causal: bool) -> Result<Tensor> {
        let [k, v] = self.keys_and_values(tape, &first_rows(tape, x, visible)?)?;
        let h = ops::attention(tape, &self.query.forward(tape, x)?, &k, &v, heads, causal)?;
        self.norm.forward(tape, &self.dense.forward_residual(tape, x, &h)?)
    }

    /// All rows of `x` `[n, t, c]` attend to one set of keys and values `[1, l, c]`.
    fn forward_to(&self, tape: &Tape, x: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
        let [n, t, c] = x.dims("BERT")?;
        let q = ops::reshape(tape, &self.query.forward(tape, x)?, &[1, n * t, c])?;
        let h = ops::reshape(tape, &ops::attention(tape, &q, k, v, heads, false)?, &[n, t, c])?;
        self.norm.forward(tape, &self.dense.forward_residual(tape, x, &h)?)
    }
}
