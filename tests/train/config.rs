//! Training configurations.

use selma::data::preprocess::Crop;
use selma::train::config::{Optimizer, Prediction, TrainConfig};
use selma::train::lr_schedule::Shape;

fn valid() -> TrainConfig {
    TrainConfig::from_toml("model = 'm'\ndata = 'd'\nout = 'o'").unwrap()
}

#[test]
fn defaults_and_the_way_to_toml_and_back() {
    let config = valid();
    config.validate().unwrap();
    assert_eq!((config.rank, config.steps, config.batch_size, config.grad_accum), (128, 5000, 16, 4));
    assert_eq!((config.alpha(), config.scale()), (128.0, 1.0));
    let full = TrainConfig {
        alpha: Some(64.0),
        snr_gamma: Some(5.0),
        prediction: Prediction::VPrediction,
        lr_schedule: Shape::CosineRestarts,
        sample_prompt: vec!["a \"cat\"".into()],
        ..config
    };
    assert_eq!(full.scale(), 0.5);
    assert_eq!(TrainConfig::from_toml(&full.to_toml().unwrap()).unwrap(), full);
}

#[test]
fn names_of_other_scripts_are_understood() {
    let text = "pretrained_model_name_or_path = 'm'\nlearning_rate = 1\nlr_scheduler = 'cosine_with_restarts'\n\
                network_dim = 8\nnetwork_alpha = 4\nmixed_precision = 'fp16'\ntargets = 'to_q, to_k'\n\
                sample_prompt = 'a cat'\nmin-snr-gamma = 5\nprediction_type = 'v_prediction'";
    let config = TrainConfig::from_toml(text).unwrap();
    assert_eq!((config.model.as_str(), config.rank, config.alpha, config.lr), ("m", 8, Some(4.0), 1.0));
    assert_eq!((config.lr_schedule, config.precision.as_str()), (Shape::CosineRestarts, "f16"));
    assert_eq!((config.targets, config.sample_prompt), (vec!["to_q".into(), "to_k".into()], vec!["a cat".into()]));
    assert_eq!((config.snr_gamma, config.prediction), (Some(5.0), Prediction::VPrediction));
}

/// One list of fields makes keys, aliases and options.
#[test]
fn a_file_and_the_command_line_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name);
    let file = out("settings.toml");
    let said = [
        ("network_dim", "3"),
        ("lora-alpha", "-2"),
        ("lr", "1"),
        ("optimizer_type", "AdamW8bit"),
        ("lr_scheduler", "COSINE_with_restarts"),
        ("prediction-type", "v-prediction"),
        ("betas", "0.5,0.9"),
        ("targets", "to_q,to_k"),
        ("flip", "false"),
        ("gradient_checkpointing", "true"),
    ];
    let selma = |arguments: &[String]| {
        let mut command = assert_cmd::Command::cargo_bin("selma").unwrap();
        let output =
            command.arg("train").args(arguments).args(["--model", "none", "--data", "d", "--out", "o"]).output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let options: Vec<String> = said.iter().map(|(key, value)| format!("--{key}={value}")).collect();
    // The first value that is refused is alpha's, after all have been read.
    let refused = selma(&options);
    assert!(refused.contains("alpha is -2, expected a number above 0"), "{refused}");
    let line = |(key, value): &(&str, &str)| match value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok() {
        true => format!("{key} = {value}\n"),
        false if *key == "betas" => format!("{key} = [{value}]\n"),
        false => format!("{key} = '{value}'\n"),
    };
    std::fs::write(&file, said.iter().map(line).collect::<String>()).unwrap();
    assert_eq!(selma(&["--config".into(), file.display().to_string()]), refused);
    let config = TrainConfig::read(&file).unwrap();
    assert_eq!((config.rank, config.alpha, config.lr, config.betas), (3, Some(-2.0), 1.0, [0.5, 0.9]));
    assert_eq!((config.optimizer, config.lr_schedule), (Optimizer::AdamW8bit, Shape::CosineRestarts));
    assert_eq!((config.prediction, config.flip, config.checkpointing), (Prediction::VPrediction, false, true));
    assert_eq!(config.targets, ["to_q", "to_k"]);
}

#[test]
fn what_decides_the_numbers_is_told_from_what_does_not() {
    let one = TrainConfig { rank: 3, keep: 7, out: "elsewhere".into(), sample_every: 9, ..valid() };
    assert_eq!(one.deciding(), TrainConfig { rank: 3, ..TrainConfig::default() });
}

