//! Cases of LoRA files: lora_formats, merge, bake.

use std::collections::BTreeMap;

use serde_json::Value;

use super::case::{Case, Checks, relative_error};
use crate::device::Device;
use crate::error::Result;
use crate::formats::component::weight_files;
use crate::formats::safetensors::Safetensors;
use crate::lora::merge::{Compat, Method, Options, merge as merge_experts};
use crate::lora::prune::MajoritySign;
use crate::lora::{self, BaseModules, Expert, base};
use crate::tensor::{DType, Tensor};

pub fn lora_formats(case: &Case) -> Result<Checks> {
    let base = base::modules(&case.path("model")?)?;
    let expected = outputs(case, "out.delta.")?;
    let mut checks = Checks::default();
    for file in case.list("files")? {
        let expert = load(case, file, &base)?;
        let name = file["file"].as_str().unwrap_or_default();
        checks.push(format!("modules of {name}"), expert.len().abs_diff(expected.len()) as f64, 0.0);
        for (path, delta) in &expected {
            let (component, module) = path.split_once('.').unwrap_or(("unet", path));
            checks.push(format!("{name} {path}"), delta_error(&expert, component, module, delta), 1e-6);
        }
    }
    Ok(checks)
}

/// peft's add_weighted_adapter. Since 0.21 its svd family applies alpha / rank once.
pub fn merge(case: &Case) -> Result<Checks> {
    let base = base::modules(&case.path("model")?)?;
    let experts = case.list("inputs")?.iter().map(|input| load(case, input, &base)).collect::<Result<Vec<_>>>()?;
    let weights: Option<Vec<f64>> = case.list("weights")?.iter().map(Value::as_f64).collect();
    let weights = weights.ok_or_else(|| case.error("`weights`: expected numbers"))?;
    let pairs: Vec<(&Expert, f64)> = experts.iter().zip(weights).collect();

    let name = case.str("method")?;
    let mut options = Options::new(match name.trim_end_matches("_svd") {
        "linear" => Method::Linear,
        "cat" => Method::Concat,
        "svd" => Method::Svd,
        "ties" => Method::Ties,
        "magnitude_prune" => Method::MagnitudePrune,
        other => return Err(case.error(format!("unknown merge method {other}"))),
    });
    let svd = name.ends_with("svd");
    let widest = experts.iter().map(Expert::max_rank).max().unwrap_or(0);
    options.compat = Some(Compat::Peft);
    options.density = case.json["density"].as_f64();
    options.rank = svd.then(|| case.json["svd_rank"].as_u64().map_or(widest, |rank| rank as usize));
    if case.json["majority_sign_method"] == "frequency" {
        options.majority_sign = MajoritySign::Frequency;
    }
    let merged = merge_experts(&pairs, &options)?.expert;
    let expected = outputs(case, "out.delta.")?;
    let mut checks = Checks::default();
    checks.push("modules", merged.len().abs_diff(expected.len()) as f64, 0.0);
    for (module, delta) in &expected {
        let tolerance = if svd { 5e-5 } else { 2e-6 };
        checks.push(module, delta_error(&merged, "unet", module, delta), tolerance);
    }
    Ok(checks)
}

fn load(case: &Case, input: &Value, base: &BaseModules) -> Result<Expert> {
    let file = input["file"].as_str().ok_or_else(|| case.error("`file`: expected a string"))?;
    Ok(lora::load(&case.dir.join(file), Some(base), false)?.expert)
}

/// The tensors below `prefix`, by the rest of their names.
fn outputs(case: &Case, prefix: &str) -> Result<BTreeMap<String, Tensor>> {
    let names = case.tensors.names().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
    names.map(|(name, rest)| Ok((rest.to_owned(), case.tensor(name)?))).collect()
}

/// Infinite where the expert lacks the module.
fn delta_error(expert: &Expert, component: &str, module: &str, delta: &Tensor) -> f64 {
    let Some(factors) = expert.get(component, module) else {
        return f64::INFINITY;
    };
    relative_error(&factors.delta().reals::<f32>(), &delta.reals::<f32>())
}

/// Every parameter that changes when the LoRAs are fused, and no other.
pub fn bake(case: &Case, device: &Device) -> Result<Checks> {
    let model = case.path("model")?;
    let modules = base::modules(&model)?;
    let mut experts = Vec::new();
    for input in case.list("inputs")? {
        let scale = input["scale"].as_f64().ok_or_else(|| case.error("`scale`: expected a number"))?;
        experts.push((load(case, input, &modules)?, scale));
    }
    let experts: Vec<(&Expert, f64)> = experts.iter().map(|(expert, scale)| (expert, *scale)).collect();
    let mut expected = outputs(case, "out.")?;
    let mut checks = Checks::default();
    let (mut unexpected, mut baked) = (0, 0);
    for component in base::COMPONENTS.iter().filter(|c| model.join(c).is_dir()) {
        for file in weight_files(&model.join(component))? {
            let weights = Safetensors::open(&file)?;
            for name in weights.names() {
                let terms = lora::bake::terms(&experts, component, name);
                if terms.is_empty() {
                    continue;
                }
                baked += 1;
                let ours = lora::bake::bake(&weights.tensor(name)?.cast(DType::F32), &terms, device)?;
                let module = base::canonical(component, name.strip_suffix(".weight").unwrap_or(name));
                let path = format!("{component}.{module}.weight");
                match expected.remove(&path) {
                    Some(reference) => checks.relative(path, &ours.reals::<f32>(), &reference, 1e-6),
                    None => unexpected += 1,
                }
            }
        }
    }
    checks.push(format!("parameters of {baked}"), (unexpected + expected.len()) as f64, 0.0);
    Ok(checks)
}
