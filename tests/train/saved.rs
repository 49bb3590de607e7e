//! The files that a run leaves: LoRAs of saved steps, states.

use selma::formats::safetensors::Safetensors;
use selma::tensor::DType;

use crate::{bytes, deltas, images, said, train, weights};

#[test]
fn every_saved_step_is_a_lora() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let (whole, short) = (dir.path().join("whole"), dir.path().join("short"));
    let settings = ["--steps", "6", "--save-every", "2", "--keep", "2", "--output-name", "mine"];
    let plan = said(train(&data, &whole, &settings));
    assert_eq!(weights(&whole), ["mine-00000004.safetensors", "mine-00000006.safetensors", "mine.safetensors"]);
    assert_eq!(weights(&whole.join("state")), ["step-00000004.safetensors", "step-00000006.safetensors"]);
    train(&data, &short, &["--steps", "4", "--output-name", "mine"]).assert().success();
    let lora = |name: &str| bytes(whole.join(name));
    let (fourth, last, newest) =
        (lora("mine-00000004.safetensors"), lora("mine-00000006.safetensors"), lora("mine.safetensors"));
    // But for the header, which says how many steps were meant.
    let [of_six, of_four] =
        [whole.join("mine-00000004.safetensors"), short.join("mine.safetensors")].map(|p| deltas(&p));
    assert!(of_six == of_four, "the LoRA of step 4 is not that of a run of 4 steps");
    assert!(last == newest && last != fourth);
    assert!(plan.contains("2 states of") && plan.contains("3 LoRAs of"), "{plan}");

    let other = dir.path().join("other");
    let settings = ["--steps", "4", "--save-every", "2", "--format", "kohya", "--save-precision", "fp16"];
    train(&data, &other, &settings).args(["--keep-loras", "0"]).assert().success();
    assert_eq!(weights(&other), ["lora.safetensors"]);
    let file = Safetensors::open(&other.join("lora.safetensors")).unwrap();
    let factors: Vec<&str> = file.names().filter(|name| name.contains("lora_") && !name.ends_with("alpha")).collect();
    assert!(!factors.is_empty() && factors.iter().all(|name| name.starts_with("lora_unet_")), "{factors:?}");
    assert!(factors.iter().all(|name| file.tensor(name).unwrap().dtype() == DType::F16));
    for ((module, rounded), (other, exact)) in deltas(file.path()).iter().zip(deltas(&short.join("mine.safetensors"))) {
        assert_eq!(*module, other);
        // Two factors of 11 bits each.
        let largest = exact.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let error = rounded.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 3e-3 * largest && largest > 0.0, "{module}: {error} of {largest}");
    }
}

