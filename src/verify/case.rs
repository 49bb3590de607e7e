//! A recorded case: a folder with `case.json` and `tensors.safetensors`, and the errors of what is compared with it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::lora::attach::transposed;
use crate::tensor::{DType, Tensor};

pub struct Case {
    pub dir: PathBuf,
    root: PathBuf,
    pub json: Value,
    pub tensors: Safetensors,
}

impl Case {
    /// Reads the case in `dir`; model paths in it resolve against `root`, or against `dir/../..`.
    ///
    /// # Errors
    /// [`Error::File`] where `case.json` or a file that it names is missing or broken.
    pub fn open(dir: &Path, root: Option<&Path>) -> Result<Self> {
        let path = dir.join("case.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let json = serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
        // Cases of rules on texts and scores have no tensors.
        let tensors = dir.join("tensors.safetensors");
        let tensors = if tensors.exists() { Safetensors::open(&tensors) } else { Safetensors::empty(&tensors) }?;
        let root = root.map_or_else(|| dir.join("../.."), Path::to_path_buf);
        Ok(Self { dir: dir.into(), root, json, tensors })
    }

    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::file(self.dir.join("case.json"), message)
    }

    /// What is compared: the name of a check of `selma verify`.
    ///
    /// # Errors
    /// [`Error::File`] naming the case where the key is missing or of another type, here and below.
    pub fn kind(&self) -> Result<&str> {
        self.str("kind")
    }

    /// The text of `key`.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or no text.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.json[key].as_str().ok_or_else(|| self.error(format!("`{key}`: expected a string")))
    }

    /// The number of `key`.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or no number.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.json[key].as_f64().ok_or_else(|| self.error(format!("`{key}`: expected a number")))
    }

    /// The whole number of `key`.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or no whole number from 0 on.
    pub fn usize(&self, key: &str) -> Result<usize> {
        let number = self.json[key].as_u64().ok_or_else(|| self.error(format!("`{key}`: expected a whole number")))?;
        Ok(number as usize)
    }

    /// A list of strings; `null` is `None`.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or of another type.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        match &self.json[key] {
            Value::Null => Ok(None),
            Value::String(one) => Ok(Some(vec![one.clone()])),
            Value::Array(items) => items
                .iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .map(Some)
                .ok_or_else(|| self.error(format!("`{key}`: expected a list of strings"))),
            _ => Err(self.error(format!("`{key}`: expected a list of strings"))),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or no list.
    pub fn list(&self, key: &str) -> Result<&Vec<Value>> {
        self.json[key].as_array().ok_or_else(|| self.error(format!("`{key}`: expected a list")))
    }

    /// Paths by name, below the root.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or of another type.
    pub fn paths(&self, key: &str) -> Result<Vec<(&str, PathBuf)>> {
        let wrong = || self.error(format!("`{key}`: expected an object of paths"));
        let paths = self.json[key].as_object().ok_or_else(wrong)?.iter();
        paths.map(|(name, path)| Ok((name.as_str(), self.root.join(path.as_str().ok_or_else(wrong)?)))).collect()
    }

    /// The path `path` of the case, below the root.
    pub fn below_root(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The folder that `key` names, below the root.
    ///
    /// # Errors
    /// [`Error::File`] where the key is missing or no text.
    pub fn path(&self, key: &str) -> Result<PathBuf> {
        Ok(self.root.join(self.str(key)?))
    }

    /// A recorded tensor as it is stored.
    ///
    /// # Errors
    /// [`Error::File`] where no file of the case has the tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensors.tensor(name)
    }

    /// A recorded `[n, c, h, w]` tensor as `[n, h, w, c]` in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] where the tensor is missing; [`Error::Shape`] where it does not have four dimensions.
    pub fn feature_map(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let tensor = self.tensor(name)?;
        let [n, c, h, w] = tensor.dims("verify")?;
        Ok(Tensor::new(transposed(&tensor.reals::<f32>(), n, c, h * w), &[n, h, w, c]).cast(dtype))
    }

    /// Timesteps that index a noise schedule.
    ///
    /// # Errors
    /// [`Error::File`] where the tensor is missing or has values that are no whole numbers from 0 on.
    pub fn whole_timesteps(&self, name: &str) -> Result<Vec<usize>> {
        let tensor = self.tensor(name)?;
        let whole = |&t: &i64| usize::try_from(t).map_err(|_| self.error(format!("{name}: negative timestep {t}")));
        if tensor.dtype() != DType::I64 {
            return Err(self.error(format!("{name}: expected whole timesteps")));
        }
        tensor.data::<i64>().iter().map(whole).collect()
    }

    /// Timesteps that may lie between those of a schedule.
    ///
    /// # Errors
    /// [`Error::File`] where the tensor is missing.
    pub fn timesteps(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.reals::<f32>().into_owned())
    }
}

/// `[n, h, w, c]` values, from whatever device, in the recorded order `[n, c, h, w]`.
///
/// # Errors
/// [`Error::Shape`] where `x` does not have four dimensions; what a GPU says.
pub fn channels_first(x: &Tensor) -> Result<Vec<f32>> {
    let [n, h, w, c] = x.dims("verify")?;
    let x = x.to_cpu()?;
    Ok(transposed(&x.reals::<f32>(), n, h * w, c))
}

