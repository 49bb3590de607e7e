//! An expert: for each module of each component, the two factors of its LoRA and their alpha.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The low-rank update of one module: `alpha / rank * up @ down`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// f32 `[r, in]` for a linear layer, `[r, in, kh, kw]` for a convolution (the order of files).
    pub down: Tensor,
    /// f32 `[out, r]`.
    pub up: Tensor,
    pub alpha: f64,
}

impl Factors {
    /// Wraps two factors after checking that they fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] if `down` is not `[r, in]` or `[r, in, kh, kw]`, or `up` is not `[out, r]`.
    pub fn new(down: Tensor, up: Tensor, alpha: f64) -> Result<Self> {
        let fits = matches!(down.shape().len(), 2 | 4) && up.shape().len() == 2 && up.shape()[1] == down.shape()[0];
        if !fits || down.is_empty() || up.is_empty() {
            return Err(Error::shape(
                "lora",
                format!("down {:?} and up {:?} are not two factors", down.shape(), up.shape()),
            ));
        }
        Ok(Self { down: down.cast(DType::F32), up: up.cast(DType::F32), alpha })
    }

    pub fn rank(&self) -> usize {
        self.down.shape()[0]
    }

    pub fn outputs(&self) -> usize {
        self.up.shape()[0]
    }

    /// Columns of the flattened delta: `in`, or `in * kh * kw`.
    pub fn inputs(&self) -> usize {
        self.down.shape()[1..].iter().product()
    }

    /// What the product is multiplied by: alpha / rank.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank() as f64
    }

    /// The shape of the weight that this changes: `[out, in]` or `[out, in, kh, kw]`.
    pub fn weight_shape(&self) -> Vec<usize> {
        let mut shape = self.down.shape().to_vec();
        shape[0] = self.outputs();
        shape
    }

    /// The dense update `alpha / rank * up @ down` in the shape of the weight, f32; computed in f64, rounded once.
    pub fn delta(&self) -> Tensor {
        let product = super::dense::product(&[(self.scale(), self)]);
        super::dense::to_tensor(&product, &self.weight_shape())
    }
}

/// component (`unet`, `text_encoder`, `text_encoder_2`) -> module (dotted path in the checkpoint) -> its factors.
pub type Components = BTreeMap<String, BTreeMap<String, Factors>>;

/// All that a LoRA file adds to a model.
#[derive(Clone, Debug, Default)]
pub struct Expert {
    pub components: Components,
}

impl Expert {
    pub fn insert(&mut self, component: &str, module: &str, factors: Factors) {
        self.components.entry(component.to_string()).or_default().insert(module.to_string(), factors);
    }

    pub fn get(&self, component: &str, module: &str) -> Option<&Factors> {
        self.components.get(component)?.get(module)
    }

    /// (component, module, factors), in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Factors)> {
        self.components.iter().flat_map(|(component, modules)| {
            modules.iter().map(move |(module, factors)| (component.as_str(), module.as_str(), factors))
        })
    }

    /// How many modules it changes.
    pub fn len(&self) -> usize {
        self.components.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The widest rank of any module; 0 for an expert without modules.
    pub fn max_rank(&self) -> usize {
        self.iter().map(|(_, _, f)| f.rank()).max().unwrap_or(0)
    }

    /// The same update with factors in `dtype`, to be written: computations need f32.
    pub fn stored_as(mut self, dtype: DType) -> Self {
        for factors in self.components.values_mut().flat_map(BTreeMap::values_mut) {
            (factors.down, factors.up) = (factors.down.cast(dtype), factors.up.cast(dtype));
        }
        self
    }

    /// The same update `strength` times as strong.
    pub fn scaled(mut self, strength: f64) -> Self {
        for factors in self.components.values_mut().flat_map(BTreeMap::values_mut) {
            factors.alpha *= strength;
        }
        self
    }
}
