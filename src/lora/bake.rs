//! Adding LoRAs to base weights: `W + sum_t w_t * alpha_t / r_t * up_t @ down_t`, on the CPU computed in f64 and rounded once, on
//! a GPU in f32: there every weight is one product of the stacked factors, to which W is added on its way out.

use std::path::Path;

use rayon::prelude::*;

use super::base;
use super::dense;
use super::expert::{Expert, LoraFactors};
use super::svd::stacked;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::checkpoint::Checkpoint;
use crate::formats::component::weight_files;
use crate::formats::safetensors::{self, Safetensors};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// The weight with every term's product (weight * alpha / rank) added, in the weight's own dtype and file layout.
///
/// # Errors
/// [`Error::Shape`] if a product has another shape, or the sum does not fit into the dtype; what a GPU says.
pub fn bake(weight: &Tensor, terms: &[(f64, &LoraFactors)], device: &Device) -> Result<Tensor> {
    if terms.is_empty() {
        return Ok(weight.clone());
    }
    for (_, factors) in terms {
        let (rows, columns) = (weight.shape()[0], weight.shape()[1..].iter().product::<usize>());
        if (factors.outputs(), factors.inputs()) != (rows, columns) {
            let message = format!("a LoRA of {:?} on a weight {:?}", factors.weight_shape(), weight.shape());
            return Err(Error::shape("bake", message));
        }
    }
    if terms.iter().any(|(_, factors)| factors.magnitude.is_some()) {
        return decomposed(weight, terms);
    }
    let products: Vec<_> = terms.iter().map(|&(w, f)| (w * f.scale(), f)).collect();
    let baked = match device {
        Device::Gpu(_) => sum_on(device, weight, &products)?,
        Device::Cpu => {
            let delta = dense::rows(&dense::product(&products));
            let sum = weight.reals::<f64>().iter().zip(delta).map(|(w, d)| w + d).collect();
            Tensor::from_reals::<f64>(sum, weight.shape(), weight.dtype())
        }
    };
    finite(baked)
}

/// # Errors
/// [`Error::Shape`] for values that the dtype has not.
fn finite(baked: Tensor) -> Result<Tensor> {
    match baked.is_finite() {
        true => Ok(baked),
        false => {
            let message = format!("the sum of weight and LoRA does not fit into {}", baked.dtype().name());
            Err(Error::shape("bake", message))
        }
    }
}

/// With DoRA among the terms each changes the weight as it was, and the changes are added. On the CPU.
fn decomposed(weight: &Tensor, terms: &[(f64, &LoraFactors)]) -> Result<Tensor> {
    let base = weight.reals::<f64>();
    let mut sum = base.to_vec();
    for (strength, factors) in terms {
        let changed = factors.changed(&base, *strength);
        sum.iter_mut().zip(changed.iter().zip(base.iter())).for_each(|(sum, (new, old))| *sum += new - old);
    }
    finite(Tensor::from_reals::<f64>(sum, weight.shape(), weight.dtype()))
}

fn has_vector(experts: &[(&Expert, f64)], component: &str, parameter: &str) -> bool {
    let name = base::canonical(component, parameter);
    experts.iter().any(|(expert, _)| expert.vectors.get(component).is_some_and(|all| all.contains_key(&name)))
}

/// The parameter with what experts add to it, where it has one dimension and they do; its values are those of the file.
fn shifted(value: &Tensor, experts: &[(&Expert, f64)], component: &str, parameter: &str) -> Result<Option<Tensor>> {
    let name = base::canonical(component, parameter);
    let found = experts.iter().filter_map(|(expert, weight)| {
        let vector = expert.vectors.get(component)?.get(&name)?;
        Some((vector, *weight))
    });
    let mut sum: Option<Vec<f64>> = None;
    for (vector, weight) in found {
        if vector.len() != value.len() {
            let message = format!("a difference of {} values for {parameter}, which has {}", vector.len(), value.len());
            return Err(Error::shape("bake", message));
        }
        let sum = sum.get_or_insert_with(|| value.reals::<f64>().into_owned());
        sum.iter_mut().zip(vector.reals::<f64>().iter()).for_each(|(sum, x)| *sum += weight * x);
    }
    sum.map(|sum| finite(Tensor::from_reals::<f64>(sum, value.shape(), value.dtype()))).transpose()
}

/// The weight with `products` (coefficient, factors) added: kernels have f32 for that, whatever it is stored in.
fn sum_on(device: &Device, weight: &Tensor, products: &[(f64, &LoraFactors)]) -> Result<Tensor> {
    let (up, down) = stacked(products);
    let [m, n, k] = [up.nrows(), down.ncols(), up.ncols()];
    let a = dense::to_tensor(&up, &[m, k]).to(device)?;
    let b = dense::to_tensor(&down, &[k, n]).to(device)?;
    let residual = weight.cast(DType::F32).with_shape(&[m, n]).to(device)?;
    let sum = ops::matmul(&a, &b, Some(&residual))?.to_cpu()?;
    Ok(sum.with_shape(weight.shape()).cast(weight.dtype()))
}

/// The terms that change one parameter (a full name such as `mid_block...to_q.weight`).
pub fn terms<'a>(experts: &[(&'a Expert, f64)], component: &str, parameter: &str) -> Vec<(f64, &'a LoraFactors)> {
    let Some(module) = parameter.strip_suffix(".weight") else {
        return Vec::new();
    };
    let module = base::canonical(component, module);
    experts.iter().filter_map(|(expert, weight)| Some((*weight, expert.get(component, &module)?))).collect()
}

