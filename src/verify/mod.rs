//! Recorded numbers of other engines, and how far ours are from them.

mod blip;
mod case;
mod judging;
mod loras;
mod models;
mod neighbours;
mod networks;
mod sampling;
mod training;

use std::path::Path;

pub use case::{Case, Check, Checks};

use crate::device::Device;
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
        self.checks.iter().max_by(used).expect("a case without checks is an error")
    }
}

/// Runs one case on `device` in `precision`. In a 16-bit format the bound of a quantity is twice the error of the CPU path
/// with every op's output rounded to that format, never below the f32 tolerance; on the CPU that is the run itself, so
/// there it reports errors and finds what is not a number. How a single one of many was rounded there is luck, so a loss
/// may be off by what any loss, or the prediction that it is computed from, is off by there, a norm by what the gradients
/// are, and one matrix's gradient by what any is; all of them together are held to their own error. AdamW's first steps
/// have the size of the rate whatever the gradient's is, and one sign that rounding turns is an error of 0.2 in a small
/// matrix: its update may be off by ten times what all are, as in f32.
/// Tokenizers, LoRA files and merged LoRAs are the CPU's work on every device; samplers compute in f32 on each.
///
/// # Errors
/// If the case cannot be read or run; a wrong number is not an error but a check that is not ok.
pub fn run(dir: &Path, root: Option<&Path>, device: &Device, precision: DType) -> Result<Outcome> {
    let case = Case::open(dir, root)?;
    let kind = case.kind()?.to_owned();
    let mut checks = compare(&case, &kind, device, precision)?;
    if checks.is_empty() {
        return Err(case.error("the case compares nothing"));
    }
    if precision != DType::F32 {
        let plain = match device {
            Device::Cpu => checks.clone(),
            Device::Gpu(_) => compare(&case, &kind, &Device::Cpu, precision)?,
        };
        for check in &mut checks {
            let lent = plain.iter().map(|p| share(&p.quantity, &check.quantity) * p.error);
            let largest = lent.fold(0.0, f64::max);
            check.tolerance = check.tolerance.max(2.0 * largest);
        }
    }
    Ok(Outcome { kind, checks })
}

/// How many times the CPU's error in the quantity `other` may be in `quantity`.
fn share(other: &str, quantity: &str) -> f64 {
    let loss = |name: &str| name.ends_with(".loss");
    let made_of = match quantity {
        "grad_norm" => other == "grad, all",
        _ => loss(quantity) && (loss(other) || other == "model_pred"),
    };
    let of_scores = score_share(other, quantity);
    if of_scores > 0.0 {
        return of_scores;
    }
    if quantity == other || made_of {
        return 1.0;
    }
    // `grad unet.conv_in` is one of `grad, all`.
    match (quantity.split_once(' '), other.split_once(' ')) {
        (Some(("update", _)), Some(("update,", _))) => 10.0,
        (Some((kind, _)), Some((of, _))) if kind == of && !kind.ends_with(',') => 1.0,
        _ => 0.0,
    }
}

/// A judge's scores are few numbers, and how few are rounded is luck. A cosine may be off by what the embeddings are, and
/// what follows from it by as much in its own scale; of a softmax over logits that is half of their error. Rewards, which
/// are a few values of one linear head, share their errors.
fn score_share(other: &str, quantity: &str) -> f64 {
    const REWARDS: [&str; 3] = ["head", "reward", "rewards_first_prompt"];
    if REWARDS.contains(&other) && REWARDS.contains(&quantity) {
        return 2.0;
    }
    match quantity {
        _ if !matches!(other, "image_embeds" | "text_embeds") => 0.0,
        "cosine" => 1.0,
        "clip_score_hessel" => 2.5,
        "hps" | "clip_score_100" | "logits_per_image" | "pick_score" => 100.0,
        "pick_probability" => 50.0,
        _ => 0.0,
    }
}

fn compare(case: &Case, kind: &str, device: &Device, precision: DType) -> Result<Vec<Check>> {
    let Checks(checks) = match kind {
        "unet_forward" => models::unet_forward(case, device, precision)?,
        "text_encoder" => models::text_encoder(case, device, precision)?,
        "vae" => models::vae(case, device, precision)?,
        "tokenizer" => models::tokenizer(case)?,
        "lora_train" => training::lora_train(case, device, precision)?,
        "class_tokens" => training::class_tokens(case, device, precision)?,
        "scheduler" => sampling::scheduler(case, device)?,
        "sample" => sampling::sample(case, device, precision)?,
        "clip_image_text" => networks::clip_image_text(case, device, precision)?,
        "clip_score" => networks::clip_score(case, device, precision)?,
        "aesthetic" => networks::aesthetic(case, device, precision)?,
        "blip_vqa" => blip::blip_vqa(case, device, precision)?,
        "image_reward" => blip::image_reward(case, device, precision)?,
        "inception" => networks::inception(case, device, precision)?,
        "lpips" => networks::lpips(case, device, precision)?,
        "lora_formats" => loras::lora_formats(case)?,
        "merge" => loras::merge(case)?,
        "bake" => loras::bake(case, device)?,
        "preprocess" => judging::preprocess(case)?,
        "bert_tokenizer" => judging::bert_tokenizer(case)?,
        "fid_stats" => judging::fid_stats(case)?,
        "kid" => judging::kid(case)?,
        "cmmd" => judging::cmmd(case)?,
        "diversity" => judging::diversity(case)?,
        "image_similarity" => judging::image_similarity(case)?,
        "soft_label" => neighbours::soft_label(case)?,
        "img2img_steps" => neighbours::img2img_steps(case)?,
        "visor" => neighbours::visor(case)?,
        "spatial_rules" => neighbours::spatial_rules(case)?,
        "association" => neighbours::association(case)?,
        "tags" => neighbours::tags(case)?,
        "selection" => neighbours::selection(case)?,
        "loop_rules" => neighbours::loop_rules(case)?,
        "gate" => neighbours::gate(case)?,
        "long_prompts" => neighbours::long_prompts(case)?,
        other => return Err(case.error(format!("unknown kind {other}"))),
    };
    Ok(checks)
}

/// How much of its tolerance a check used; NaN ranks as the worst.
fn rank(check: &Check) -> f64 {
    let used = check.error / check.tolerance.max(f64::MIN_POSITIVE);
    if used.is_nan() { f64::INFINITY } else { used }
}
