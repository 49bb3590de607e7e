//! Recorded numbers of other engines, and how far ours are from them.

mod case;
mod loras;
mod models;
mod sampling;
mod training;

use std::path::Path;

pub use case::{Case, Check, Checks};

use crate::error::{Error, Result};
use crate::tensor::DType;

/// Runs one case and returns its kind and the quantity that used most of its tolerance.
pub fn run(dir: &Path, root: Option<&Path>, precision: DType) -> Result<(String, Check)> {
    let case = Case::open(dir, root)?;
    let kind = case.kind()?.to_owned();
    if precision != DType::F32 {
        return Err(Error::Unavailable(format!("verify --precision {}", precision.name())));
    }
    let checks = match kind.as_str() {
        "unet_forward" => models::unet_forward(&case, precision)?,
        "text_encoder" => models::text_encoder(&case, precision)?,
        "vae" => models::vae(&case, precision)?,
        "tokenizer" => models::tokenizer(&case)?,
        "lora_train" => training::lora_train(&case, precision)?,
        "scheduler" => sampling::scheduler(&case)?,
        "sample" => sampling::sample(&case, precision)?,
        "lora_formats" => loras::lora_formats(&case)?,
        "merge" => loras::merge(&case)?,
        "bake" => loras::bake(&case)?,
        other => return Err(case.error(format!("unknown kind {other}"))),
    };
    let worst = |a: &&Check, b: &&Check| rank(a).total_cmp(&rank(b));
    let check: Option<&Check> = checks.0.iter().max_by(worst);
    let check = check.cloned().ok_or_else(|| case.error("the case compares nothing"))?;
    Ok((kind, check))
}

/// How much of its tolerance a check used; NaN ranks as the worst.
fn rank(check: &Check) -> f64 {
    let used = check.error / check.tolerance.max(f64::MIN_POSITIVE);
    if used.is_nan() { f64::INFINITY } else { used }
}
