//! Networks that judge images, against transformers, open_clip, salesforce/BLIP, ImageReward, pytorch-fid and lpips.

use selma::device::Device;
use selma::tensor::DType;
use selma::verify::{self, Outcome};

use crate::models::{fixtures, root};

pub const CASES: [&str; 15] = [
    "clip_transformers_quick_gelu",
    "clip_transformers_gelu",
    "clip_open_clip",
    "clip_openai",
    "clipscore",
    "pickscore",
    "hps",
    "hps_antialias",
    "judge-aesthetic",
    "blip_vqa_transformers",
    "blip_vqa_original",
    "blip_vqa_original_larger_image",
    "judge-image-reward",
    "judge-inception",
    "judge-lpips",
];

/// One case, of which every quantity must be within its tolerance.
pub fn verified(name: &str, device: &Device, precision: DType) -> Outcome {
    let case = fixtures().join("cases").join(name);
    let outcome =
        verify::run(&case, Some(root()), device, precision).unwrap_or_else(|e| panic!("{name} in {precision:?}: {e}"));
    let failed = outcome.checks.iter().filter(|check| !check.ok());
    let failed: Vec<String> =
        failed.map(|c| format!("{} is off by {:e}, more than {:e}", c.quantity, c.error, c.tolerance)).collect();
    assert!(failed.is_empty(), "{name} in {precision:?}: {}", failed.join("; "));
    outcome
}

#[test]
fn judges_agree_with_their_originals() {
    for name in CASES {
        let outcome = verified(name, &Device::Cpu, DType::F32);
        assert!(!outcome.checks.is_empty());
    }
}
