//! Writes a judge of the published size with random f16 weights, to measure time and memory where no real weights are at
//! hand:
//!
//! ```sh
//! cargo run --release --example random_judge -- clip-h14 /tmp/clip-h14    # 2 GB
//! ```

mod inception;

use std::collections::BTreeMap;
use std::path::Path;

use selma::formats::safetensors;
use selma::random::{self, Stream};
use selma::tensor::{DType, Tensor};
use selma::{Error, Result};
use serde_json::{Value, json};

const USAGE: &str =
    "usage: random_judge clip-b32|clip-l14|clip-l14-336|clip-h14|image-reward|blip-vqa|inception|aesthetic OUT";
const VOCABULARY: usize = 30524;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [judge, out] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    if let Err(error) = write(judge, Path::new(out)) {
        eprintln!("random_judge: {error}");
        std::process::exit(1);
    }
}

/// Names and shapes, and the files beside them.
#[derive(Default)]
struct Judge {
    shapes: Vec<(String, Vec<usize>)>,
    files: Vec<(&'static str, Value)>,
    /// Of the weights.
    file: &'static str,
}

impl Judge {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.shapes.push((name.into(), shape.to_vec()));
    }

    /// A matrix or kernel with its bias.
    fn layer(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.layer(name, &[width]);
    }

    /// An encoder of transformers' CLIP.
    fn clip_layers(&mut self, tower: &str, layers: usize, c: usize) {
        for i in 0..layers {
            let at = format!("{tower}.encoder.layers.{i}");
            for name in ["layer_norm1", "layer_norm2"] {
                self.norm(&format!("{at}.{name}"), c);
            }
            for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.layer(&format!("{at}.self_attn.{name}"), &[c, c]);
            }
            self.layer(&format!("{at}.mlp.fc1"), &[4 * c, c]);
            self.layer(&format!("{at}.mlp.fc2"), &[c, 4 * c]);
        }
    }

    /// A vision tower of the original BLIP.
    fn blip_vision(&mut self, prefix: &str, layers: usize, c: usize, image: usize) {
        let patch = 16;
        self.add(format!("{prefix}.cls_token"), &[1, 1, c]);
        self.add(format!("{prefix}.pos_embed"), &[1, 1 + (image / patch).pow(2), c]);
        self.layer(&format!("{prefix}.patch_embed.proj"), &[c, 3, patch, patch]);
        for i in 0..layers {
            let at = format!("{prefix}.blocks.{i}");
            for name in ["norm1", "norm2"] {
                self.norm(&format!("{at}.{name}"), c);
            }
            self.layer(&format!("{at}.attn.qkv"), &[3 * c, c]);
            self.layer(&format!("{at}.attn.proj"), &[c, c]);
            self.layer(&format!("{at}.mlp.fc1"), &[4 * c, c]);
            self.layer(&format!("{at}.mlp.fc2"), &[c, 4 * c]);
        }
        self.norm(&format!("{prefix}.norm"), c);
    }

    /// BERT base with cross-attention to a tower of `vision` channels.
    fn bert(&mut self, prefix: &str, vision: usize) {
        let c = 768;
        self.add(format!("{prefix}.embeddings.word_embeddings.weight"), &[VOCABULARY, c]);
        self.add(format!("{prefix}.embeddings.position_embeddings.weight"), &[512, c]);
        self.norm(&format!("{prefix}.embeddings.LayerNorm"), c);
        for i in 0..12 {
            let at = format!("{prefix}.encoder.layer.{i}");
            for (attention, context) in [("attention", c), ("crossattention", vision)] {
                self.layer(&format!("{at}.{attention}.self.query"), &[c, c]);
                self.layer(&format!("{at}.{attention}.self.key"), &[c, context]);
                self.layer(&format!("{at}.{attention}.self.value"), &[c, context]);
                self.layer(&format!("{at}.{attention}.output.dense"), &[c, c]);
                self.norm(&format!("{at}.{attention}.output.LayerNorm"), c);
            }
            self.layer(&format!("{at}.intermediate.dense"), &[4 * c, c]);
            self.layer(&format!("{at}.output.dense"), &[c, 4 * c]);
            self.norm(&format!("{at}.output.LayerNorm"), c);
        }
    }

    fn score_head(&mut self, prefix: &str) {
        for (i, shape) in [(0, [1024, 768]), (2, [128, 1024]), (4, [64, 128]), (6, [16, 64]), (7, [1, 16])] {
            self.layer(&format!("{prefix}layers.{i}"), &shape);
        }
    }
}

