//! Recorded numbers of other engines, and how far ours are from them.

mod blip;
mod case;
mod judging;
mod loras;
mod models;
mod neighbours;
mod networks;
mod sampling;
mod texts;
mod training;

use std::path::Path;

pub use case::{Basis, Case, Check, Checks};

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
/// with every op's output rounded to that format, never below the f32 tolerance. How a single one of many was rounded there
/// is luck, so a loss may be off by what any loss, or the prediction that it is computed from, is off by there, a norm by
/// what the gradients are, and one matrix's gradient by what any is; all of them together are held to their own error.
/// AdamW's first steps have the size of the rate whatever the gradient's is, and one sign that rounding turns is an error of
/// 0.2 in a small matrix: its update may be off by ten times what all are, as in f32, but never by as much as one that did not
/// happen. A judge's few numbers may be off by
/// twice three standard deviations, as the errors of the embeddings, states or logits that they are computed from make them.
/// Ids and ranks are compared where candidates are further apart than two such bounds. What a tokenizer makes is equal.
///
/// The CPU path itself is held to what independent roundings give a network, and turned signs an update: see `roundings` and
/// `turned_signs`. Its other quantities have
/// no bound of their own: they are reported, and what is not a number is found.
/// Tokenizers, LoRA files, merged LoRAs and steps of DoRA are the CPU's work on every device; samplers compute in f32 on each.
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
            let own = matches!(device, Device::Cpu).then(|| of_formats(check, precision)).flatten();
            check.tolerance = widened(check, own.unwrap_or_else(|| 2.0 * lent(&plain, check)));
            if matches!(check.basis, Basis::Signs { .. }) {
                check.tolerance = check.tolerance.min(MOVED);
            }
        }
    }
    Ok(Outcome { kind, checks })
}

/// The tolerance in 16 bits. What is to be equal, such as ids that a tokenizer makes, has no part in rounding.
fn widened(check: &Check, bound: f64) -> f64 {
    if check.tolerance == 0.0 { 0.0 } else { check.tolerance.max(bound) }
}

/// A bound that no run has part in, for quantities that have one.
fn of_formats(check: &Check, precision: DType) -> Option<f64> {
    match check.basis {
        Basis::Plain => None,
        Basis::Network { matrices, scale } => Some(scale * roundings(matrices, precision)),
        Basis::Signs { matrices, scale } => Some(turned_signs(matrices, scale, precision)),
        Basis::Derived { spread } => Some(2.0 * DEVIATIONS * spread),
    }
}

/// Standard deviations that a number may be off by: of normal errors one in 370 is off by more, and the bound is twice that.
const DEVIATIONS: f64 = 3.0;

/// What roundings to a format may make of a network's relative error. With each matrix come four: of the matrix, of its
/// result, of a norm or an activation, of the sum with the residual. They are independent, so their squares add up.
fn roundings(matrices: usize, precision: DType) -> f64 {
    let unit = match precision {
        DType::Bf16 => 2.0_f64.powi(-8),
        DType::F16 => 2.0_f64.powi(-11),
        _ => 2.0_f64.powi(-24),
    };
    unit * (4.0 * matrices as f64).sqrt()
}

/// An update without any movement is off by 1; one within this bound has moved, and mostly the right way.
const MOVED: f64 = 0.9;

/// What turned signs may make of the relative error of an update. An element of a gradient is about normal, and is off by a normal
/// error of a share e of its deviation: its sign turns with a probability of e / pi, and each that does adds the square of twice
/// the update. Six times that share is as unlikely as six deviations are of one number.
fn turned_signs(matrices: usize, scale: f64, precision: DType) -> f64 {
    let turned = 6.0 * roundings(matrices, precision) / std::f64::consts::PI;
    (scale * (4.0 * turned).sqrt()).min(MOVED)
}

