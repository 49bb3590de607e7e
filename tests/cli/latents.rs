//! `selma train --train-on`: learning from the latents beside images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use selma::autograd::Tape;
use selma::data::image_latents::{self, ImageLatents};
use selma::formats::content_hash;
use selma::formats::image as pixels;
use selma::formats::safetensors::{self, Safetensors};
use selma::nn::AutoencoderKl;
use selma::tensor::{DType, Tensor};

use crate::train::train;
use crate::{bytes, parity, says};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// A VAE whose posterior has no spread (a log variance of -30): what it makes of an image is its mean.
fn sharp_vae(model: &str, dir: &Path) -> PathBuf {
    let (from, to) = (parity(&format!("models/{model}/vae")), dir.join("vae"));
    std::fs::create_dir(&to).unwrap();
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let file = Safetensors::open(&from.join(WEIGHTS)).unwrap();
    let tensors = file.names().map(|name| {
        let tensor = file.tensor(name).unwrap();
        let mut values = tensor.data::<f32>().to_vec();
        let half = values.len() / 2;
        match name {
            "quant_conv.weight" => values[half..].fill(0.0),
            "quant_conv.bias" => values[half..].fill(-30.0),
            _ => {}
        }
        (name.to_string(), Tensor::new(values, tensor.shape()))
    });
    safetensors::write(&to.join(WEIGHTS), &tensors.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    to
}

/// Three lossless images of the training size, with captions, and beside them their latents times `wrong`.
fn images(dir: &Path, vae: &Path, wrong: f32) -> PathBuf {
    let data = dir.join(format!("images-{wrong}"));
    std::fs::create_dir(&data).unwrap();
    let network = AutoencoderKl::load(vae, DType::F32).unwrap();
    let side = (16 * network.config.downscale()) as u32;
    for i in 0..3u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 7 + i * 40) as u8, (y * 5) as u8, ((x + y) * 3) as u8]);
        let image = image::RgbImage::from_fn(side, side, shade);
        let path = data.join(format!("{i}.png"));
        image.save(&path).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("image number {i}")).unwrap();
        let pixels = pixels::to_tensor(&image).with_shape(&[1, side as usize, side as usize, 3]);
        let (mean, _) = network.encode(&Tape::off(), &pixels).unwrap();
        let factor = network.config.scaling_factor;
        let values = mean.data::<f32>().iter().map(|z| wrong * factor as f32 * z).collect();
        let latents = Tensor::new(values, &mean.shape()[1..]);
        let vae = content_hash::of_folders(&[vae.into()]).unwrap();
        ImageLatents::write(latents, factor, &vae, &path).unwrap();
    }
    data
}

fn learn(model: &str, vae: &Path, data: &Path, out: &Path, on: &str) -> Command {
    let mut command = train(model, data, out);
    command.args(["--steps", "3", "--lr", "0.01", "--flip=false", "--train-on", on]).arg("--vae").arg(vae);
    command
}

/// All values of a run's LoRA.
fn lora(out: &Path) -> Vec<f32> {
    let file = Safetensors::open(&out.join("lora.safetensors")).unwrap();
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    names.into_iter().flat_map(|name| file.tensor(name).unwrap().data::<f32>().to_vec()).collect()
}

/// `||a - b|| / ||b||`
fn off(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: Vec<f64>| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    norm(differences) / norm(b.iter().map(|b| f64::from(*b)).collect())
}

#[test]
fn latents_teach_what_their_images_teach() {
    for model in ["tiny-sd1", "tiny-sd2", "tiny-sdxl"] {
        let dir = tempfile::tempdir().unwrap();
        let vae = sharp_vae(model, dir.path());
        let data = images(dir.path(), &vae, 1.0);
        let run = |data: &Path, on: &str, name: &str| {
            let out = dir.path().join(name);
            learn(model, &vae, data, &out, on).assert().success();
            out
        };
        let of_pixels = lora(&run(&data, "pixels", "pixels"));
        let latents = run(&data, "latents", "latents");
        // AdamW's first steps turn rounding in tiny gradients into changes of the learning rate's size.
        let error = off(&lora(&latents), &of_pixels);
        assert!(error < 1e-3, "{model}: {error:e}");
        // By itself it takes them too.
        let auto = run(&data, "auto", "auto");
        assert!(bytes(auto.join("lora.safetensors")) == bytes(latents.join("lora.safetensors")), "{model}");
        // A wrong scale would be seen.
        let scaled = run(&images(dir.path(), &vae, 2.0), "latents", "scaled");
        let error = off(&lora(&scaled), &of_pixels);
        assert!(error > 1e-2, "{model}: {error:e}");
    }
}

#[test]
fn latents_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vae = sharp_vae("tiny-sd1", dir.path());
    let data = images(dir.path(), &vae, 1.0);
    let own = parity("models/tiny-sd1/vae");
    let out = |name: &str| dir.path().join(name);
    // The model's own VAE is another one: by itself a run then learns from the images.
    let other = learn("tiny-sd1", &own, &data, &out("other"), "latents");
    says(other, 1, &["0.latents.safetensors", "another VAE", "--train-on pixels"]);
    for on in ["auto", "pixels"] {
        learn("tiny-sd1", &own, &data, &out(on), on).assert().success();
    }
    assert!(bytes(out("auto").join("lora.safetensors")) == bytes(out("pixels").join("lora.safetensors")));
    let mut flipped = learn("tiny-sd1", &vae, &data, &out("flipped"), "latents");
    flipped.arg("--flip=true");
    says(flipped, 2, &["--flip"]);
    let mut larger = learn("tiny-sd1", &vae, &data, &out("larger"), "latents");
    larger.args(["--resolution", "64"]);
    says(larger, 1, &["0.latents.safetensors", "expected 64x64"]);
    // An image that was changed afterwards, and latents that are gone.
    let first = data.join("0.png");
    let mut changed = image::open(&first).unwrap().to_rgb8();
    image::imageops::invert(&mut changed);
    changed.save(&first).unwrap();
    says(learn("tiny-sd1", &vae, &data, &out("changed"), "latents"), 1, &["0.latents", "another image"]);
    std::fs::remove_file(image_latents::path(&first)).unwrap();
    says(learn("tiny-sd1", &vae, &data, &out("gone"), "latents"), 1, &["0.latents", "is not there"]);
}