/// Vision layers, width, heads, patch, image; text layers, width, heads; embedding; activation.
type ClipSizes = ([usize; 5], [usize; 3], usize, &'static str);

fn clip((vision, text, embed, activation): ClipSizes) -> Judge {
    let [layers, c, heads, patch, image] = vision;
    let mut judge = Judge { file: "model.safetensors", ..Judge::default() };
    judge.add("logit_scale", &[]);
    judge.add("vision_model.embeddings.class_embedding", &[c]);
    judge.add("vision_model.embeddings.patch_embedding.weight", &[c, 3, patch, patch]);
    judge.add("vision_model.embeddings.position_embedding.weight", &[1 + (image / patch).pow(2), c]);
    judge.norm("vision_model.pre_layrnorm", c);
    judge.clip_layers("vision_model", layers, c);
    judge.norm("vision_model.post_layernorm", c);
    judge.add("visual_projection.weight", &[embed, c]);
    let [layers, c, text_heads] = text;
    judge.add("text_model.embeddings.token_embedding.weight", &[49408, c]);
    judge.add("text_model.embeddings.position_embedding.weight", &[77, c]);
    judge.clip_layers("text_model", layers, c);
    judge.norm("text_model.final_layer_norm", c);
    judge.add("text_projection.weight", &[embed, c]);
    let config = json!({
        "model_type": "clip", "projection_dim": embed,
        "vision_config": { "num_attention_heads": heads, "hidden_act": activation },
        "text_config": { "num_attention_heads": text_heads, "hidden_act": activation, "eos_token_id": 2 },
    });
    judge.files.push(("config.json", config));
    judge
}

fn write(name: &str, out: &Path) -> Result<()> {
    let judge = match name {
        "clip-b32" => clip(([12, 768, 12, 32, 224], [12, 512, 8], 512, "quick_gelu")),
        "clip-l14" => clip(([24, 1024, 16, 14, 224], [12, 768, 12], 768, "quick_gelu")),
        "clip-l14-336" => clip(([24, 1024, 16, 14, 336], [12, 768, 12], 768, "quick_gelu")),
        "clip-h14" => clip(([32, 1280, 16, 14, 224], [24, 1024, 16], 1024, "gelu")),
        "image-reward" => {
            let mut judge = Judge { file: "ImageReward.safetensors", ..Judge::default() };
            judge.blip_vision("blip.visual_encoder", 24, 1024, 224);
            judge.bert("blip.text_encoder", 1024);
            judge.score_head("mlp.");
            judge.files.push(("med_config.json", json!({ "num_attention_heads": 12, "layer_norm_eps": 1e-12 })));
            judge
        }
        "blip-vqa" => {
            let mut judge = Judge { file: "model.safetensors", ..Judge::default() };
            judge.blip_vision("visual_encoder", 12, 768, 384);
            judge.bert("text_encoder", 768);
            judge.bert("text_decoder.bert", 768);
            judge.layer("text_decoder.cls.predictions.transform.dense", &[768, 768]);
            judge.norm("text_decoder.cls.predictions.transform.LayerNorm", 768);
            judge.add("text_decoder.cls.predictions.bias", &[VOCABULARY]);
            judge.files.push(("med_config.json", json!({ "num_attention_heads": 12, "layer_norm_eps": 1e-12 })));
            judge
        }
        "aesthetic" => {
            let mut judge = Judge { file: "model.safetensors", ..Judge::default() };
            judge.score_head("");
            judge
        }
        "inception" => {
            let shapes = inception::shapes();
            Judge { shapes, file: "model.safetensors", ..Judge::default() }
        }
        _ => return Err(Error::Usage(USAGE.into())),
    };
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    for (name, value) in &judge.files {
        let path = out.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(|e| Error::io(&path, e))?;
    }
    let values: usize = judge.shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let tensors: Vec<_> =
        judge.shapes.into_iter().zip(0..).map(|((name, shape), i)| (name.clone(), tensor(&name, &shape, i))).collect();
    safetensors::write(&out.join(judge.file), &tensors, &BTreeMap::new())?;
    println!("{}: {values} values", out.display());
    Ok(())
}

/// Matrices and kernels within 1 / sqrt(fan in); norms and variances near 1, biases and means near 0.
fn tensor(name: &str, shape: &[usize], index: u64) -> Tensor {
    let len = shape.iter().product();
    let uniform = random::uniform(1, Stream::Init, index, 0, len);
    let near_one = name.ends_with("running_var") || (shape.len() == 1 && name.ends_with("weight"));
    let (centre, bound) = match shape {
        [] => (100f32.ln(), 0.0),
        [_] if near_one => (1.0, 0.1),
        [_] => (0.0, 0.1),
        [_, rest @ ..] => (0.0, 1.0 / (rest.iter().product::<usize>() as f32).sqrt()),
    };
    let values = uniform.into_iter().map(|u| centre + (2.0 * u - 1.0) * bound).collect::<Vec<f32>>();
    Tensor::new(values, shape).cast(DType::F16)
}
