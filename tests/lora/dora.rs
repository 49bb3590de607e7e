//! DoRA, norms and biases, against peft and LyCORIS (tests/generate_fixtures/dora.py).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selma::device::Device;
use selma::formats::safetensors::{Safetensors, write};
use selma::lora::save::{self, Layout};
use selma::lora::{self, BaseModules, Expert, LoraFactors, bake, merge};
use selma::tensor::{DType, Tensor};

use crate::support::relative_error;

/// A product, a norm of some dozens of squares and a quotient in f32, of the reference; ours are f64.
const TOLERANCE: f64 = 2e-6;
const MODULE: &str = "mid_block.attentions.0.proj_in";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture() -> Safetensors {
    Safetensors::open(&fixtures().join("dora.safetensors")).unwrap()
}

fn base(weight: &[usize]) -> BaseModules {
    BTreeMap::from([("unet".to_owned(), BTreeMap::from([(MODULE.to_owned(), weight.to_vec())]))])
}

/// The adapter of a case as a file, and loaded again.
fn loaded(file: &Safetensors, name: &str, dir: &Path) -> (PathBuf, Expert) {
    let start = format!("{name}.file.");
    let stem = if name.starts_with("peft") {
        format!("unet.{MODULE}")
    } else {
        format!("lora_unet_{}", MODULE.replace('.', "_"))
    };
    let mut tensors: Vec<(String, Tensor)> = (file.names())
        .filter_map(|key| Some((format!("{stem}.{}", key.strip_prefix(&start)?), file.tensor(key).unwrap())))
        .collect();
    if name.starts_with("peft") {
        // r 2 and alpha 3, as the script has them.
        tensors.push((format!("{stem}.alpha"), Tensor::full(&[], 3.0, DType::F32)));
    }
    let path = dir.join(format!("{name}.safetensors"));
    write(&path, &tensors, &BTreeMap::new()).unwrap();
    let shape = file.shape(&format!("{name}.weight")).unwrap();
    let expert = lora::load(&path, Some(&base(shape)), false).unwrap().expert;
    (path, expert)
}

fn changed(factors: &LoraFactors, weight: &Tensor, strength: f64) -> Tensor {
    Tensor::from_reals::<f64>(factors.changed(&weight.reals::<f64>(), strength), weight.shape(), DType::F32)
}

#[test]
fn weights_are_those_of_peft_and_lycoris() {
    let (dir, file) = (tempfile::tempdir().unwrap(), fixture());
    for name in ["peft_linear", "peft_conv", "rows_linear", "rows_conv", "columns_linear", "columns_conv"] {
        let (path, expert) = loaded(&file, name, dir.path());
        let factors = expert.get("unet", MODULE).unwrap();
        let tensor = |part: &str| file.tensor(&format!("{name}.{part}")).unwrap();
        let (weight, merged) = (tensor("weight"), tensor("merged"));
        let error = relative_error(&changed(factors, &weight, 1.0), &merged);
        assert!(error <= TOLERANCE, "{name}: {error:e}");
        let baked = bake::bake(&weight, &[(1.0, factors)], &Device::Cpu).unwrap();
        assert!(relative_error(&baked, &merged) <= TOLERANCE, "{name}");
        if name.starts_with("peft") {
            // The strength is inside of the norm.
            let error = relative_error(&changed(factors, &weight, 0.5), &tensor("half"));
            assert!(error <= TOLERANCE, "{name} at half its strength: {error:e}");
        }
        // Written in every layout that can hold it, and read again.
        let again = dir.path().join("again.safetensors");
        for layout in [Layout::Kohya, Layout::Diffusers] {
            let written = save::write(layout, &again, &expert, Some(&base(weight.shape())), &BTreeMap::new());
            if name.starts_with("columns") && layout == Layout::Diffusers {
                assert!(written.unwrap_err().to_string().contains("lengths of columns"));
                continue;
            }
            written.unwrap();
            let read = lora::load(&again, Some(&base(weight.shape())), false).unwrap().expert;
            let error = relative_error(&changed(read.get("unet", MODULE).unwrap(), &weight, 1.0), &merged);
            assert!(error <= TOLERANCE, "{name} as {layout:?}: {error:e}");
            std::fs::remove_file(&again).unwrap();
        }
        let summary = lora::inspect::inspect(&path).unwrap();
        assert_eq!(summary.components["unet"].dora, 1, "{name}");
        let refused = merge::merge(&[(&expert, 1.0)], &merge::Options::new(merge::Method::Concat));
        assert!(refused.unwrap_err().to_string().contains("is DoRA"));
    }
}

