//! Writes a model folder in diffusers' layout with the published configuration and random f16 weights, to measure time
//! and memory at full size where no real weights are at hand:
//!
//! ```sh
//! cargo run --example random_model -- sd15 /tmp/sd15    # 2 GB
//! cargo run --example random_model -- sdxl /tmp/sdxl    # 7 GB
//! ```
//!
//! The tokenizer is CLIP's, from `tests/fixtures/parity/clip_vocab`.

mod configs;

use std::path::{Path, PathBuf};

use selma::nn::{AutoencoderKl, ClipText, Param, UNet, save};
use selma::tensor::DType;
use selma::{Error, Result};
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [family, out] = arguments.as_slice() else {
        eprintln!("usage: random_model sd15|sdxl OUT");
        std::process::exit(2);
    };
    if let Err(error) = write(family, Path::new(out)) {
        eprintln!("random_model: {error}");
        std::process::exit(1);
    }
}

fn write(family: &str, out: &Path) -> Result<()> {
    let xl = match family {
        "sd15" => false,
        "sdxl" => true,
        _ => return Err(Error::Usage(format!("{family}: expected sd15 or sdxl"))),
    };
    folder(out)?;
    json_file(&out.join("model_index.json"), &configs::model_index(xl))?;
    json_file(&folder(&out.join("scheduler"))?.join("scheduler_config.json"), &configs::scheduler(xl))?;

    let weights = "diffusion_pytorch_model.safetensors";
    let config = if xl { configs::sdxl_unet() } else { configs::sd15_unet() };
    let unet = UNet::initial(config.clone(), 1, DType::F16)?;
    component(&out.join("unet"), weights, &config, unet.parameters())?;
    drop(unet);

    let config = configs::vae(xl);
    let vae = AutoencoderKl::initial(config.clone(), 2, DType::F16)?;
    component(&out.join("vae"), weights, &config, vae.parameters())?;
    drop(vae);

    encoder(out, "", &configs::clip_l(), false, "<|endoftext|>")?;
    if xl {
        encoder(out, "_2", &configs::clip_big_g(), true, "!")?;
    }
    Ok(())
}

fn encoder(out: &Path, suffix: &str, config: &Value, projected: bool, pad: &str) -> Result<()> {
    let model = ClipText::initial(config.clone(), projected, 3, DType::F16)?;
    let dir = out.join(format!("text_encoder{suffix}"));
    component(&dir, "model.safetensors", config, model.parameters())?;

    let tokenizer = folder(&out.join(format!("tokenizer{suffix}")))?;
    let vocab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/clip_vocab");
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(vocab.join(name), tokenizer.join(name)).map_err(|e| Error::io(vocab.join(name), e))?;
    }
    let config = json!({
        "tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "pad_token": pad, "model_max_length": 77, "do_lower_case": true,
        "add_prefix_space": false, "errors": "replace",
    });
    json_file(&tokenizer.join("tokenizer_config.json"), &config)
}

fn component(dir: &Path, weights: &str, config: &Value, parameters: &[Param]) -> Result<()> {
    folder(dir)?;
    json_file(&dir.join("config.json"), config)?;
    save(&dir.join(weights), parameters, DType::F16)?;
    let values: usize = parameters.iter().map(|p| p.get().len()).sum();
    println!("{}: {:.1} million values", dir.display(), values as f64 / 1e6);
    Ok(())
}

fn folder(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    Ok(dir.into())
}

fn json_file(path: &Path, value: &Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|e| Error::io(path, e))
}
