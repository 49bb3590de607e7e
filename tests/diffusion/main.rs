//! Samplers and noise schedules against numbers recorded from diffusers.

use std::path::{Path, PathBuf};

use selma::diffusion::{NoiseSchedule, SchedulerConfig, config::Class, names, names::Name, sampler};
use selma::formats::safetensors::Safetensors;
use selma::ops::Combination;
use selma::tensor::Tensor;
use serde_json::Value;

struct Case {
    name: String,
    json: Value,
    tensors: Safetensors,
}

impl Case {
    fn values(&self, name: &str) -> Vec<f64> {
        self.tensors.tensor(name).unwrap().reals::<f64>().into_owned()
    }

    /// Row `i` of a stacked tensor.
    fn row(&self, name: &str, i: usize) -> Tensor {
        let all = self.tensors.tensor(name).unwrap();
        let shape = &all.shape()[1..];
        all.view(i * shape.iter().product::<usize>(), shape)
    }

    fn zero_snr(&self) -> bool {
        self.json["config"]["rescale_betas_zero_snr"] == true
    }

    fn close(&self, what: &str, ours: &[f64], reference: &[f64], tolerance: f64) -> Result<(), String> {
        let error = distance(ours, reference);
        // NaN fails too.
        if error <= tolerance {
            Ok(())
        } else {
            Err(format!("{}: {what}: error {error:.2e} > {tolerance:.0e}", self.name))
        }
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let norm = b.iter().copied().map(square).sum::<f64>();
    let difference = a.iter().zip(b).map(|(x, y)| square(x - y)).sum::<f64>();
    if norm == 0.0 { difference.sqrt() } else { (difference / norm).sqrt() }
}

/// The scheduler cases of the fixtures, or of another folder in the same format.
fn cases() -> Vec<Case> {
    let root = std::env::var_os("SELMA_PARITY_CASES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases"), PathBuf::from);
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    let open = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("sched_").then(|| Case {
            name,
            json: serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap(),
            tensors: Safetensors::open(&folder.join("tensors.safetensors")).unwrap(),
        })
    };
    folders.into_iter().filter_map(open).collect()
}

fn check_table(case: &Case, schedule: &NoiseSchedule) -> Result<(), String> {
    let bound = if case.zero_snr() { 2e-4 } else { 5e-6 };
    for (t, (a, b)) in schedule.alphas_cumprod.iter().zip(case.values("out.alphas_cumprod")).enumerate() {
        if (a - b).abs() > bound * b.abs() {
            return Err(format!("{}: alphas_cumprod[{t}] is {a}, expected {b}", case.name));
        }
    }
    Ok(())
}

fn check_sampling(case: &Case) -> Result<(), String> {
    let steps = case.json["num_inference_steps"].as_u64().unwrap() as usize;
    let fail = |e: selma::Error| format!("{}: {e}", case.name);
    let class = case.json["class"].as_str().unwrap();
    let mut sampler = sampler::from_config(class, &case.json["config"], steps).map_err(fail)?;
    if let Some(eta) = case.json["eta"].as_f64() {
        sampler.set_eta(eta);
    }
    check_table(case, sampler.schedule())?;
    let timesteps = case.values("out.timesteps");
    case.close("timesteps", sampler.timesteps(), &timesteps, 1e-6)?;
    if case.tensors.contains("out.sigmas") {
        case.close("sigmas", sampler.sigmas(), &case.values("out.sigmas"), 1e-5)?;
    }
    let scale = sampler.init_noise_sigma();
    case.close("init_noise_sigma", &[scale], &case.values("out.init_noise_sigma"), 1e-5)?;

    let tolerance = if case.zero_snr() { 2e-4 } else { 2e-5 };
    let initial = case.values("in.initial");
    let initial: Vec<f32> = initial.iter().map(|x| (x * scale) as f32).collect();
    let mut x = Tensor::new(initial, case.tensors.shape("in.initial").unwrap());
    for i in 0..timesteps.len() {
        let scaled = sampler.scale_model_input(i, &x).map_err(fail)?;
        let expected = case.row("out.scaled_inputs", i);
        case.close(&format!("scaled_inputs[{i}]"), &scaled.reals::<f64>(), &expected.reals::<f64>(), tolerance)?;
        let noise = sampler.needs_noise(i).then(|| case.row("in.noise", i));
        x = sampler.step(i, &Combination::of(&case.row("in.model_outputs", i)), &x, noise.as_ref()).map_err(fail)?;
        let expected = case.row("out.prev_samples", i);
        case.close(&format!("prev_samples[{i}]"), &x.reals::<f64>(), &expected.reals::<f64>(), tolerance)?;
    }
    Ok(())
}

fn check_noising(case: &Case) -> Result<(), String> {
    let fail = |e: selma::Error| format!("{}: {e}", case.name);
    let class = Class::from_diffusers(case.json["class"].as_str().unwrap()).map_err(fail)?;
    let config = SchedulerConfig::parse(class, &case.json["config"]).map_err(fail)?;
    let schedule = NoiseSchedule::new(&config).map_err(fail)?;
    check_table(case, &schedule)?;
    let timesteps: Vec<usize> = case.values("in.timesteps").iter().map(|&t| t as usize).collect();
    let (image, noise) = (case.tensors.tensor("in.original").unwrap(), case.tensors.tensor("in.noise").unwrap());
    let noisy = schedule.add_noise(&image, &noise, &timesteps).map_err(fail)?;
    case.close("noisy", &noisy.reals::<f64>(), &case.values("out.noisy"), 5e-6)?;
    let velocity = schedule.velocity(&image, &noise, &timesteps).map_err(fail)?;
    case.close("velocity", &velocity.reals::<f64>(), &case.values("out.velocity"), 5e-6)?;
    let snr: Vec<f64> = timesteps.iter().map(|&t| schedule.snr(t)).collect();
    case.close("snr", &snr, &case.values("out.snr"), 2e-4)
}

