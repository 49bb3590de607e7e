//! Experts whose change is no product beside a weight (DoRA), or that change norms and biases, in the weights of a network.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::attach::{in_files, in_memory};
use super::expert::{Expert, LoraFactors};
use crate::error::{Error, Result};
use crate::nn::Param;
use crate::tensor::{DType, Tensor};

/// Parameters and what they were before.
pub type Originals = Vec<(Param, Tensor)>;

/// Puts what `experts` change in this way into the `parameters` of a network, each change computed from the weights as they were.
///
/// # Errors
/// [`Error::Failed`] naming a parameter that the network lacks, or that the change does not fit; what a GPU says.
pub fn fold(parameters: &[Param], component: &str, experts: &[Expert]) -> Result<Originals> {
    let mut modules: BTreeMap<String, Vec<&LoraFactors>> = BTreeMap::new();
    let mut vectors: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
    for expert in experts {
        for (_, module, factors) in expert.iter().filter(|(c, _, f)| *c == component && f.magnitude.is_some()) {
            modules.entry(format!("{module}.weight")).or_default().push(factors);
        }
        for (_, name, vector) in expert.vectors().filter(|(c, ..)| *c == component) {
            vectors.entry(name).or_default().push(vector);
        }
    }
    let known: BTreeMap<&str, &Param> = parameters.iter().map(|param| (param.name(), param)).collect();
    let find = |name: &str| {
        let missing = || Error::Failed(format!("a LoRA changes {component}.{name}, which this model lacks"));
        known.get(name).copied().ok_or_else(missing)
    };
    let new: Vec<Result<(Param, Tensor)>> = (modules.par_iter())
        .map(|(name, factors)| {
            let param = find(name)?;
            Ok((param.clone(), decomposed(name, &param.get(), factors)?))
        })
        .collect();
    let mut changed = new.into_iter().collect::<Result<Vec<_>>>()?;
    for (name, vectors) in vectors {
        let param = find(name)?;
        changed.push((param.clone(), shifted(name, &param.get(), &vectors)?));
    }
    Ok(changed
        .into_iter()
        .map(|(param, value)| {
            let original = param.get();
            param.set(value);
            (param, original)
        })
        .collect())
}

/// Gives parameters back what they were, where they are now.
///
/// # Errors
/// Where the device has no room.
pub fn restore(originals: Originals) -> Result<()> {
    for (param, original) in originals {
        param.set(original.to(&param.get().device())?);
    }
    Ok(())
}

fn decomposed(name: &str, weight: &Tensor, terms: &[&LoraFactors]) -> Result<Tensor> {
    let file = in_files(&weight.to_cpu()?.cast(DType::F32));
    let base = file.reals::<f64>();
    let mut sum = base.to_vec();
    for factors in terms {
        if factors.weight_shape() != file.shape() && factors.outputs() * factors.inputs() != file.len() {
            let (shape, other) = (file.shape(), factors.weight_shape());
            return Err(Error::Failed(format!(
                "LoRA of {name}: it changes a weight {other:?}, and this one is {shape:?}"
            )));
        }
        let changed = factors.changed(&base, 1.0);
        sum.iter_mut().zip(changed.iter().zip(base.iter())).for_each(|(sum, (new, old))| *sum += new - old);
    }
    let sum = in_memory(&Tensor::from_reals::<f64>(sum, file.shape(), DType::F32));
    sum.cast(weight.dtype()).to(&weight.device())
}

fn shifted(name: &str, value: &Tensor, vectors: &[&Tensor]) -> Result<Tensor> {
    let mut sum = value.to_cpu()?.reals::<f64>().into_owned();
    for vector in vectors {
        if vector.len() != sum.len() {
            let message = format!("LoRA of {name}: {} values, and this model has {}", vector.len(), sum.len());
            return Err(Error::Failed(message));
        }
        sum.iter_mut().zip(vector.reals::<f64>().iter()).for_each(|(sum, x)| *sum += x);
    }
    Tensor::from_reals::<f64>(sum, value.shape(), value.dtype()).to(&value.device())
}
