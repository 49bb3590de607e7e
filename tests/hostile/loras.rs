//! LoRA files that do not fit, lie, or are not LoRAs.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use selma::lora::{self, base, keys, save};
use selma::tensor::{DType, Tensor};

use crate::{generate, lora, model, names, refuses, selma};

const UP: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight";
const DOWN: &str = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";

#[test]
fn wrong_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let out = dir.path().join("out");
    type Change = fn(&mut BTreeMap<String, Tensor>);
    let cases: [(Change, &[&str]); 9] = [
        (|t| set(t, 3, f32::NAN), &[UP, "NaN"]),
        (|t| set(t, 0, f32::NEG_INFINITY), &[UP, "infinity"]),
        (|t| drop(t.insert(UP.into(), t[UP].cast(DType::F64).clone())), &[]),
        (
            |t| {
                let len = t[UP].len();
                let shape = t[UP].shape().to_vec();
                t.insert(UP.into(), Tensor::new(vec![1i64; len], &shape));
            },
            &[UP, "integers"],
        ),
        (|t| drop(t.remove(UP)), &[DOWN, "lora_up"]),
        (
            |t| drop(t.insert(UP.replace("lora_B.weight", "alpha"), Tensor::full(&[], f64::NAN, DType::F32))),
            &["alpha", "NaN"],
        ),
        (
            |t| drop(t.insert(UP.replace("lora_B.weight", "alpha"), Tensor::zeros(&[2, 2], DType::F32))),
            &["alpha", "one number"],
        ),
        (
            |t| drop(t.insert(UP.replace("to_q.lora_B.weight", "to_q.dora_scale"), Tensor::zeros(&[1], DType::F32))),
            &["DoRA"],
        ),
        (
            |t| drop(t.insert("lora_unet_nowhere_7.alpha".into(), Tensor::zeros(&[], DType::F32))),
            &["lora_unet_nowhere_7.alpha", "--allow-unused"],
        ),
    ];
    for (change, words) in cases {
        lora(&path, change);
        let merged = dir.path().join("merged.safetensors");
        let mut merge = selma();
        merge.arg("merge").arg("--lora").arg(&path).arg("--out").arg(&merged);
        merge.arg("--model").arg(model("tiny-sd1"));
        if words.is_empty() {
            merge.assert().success();
            std::fs::remove_file(&merged).unwrap();
            continue;
        }
        refuses(&mut merge, 1, words);
        refuses(generate(&model("tiny-sd1"), &out).arg("--lora").arg(&path), 1, words);
        assert_eq!(names(dir.path()), ["x.safetensors"]);
    }
}

fn set(tensors: &mut BTreeMap<String, Tensor>, at: usize, value: f32) {
    let mut values = tensors[UP].data::<f32>().to_vec();
    values[at] = value;
    let shape = tensors[UP].shape().to_vec();
    tensors.insert(UP.into(), Tensor::new(values, &shape));
}

#[test]
fn the_lora_of_another_family_is_refused_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sd1.safetensors");
    let other = crate::fixture("cases/sample_sd1_lora/lora.safetensors");
    std::fs::copy(other, &path).unwrap();
    let out = dir.path().join("out");
    for name in ["tiny-sd2", "tiny-sdxl"] {
        refuses(generate(&model(name), &out).arg("--lora").arg(&path), 1, &["sd1.safetensors", "family"]);
        let mut merge = selma();
        merge.arg("merge").arg("--lora").arg(&path).arg("--out").arg(&out);
        refuses(merge.arg("--into").arg(model(name)), 1, &["sd1.safetensors", "family"]);
    }
    assert_eq!(names(dir.path()), ["sd1.safetensors"]);
}

#[test]
fn what_a_sum_cannot_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    lora(&path, |t| {
        for tensor in t.values_mut() {
            *tensor = Tensor::full(tensor.shape(), 3e38, DType::F32);
        }
    });
    let mut merge = selma();
    merge.arg("merge").arg("--lora").arg(&path).arg("--out").arg(dir.path().join("out"));
    refuses(merge.arg("--into").arg(model("tiny-sd1")), 1, &["attn1.to_q", "f16"]);
    assert_eq!(names(dir.path()), ["x.safetensors"]);
}

