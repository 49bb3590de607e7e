//! The recorded cases, and the errors that they are held to.

use std::path::{Path, PathBuf};

use selma::formats::safetensors::Safetensors;
use selma::lora::{BaseModules, Expert, LoraFactors, Targets, base};
use selma::tensor::Tensor;

/// The fixtures; `SELMA_PARITY` names another folder of cases in the same format.
pub fn parity() -> PathBuf {
    match std::env::var_os("SELMA_PARITY") {
        Some(root) => root.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity"),
    }
}

/// One recorded case.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    pub json: serde_json::Value,
    pub tensors: Safetensors,
}

impl Case {
    pub fn model(&self) -> PathBuf {
        parity().join(self.json["model"].as_str().expect("the case names its model"))
    }

    /// The tensors named `prefix` and something, with that rest of the name.
    pub fn outputs(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let names = self.tensors.names().filter_map(|n| Some((n, n.strip_prefix(prefix)?)));
        names.map(|(name, rest)| (rest.to_string(), self.tensors.tensor(name).expect("it is in the file"))).collect()
    }
}

/// Every case of one kind.
pub fn cases(kind: &str) -> Vec<Case> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parity().join("cases")).expect("the fixtures are there") {
        let dir = entry.expect("a readable folder").path();
        let text = std::fs::read_to_string(dir.join("case.json")).expect("every case has one");
        let json: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        if json["kind"] == kind {
            found.push(Case {
                name: dir.file_name().expect("a name").to_string_lossy().into_owned(),
                tensors: Safetensors::open(&dir.join("tensors.safetensors")).expect("valid tensors"),
                dir,
                json,
            });
        }
    }
    assert!(!found.is_empty(), "no case of kind {kind}");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// `||a - b|| / ||b||` in f64; the absolute norm where `b` is zero.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.reals::<f64>(), b.reals::<f64>());
    let difference: f64 = a.iter().zip(b.iter()).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b * b).sum();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// The modules of a small model, and a random expert on its linear layers, convolutions and text encoders. Ranks are
/// 2..5 from module to module (`rank` 0) or all the same; alphas differ.
pub fn sample_expert(model: &str, rank: usize, mut seed: u64) -> (BaseModules, Expert) {
    let base = base::modules(&parity().join("models").join(model)).unwrap();
    let mut expert = Expert::default();
    let mut fill = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        });
        Tensor::new(values.collect::<Vec<f32>>(), shape)
    };
    let targets = Targets::parse("attention+ff,conv1,conv2,conv_shortcut,q_proj,fc1,upsamplers.0.conv").unwrap();
    for (component, modules) in &base {
        for (at, (module, shape)) in modules.iter().enumerate() {
            if targets.matches(module, shape) {
                let rank = if rank == 0 { 2 + at % 3 } else { rank };
                let mut down = shape.clone();
                down[0] = rank;
                let (down, up) = (fill(&down), fill(&[shape[0], rank]));
                expert.insert(component, module, LoraFactors::new(down, up, 1.0 + (at % 4) as f64).unwrap());
            }
        }
    }
    (base, expert)
}

/// Checks that two experts change the same modules by the same deltas.
pub fn assert_same(a: &Expert, b: &Expert, tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (component, module, factors) in a.iter() {
        let other = b.get(component, module).unwrap_or_else(|| panic!("{component}.{module} is lost"));
        let error = relative_error(&other.delta(), &factors.delta());
        assert!(error <= tolerance, "{component}.{module}: {error:e}");
    }
}
