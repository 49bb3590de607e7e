//! Baked weights as diffusers' `fuse_lora` makes them.

use selma::device::Device;
use selma::formats::component::weight_files;
use selma::formats::safetensors::Safetensors;
use selma::lora::{self, Expert, bake, base};
use selma::tensor::DType;

use crate::support::{cases, parity, relative_error, sample_expert};

fn baked_weights_are_as_recorded_on(device: &Device) {
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
                    let baked = bake::bake(&weights.tensor(name).unwrap().cast(DType::F32), &terms, device).unwrap();
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
fn baked_weights_are_as_recorded() {
    baked_weights_are_as_recorded_on(&Device::Cpu);
}

#[cfg(feature = "simulator")]
mod on_the_simulator {
    use super::*;
    use selma::device::gpu::{Checks, Gpu, Order};

    fn simulator() -> Device {
        Device::Gpu(Gpu::simulator(Checks::On, Order::Forwards).unwrap())
    }

    #[test]
    fn baked_weights_are_as_recorded() {
        baked_weights_are_as_recorded_on(&simulator());
    }

    /// In f32 and in the 16 bits that weights are stored in, of linear layers and convolutions.
    #[test]
    fn weights_are_those_of_the_cpu() {
        let (_, expert) = sample_expert("tiny-sdxl", 3, 1);
        let (_, other) = sample_expert("tiny-sdxl", 4, 1);
        let device = simulator();
        let mut different = 0;
        for (component, module, factors) in expert.iter() {
            let shape = factors.weight_shape();
            let terms = [(0.7, factors), (-1.3, other.get(component, module).unwrap())];
            // Stand-ins of a weight's size.
            let weight = factors.delta();
            for (dtype, bound) in [(DType::F32, 4e-7), (DType::Bf16, 1e-3), (DType::F16, 1e-4)] {
                let weight = weight.cast(dtype);
                let [cpu, gpu] = [&Device::Cpu, &device].map(|device| bake::bake(&weight, &terms, device).unwrap());
                assert_eq!((gpu.shape(), gpu.dtype()), (shape.as_slice(), dtype));
                let error = relative_error(&gpu, &cpu);
                assert!(error <= bound, "{component}.{module} {}: {error:e}", dtype.name());
                different += usize::from(error > 0.0);
            }
        }
        assert!(different > 0, "the simulator has computed nothing");
    }
}

#[test]
fn a_baked_model_is_a_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (parity().join("models/tiny-sdxl"), dir.path().join("baked"));
    let (modules, mut expert) = sample_expert("tiny-sdxl", 0, 1);
    expert.components.remove("text_encoder");
    let changed = bake::into_model(&model, &[(&expert, 0.5)], &out, &Device::Cpu).unwrap();
    assert_eq!(changed, expert.len());
    assert_eq!(base::modules(&out).unwrap(), modules);
    let untouched = "text_encoder/model.safetensors";
    assert_eq!(std::fs::read(model.join(untouched)).unwrap(), std::fs::read(out.join(untouched)).unwrap());
    assert!(out.join("model_index.json").is_file());
    let again = bake::into_model(&model, &[(&expert, 0.5)], &out, &Device::Cpu).unwrap_err().to_string();
    assert!(again.contains("exists already"), "{again}");
    // Nothing but the result is left beside it.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
