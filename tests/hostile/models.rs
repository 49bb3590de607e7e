//! Model folders with damaged weights and configurations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selma::formats::safetensors::{self, Safetensors};
use selma::tensor::{DType, Tensor};
use serde_json::json;

use crate::{copied, edit, generate, model, names, refuses, selma, train};

fn change_weights(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let file = Safetensors::open(path).unwrap();
    let mut tensors: BTreeMap<_, _> = file.names().map(|name| (name.to_string(), file.tensor(name).unwrap())).collect();
    drop(file);
    change(&mut tensors);
    let tensors: Vec<_> = tensors.into_iter().collect();
    safetensors::write(path, &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn nan_among_base_weights_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    image::RgbImage::new(64, 64).save(data.join("a.png")).unwrap();
    std::fs::write(data.join("a.txt"), "black").unwrap();
    for (file, name) in [
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias"),
        ("text_encoder/model.safetensors", "text_model.final_layer_norm.weight"),
    ] {
        let folder = copied("tiny-sd1", dir.path());
        change_weights(&folder.join(file), |tensors| {
            let tensor = &tensors[name];
            let mut values = tensor.reals::<f32>().into_owned();
            *values.last_mut().unwrap() = f32::NAN;
            tensors.insert(name.into(), Tensor::new(values, tensor.shape()));
        });
        refuses(&mut generate(&folder, &out), 1, &[file, name, "NaN"]);
        refuses(&mut train(&folder, &data, &dir.path().join("t")), 1, &[file, name, "NaN"]);
    }
    assert!(!out.exists());
}

#[test]
fn nan_in_a_weight_that_a_merge_bakes_into_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let lora = dir.path().join("x.safetensors");
    crate::lora(&lora, |_| ());
    let folder = copied("tiny-sd1", dir.path());
    let name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    change_weights(&folder.join("unet/diffusion_pytorch_model.safetensors"), |tensors| {
        let nan = Tensor::full(tensors[name].shape(), f64::NAN, DType::F32);
        tensors.insert(name.into(), nan);
    });
    let mut merge = selma();
    merge.arg("merge").arg("--lora").arg(&lora).arg("--into").arg(&folder);
    refuses(merge.arg("--out").arg(dir.path().join("baked")), 1, &[name, "NaN"]);
    assert_eq!(names(dir.path()), ["tiny-sd1", "x.safetensors"]);
}

#[test]
fn weights_of_another_type_or_shape_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let with = |change: fn(&mut BTreeMap<String, Tensor>), words: &[&str]| {
        let folder = copied("tiny-sd1", dir.path());
        change_weights(&folder.join("unet/diffusion_pytorch_model.safetensors"), change);
        refuses(&mut generate(&folder, &out), 1, words);
    };
    with(
        |t| {
            let shape = t["conv_in.weight"].shape().to_vec();
            let ones = Tensor::new(vec![1i64; shape.iter().product()], &shape);
            t.insert("conv_in.weight".into(), ones);
        },
        &["conv_in.weight", "integers"],
    );
    with(|t| drop(t.remove("conv_out.bias")), &["no tensor conv_out.bias"]);
    with(|t| drop(t.insert("extra".into(), Tensor::zeros(&[1], DType::F32))), &["extra", "no place"]);
    with(|t| drop(t.insert("conv_in.bias".into(), Tensor::zeros(&[3], DType::F32))), &["conv_in.bias has shape [3]"]);
    assert!(!out.exists());
}

