//! What kind of model a single file holds, by the names and shapes of its tensors.

use super::names;
use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;

/// The families that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sd1,
    Sd2,
    Sdxl,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sd1 => "SD 1.x",
            Kind::Sd2 => "SD 2.x",
            Kind::Sdxl => "SDXL",
        }
    }
}

/// Names whose presence says that a file is something else, and what.
const OTHERS: [(&str, &str); 15] = [
    ("model.diffusion_model.joint_blocks.", "Stable Diffusion 3, a diffusion transformer"),
    ("joint_blocks.", "Stable Diffusion 3, a diffusion transformer"),
    ("model.diffusion_model.double_blocks.", "FLUX or a relative, a diffusion transformer"),
    ("double_blocks.", "FLUX or a relative, a diffusion transformer"),
    ("model.diffusion_model.transformer_blocks.", "a diffusion transformer"),
    ("transformer_blocks.", "a diffusion transformer"),
    ("model.diffusion_model.input_blocks.1.0.time_stack.", "Stable Video Diffusion"),
    ("control_model.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("input_blocks.", "a UNet alone, without text encoder and VAE"),
    ("down_blocks.", "a network of a diffusers folder; give the folder with its model_index.json"),
    ("first_stage_model.", "a VAE, without a UNet"),
    ("encoder.", "a VAE, without a UNet"),
    ("lora_unet_", "a LoRA; give it by --lora"),
    ("unet.", "a LoRA; give it by --lora"),
];

/// # Errors
/// [`Error::File`] naming what the file holds instead of Stable Diffusion 1.x, 2.x or XL for text to image.
pub fn kind(file: &Safetensors) -> Result<Kind> {
    let refuse = |what: &str| {
        let message = format!("this is {what}; expected a checkpoint of Stable Diffusion 1.x, 2.x or XL");
        Error::file(file.path(), message)
    };
    let has = |prefix: &str| file.names().any(|name| name.starts_with(prefix));
    let blocks = format!("{}input_blocks.", names::UNET);
    if let Some((_, what)) =
        OTHERS.iter().find(|(prefix, what)| has(prefix) && (!has(&blocks) || what.contains("Video")))
    {
        return Err(refuse(what));
    }
    if !has(&blocks) {
        return Err(refuse("no checkpoint in the layout of Stable Diffusion"));
    }
    let shape = |name: &str| file.shape(&format!("{}{name}", names::UNET)).unwrap_or_default();
    match shape("input_blocks.0.0.weight").get(1) {
        Some(4) => {}
        Some(5) => return Err(refuse("a depth-to-image model (5 input channels)")),
        Some(7) => return Err(refuse("an upscaler (7 input channels)")),
        Some(8) => return Err(refuse("an InstructPix2Pix model (8 input channels)")),
        Some(9) => return Err(refuse("an inpainting model (9 input channels)")),
        other => return Err(refuse(&format!("a model with {other:?} input channels"))),
    }
    if !has(&format!("{}middle_block.1.", names::UNET)) {
        return Err(refuse("a distilled model without attention in the middle (SSD-1B, Vega or tiny SD)"));
    }
    if file.contains("edm_mean") || file.contains("edm_vpred.sigma_max") {
        return Err(refuse("a model trained with EDM's noise levels (Playground, CosXL)"));
    }
    match () {
        _ if has(names::XL_OPEN_CLIP_ENCODER) => Ok(Kind::Sdxl),
        _ if has("conditioner.embedders.0.model.") => Err(refuse("the SDXL refiner")),
        _ if has(names::OPEN_CLIP_ENCODER) => Ok(Kind::Sd2),
        _ if has("cond_stage_model.") => Ok(Kind::Sd1),
        _ => Err(refuse("a checkpoint without a text encoder")),
    }
}

/// What the names of a VAE begin with in a file that has no UNet.
pub fn vae_alone(file: &Safetensors) -> Option<&'static str> {
    if file.names().any(|name| name.starts_with(names::UNET)) {
        return None;
    }
    let is = |prefix: &&str| file.contains(&format!("{prefix}decoder.conv_in.weight"));
    [names::VAE, "vae.", ""].into_iter().find(is)
}

/// Of a VAE's file: what trained it, and is no part of it.
pub fn is_left_of_training(key: &str) -> bool {
    const PREFIXES: [&str; 6] = ["loss.", "discriminator.", "model_ema.", "ema.", "perceptual_loss.", "logvar"];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Tensors that carry nothing for drawing or training: EMA copies, tables of the noise schedule, constants.
pub fn is_ignored(key: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "model_ema.",
        "denoiser.",
        "sqrt_",
        "log_one_minus_",
        "posterior_",
        "alphas_cumprod",
        "first_stage_model.loss.",
        "cond_stage_model.transformer.vision_model.",
    ];
    const NAMES: [&str; 12] = [
        "betas",
        "lvlb_weights",
        "logvar",
        "scale_factor",
        "v_pred",
        "ztsnr",
        "global_step",
        "cond_stage_model.logit_scale",
        "cond_stage_model.model.logit_scale",
        "cond_stage_model.model.attn_mask",
        "conditioner.embedders.1.model.logit_scale",
        "conditioner.embedders.1.model.attn_mask",
    ];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix)) || NAMES.contains(&key) || key.ends_with("position_ids")
}