#[test]
fn weights_that_are_not_numbers_are_a_wrong_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    lora(&path, |_| ());
    for weight in ["nan", "inf", "-inf", "1e999"] {
        let argument = format!("{}:{weight}", path.display());
        refuses(generate(&model("tiny-sd1"), &dir.path().join("out")).args(["--lora", &argument]), 2, &["finite"]);
        let mut merge = selma();
        merge.args(["merge", "--method", "concat", "--lora", &argument]);
        refuses(merge.arg("--out").arg(dir.path().join("m.safetensors")), 2, &["finite"]);
    }
    assert_eq!(names(dir.path()), ["x.safetensors"]);
}

#[test]
fn damaged_settings_beside_or_inside_a_file_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    lora(&path, |_| ());
    let beside = dir.path().join("adapter_config.json");
    for (text, word) in [
        ("{", "adapter_config.json"),
        ("[]", "adapter_config.json"),
        (r#"{"peft_type": "LOHA"}"#, "LOHA"),
        (r#"{"use_dora": true}"#, "DoRA"),
        (r#"{"lora_alpha": "four"}"#, "lora_alpha"),
        (r#"{"lora_alpha": 0}"#, "lora_alpha"),
        (r#"{"lora_alpha": 4, "alpha_pattern": {"(to_q|to_k)": 8}}"#, "alpha_pattern"),
    ] {
        std::fs::write(&beside, text).unwrap();
        refuses(selma().arg("inspect").arg(dir.path()), 1, &[word]);
    }
    std::fs::write(&beside, r#"{"lora_alpha": 4, "a_key_of_tomorrow": [1]}"#).unwrap();
    selma().arg("inspect").arg(dir.path()).assert().success();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Keys put together from the words that keys are made of.
    #[test]
    fn no_key_makes_it_panic(
        words in prop::collection::vec(prop_oneof![
            prop::sample::select(vec![
                "lora_unet_", "lora_te1_", "unet", "base_model", "model", "text_encoder_2", "down_blocks", "up_blocks",
                "mid_block", "attentions", "resnets", "downsamplers", "upsamplers", "0", "1", "3", "255", "256",
                "18446744073709551615", "attn1", "to_out", "to_out_lora", "processor", "lora", "lora_A", "lora_B",
                "default", "weight", "bias", "alpha", "scale", "lora_down", "lora_up", "lora_mid", "hada_w1_a",
                "dora_scale", "text_model", "encoder", "layers", "self_attn", "conv1", "input_blocks", "", "é",
            ]).prop_map(String::from),
            "\\PC{0,6}",
        ], 0..9),
        separators in prop::collection::vec(prop::sample::select(vec![".", "_", "", "/", ".."]), 9),
    ) {
        let key: String = words.iter().zip(&separators).map(|(word, s)| format!("{word}{s}")).collect();
        let key = key.trim_end_matches(['.', '_']);
        if let keys::Key::Part { stem, .. } = keys::split(key) {
            let place = keys::parse_dotted(stem, None);
            tables().0.find(stem, None);
            tables().1.find(stem, None);
            if let Some(place) = place {
                write_back(&place.component, &place.module);
            }
        }
    }
}

fn tables() -> &'static (keys::KeyTable, keys::KeyTable) {
    static TABLES: std::sync::LazyLock<(keys::KeyTable, keys::KeyTable)> = std::sync::LazyLock::new(|| {
        let table = |name| keys::KeyTable::new(&base::modules(&model(name)).unwrap());
        (table("tiny-sd1"), table("tiny-sdxl"))
    });
    &TABLES
}

/// A module of any name, in every layout.
fn write_back(component: &str, module: &str) {
    let factors = |r: usize| {
        let ones = |shape: &[usize]| Tensor::full(shape, 1.0, DType::F32);
        lora::LoraFactors::new(ones(&[r, 4]), ones(&[4, r]), 1.0).unwrap()
    };
    let mut expert = lora::Expert::default();
    expert.insert(component, module, factors(2));
    expert.insert("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1", factors(1));
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    save::diffusers(Path::new(&at("d")), &expert, &BTreeMap::new()).unwrap();
    save::kohya(Path::new(&at("k")), &expert, None, &BTreeMap::new()).unwrap();
}