#[test]
fn configuration_keys_that_are_missing_unknown_or_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change, &[&str]); 10] = [
        ("unet/config.json", |c| c["a_new_key"] = json!(3), &["`a_new_key` is 3", "not known"]),
        ("unet/config.json", |c| c["norm_num_groups"] = json!("many"), &["`norm_num_groups`"]),
        ("unet/config.json", |c| c["sample_size"] = json!(1u64 << 40), &["`sample_size`"]),
        ("unet/config.json", |c| drop(c.as_object_mut().unwrap().remove("block_out_channels")), &["config.json"]),
        ("vae/config.json", |c| c["scaling_factor"] = json!(-1), &["`scaling_factor`"]),
        ("text_encoder/config.json", |c| c["hidden_act"] = json!("relu"), &["`hidden_act`"]),
        ("model_index.json", |c| c["_class_name"] = json!("FluxPipeline"), &["FluxPipeline", "supported"]),
        ("model_index.json", |c| drop(c.as_object_mut().unwrap().remove("unet")), &["model_index.json", "`unet`"]),
        ("scheduler/scheduler_config.json", |c| c["beta_schedule"] = json!("none"), &["beta_schedule"]),
        (
            "scheduler/scheduler_config.json",
            |c| drop(c.as_object_mut().unwrap().remove("_class_name")),
            &["_class_name"],
        ),
    ];
    for (file, change, words) in cases {
        let folder = copied("tiny-sd1", dir.path());
        edit(&folder.join(file), change);
        let output = generate(&folder, &out).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{file}: {text}");
        assert!(!text.contains("panicked") && words.iter().all(|w| text.contains(w)), "{words:?} in {text}");
        assert!(!out.exists(), "{file}");
    }
    for file in ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json"] {
        let folder = copied("tiny-sd1", dir.path());
        for text in ["", "{", "[]", "\u{0}"] {
            std::fs::write(folder.join(file), text).unwrap();
            refuses(&mut generate(&folder, &out), 1, &[file]);
        }
        std::fs::remove_file(folder.join(file)).unwrap();
        refuses(&mut generate(&folder, &out), 1, &[file.rsplit('/').next().unwrap()]);
    }
    let mut merge = selma();
    merge.arg("merge").arg("--lora").arg(dir.path().join("none.safetensors"));
    refuses(merge.arg("--out").arg(dir.path().join("m")), 1, &["none.safetensors"]);
}

/// Python writes such words, and diffusers every folder of a DPM-Solver with one.
#[test]
fn infinities_in_configurations_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let folder = copied("tiny-sd1", dir.path());
    let path = folder.join("scheduler/scheduler_config.json");
    edit(&path, |c| c["_class_name"] = json!("DPMSolverMultistepScheduler"));
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |more: &str| std::fs::write(&path, text.replacen('{', &format!("{{{more},"), 1)).unwrap();
    with(r#""lambda_min_clipped": -Infinity, "_note": "of \"Infinity\", NaN""#);
    edit(&folder.join("model_index.json"), |c| c["scheduler"][1] = json!("DPMSolverMultistepScheduler"));
    generate(&folder, &out).assert().success();
    std::fs::write(&path, text.replace("0.012", "NaN")).unwrap();
    let output = generate(&folder, &out).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("beta_end"), "{message}");
}

#[test]
fn pickles_and_folders_that_are_no_models_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let folder = copied("tiny-sd1", dir.path());
    let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
    std::fs::rename(&weights, weights.with_extension("bin")).unwrap();
    refuses(&mut generate(&folder, &out), 1, &["pickle", "safe_serialization"]);
    std::fs::rename(weights.with_extension("bin"), &weights).unwrap();
    refuses(&mut generate(&folder.join("vae"), &out), 1, &["model_index.json"]);
    refuses(&mut generate(&PathBuf::from("no/such/place"), &out), 1, &["no/such/place"]);
    // A link or a name in an index cannot lead out of the folder.
    std::fs::rename(&weights, dir.path().join("elsewhere.safetensors")).unwrap();
    let index = json!({"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}});
    std::fs::write(folder.join("unet/diffusion_pytorch_model.safetensors.index.json"), index.to_string()).unwrap();
    refuses(&mut generate(&folder, &out), 1, &["../../elsewhere.safetensors"]);
    assert!(!out.exists());
    assert!(model("tiny-sd1").exists());
}
