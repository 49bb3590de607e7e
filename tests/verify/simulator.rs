//! The GPU kernels, run by the simulator, against recorded numbers: whole networks, images and training steps.

use std::path::{Path, PathBuf};

use selma::device::Device;
use selma::device::gpu::{Checks, Gpu, Order};
use selma::tensor::DType;
use selma::verify::{self, Outcome};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases")
}

fn verified(name: &str, device: &Device, precision: DType) -> Outcome {
    let outcome = verify::run(&cases().join(name), None, device, precision).unwrap_or_else(|e| panic!("{name}: {e}"));
    let failed = outcome.checks.iter().filter(|check| !check.ok());
    let failed: Vec<String> =
        failed.map(|c| format!("{} is off by {:e}, more than {:e}", c.quantity, c.error, c.tolerance)).collect();
    assert!(failed.is_empty(), "{name} in {}: {}", precision.name(), failed.join("; "));
    outcome
}

fn simulator(checks: Checks, order: Order) -> Device {
    Device::Gpu(Gpu::simulator(checks, order).unwrap())
}

/// In every precision, at sizes that are no multiple of a tile.
#[test]
fn networks_agree_with_diffusers_and_transformers() {
    let device = simulator(Checks::Off, Order::Forwards);
    for name in ["text_encoder_sd1", "text_encoder_sdxl_2", "unet_tiny_sdxl_odd", "unet_small3_odd", "vae_sd1"] {
        for precision in [DType::F32, DType::Bf16, DType::F16] {
            verified(name, &device, precision);
        }
    }
}

#[test]
fn judges_agree_with_their_originals() {
    let device = simulator(Checks::Off, Order::Forwards);
    for name in crate::judges::CASES {
        for precision in [DType::F32, DType::Bf16, DType::F16] {
            crate::judges::verified(name, &device, precision);
        }
    }
}

#[test]
fn samplers_agree_with_diffusers() {
    let device = simulator(Checks::On, Order::Forwards);
    let cases = std::fs::read_dir(cases()).unwrap();
    let names: Vec<String> = cases.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let of_samplers: Vec<&String> = names.iter().filter(|name| name.starts_with("sched_")).collect();
    assert!(of_samplers.len() >= 13, "{of_samplers:?}");
    for name in of_samplers {
        verified(name, &device, DType::F32);
    }
}

#[test]
fn images_agree_with_diffusers() {
    let device = simulator(Checks::Off, Order::Forwards);
    for name in ["sample_img2img_one_step", "sample_tiny_sdxl_prompt_2_clip_skip"] {
        verified(name, &device, DType::F32);
    }
}

#[test]
fn training_sdxl_agrees_with_peft() {
    let device = simulator(Checks::Off, Order::Forwards);
    verified("lora_train_sdxl_accum", &device, DType::F32);
}

#[test]
fn training_text_encoders_agrees_with_peft() {
    let device = simulator(Checks::Off, Order::Forwards);
    verified("lora_train_text_sdxl", &device, DType::F32);
    verified("lora_train_text_sd1", &device, DType::Bf16);
}

#[test]
fn training_dora_agrees_with_peft() {
    for precision in [DType::F32, DType::Bf16, DType::F16] {
        verified("lora_train_dora_sd1", &simulator(Checks::On, Order::Backwards), precision);
    }
}

/// Loss, gradients, clipping and AdamW, with every access to memory checked, and the same to the last bit whichever thread
/// runs first.
#[test]
fn training_steps_agree_with_peft_in_any_order_of_threads() {
    let errors = |checks, order| {
        let name = "lora_train_small3_conv_v_snr_accum";
        let outcome = verified(name, &simulator(checks, order), DType::F32);
        outcome.checks.iter().map(|check| check.error.to_bits()).collect::<Vec<_>>()
    };
    let forwards = errors(Checks::Off, Order::Forwards);
    assert!(forwards.len() > 10);
    assert_eq!(forwards, errors(Checks::On, Order::Backwards));
}

#[test]
fn training_steps_agree_in_16_bits() {
    let device = simulator(Checks::Off, Order::Forwards);
    for precision in [DType::Bf16, DType::F16] {
        verified("lora_train_small3_conv_v_snr_accum", &device, precision);
    }
}