/// The bytes behind the header.
fn body(path: std::path::PathBuf) -> u64 {
    let bytes = bytes(path);
    bytes.len() as u64 - 8 - u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn the_plan_counts_the_bytes_of_all_files() {
    use selma::device::Device;
    use selma::train::config::TrainConfig;
    use selma::train::preparation::Preparation;
    use selma::train::trainer::Trainer;
    use selma::train::watcher::{StepReport, Watcher};

    struct Silent;
    impl Watcher for Silent {
        fn note(&mut self, _: &str) {}
        fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
        fn step(&mut self, _: &StepReport) {}
        fn stopped(&self) -> bool {
            false
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let text = "rank = 2\ntargets = 'to_q'\nsteps = 5\nsave-every = 2\nkeep = 2\nkeep-loras = 1\nbatch-size = 1\n\
                grad-accum = 1\nema = 0.5\nsave-precision = 'bf16'";
    let config = TrainConfig {
        model: crate::parity("models/tiny-sd1").display().to_string(),
        data: images(dir.path()),
        out: out.clone(),
        ..TrainConfig::from_toml(text).unwrap()
    };
    let vocab = crate::parity("clip_vocab");
    let prepared = Preparation::new(config, Some(&vocab), &Device::Cpu, DType::F32, false, &mut Silent).unwrap();
    let unet = prepared.load_unet().unwrap();
    let mut trainer = Trainer::start(prepared, unet).unwrap();
    trainer.run(&mut Silent).unwrap();
    let files = |dir: &std::path::Path| weights(dir).iter().map(|name| body(dir.join(name))).collect::<Vec<u64>>();
    let disk = trainer.plans().disk;
    let (states, loras) = (files(&out.join("state")), files(&out));
    assert_eq!((disk.states, disk.loras), ((2, states[0]), (2, loras[0])), "{states:?} {loras:?}");
    assert_eq!(disk.bytes(), states.iter().chain(&loras).sum::<u64>());
}

#[test]
fn a_state_serves_as_a_lora() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    train(&data, &out, &["--steps", "2", "--alpha", "3"]).assert().success();
    let state = out.join("state/step-00000002.safetensors");
    assert_eq!(deltas(&state), deltas(&out.join("lora.safetensors")));
    let mut inspect = assert_cmd::Command::cargo_bin("selma").unwrap();
    let summary = inspect.arg("inspect").arg(&state).output().unwrap();
    assert!(summary.status.success(), "{}", String::from_utf8_lossy(&summary.stderr));
    assert!(String::from_utf8_lossy(&summary.stdout).contains("layout   state of selma train"));
    let mut generate = assert_cmd::Command::cargo_bin("selma").unwrap();
    generate.args(["generate", "--prompt", "a cat", "--steps", "1", "--vocab"]).arg(crate::parity("clip_vocab"));
    generate.arg("--model").arg(crate::parity("models/tiny-sd1")).arg("--lora").arg(&state);
    generate.arg("--out").arg(out.join("drawn")).assert().success();
}

#[test]
fn the_average_is_what_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let out = dir.path().join("out");
    train(&data, &out, &["--steps", "3", "--save-every", "1", "--ema", "0.3", "--lr", "0.1"]).assert().success();
    let values = |step: u32, name: &str| {
        let state = Safetensors::open(&out.join(format!("state/step-{step:08}.safetensors"))).unwrap();
        state.tensor(name).unwrap().data::<f32>().to_vec()
    };
    for step in 2..=3 {
        // diffusers' EMAModel: min(decay, (1 + step) / (10 + step)).
        let keep = 0.3_f32.min((1 + step) as f32 / (10 + step) as f32);
        let (before, now, average) = (values(step - 1, "average"), values(step, "master"), values(step, "average"));
        assert!(average != now);
        for ((b, n), a) in before.iter().zip(&now).zip(&average) {
            assert!((keep * b + (1.0 - keep) * n - a).abs() <= 1e-6 * (b.abs() + n.abs()), "{b}, {n}: {a}");
        }
    }
    assert_eq!(deltas(&out.join("state/step-00000003.safetensors")), deltas(&out.join("lora.safetensors")));
}

/// What managers of LoRAs show: sd-scripts' keys.
#[test]
fn a_lora_in_kohyas_layout_says_how_it_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    std::fs::write(data.join("1.txt"), "a cat, red fur, A CAT").unwrap();
    let out = dir.path().join("out");
    let settings = ["--steps", "4", "--save-every", "2", "--format", "kohya", "--lr", "2e-3", "--snr-gamma", "5"];
    let prodigy = ["--optimizer", "prodigy", "--optimizer-args", "d_coef=2", "weight_decay=0.1"];
    train(&data, &out, &settings).args(prodigy).assert().success();
    let file = Safetensors::open(&out.join("lora-00000002.safetensors")).unwrap();
    for (key, value) in [
        ("ss_sd_model_name", "tiny-sd1"),
        ("ss_steps", "2"),
        ("ss_max_train_steps", "4"),
        ("ss_learning_rate", "0.002"),
        ("ss_optimizer", "prodigy(d_coef=2,weight_decay=0.1)"),
        ("ss_num_train_images", "3"),
        ("ss_num_reg_images", "0"),
        ("ss_min_snr_gamma", "5"),
        ("ss_noise_offset", "None"),
        ("ss_loss_type", "l2"),
        ("ss_dataset_dirs", r#"{"images":{"n_repeats":1,"img_count":3}}"#),
        ("ss_network_dim", "2"),
    ] {
        assert_eq!(file.metadata().get(key).map(String::as_str), Some(value), "{key}");
    }
    // The same in diffusers' layout, which managers read as well.
    let other = dir.path().join("other");
    let settings = ["--steps", "2", "--save-every", "2", "--format", "diffusers", "--lr", "2e-3", "--snr-gamma", "5"];
    train(&data, &other, &settings).args(prodigy).assert().success();
    let diffusers = Safetensors::open(&other.join("lora.safetensors")).unwrap();
    for key in [
        "ss_sd_model_name",
        "ss_network_dim",
        "ss_network_alpha",
        "ss_learning_rate",
        "ss_num_train_images",
        "selma.base_model_hash",
    ] {
        assert!(file.metadata().contains_key(key), "{key}");
        assert_eq!(diffusers.metadata().get(key), file.metadata().get(key), "{key}");
    }
    assert_eq!(diffusers.metadata()["ss_steps"], "2");
    assert!(diffusers.metadata().contains_key("lora_adapter_metadata"));
    assert!(!diffusers.metadata().contains_key("modelspec.trigger_phrase"));
    // Images without captions are called by their folder.
    let folder = dir.path().join("named/2_sks cat");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(data.join("1.png"), folder.join("1.png")).unwrap();
    train(folder.parent().unwrap(), &dir.path().join("third"), &["--steps", "1"]).assert().success();
    let third = Safetensors::open(&dir.path().join("third/lora.safetensors")).unwrap();
    assert_eq!(third.metadata()["modelspec.trigger_phrase"], "sks cat");
    let tags: serde_json::Value = serde_json::from_str(&file.metadata()["ss_tag_frequency"]).unwrap();
    assert_eq!((&tags["images"]["a cat"], &tags["images"]["red fur"]), (&2.into(), &1.into()));
    assert!(!file.metadata().values().any(|value| value.contains(&dir.path().display().to_string())));
}
