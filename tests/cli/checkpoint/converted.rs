//! `selma convert` of whole models: folder to single file and back.

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::tensor::DType;

use super::writer::{checkpoint, tensors_of};
use super::{MODELS, draw, pixels};
use crate::{parity, selma};

fn convert(from: &Path, to: &str, out: &Path, more: &[&str]) {
    selma().arg("convert").arg(from).args(["--to", to]).args(more).arg("--out").arg(out).assert().success();
}

#[test]
fn folders_become_single_files_and_files_folders_that_draw_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: String| dir.path().join(name);
    for model in MODELS {
        let folder = parity(&format!("models/{model}"));
        let (file, back) = (at(format!("{model}.safetensors")), at(format!("{model}-folder")));
        convert(&folder, "single-file", &file, &[]);
        convert(&file, "model-folder", &back, &[]);
        let mut of_folder = draw(&folder, &at("a".into()));
        let expected = pixels(of_folder.arg("--vocab").arg(parity("clip_vocab")), &at("a".into()));
        assert!(pixels(&mut draw(&file, &at("b".into())), &at("b".into())) == expected, "{model}: file");
        assert!(pixels(&mut draw(&back, &at("c".into())), &at("c".into())) == expected, "{model}: folder");
        // The names are those of a mapping that is not ours.
        let other = at(format!("{model}-other.safetensors"));
        checkpoint(model, &other);
        let (ours, theirs) = (Safetensors::open(&file).unwrap(), Safetensors::open(&other).unwrap());
        let bare = |name: &str| name.replace("transformer.text_model.", "transformer.");
        let known: Vec<String> = theirs.names().map(bare).collect();
        for name in ours.names() {
            assert!(known.contains(&bare(name)), "{model}: {name}");
        }
        assert_eq!(ours.metadata()["modelspec.sai_model_spec"], "1.0.1");
        for component in ["unet", "vae", "text_encoder"] {
            let (was, now) = (tensors_of(&folder.join(component)), tensors_of(&back.join(component)));
            for (name, tensor) in &now {
                let before = was.get(name).or_else(|| was.get(name.trim_start_matches("text_model."))).unwrap();
                assert!(tensor.shape() == before.shape() && tensor.dtype() == before.dtype(), "{model}: {name}");
                assert!(tensor.reals::<f64>() == before.reals::<f64>(), "{model}: {name}");
            }
        }
    }
}

/// A copy of a model folder, to be changed.
fn copied(from: &str, model: &Path) {
    std::fs::create_dir(model).unwrap();
    for place in std::fs::read_dir(parity(from)).unwrap().map(|entry| entry.unwrap().path()) {
        let to = model.join(place.file_name().unwrap());
        if place.is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()) {
                std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
            }
        } else {
            std::fs::copy(&place, &to).unwrap();
        }
    }
}

/// A missing negative prompt is zeros or the empty prompt: the index of an SDXL folder says which, and a single file keeps it.
#[test]
fn what_stands_for_a_missing_negative_prompt_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    copied("models/tiny-sdxl", &at("model"));
    let index = at("model/model_index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut drawn = Vec::new();
    for zeros in [true, false] {
        value["force_zeros_for_empty_prompt"] = zeros.into();
        std::fs::write(&index, value.to_string()).unwrap();
        let at = |name: &str| at(&format!("{zeros}-{name}"));
        let file = at("file.safetensors");
        let mut command = selma();
        command.arg("convert").arg(dir.path().join("model"));
        let output = command.args(["--to", "single-file", "--out"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("force_zeros_for_empty_prompt is false") != zeros, "{said}");
        convert(&file, "model-folder", &at("back"), &[]);
        let back: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(at("back").join("model_index.json")).unwrap()).unwrap();
        assert_eq!(back["force_zeros_for_empty_prompt"], zeros);
        let mut of_folder = draw(&dir.path().join("model"), &at("a"));
        let expected = pixels(of_folder.arg("--vocab").arg(parity("clip_vocab")), &at("a"));
        assert!(pixels(&mut draw(&file, &at("b")), &at("b")) == expected, "{zeros}: file");
        assert!(pixels(&mut draw(&at("back"), &at("c")), &at("c")) == expected, "{zeros}: folder");
        drawn.push(expected);
    }
    assert!(drawn[0] != drawn[1]);
}

#[test]
fn a_model_of_another_vocabulary_stays_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copied("models/tiny-sd1", &model);
    let config = model.join("text_encoder/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"vocab_size\": 49408", "\"vocab_size\": 1040")).unwrap();
    let out = dir.path().join("out.safetensors");
    let mut command = selma();
    let output = command.arg("convert").arg(&model).args(["--to", "single-file", "--out"]).arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("vocabulary of 1040"), "{said}");
    assert!(!out.exists());
}

#[test]
fn precision_is_that_of_the_option_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (file, back) = (dir.path().join("half.safetensors"), dir.path().join("folder"));
    let folder = parity("models/tiny-sdxl");
    convert(&folder, "single-file", &file, &["--save-precision", "bf16"]);
    let half = Safetensors::open(&file).unwrap();
    assert!(half.names().all(|name| half.tensor(name).unwrap().dtype() == DType::Bf16));
    convert(&file, "model-folder", &back, &["--save-precision", "fp16"]);
    assert!(tensors_of(&back.join("unet")).values().all(|tensor| tensor.dtype() == DType::F16));
    for (from, to, out) in
        [(&folder, "single-file", &file), (&file, "model-folder", &back), (&file, "single-file", &back)]
    {
        let output = selma().arg("convert").arg(from).args(["--to", to]).arg("--out").arg(out).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{to}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
