//! Recorded numbers of other engines, and how far ours are from them.

mod case;
mod loras;
mod models;
mod sampling;
mod training;

use std::path::Path;

pub use case::{Case, Check, Checks};

use crate::error::Result;
use crate::tensor::DType;

/// What one case compared.
pub struct Outcome {
    pub kind: String,
    /// At least one.
    pub checks: Vec<Check>,
}

impl Outcome {
    /// The quantity that used most of its tolerance.
    pub fn worst(&self) -> &Check {
        let used = |a: &&Check, b: &&Check| rank(a).total_cmp(&rank(b));
        self.checks
            .iter()
            .max_by(used)
            .expect("a case without checks is an error")
    }
}

/// Runs one case in `precision`. In a 16-bit format the bound of a quantity is twice the error of the CPU path with every
/// op's output rounded to that format, never below the f32 tolerance; on the CPU that is the run itself, so there it
/// reports errors and finds what is not a number.
///
/// # Errors
/// If the case cannot be read or run; a wrong number is not an error but a check that is not ok.
pub fn run(dir: &Path, root: Option<&Path>, precision: DType) -> Result<Outcome> {
    let case = Case::open(dir, root)?;
    let kind = case.kind()?.to_owned();
    let Checks(mut checks) = match kind.as_str() {
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
    if checks.is_empty() {
        return Err(case.error("the case compares nothing"));
    }
    if precision != DType::F32 {
        checks
            .iter_mut()
            .for_each(|check| check.tolerance = check.tolerance.max(2.0 * check.error));
    }
    Ok(Outcome { kind, checks })
}

/// How much of its tolerance a check used; NaN ranks as the worst.
fn rank(check: &Check) -> f64 {
    let used = check.error / check.tolerance.max(f64::MIN_POSITIVE);
    if used.is_nan() { f64::INFINITY } else { used }
}
