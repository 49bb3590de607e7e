//! The names of single-file (LDM) checkpoints in terms of diffusers'.
//!
//! Source: CompVis/latent-diffusion, Stability-AI/generative-models and mlfoundations/open_clip module names; the block
//! formula is one for all families: with n resnets a down block, blocks advance by n + 1.

use super::source::{Part, Source};

/// The parts of a checkpoint and the prefix of their tensors, text encoders in HF's layout before OpenCLIP's.
pub const UNET: &str = "model.diffusion_model.";
pub const VAE: &str = "first_stage_model.";
pub const HF_ENCODER: &str = "cond_stage_model.transformer.";
pub const OPEN_CLIP_ENCODER: &str = "cond_stage_model.model.";
pub const XL_HF_ENCODER: &str = "conditioner.embedders.0.transformer.";
pub const XL_OPEN_CLIP_ENCODER: &str = "conditioner.embedders.1.model.";

/// What names depend on besides themselves.
pub struct Layout {
    /// Input blocks of a level of the UNet: resnets and the sampler.
    pub stride: usize,
    /// Levels of the VAE.
    pub levels: usize,
    /// Layers of each OpenCLIP encoder that are used: of SD 2.x's one and only, and of SDXL's second.
    pub layers: [usize; 2],
}

/// The component that a tensor belongs to, and the names of what it holds there, none for a name outside of the layout.
pub fn places(key: &str, layout: &Layout) -> Option<(&'static str, Vec<(String, Source)>)> {
    let whole = |name: Option<String>| name.map(|name| (name, Source::whole(key))).into_iter().collect();
    if let Some(rest) = key.strip_prefix(UNET) {
        return Some(("unet", whole(unet(rest, layout.stride))));
    }
    if let Some(rest) = key.strip_prefix(VAE) {
        return Some(("vae", whole(vae(rest, layout.levels))));
    }
    if let Some(rest) = key.strip_prefix(HF_ENCODER).or(key.strip_prefix(XL_HF_ENCODER)) {
        return Some(("text_encoder", whole(hf_encoder(rest))));
    }
    let (component, rest, layers, projected) = if let Some(rest) = key.strip_prefix(OPEN_CLIP_ENCODER) {
        ("text_encoder", rest, layout.layers[0], false)
    } else {
        ("text_encoder_2", key.strip_prefix(XL_OPEN_CLIP_ENCODER)?, layout.layers[1], true)
    };
    let parts = open_clip(rest, layers, projected);
    let source = |part: Part| Source { key: key.into(), part };
    Some((component, parts.into_iter().map(|(name, part)| (name, source(part))).collect()))
}

/// A UNet's name, from what follows the prefix. `stride` is the number of input blocks a level: resnets plus one.
fn unet(key: &str, stride: usize) -> Option<String> {
    const WHOLE: [(&str, &str); 7] = [
        ("input_blocks.0.0.", "conv_in."),
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("label_emb.0.0.", "add_embedding.linear_1."),
        ("label_emb.0.2.", "add_embedding.linear_2."),
        ("out.0.", "conv_norm_out."),
        ("out.2.", "conv_out."),
    ];
    if let Some(name) = replaced(key, &WHOLE) {
        return Some(name);
    }
    let (kind, rest) = key.split_once('.')?;
    let (at, rest) = numbered(rest)?;
    if kind == "middle_block" {
        return match at % 2 {
            0 => Some(format!("mid_block.resnets.{}.{}", at / 2, resnet(rest)?)),
            _ => Some(format!("mid_block.attentions.{}.{rest}", at / 2)),
        };
    }
    let (slot, rest) = numbered(rest)?;
    let (side, block, j) = match kind {
        "input_blocks" if at > 0 => ("down_blocks", (at - 1) / stride, (at - 1) % stride),
        "output_blocks" => ("up_blocks", at / stride, at % stride),
        _ => return None,
    };
    if let Some(parameter) = rest.strip_prefix("op.").filter(|_| side == "down_blocks") {
        let last = j == stride - 1 && slot == 0;
        return last.then(|| format!("down_blocks.{block}.downsamplers.0.conv.{parameter}"));
    }
    if let Some(parameter) = rest.strip_prefix("conv.").filter(|_| side == "up_blocks") {
        let last = j == stride - 1 && slot > 0;
        return last.then(|| format!("up_blocks.{block}.upsamplers.0.conv.{parameter}"));
    }
    match slot {
        0 => Some(format!("{side}.{block}.resnets.{j}.{}", resnet(rest)?)),
        1 => Some(format!("{side}.{block}.attentions.{j}.{rest}")),
        _ => None,
    }
}

fn resnet(rest: &str) -> Option<String> {
    const PARTS: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    replaced(rest, &PARTS)
}