/// What `check` may be off by according to the CPU's run in the same format.
fn lent(plain: &[Check], check: &Check) -> f64 {
    let errors = plain.iter().map(|p| match p.basis {
        Basis::Derived { spread } if p.quantity == check.quantity => p.error.max(DEVIATIONS * spread),
        _ => share(&p.quantity, &check.quantity) * p.error,
    });
    errors.fold(0.0, f64::max)
}

/// How many times the CPU's error in the quantity `other` may be in `quantity`.
fn share(other: &str, quantity: &str) -> f64 {
    let loss = |name: &str| name.ends_with(".loss");
    let made_of = match quantity {
        "grad_norm" => other == "grad, all",
        _ => loss(quantity) && (loss(other) || other == "model_pred"),
    };
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

fn compare(case: &Case, kind: &str, device: &Device, precision: DType) -> Result<Vec<Check>> {
    let Checks(checks) = match kind {
        "unet_forward" => models::unet_forward(case, device, precision)?,
        "text_encoder" => models::text_encoder(case, device, precision)?,
        "vae" => models::vae(case, device, precision)?,
        "tokenizer" => models::tokenizer(case)?,
        "lora_train" => training::lora_train(case, device, precision)?,
        "lora_train_text" => texts::lora_train_text(case, device, precision)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_may_be_off_by_six_deviations_and_what_is_further_apart_must_be_in_order() {
        let run = |error: f64, pairs: &[(f64, bool)]| {
            let mut checks = Checks::default();
            checks.absolute("score", &[error], &[0.0], 1e-3);
            checks.derived(0.01);
            checks.order("order", pairs, 1e-3, 0.01);
            checks.0
        };
        let bounds = |plain: &[Check]| [0, 1].map(|i| widened(&plain[i], 2.0 * lent(plain, &plain[i])));
        // Two bounds of 0.06: the pair 0.2 apart is compared, the one 0.1 apart is not.
        let plain = run(0.0, &[(0.2, true), (0.1, true)]);
        let [score, order] = bounds(&plain);
        assert!((score - 0.06).abs() < 1e-12 && (order - 0.12).abs() < 1e-12, "{score} {order}");
        let of = |tolerance: f64, check: &Check| Check { tolerance, ..check.clone() };
        assert!(of(order, &plain[1]).ok());
        assert_eq!(of(order, &plain[1]).decided(), Some([1, 2]));
        assert!(of(order, &run(0.0, &[(0.2, true), (0.1, false)])[1]).ok());
        assert!(!of(order, &run(0.0, &[(0.2, false), (0.1, true)])[1]).ok());
        assert!(!of(score, &run(0.07, &[])[0]).ok());
        // The CPU's own error counts where it is larger.
        assert!((bounds(&run(0.05, &[]))[0] - 0.1).abs() < 1e-12);
    }

    /// However large the network, an update that did not happen is found.
    #[test]
    fn an_update_that_did_not_happen_is_out_of_bounds() {
        for precision in [DType::Bf16, DType::F16] {
            for matrices in [1, 100, 10_000] {
                assert!(turned_signs(matrices, 2.0, precision) < 1.0);
            }
        }
        // A network of 25 matrices in f16: sqrt(100) / 2048 of the deviation, and 6 / pi of that of the signs.
        assert!(
            (turned_signs(25, 1.0, DType::F16) - f64::sqrt(4.0 * 6.0 * (10.0 / 2048.0) / std::f64::consts::PI)).abs()
                < 1e-12
        );
    }

    #[test]
    fn ids_stay_equal_in_16_bits() {
        let mut checks = Checks::default();
        checks.equal("input_ids", &[1, 2], &[1, 3]);
        let wrong = &checks.0[0];
        assert!(!Check { tolerance: widened(wrong, 2.0 * lent(&checks.0, wrong)), ..wrong.clone() }.ok());
    }

    #[test]
    fn roundings_grow_with_the_root_of_their_number() {
        assert_eq!(roundings(25, DType::Bf16), 10.0 / 256.0);
        assert_eq!(roundings(100, DType::F16), 20.0 / 2048.0);
    }
}