#[test]
fn samplers_agree_with_diffusers() {
    let cases = cases();
    assert!(cases.len() >= 70, "only {} scheduler cases found", cases.len());
    let check = |case: &Case| {
        if case.json["op"] == "sample" { check_sampling(case) } else { check_noising(case) }
    };
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn short_names_take_the_models_configuration() {
    let config = serde_json::json!({"_class_name": "PNDMScheduler", "_diffusers_version": "0.42.1",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "trained_betas": null,
        "skip_prk_steps": true, "set_alpha_to_one": false, "steps_offset": 1, "timestep_spacing": "leading"});
    for (name, _) in names::NAMES {
        let sampler = sampler::from_config(name, &config, 10).unwrap();
        assert!(sampler.timesteps().len() >= 10, "{name}");
    }
}

#[test]
fn other_tools_names_are_the_same_samplers() {
    let label = |name: &str| Name::parse(name).map(|_| names::label(name));
    for (given, meant) in [
        ("DPM++ 2M Karras", "DPM++ 2M Karras"),
        ("DPM++ SDE", "DPM++ SDE"),
        ("Euler a", "Euler a"),
        ("PLMS", "PLMS"),
        ("dpmpp_2m_sde", "DPM++ 2M SDE"),
        ("euler_ancestral", "Euler a"),
        ("uni_pc", "UniPC"),
        ("dpm_2_ancestral", "DPM2 a"),
        ("k_dpm_2_a", "DPM2 a"),
        ("k_lms", "LMS"),
        ("heun-exponential", "Heun Exponential"),
        ("dpmsolver++", "DPM++ 2M"),
        ("dpmsingle", "DPM++ 2S"),
    ] {
        assert_eq!(label(given).as_deref(), Some(meant), "{given}");
        assert_eq!(label(meant).as_deref(), Some(meant), "{meant}");
    }
    // These have no noise levels to space.
    for name in ["ddim-karras", "euler-a-karras", "tcd-exponential", "karras", ""] {
        assert_eq!(label(name), None, "{name}");
    }
}

#[test]
fn a_name_says_how_levels_are_spaced() {
    let config = serde_json::json!({"beta_schedule": "scaled_linear", "use_karras_sigmas": true});
    let levels = |name: &str| sampler::from_config(name, &config, 6).unwrap().sigmas().to_vec();
    assert_ne!(levels("heun"), levels("heun-karras"));
    assert_ne!(levels("heun-exponential"), levels("heun-karras"));
    // Euler by itself keeps the model's.
    assert_eq!(levels("euler"), levels("euler-karras"));
}

#[test]
fn a_run_that_starts_late_starts_at_whole_steps() {
    let config = serde_json::json!({"beta_schedule": "scaled_linear"});
    for name in ["heun", "dpm2", "dpm2-a", "dpmpp-sde"] {
        let mut late = sampler::from_config(name, &config, 8).unwrap();
        assert_eq!((late.order(), late.timesteps().len()), (2, 15), "{name}");
        // The network knows that the image is 0: what it is given is all noise, of the level that its scale tells.
        let (zero, noise) = (Tensor::new(vec![0f32; 4], &[1, 4]), Tensor::new(vec![1f32, -2.0, 0.5, 3.0], &[1, 4]));
        let first = 5 * late.order();
        let mut x = late.add_noise_at(first, &zero, &noise).unwrap();
        for i in first..late.timesteps().len() {
            let (now, scaled) = (x.reals::<f64>()[3], late.scale_model_input(i, &x).unwrap().reals::<f64>()[3]);
            let sigma = ((now / scaled).powi(2) - 1.0).sqrt();
            let output = Combination::sum(&[(1.0 / sigma, &Combination::of(&x))]);
            let fresh = late.needs_noise(i).then_some(&noise);
            x = late.step(i, &output, &x, fresh).unwrap();
        }
        assert!(x.reals::<f64>().iter().all(|v| v.abs() < 1e-3), "{name}: {:?}", x.reals::<f64>());
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let refuse = |config: Value| sampler::from_config("DDIMScheduler", &config, 5).err().unwrap().to_string();
    assert!(refuse(serde_json::json!({"beta_strat": 0.1})).contains("beta_strat"));
    assert!(refuse(serde_json::json!({"beta_start": "x"})).contains("beta_start"));
    assert!(refuse(serde_json::json!({"use_beta_sigmas": true})).contains("use_beta_sigmas"));
    assert!(refuse(serde_json::json!({"timestep_spacing": "random"})).contains("random"));
    let unknown = sampler::from_config("dpm-fast", &serde_json::json!({}), 5).err().unwrap().to_string();
    assert!(unknown.contains("dpm-fast") && unknown.contains("dpmpp-2m-sde"), "{unknown}");
}
