//! LyCORIS's adapters, against LyCORIS (tests/generate_fixtures/adapters.py).

use std::collections::BTreeMap;
use std::path::Path;

use selma::formats::safetensors::{Safetensors, write};
use selma::lora::{self, BaseModules};
use selma::tensor::Tensor;

use crate::support::relative_error;

/// Products of two or three f32 numbers, and sums of a few of them.
const TOLERANCE: f64 = 1e-6;
const MODULE: &str = "mid_block.attentions.0.proj_in";

fn fixture() -> Safetensors {
    Safetensors::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lycoris.safetensors")).unwrap()
}

/// The tensors of a case but its delta, as a file of kohya's has them.
fn case(file: &Safetensors, name: &str) -> Vec<(String, Tensor)> {
    let tensors = file.names().filter_map(|key| Some((key.strip_prefix(name)?.strip_prefix('.')?, key)));
    let tensors = tensors.filter(|(part, _)| *part != "delta");
    tensors
        .map(|(part, key)| (format!("lora_unet_mid_block_attentions_0_proj_in.{part}"), file.tensor(key).unwrap()))
        .collect()
}

fn base(weight: &[usize]) -> BaseModules {
    BTreeMap::from([("unet".to_owned(), BTreeMap::from([(MODULE.to_owned(), weight.to_vec())]))])
}

#[test]
fn changes_are_those_of_lycoris() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let path = dir.path().join("lora.safetensors");
    let names: Vec<&str> = fixture.names().filter_map(|key| key.strip_suffix(".delta")).collect();
    assert_eq!(names.len(), 8);
    for name in names {
        let delta = fixture.tensor(&format!("{name}.delta")).unwrap();
        write(&path, &case(&fixture, name), &BTreeMap::new()).unwrap();
        let loaded = lora::load(&path, Some(&base(delta.shape())), false).unwrap();
        let factors = loaded.expert.get("unet", MODULE).unwrap();
        let error = relative_error(&factors.delta(), &delta);
        assert!(error <= TOLERANCE, "{name}: {error:e}");
        assert!(factors.rank() <= factors.outputs().min(factors.inputs()), "{name}: rank {}", factors.rank());
        // Another family's weight.
        let error = lora::load(&path, Some(&base(&[7, 5])), false).err().unwrap().to_string();
        assert!(error.contains("proj_in") && error.contains("[7, 5]"), "{error}");
    }
}

#[test]
fn a_full_difference_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    for shape in [vec![3, 5], vec![5, 3], vec![4, 2, 3, 3]] {
        let len = shape.iter().product::<usize>();
        let diff = Tensor::new((0..len).map(|i| (i as f32).sin()).collect::<Vec<_>>(), &shape);
        write(&path, &[(format!("unet.{MODULE}.diff"), diff.clone())], &BTreeMap::new()).unwrap();
        for base in [Some(&base(&shape)), None] {
            let loaded = lora::load(&path, base, false).unwrap();
            assert_eq!(loaded.expert.get("unet", MODULE).unwrap().delta().data::<f32>(), diff.data::<f32>());
        }
    }
}

#[test]
fn a_missing_part_is_named() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), fixture());
    let path = dir.path().join("lora.safetensors");
    for (name, part) in [("loha_linear", "hada_w2_b"), ("lokr_linear", "lokr_w2_a"), ("loha_tucker", "hada_t2")] {
        let mut tensors = case(&fixture, name);
        tensors.retain(|(key, _)| !key.ends_with(part));
        write(&path, &tensors, &BTreeMap::new()).unwrap();
        let error = lora::load(&path, None, false).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
