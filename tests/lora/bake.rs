//! Baked weights as diffusers' `fuse_lora` makes them.

use selma::formats::component::weight_files;
use selma::formats::safetensors::Safetensors;
use selma::lora::{self, Expert, bake, base};
use selma::tensor::DType;

use crate::support::{cases, parity, relative_error, sample_expert};

#[test]
fn baked_weights_are_as_recorded() {
    for case in cases("bake") {
        let modules = base::modules(&case.model()).unwrap();
        let load = |input: &serde_json::Value| {
            let path = case.dir.join(input["file"].as_str().unwrap());
            let expert = lora::load(&path, Some(&modules), false).unwrap().expert;
            (expert, input["scale"].as_f64().unwrap())
        };
        let loaded: Vec<(Expert, f64)> = case.json["inputs"].as_array().unwrap().iter().map(load).collect();
        let experts: Vec<(&Expert, f64)> = loaded.iter().map(|(e, w)| (e, *w)).collect();
        let mut expected: std::collections::BTreeMap<_, _> = case.outputs("out.").into_iter().collect();
        for component in base::COMPONENTS {
            let folder = case.model().join(component);
            if !folder.is_dir() {
                continue;
            }
            for file in weight_files(&folder).unwrap() {
                let weights = Safetensors::open(&file).unwrap();
                for name in weights.names() {
                    let terms = bake::terms(&experts, component, name);
                    if terms.is_empty() {
                        continue;
                    }
                    let baked = bake::bake(&weights.tensor(name).unwrap().cast(DType::F32), &terms).unwrap();
                    let module = name.strip_suffix(".weight").unwrap();
                    let path = format!("{component}.{}.weight", base::canonical(component, module));
                    let reference = expected.remove(&path).unwrap_or_else(|| panic!("{} {path}", case.name));
                    let error = relative_error(&baked, &reference);
                    assert!(error <= 1e-6, "{} {path}: {error:e}", case.name);
                }
            }
        }
        assert!(expected.is_empty(), "{}: not baked: {:?}", case.name, expected.keys());
    }
}

#[test]
fn a_baked_model_is_a_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (parity().join("models/tiny-sdxl"), dir.path().join("baked"));
    let (modules, mut expert) = sample_expert("tiny-sdxl", 0, 1);
    expert.components.remove("text_encoder");
    let changed = bake::into_model(&model, &[(&expert, 0.5)], &out).unwrap();
    assert_eq!(changed, expert.len());
    assert_eq!(base::modules(&out).unwrap(), modules);
    let untouched = "text_encoder/model.safetensors";
    assert_eq!(
        std::fs::read(model.join(untouched)).unwrap(),
        std::fs::read(out.join(untouched)).unwrap()
    );
    assert!(out.join("model_index.json").is_file());
    let again = bake::into_model(&model, &[(&expert, 0.5)], &out)
        .unwrap_err()
        .to_string();
    assert!(again.contains("exists already"), "{again}");
    // Nothing but the result is left beside it.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