/// One compared quantity.
#[derive(Clone, Debug)]
pub struct Check {
    pub quantity: String,
    pub error: f64,
    pub tolerance: f64,
    /// What its bound in 16 bits follows from.
    pub basis: Basis,
    /// Of an order: how far apart the recorded values are that it is of.
    pub margins: Vec<f64>,
}

/// Where the bound of a quantity in 16 bits comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// What the CPU path in the same format is off by.
    Plain,
    /// The same, and for the CPU path itself what rounding gives a network with so many matrices; the factor turns a relative
    /// error into one of the quantity.
    Network { matrices: usize, scale: f64 },
    /// An update that has the size of the learning rate whatever the gradient's is: what rounding gives a gradient through so many
    /// matrices turns the sign of some of its elements. The factor is that of a part of the parameters.
    Signs { matrices: usize, scale: f64 },
    /// The standard deviation that the errors of a network's output, which are compared too, give a few numbers computed from
    /// it. How far a single one is off is luck.
    Derived { spread: f64 },
}

impl Check {
    /// NaN is never within a tolerance.
    pub fn ok(&self) -> bool {
        self.error <= self.tolerance
    }

    /// Of an order: how many of its pairs are further apart than the tolerance, so that they are compared, and how many there
    /// are.
    pub fn decided(&self) -> Option<[usize; 2]> {
        let decided = self.margins.iter().filter(|margin| margin.abs() > self.tolerance).count();
        (!self.margins.is_empty()).then_some([decided, self.margins.len()])
    }
}

#[derive(Default)]
pub struct Checks(pub Vec<Check>);

impl Checks {
    pub fn push(&mut self, quantity: impl Into<String>, error: f64, tolerance: f64) {
        let (quantity, basis) = (quantity.into(), Basis::Plain);
        self.0.push(Check { quantity, error, tolerance, basis, margins: Vec::new() });
    }

    /// Of what was compared last: it is a network's output. `scale` is 1 for a relative error.
    pub fn of_network(&mut self, matrices: usize, scale: f64) {
        self.basis(Basis::Network { matrices, scale });
    }

    /// Of what was compared last: it is an update of AdamW's first steps, whose gradients passed through so many matrices.
    pub fn of_signs(&mut self, matrices: usize, scale: f64) {
        self.basis(Basis::Signs { matrices, scale });
    }

    /// Of what was compared last: errors of a network's output give it this standard deviation.
    pub fn derived(&mut self, spread: f64) {
        self.basis(Basis::Derived { spread });
    }

    fn basis(&mut self, basis: Basis) {
        if let Some(last) = self.0.last_mut() {
            last.basis = basis;
        }
    }

    /// That values are ordered as recorded. Of each pair there is a margin, how far apart the recorded values are, and whether
    /// ours are in their order. `tolerance` and `spread` are those of a single value: pairs further apart than two bounds must
    /// be in order.
    pub fn order(&mut self, quantity: impl Into<String>, pairs: &[(f64, bool)], tolerance: f64, spread: f64) {
        let turned = pairs.iter().filter(|(_, in_order)| !in_order);
        let worst = turned.fold(0.0, |worst: f64, (margin, _)| worst.max(*margin));
        self.push(quantity, worst, 2.0 * tolerance);
        self.derived(2.0 * spread);
        if let Some(last) = self.0.last_mut() {
            last.margins = pairs.iter().map(|(margin, _)| *margin).collect();
        }
    }

    /// `||ours - reference|| / ||reference||` in f64; the absolute norm for an all-zero reference.
    pub fn relative(&mut self, quantity: impl Into<String>, ours: &[f32], reference: &Tensor, tolerance: f64) {
        self.push(quantity, relative_error(ours, &reference.reals::<f32>()), tolerance);
    }

    /// The largest absolute difference in f64; infinite where the lengths differ.
    pub fn absolute(&mut self, quantity: impl Into<String>, ours: &[f64], reference: &[f64], tolerance: f64) {
        let differences = ours.iter().zip(reference).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) });
        let error = if ours.len() == reference.len() { worst } else { f64::INFINITY };
        self.push(quantity, error, tolerance);
    }

    /// How many of the items differ; a missing one differs.
    pub fn equal<T: PartialEq>(&mut self, quantity: impl Into<String>, ours: &[T], reference: &[T]) {
        let different = ours.iter().zip(reference).filter(|(a, b)| a != b).count();
        self.push(quantity, (different + ours.len().abs_diff(reference.len())) as f64, 0.0);
    }

    /// Compares `[n, h, w, c]` values with recorded ones `[n, c, h, w]`, by the norm of the difference.
    ///
    /// # Errors
    /// [`Error::Shape`] where `ours` does not have four dimensions; what a GPU says.
    pub fn feature_map(
        &mut self,
        quantity: impl Into<String>,
        ours: &Tensor,
        reference: &Tensor,
        tolerance: f64,
    ) -> Result<()> {
        self.relative(quantity, &channels_first(ours)?, reference, tolerance);
        Ok(())
    }
}

/// Infinite where the lengths differ.
pub fn relative_error(ours: &[f32], reference: &[f32]) -> f64 {
    if ours.len() != reference.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = ours.iter().zip(reference).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let norm: f64 = reference.iter().map(|&b| square(f64::from(b))).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}