#[test]
fn unknown_and_doubled_keys_are_refused() {
    for (text, expected) in [
        ("bach-size = 3", "unknown key `bach-size`; the closest known one is `batch-size`"),
        ("learningrate = 3", "closest known one is `learning-rate`"),
        ("lr = 1.0\nlearning_rate = 2.0", "`lr` is given twice"),
        ("rank = 'many'", "rank"),
        ("rank = -1", "rank"),
        ("lr_schedule = 'warm'", "expected one of constant"),
        ("crop = 'left'", "crop"),
        ("rank = ", "line 1"),
    ] {
        let result = TrainConfig::from_toml(text);
        assert!(matches!(&result, Err(e) if e.exit_code() == 2), "{text}");
        let message = crate::message(result);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    type Change = fn(&mut TrainConfig);
    let changes: [(Change, &str); 14] = [
        (|c| c.model.clear(), "missing: --model"),
        (|c| c.rank = 0, "rank is 0, expected at least 1"),
        (|c| c.steps = 0, "steps is 0"),
        (|c| c.warmup = 5001, "warmup is 5001, expected at most steps (5000)"),
        (|c| c.lr = f64::NAN, "lr is NaN"),
        (|c| c.alpha = Some(0.0), "alpha is 0"),
        (|c| c.betas = [0.9, 1.0], "betas is 1"),
        (|c| c.max_grad_norm = -1.0, "max-grad-norm is -1, expected 0 or more"),
        (|c| c.resolution = Some(500), "resolution is 500, expected a multiple of 8"),
        (|c| c.caption_dropout = 1.5, "caption-dropout is 1.5"),
        (|c| c.targets.clear(), "targets is empty"),
        (|c| c.sample_every = 10, "sample-prompt is empty"),
        (|c| c.precision = "f8".into(), "precision is f8"),
        (|c| c.snr_gamma = Some(f64::INFINITY), "snr-gamma is inf"),
    ];
    for (change, expected) in changes {
        let mut config = valid();
        change(&mut config);
        let message = crate::message(config.validate());
        assert!(message.contains(expected), "{message}");
    }
}

/// Every setting of the scripts behind the paper: one table for SD v1.4, and what SDXL's has otherwise.
#[test]
fn the_presets_are_the_settings_of_the_papers_scripts() {
    let sd = TrainConfig::preset("selma-sd").unwrap();
    assert_eq!((sd.resolution, sd.batch_size, sd.grad_accum, sd.steps), (Some(512), 16, 4, 5000));
    assert_eq!((sd.lr, sd.lr_schedule, sd.warmup), (3e-4, Shape::Constant, 0));
    assert_eq!((sd.rank, sd.alpha(), sd.scale()), (128, 128.0, 1.0));
    assert_eq!(sd.targets, ["to_q", "to_k", "to_v", "to_out.0"]);
    assert_eq!((sd.betas, sd.eps, sd.weight_decay, sd.max_grad_norm), ([0.9, 0.999], 1e-8, 1e-2, 1.0));
    assert_eq!((sd.snr_gamma, sd.noise_offset, sd.caption_dropout), (None, 0.0, 0.0));
    assert_eq!((sd.crop, sd.flip, sd.prediction), (Crop::Random, true, Prediction::Auto));
    assert_eq!((sd.seed, sd.save_every, sd.keep), (42, 500, 20));
    let xl = TrainConfig::preset("selma-sdxl").unwrap();
    let otherwise =
        TrainConfig { resolution: Some(1024), batch_size: 4, grad_accum: 8, steps: 10_000, save_every: 2000, ..sd };
    assert_eq!(xl, otherwise);
}

/// Names and arguments are those of kohya's scripts.
#[test]
fn optimizers_have_their_own_defaults_and_arguments() {
    let config = |text: &str| TrainConfig::from_toml(text).unwrap();
    let prodigy =
        config("optimizer_type = 'Prodigy'\noptimizer_args = ['d_coef=2', 'betas=0.9,0.99', 'growth_rate=inf']");
    assert_eq!((prodigy.optimizer, prodigy.lr, prodigy.weight_decay), (Optimizer::Prodigy, 1.0, 0.0));
    prodigy.optimizer(&[]).unwrap();
    assert_eq!(config("optimizer = 'lion'").betas, [0.9, 0.99]);
    assert_eq!(config("optimizer = 'AdamWScheduleFree'\nlr = 0.5").lr, 0.5);
    assert_eq!(config("optimizer_type = 'SGDNesterov'").optimizer, Optimizer::SgdNesterov);
    assert_eq!(config("optimizer_type = 'AdaFactor'").optimizer, Optimizer::Adafactor);
    // Resolved settings are read back to the same.
    assert_eq!(config(&prodigy.to_toml().unwrap()), prodigy);
    for (text, words) in [
        ("optimizer_args = ['d_coef=2']", ["adamw has no `d_coef`", "betas, weight_decay, eps"]),
        ("optimizer = 'prodigy'\noptimizer_args = ['d_coef']", ["`d_coef`", "KEY=VALUE"]),
        ("optimizer = 'prodigy'\noptimizer_args = ['d_coef=-1']", ["d_coef is -1", "above 0"]),
        ("optimizer = 'prodigy'\noptimizer_args = ['d_coef=1', 'd_coef=2']", ["d_coef", "twice"]),
        ("optimizer = 'prodigy'\noptimizer_args = ['decouple=False']", ["decouple=False", "not available"]),
        ("optimizer = 'prodigy'\noptimizer_args = ['safeguard_warmup=maybe']", ["maybe", "True or False"]),
        ("optimizer = 'adafactor'\noptimizer_args = ['betas=1']", ["two numbers", "betas"]),
    ] {
        let error = config(text).optimizer(&[]).err().expect("an error").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
