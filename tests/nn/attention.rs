//! Weighted prompts against what webui's definition gives (`tests/generate_fixtures/attention.py`).

use std::path::Path;

use selma::formats::model_dir::ModelDir;
use selma::formats::safetensors::Safetensors;
use selma::generate::TextEncoders;
use selma::generate::webui::{Fragment, attention};
use selma::tensor::{DType, Tensor};
use serde_json::Value;

use crate::{fixtures, relative_error};

#[test]
fn prompts_are_read_and_encoded_as_webui_does() {
    let file = fixtures().parent().unwrap().join("attention.safetensors");
    let file = Safetensors::open(&file).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&file.metadata()["cases"]).unwrap();
    let model = ModelDir::open(&fixtures().join("models/tiny-sd1")).unwrap();
    let vocab: &Path = &fixtures().join("clip_vocab");
    let text = TextEncoders::load(&model, Some(vocab), DType::F32).unwrap();
    let mut different = 0;
    for (number, case) in cases.iter().enumerate() {
        let prompt = case["prompt"].as_str().unwrap();
        let ours = attention(prompt).unwrap();
        let expected = case["fragments"].as_array().unwrap();
        assert_eq!(ours.len(), expected.len(), "{prompt}: {ours:?}");
        for (ours, expected) in ours.iter().zip(expected) {
            match ours {
                Fragment::Break => assert!(expected[0].is_null(), "{prompt}"),
                Fragment::Words(words, weight) => {
                    assert_eq!(expected[0], *words, "{prompt}");
                    assert!((expected[1].as_f64().unwrap() - weight).abs() < 1e-12, "{prompt}: {weight}");
                }
            }
        }
        let parts = text.weighted_parts(&ours).unwrap();
        assert_eq!(parts, case["windows"].as_array().unwrap().len(), "{prompt}");
        let context = text.encode_weighted(std::slice::from_ref(&ours), 0, parts).unwrap().context;
        let width = context.shape()[2];
        for part in 0..parts {
            let expected = file.tensor(&format!("{number}.{part}")).unwrap();
            let states = context.view(part * 77 * width, &[77, width]);
            // f32 through three layers, and one mean of 2464 values that nearly cancel.
            let error = relative_error(&states, &expected);
            assert!(error < 2e-4, "{prompt}, window {part}: {error:.1e}");
        }
        let plain = text.encode_long(&[prompt.to_owned()], 0, 1).unwrap().context;
        different += usize::from(parts > 1 || relative_error(&context, &plain) > 1e-3);
        // A row does not depend on its neighbours, and a shorter prompt ends in empty windows.
        let other = attention("a (dog:1.4)").unwrap();
        let both = text.encode_weighted(&[other, ours], 0, parts + 1).unwrap().context;
        let row = both.view((parts + 1) * 77 * width, &[1, parts * 77, width]);
        let alone: Tensor = context.with_shape(&[1, parts * 77, width]);
        assert!(relative_error(&row, &alone) < 1e-6, "{prompt}");
    }
    assert!(different >= 10, "{different} of {} prompts mean something", cases.len());
}