/// Copies the model to `out` with the experts added to its weights, in the dtype that they are stored in: a folder to a
/// new folder, a checkpoint to a new file. Nothing is left under `out` if it fails. Returns how many parameters changed.
///
/// # Errors
/// [`Error::File`] if `out` exists already or the model lacks a module that an expert changes.
pub fn into_model(model: &Path, experts: &[(&Expert, f64)], out: &Path, device: &Device) -> Result<usize> {
    if out.exists() {
        return Err(Error::file(out, "exists already; --out names a new folder or file for the baked model"));
    }
    let modules = base::modules(model)?;
    for (component, module, _) in experts.iter().flat_map(|(e, _)| e.iter()) {
        if !modules.get(component).is_some_and(|m| m.contains_key(module)) {
            return Err(Error::file(model, format!("has no {component}.{module}, which a LoRA changes")));
        }
    }
    match model.is_file() {
        true => into_checkpoint(model, experts, out, device),
        false => into_folder(model, experts, out, device),
    }
}

/// The same tensors under the same keys; a key can hold several parameters.
fn into_checkpoint(model: &Path, experts: &[(&Expert, f64)], out: &Path, device: &Device) -> Result<usize> {
    let checkpoint = Checkpoint::open(model)?;
    let (file, places) = (checkpoint.file(), checkpoint.by_key());
    let names: Vec<&str> = file.names().collect();
    let baked: Vec<Result<(String, Tensor, usize)>> = names
        .par_iter()
        .map(|key| {
            let mut stored = file.tensor(key)?;
            let mut changed = 0;
            for (component, name, source) in places.get(key).into_iter().flatten() {
                let terms = terms(experts, component, name);
                if terms.is_empty() && !has_vector(experts, component, name) {
                    continue;
                }
                let part = source.take(&file.weight(key)?, model)?;
                let sum = match shifted(&part, experts, component, name)? {
                    Some(sum) => sum,
                    None => bake(&part, &terms, device).map_err(|e| Error::file(model, format!("{key}: {e}")))?,
                };
                stored = source.put(&sum, &stored, model)?;
                changed += 1;
            }
            Ok((key.to_string(), stored, changed))
        })
        .collect();
    let mut tensors = Vec::new();
    let mut changed = 0;
    for item in baked {
        let (key, tensor, parts) = item?;
        changed += parts;
        tensors.push((key, tensor));
    }
    let mut metadata = file.metadata().clone();
    // Hashes of the tensors as they were.
    metadata.retain(|key, _| key != "modelspec.hash_sha256" && !key.starts_with("sshs_"));
    safetensors::write(out, &tensors, &metadata)?;
    Ok(changed)
}

fn into_folder(model: &Path, experts: &[(&Expert, f64)], out: &Path, device: &Device) -> Result<usize> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let holder = tempfile::tempdir_in(parent).map_err(|e| Error::io(parent, e))?;
    // A folder inside of the temporary one: that one is private to its owner.
    let staging = holder.path().join("model");
    std::fs::create_dir(&staging).map_err(|e| Error::io(&staging, e))?;
    copy(model, &staging, &|file| !changed_weights(model, file, experts))?;
    let mut changed = 0;
    for component in base::COMPONENTS {
        if experts.iter().any(|(e, _)| changes(e, component)) {
            for file in weight_files(&model.join(component))? {
                let name = file.file_name().unwrap_or_default();
                let out = staging.join(component).join(name);
                changed += bake_file(&file, component, experts, &out, device)?;
            }
        }
    }
    std::fs::rename(&staging, out).map_err(|e| Error::io(out, e))?;
    Ok(changed)
}

fn bake_file(file: &Path, component: &str, experts: &[(&Expert, f64)], out: &Path, device: &Device) -> Result<usize> {
    let weights = Safetensors::open(file)?;
    let names: Vec<&str> = weights.names().collect();
    let baked: Vec<Result<(String, Tensor, bool)>> = names
        .par_iter()
        .map(|name| {
            let terms = terms(experts, component, name);
            if terms.is_empty() && has_vector(experts, component, name) {
                let value = weights.weight(name)?;
                let shifted = shifted(&value, experts, component, name)?;
                return Ok((name.to_string(), shifted.unwrap_or(value), true));
            }
            if terms.is_empty() {
                // Whatever else is in the file is copied as it is, integer buffers included.
                return Ok((name.to_string(), weights.tensor(name)?, false));
            }
            let baked = bake(&weights.weight(name)?, &terms, device);
            let baked = baked.map_err(|e| Error::file(file, format!("{name}: {e}")))?;
            Ok((name.to_string(), baked, true))
        })
        .collect();
    let mut tensors = Vec::new();
    let mut changed = 0;
    for item in baked {
        let (name, tensor, is_changed) = item?;
        changed += usize::from(is_changed);
        tensors.push((name, tensor));
    }
    safetensors::write(out, &tensors, weights.metadata())?;
    Ok(changed)
}

/// True for the weight files of a component that an expert changes, other variants of them included: those would go on
/// holding the old weights.
fn changed_weights(model: &Path, file: &Path, experts: &[(&Expert, f64)]) -> bool {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let Ok(inner) = file.strip_prefix(model) else {
        return false;
    };
    let component = inner.iter().next().and_then(|c| c.to_str()).unwrap_or_default();
    ["safetensors", "bin", "ckpt", "msgpack"].contains(&extension) && experts.iter().any(|(e, _)| changes(e, component))
}

fn changes(expert: &Expert, component: &str) -> bool {
    expert.components.contains_key(component) || expert.vectors.contains_key(component)
}

fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    for entry in std::fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let path = entry.map_err(|e| Error::io(from, e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            std::fs::create_dir_all(&target).map_err(|e| Error::io(&target, e))?;
            copy(&path, &target, wanted)?;
        } else if wanted(&path) {
            std::fs::copy(&path, &target).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}
