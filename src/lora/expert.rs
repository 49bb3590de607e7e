//! An expert: for each module of each component, the two factors of its LoRA and their alpha.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The low-rank update of one module: `alpha / rank * b @ a`.
#[derive(Clone, Debug)]
pub struct LoraFactors {
    /// f32 `[r, in]` for a linear layer, `[r, in, kh, kw]` for a convolution (the order of files).
    pub a: Tensor,
    /// f32 `[out, r]`.
    pub b: Tensor,
    pub alpha: f64,
    /// DoRA.
    pub magnitude: Option<Magnitude>,
}

/// DoRA's lengths: what each row (or column) of the changed weight is brought to.
#[derive(Clone, Debug)]
pub struct Magnitude {
    /// f32 `[out]`, or `[in]`.
    pub values: Tensor,
    pub along: Along,
}

/// What has a length of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Each output: peft, and LyCORIS today.
    Outputs,
    /// Each input (LyCORIS with `wd_on_out=False`).
    Inputs,
}

impl LoraFactors {
    /// Wraps two factors after checking that they fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] if `a` is not `[r, in]` or `[r, in, kh, kw]`, or `b` is not `[out, r]`.
    pub fn new(a: Tensor, b: Tensor, alpha: f64) -> Result<Self> {
        let fits = matches!(a.shape().len(), 2 | 4) && b.shape().len() == 2 && b.shape()[1] == a.shape()[0];
        if !fits || a.is_empty() || b.is_empty() {
            return Err(Error::shape("lora", format!("a {:?} and b {:?} are not two factors", a.shape(), b.shape())));
        }
        Ok(Self { a: a.cast(DType::F32), b: b.cast(DType::F32), alpha, magnitude: None })
    }

    /// The same with DoRA's lengths.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is not one for each output, or input.
    pub fn with_magnitude(self, values: Tensor, along: Along) -> Result<Self> {
        let expected = if along == Along::Outputs { self.outputs() } else { self.a.shape()[1] };
        if values.len() != expected {
            let message = format!("{} lengths of DoRA beside a weight {:?}", values.len(), self.weight_shape());
            return Err(Error::shape("lora", message));
        }
        let values = values.cast(DType::F32).with_shape(&[expected]);
        Ok(Self { magnitude: Some(Magnitude { values, along }), ..self })
    }

    /// What the adapter makes of a weight, whose values are in the order of files; `weight` is its strength. With DoRA's lengths
    /// `m V / |V|`, where `V` is the weight with the product added, as in peft.
    pub fn changed(&self, base: &[f64], weight: f64) -> Vec<f64> {
        let delta = super::dense::rows(&super::dense::product(&[(weight * self.scale(), self)]));
        let mut sum: Vec<f64> = base.iter().zip(delta).map(|(w, d)| w + d).collect();
        let Some(Magnitude { values, along }) = &self.magnitude else { return sum };
        let shape = self.weight_shape();
        let pixels: usize = shape[2..].iter().product();
        let place = |at: usize| match along {
            Along::Outputs => at / (shape[1] * pixels),
            Along::Inputs => at / pixels % shape[1],
        };
        let mut squares = vec![0.0; values.len()];
        sum.iter().enumerate().for_each(|(at, x)| squares[place(at)] += x * x);
        let factors: Vec<f64> = (values.reals::<f64>().iter().zip(squares))
            .map(|(m, square)| if square > 0.0 { m / f64::sqrt(square) } else { 0.0 })
            .collect();
        sum.iter_mut().enumerate().for_each(|(at, x)| *x *= factors[place(at)]);
        sum
    }

    pub fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    pub fn outputs(&self) -> usize {
        self.b.shape()[0]
    }

    /// Columns of the flattened delta: `in`, or `in * kh * kw`.
    pub fn inputs(&self) -> usize {
        self.a.shape()[1..].iter().product()
    }

    /// What the product is multiplied by: alpha / rank.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank() as f64
    }

    /// The shape of the weight that this changes: `[out, in]` or `[out, in, kh, kw]`.
    pub fn weight_shape(&self) -> Vec<usize> {
        let mut shape = self.a.shape().to_vec();
        shape[0] = self.outputs();
        shape
    }

    /// The dense update `alpha / rank * b @ a` in the shape of the weight, f32; computed in f64, rounded once.
    pub fn delta(&self) -> Tensor {
        let product = super::dense::product(&[(self.scale(), self)]);
        super::dense::to_tensor(&product, &self.weight_shape())
    }
}

/// component (`unet`, `text_encoder`, `text_encoder_2`) -> module (dotted path in the checkpoint) -> its factors.
pub type Components = BTreeMap<String, BTreeMap<String, LoraFactors>>;

