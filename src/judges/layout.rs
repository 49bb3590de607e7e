//! The names that published judges give their tensors, in terms of transformers'. A name that is in no layout stays as it
//! is: the network does not ask for it, and it is reported as unused.
//!
//! Source: mlfoundations/open_clip and openai/CLIP `model.py`, salesforce/BLIP `vit.py`, zai-org/ImageReward, torchvision
//! `alexnet.py`.

use crate::formats::checkpoint::{Part, Source, open_clip_text};

/// Of a CLIP: transformers', open_clip's and OpenAI's layouts.
pub fn clip(key: &str) -> Vec<(String, Source)> {
    const WHOLE: [(&str, &str); 7] = [
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
        ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
        ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
        ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
    ];
    if let Some((_, name)) = WHOLE.iter().find(|(old, _)| *old == key) {
        return vec![(name.to_string(), Source::whole(key))];
    }
    if key == "visual.proj" {
        let source = Source { key: key.into(), part: Part::Transposed };
        return vec![("visual_projection.weight".into(), source)];
    }
    let vision = key.strip_prefix("visual.").filter(|rest| rest.starts_with("transformer."));
    let parts = open_clip_text(vision.unwrap_or(key));
    if parts.is_empty() {
        return vec![(key.into(), Source::whole(key))];
    }
    let tower = |name: String| match vision {
        Some(_) => name.replacen("text_model", "vision_model", 1),
        None => name,
    };
    parts.into_iter().map(|(name, part)| (tower(name), Source { key: key.into(), part })).collect()
}

/// Of BLIP-VQA and ImageReward: transformers' and the original's layouts.
pub fn blip(key: &str) -> Vec<(String, Source)> {
    let name = key.strip_prefix("blip.").unwrap_or(key);
    const VISION: [(&str, &str); 8] = [
        ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
        ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
        ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
        ("visual_encoder.norm.", "vision_model.post_layernorm."),
        ("visual_encoder.blocks.", "vision_model.encoder.layers."),
        (".norm1.", ".layer_norm1."),
        (".norm2.", ".layer_norm2."),
        (".attn.", ".self_attn."),
    ];
    let is_vision = name.starts_with("visual_encoder.") || name.starts_with("vision_model.");
    if !is_vision {
        return vec![(name.into(), Source::whole(key))];
    }
    let name = VISION.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new));
    let name = name.replace(".self_attn.projection.", ".self_attn.out_proj.");
    let name = name.replace(".self_attn.proj.", ".self_attn.out_proj.");
    let Some((layer, parameter)) = name.split_once(".self_attn.qkv.") else {
        return vec![(name, Source::whole(key))];
    };
    let third = |i: usize| {
        let name = format!("{layer}.self_attn.{}_proj.{parameter}", ["q", "k", "v"][i]);
        (name, Source { key: key.into(), part: Part::Third(i) })
    };
    (0..3).map(third).collect()
}

/// Of LPIPS: its own names, and those of torchvision's AlexNet.
pub fn lpips(key: &str) -> Vec<(String, Source)> {
    const FEATURES: [(&str, &str); 5] = [
        ("features.0.", "net.slice1.0."),
        ("features.3.", "net.slice2.3."),
        ("features.6.", "net.slice3.6."),
        ("features.8.", "net.slice4.8."),
        ("features.10.", "net.slice5.10."),
    ];
    let found = FEATURES.iter().find_map(|(old, new)| key.strip_prefix(old).map(|rest| format!("{new}{rest}")));
    vec![(found.unwrap_or_else(|| key.into()), Source::whole(key))]
}

/// As the file has it.
pub fn own(key: &str) -> Vec<(String, Source)> {
    vec![(key.into(), Source::whole(key))]
}