/// SDXL's blocks have other names in kohya's files; SD's have diffusers'.
#[test]
fn norms_and_biases_load_bake_and_are_written_again() {
    let (dir, file) = (tempfile::tempdir().unwrap(), fixture());
    let model = fixtures().join("parity/models/tiny-sd1");
    let unet = Safetensors::open(&model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let text = Safetensors::open(&model.join("text_encoder/model.safetensors")).unwrap();
    let by = |name: &str| file.tensor(&format!("norm.{name}")).unwrap().reals::<f32>().into_owned();
    // LyCORIS adds what is stored.
    let sum: Vec<f32> = by("weight").iter().zip(by("file.w_norm")).map(|(a, b)| a + b).collect();
    assert_eq!(sum, by("merged_weight"));
    let sum: Vec<f32> = by("bias").iter().zip(by("file.b_norm")).map(|(a, b)| a + b).collect();
    assert_eq!(sum, by("merged_bias"));

    let cases = [
        ("lora_unet_conv_norm_out.w_norm", "unet", "conv_norm_out.weight", &unet),
        (
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm2.b_norm",
            "unet",
            "mid_block.attentions.0.transformer_blocks.0.norm2.bias",
            &unet,
        ),
        ("lora_unet_mid_block_resnets_0_conv1.diff_b", "unet", "mid_block.resnets.0.conv1.bias", &unet),
        (
            "lora_te_text_model_encoder_layers_0_layer_norm1.w_norm",
            "text_encoder",
            "text_model.encoder.layers.0.layer_norm1.weight",
            &text,
        ),
    ];
    let mut tensors = Vec::new();
    for (number, (key, _, parameter, weights)) in cases.iter().enumerate() {
        let stored = weights.names().find(|name| parameter.ends_with(*name)).unwrap();
        let len: usize = weights.shape(stored).unwrap().iter().product();
        let values: Vec<f32> = (0..len).map(|i| ((i + number) as f32).sin()).collect();
        tensors.push(((*key).to_owned(), Tensor::new(values, &[len])));
    }
    let path = dir.path().join("norms.safetensors");
    write(&path, &tensors, &BTreeMap::new()).unwrap();
    let base = lora::base::modules(&model).unwrap();
    let expert = lora::load(&path, Some(&base), false).unwrap().expert;
    assert_eq!((expert.vectors().count(), expert.len(), expert.is_empty()), (4, 0, false));
    let summary = lora::inspect::inspect(&path).unwrap();
    assert_eq!((summary.vectors, summary.norms, summary.biases), (4, 3, 1));
    assert_eq!(expert.contents(), "3 norms and 1 bias");

    let baked = dir.path().join("baked");
    let changed = bake::into_model(&model, &[(&expert, 2.0)], &baked, &Device::Cpu).unwrap();
    assert_eq!(changed, 4);
    for ((_, component, parameter, before), (_, vector)) in cases.iter().zip(&tensors) {
        let name = before.names().find(|name| parameter.ends_with(*name)).unwrap();
        let folder = baked.join(component);
        let file = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap();
        let after = Safetensors::open(&file).unwrap().tensor(name).unwrap();
        let old = before.tensor(name).unwrap();
        let expected: Vec<f64> =
            old.reals::<f64>().iter().zip(vector.reals::<f64>().iter()).map(|(w, x)| w + 2.0 * x).collect();
        let expected = Tensor::from_reals::<f64>(expected, old.shape(), old.dtype());
        assert_eq!(after.bytes(), expected.bytes(), "{parameter}");
    }

    // The merge adds them up, whatever becomes of the rest; only kohya's layout has a place for them.
    let merged = merge::merge(&[(&expert, 0.25), (&expert, 0.5)], &merge::Options::new(merge::Method::Concat)).unwrap();
    let again = dir.path().join("again.safetensors");
    let refused = save::write(Layout::Diffusers, &again, &merged.expert, None, &BTreeMap::new()).unwrap_err();
    assert!(refused.to_string().contains("norms or biases"), "{refused}");
    save::write(Layout::Kohya, &again, &merged.expert, Some(&base), &BTreeMap::new()).unwrap();
    let again = Safetensors::open(&again).unwrap();
    for (key, vector) in &tensors {
        let expected: Vec<f32> = vector.data::<f32>().iter().map(|x| 0.75 * x).collect();
        assert_eq!(again.tensor(key).unwrap().data::<f32>(), expected, "{key}");
    }
}

#[test]
fn a_vector_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = lora::base::modules(&fixtures().join("parity/models/tiny-sd1")).unwrap();
    let path = dir.path().join("norms.safetensors");
    let refusal = |key: &str| {
        write(&path, &[(key.to_owned(), Tensor::zeros(&[3], DType::F32))], &BTreeMap::new()).unwrap();
        let expert = lora::load(&path, Some(&base), false);
        expert.map_or_else(
            |e| e.to_string(),
            |loaded| {
                let (model, out) = (fixtures().join("parity/models/tiny-sd1"), dir.path().join("out"));
                bake::into_model(&model, &[(&loaded.expert, 1.0)], &out, &Device::Cpu).unwrap_err().to_string()
            },
        )
    };
    assert!(refusal("lora_unet_mid_block_resnets_0_conv1.diff_b").contains("3 values"));
    assert!(refusal("lora_unet_conv_norm_out.w_norm").contains("3 values"));
    assert!(refusal("lora_unet_norm_of_nothing.w_norm").contains("norm_of_nothing"));
}