/// All that a LoRA file adds to a model.
#[derive(Clone, Debug, Default)]
pub struct Expert {
    pub components: Components,
    /// component -> parameter of one dimension, such as `...norm1.weight` -> what is added to it, f32.
    pub vectors: BTreeMap<String, BTreeMap<String, Tensor>>,
}

impl Expert {
    /// Whether a module has DoRA's lengths: such a change is no sum.
    pub fn is_decomposed(&self) -> bool {
        self.iter().any(|(_, _, factors)| factors.magnitude.is_some())
    }

    /// (component, parameter, difference), in the order of names.
    pub fn vectors(&self) -> impl Iterator<Item = (&str, &str, &Tensor)> {
        self.vectors.iter().flat_map(|(component, all)| {
            all.iter().map(move |(name, tensor)| (component.as_str(), name.as_str(), tensor))
        })
    }

    pub fn insert(&mut self, component: &str, module: &str, factors: LoraFactors) {
        self.components.entry(component.to_string()).or_default().insert(module.to_string(), factors);
    }

    pub fn get(&self, component: &str, module: &str) -> Option<&LoraFactors> {
        self.components.get(component)?.get(module)
    }

    /// (component, module, factors), in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &LoraFactors)> {
        self.components.iter().flat_map(|(component, modules)| {
            modules.iter().map(move |(module, factors)| (component.as_str(), module.as_str(), factors))
        })
    }

    /// How many modules it changes.
    pub fn len(&self) -> usize {
        self.components.values().map(BTreeMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.vectors.is_empty()
    }

    /// How many differences of norms it has, and how many of biases.
    pub fn norms_and_biases(&self) -> (usize, usize) {
        let of_norm = |(_, name, _): &(&str, &str, &Tensor)| is_norm(name);
        let norms = self.vectors().filter(of_norm).count();
        (norms, self.vectors().count() - norms)
    }

    /// All kinds of changes that it has, in words: `128 modules (4 with DoRA), rank up to 8, 26 norms and 2 biases`.
    pub fn contents(&self) -> String {
        let dora = self.iter().filter(|(_, _, factors)| factors.magnitude.is_some()).count();
        let some = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {many}")),
        };
        let of_dora = if dora > 0 { format!(" ({dora} with DoRA)") } else { String::new() };
        let modules = some(self.len(), "module", "modules");
        let modules = modules.map(|modules| format!("{modules}{of_dora}, rank up to {}", self.max_rank()));
        let (norms, biases) = self.norms_and_biases();
        let vectors: Vec<String> =
            [some(norms, "norm", "norms"), some(biases, "bias", "biases")].into_iter().flatten().collect();
        let vectors = Some(vectors.join(" and ")).filter(|words| !words.is_empty());
        let all: Vec<String> = [modules, vectors].into_iter().flatten().collect();
        if all.is_empty() { "0 modules".into() } else { all.join(", ") }
    }

    /// The widest rank of any module; 0 for an expert without modules.
    pub fn max_rank(&self) -> usize {
        self.iter().map(|(_, _, f)| f.rank()).max().unwrap_or(0)
    }

    /// The same update with factors in `dtype`, to be written: computations need f32.
    pub fn stored_as(mut self, dtype: DType) -> Self {
        for factors in self.components.values_mut().flat_map(BTreeMap::values_mut) {
            (factors.a, factors.b) = (factors.a.cast(dtype), factors.b.cast(dtype));
            if let Some(magnitude) = &mut factors.magnitude {
                magnitude.values = magnitude.values.cast(dtype);
            }
        }
        self.vectors.values_mut().flat_map(BTreeMap::values_mut).for_each(|vector| *vector = vector.cast(dtype));
        self
    }

    /// The same update `strength` times as strong.
    pub fn scaled(mut self, strength: f64) -> Self {
        for factors in self.components.values_mut().flat_map(BTreeMap::values_mut) {
            factors.alpha *= strength;
        }
        for vector in self.vectors.values_mut().flat_map(BTreeMap::values_mut) {
            let scaled = vector.reals::<f64>().iter().map(|x| x * strength).collect();
            *vector = Tensor::from_reals::<f64>(scaled, vector.shape(), DType::F32);
        }
        self
    }
}

/// Whether a parameter of one dimension belongs to a norm, by its module's name.
pub(super) fn is_norm(parameter: &str) -> bool {
    let module = parameter.rsplit_once('.').map_or(parameter, |(module, _)| module);
    module.rsplit('.').next().is_some_and(|part| part.contains("norm"))
}