/// A VAE's name; `levels` is the number of its up blocks, which LDM counts from the other end.
pub fn vae(key: &str, levels: usize) -> Option<String> {
    const OUTER: [(&str, &str); 5] = [
        ("quant_conv.", "quant_conv."),
        ("post_quant_conv.", "post_quant_conv."),
        ("conv_in.", "conv_in."),
        ("norm_out.", "conv_norm_out."),
        ("conv_out.", "conv_out."),
    ];
    const MIDDLE: [(&str, &str); 7] = [
        ("block_1.", "resnets.0."),
        ("block_2.", "resnets.1."),
        ("attn_1.norm.", "attentions.0.group_norm."),
        ("attn_1.q.", "attentions.0.to_q."),
        ("attn_1.k.", "attentions.0.to_k."),
        ("attn_1.v.", "attentions.0.to_v."),
        ("attn_1.proj_out.", "attentions.0.to_out.0."),
    ];
    let shortcut = |name: String| name.replace(".nin_shortcut.", ".conv_shortcut.");
    let (side, rest) = key.split_once('.')?;
    if !matches!(side, "encoder" | "decoder") {
        return replaced(key, &OUTER[..2]);
    }
    if let Some(name) = replaced(rest, &OUTER[2..]) {
        return Some(format!("{side}.{name}"));
    }
    if let Some(rest) = rest.strip_prefix("mid.") {
        return Some(shortcut(format!("{side}.mid_block.{}", replaced(rest, &MIDDLE)?)));
    }
    let (direction, rest) = rest.split_once('.')?;
    let (level, rest) = numbered(rest)?;
    let (blocks, level, sampler) = match (side, direction) {
        ("encoder", "down") => ("down_blocks", level, "downsample"),
        ("decoder", "up") => ("up_blocks", levels.checked_sub(level + 1)?, "upsample"),
        _ => return None,
    };
    if let Some(parameter) = rest.strip_prefix(sampler).and_then(|rest| rest.strip_prefix(".conv.")) {
        return Some(format!("{side}.{blocks}.{level}.{sampler}rs.0.conv.{parameter}"));
    }
    let (j, rest) = numbered(rest.strip_prefix("block.")?)?;
    Some(shortcut(format!("{side}.{blocks}.{level}.resnets.{j}.{rest}")))
}

/// Names of an encoder in HF's layout; old merges leave out the level `text_model.`.
fn hf_encoder(key: &str) -> Option<String> {
    match key {
        _ if key.ends_with("position_ids") => None,
        _ if key.starts_with("text_model.") => Some(key.into()),
        _ if key.starts_with("embeddings.") || key.starts_with("encoder.") || key.starts_with("final_layer_norm.") => {
            Some(format!("text_model.{key}"))
        }
        _ => None,
    }
}

/// Names of an OpenCLIP encoder's tensor: its fused projections hold three of them. Layers from `layers` on are left out.
pub fn open_clip(key: &str, layers: usize, projected: bool) -> Vec<(String, Part)> {
    const WHOLE: [(&str, &str); 4] = [
        ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("ln_final.weight", "text_model.final_layer_norm.weight"),
        ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ];
    const PARTS: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
        ("attn.out_proj.", "self_attn.out_proj."),
    ];
    if let Some((_, name)) = WHOLE.iter().find(|(old, _)| *old == key) {
        return vec![(name.to_string(), Part::Whole)];
    }
    if key == "text_projection" && projected {
        // It is multiplied from the right here, and from the left, as a linear layer, there.
        return vec![("text_projection.weight".into(), Part::Transposed)];
    }
    let Some((layer, rest)) = key.strip_prefix("transformer.resblocks.").and_then(numbered) else {
        return Vec::new();
    };
    if layer >= layers {
        return Vec::new();
    }
    let at = format!("text_model.encoder.layers.{layer}");
    if let Some(parameter) = rest.strip_prefix("attn.in_proj_") {
        let third = |i: usize| {
            let name = ["q_proj", "k_proj", "v_proj"][i];
            (format!("{at}.self_attn.{name}.{parameter}"), Part::Third(i))
        };
        return (0..3).map(third).collect();
    }
    match replaced(rest, &PARTS) {
        Some(name) => vec![(format!("{at}.{name}"), Part::Whole)],
        None => Vec::new(),
    }
}

/// How many numbered things follow `prefix` among `keys`: one more than the largest number.
pub fn count<'a>(keys: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let numbers = keys.filter_map(|key| Some(numbered(key.strip_prefix(prefix)?)?.0 + 1));
    numbers.max().unwrap_or(0)
}

/// `12.rest` as 12 and `rest`. Larger numbers than any model has are none, so that nothing computed from them overflows.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    Some((number.parse::<u8>().ok()?.into(), rest))
}

fn replaced(text: &str, table: &[(&str, &str)]) -> Option<String> {
    let (old, new) = table.iter().find(|(old, _)| text.starts_with(old))?;
    Some(format!("{new}{}", &text[old.len()..]))
}
