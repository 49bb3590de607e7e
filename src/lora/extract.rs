//! A LoRA from two models: what one changed of the other, at a lower rank.

use std::path::Path;

use faer::Mat;
use rayon::prelude::*;

use super::base;
use super::expert::{Expert, LoraFactors};
use super::svd::{Cut, Svd};
use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Kind};
use crate::formats::component::Component;

/// What was found.
#[derive(Debug)]
pub struct Extracted {
    pub expert: Expert,
    /// The norm of what the LoRA leaves out, as a share of the norm of all changes that it could hold.
    pub relative_error: f64,
    /// Tensors that differ and that no LoRA changes: norms, biases, embeddings.
    pub left_out: Vec<String>,
}

/// The changes from `base` to `tuned`, both folders of models or checkpoints, each by the best approximation of the rank that `cut`
/// gives it (Eckart and Young 1936).
///
/// # Errors
/// [`Error::File`] where the models are of different shapes, or do not differ; for a damaged tensor.
pub fn extract(base: &Path, tuned: &Path, cut: Cut) -> Result<Extracted> {
    let mut expert = Expert::default();
    let (mut rest, mut all, mut left_out) = (0.0, 0.0, Vec::new());
    for component in base::COMPONENTS {
        let Some([before, after]) = both(base, tuned, component)? else { continue };
        let names: Vec<&str> = before.names().collect();
        let changes = names.par_iter().map(|name| change(&before, &after, name, cut));
        for (name, change) in names.iter().zip(changes.collect::<Result<Vec<_>>>()?) {
            match change {
                Change::None => {}
                Change::LeftOut => left_out.push(format!("{component}.{name}")),
                Change::LoraFactors(factors, squares) => {
                    let module = name.strip_suffix(".weight").unwrap_or(name);
                    expert.insert(component, &base::canonical(component, module), factors);
                    rest += squares[0];
                    all += squares[1];
                }
            }
        }
    }
    if expert.is_empty() {
        return Err(Error::file(tuned, format!("has the weights of {}: there is nothing to extract", base.display())));
    }
    Ok(Extracted { expert, relative_error: f64::sqrt(rest / all), left_out })
}

enum Change {
    None,
    LeftOut,
    /// With the squares of what is left out and of all.
    LoraFactors(LoraFactors, [f64; 2]),
}

fn change(before: &Component, after: &Component, name: &str, cut: Cut) -> Result<Change> {
    let (old, new) = (before.weight(name)?, after.weight(name)?);
    if old.shape() != new.shape() {
        let message = format!("tensor {name} has shape {:?}, and the base model's {:?}", new.shape(), old.shape());
        return Err(Error::file(after.file_of(name), message));
    }
    let (shape, old, new) = (old.shape(), old.reals::<f64>(), new.reals::<f64>());
    if old == new {
        return Ok(Change::None);
    }
    let embedding = name.contains("token_embedding") || name.contains("position_embedding");
    if embedding || !name.ends_with(".weight") || !matches!(shape.len(), 2 | 4) {
        return Ok(Change::LeftOut);
    }
    let columns = old.len() / shape[0];
    let difference = Mat::from_fn(shape[0], columns, |i, j| new[i * columns + j] - old[i * columns + j]);
    let svd = Svd::of(&difference)?;
    let kept = svd.keep(cut);
    let square = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
    Ok(Change::LoraFactors(svd.factors(kept, shape)?, [square(&svd.s[kept..]), square(&svd.s)]))
}

/// A component of both models; none where the first lacks it.
fn both(base: &Path, tuned: &Path, component: &str) -> Result<Option<[Component; 2]>> {
    let second = component == "text_encoder_2";
    let has = |model: &Path| -> Result<bool> {
        match model.is_file() {
            true => Ok(!second || Checkpoint::open(model)?.kind == Kind::Sdxl),
            false => Ok(model.join(component).is_dir()),
        }
    };
    match (has(base)?, has(tuned)?) {
        (false, false) => Ok(None),
        (true, true) => Ok(Some([Component::open(&base.join(component))?, Component::open(&tuned.join(component))?])),
        _ => Err(Error::file(
            tuned,
            format!("{component} is in one of the two models alone: they are of different families"),
        )),
    }
}
