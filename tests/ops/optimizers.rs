//! Optimizers beside AdamW, against the packages that they come from (tests/generate_fixtures/optimizers.py), and every device
//! against the CPU.

use std::path::Path;

use selma::formats::safetensors::Safetensors;
use selma::ops::optimizer::{Adafactor, Lion, Optimizer, Prodigy, ScheduleFree, Sgd};
use selma::tensor::DType;

use crate::optimizer::{LENGTHS, Run, everywhere, floats, numbers, random};
use crate::support::{close, devices, near, near_within};

const PRODIGY: Prodigy = Prodigy {
    betas: (0.9, 0.999),
    beta3: 0.999_499_874_937_461,
    eps: 1e-8,
    weight_decay: 0.0,
    d0: 1e-6,
    d_coef: 1.0,
    growth_rate: f64::INFINITY,
    use_bias_correction: false,
    safeguard_warmup: false,
};

/// With the settings of the script.
fn optimizer(case: &str) -> Box<dyn Optimizer> {
    let adafactor = Adafactor {
        matrices: [&[6, 5][..], &[10], &[4, 5], &[3, 12]].map(Adafactor::matrix).into(),
        eps: (1e-30, 1e-3),
        clip_threshold: 1.0,
        decay_rate: -0.8,
        beta1: None,
        weight_decay: 0.0,
        scale_parameter: false,
        relative_step: false,
        warmup_init: false,
    };
    match case {
        "prodigy" => Box::new(PRODIGY),
        "prodigy_warm" => Box::new(Prodigy {
            betas: (0.9, 0.99),
            beta3: 0.99_f64.sqrt(),
            weight_decay: 0.01,
            d_coef: 2.0,
            d0: 1e-4,
            growth_rate: 1.5,
            use_bias_correction: true,
            safeguard_warmup: true,
            ..PRODIGY
        }),
        "lion" => Box::new(Lion { betas: (0.9, 0.99), weight_decay: 0.1 }),
        "sgd" => Box::new(Sgd { momentum: 0.9, nesterov: false, weight_decay: 1e-2 }),
        "sgd_nesterov" => Box::new(Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 }),
        "schedule_free" => Box::new(ScheduleFree { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }),
        "adafactor" => Box::new(Adafactor { weight_decay: 0.01, ..adafactor }),
        "adafactor_scaled" => Box::new(Adafactor { scale_parameter: true, beta1: Some(0.9), ..adafactor }),
        "adafactor_relative" | "adafactor_warm" => Box::new(Adafactor {
            scale_parameter: true,
            relative_step: true,
            warmup_init: case == "adafactor_warm",
            ..adafactor
        }),
        other => panic!("{other} is no case"),
    }
}

/// 16 updates of some ten f32 operations each, which round by 6e-8 of values up to 3.
const TOLERANCE: f64 = 1e-5;

#[test]
fn updates_are_those_of_the_packages() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizers.safetensors");
    let file = Safetensors::open(&path).unwrap();
    assert_eq!(file.metadata().len(), 10);
    for case in file.metadata().keys() {
        let read = |name: &str| file.tensor(&format!("{case}.{name}")).unwrap();
        let (start, lr, gradients, values) = (read("start"), read("lr"), read("gradients"), read("values"));
        let n = start.len();
        let optimizer = optimizer(case);
        for device in everywhere() {
            let mut run = Run::new(&*optimizer, &device, start.data(), DType::F32);
            for (step, &lr) in lr.data::<f32>().iter().enumerate() {
                run.lr = numbers(&[f64::from(lr)], &device);
                run.step(gradients.view(step * n, &[n]).data(), 1.0);
                let got = run.parameters.values.to_cpu().unwrap();
                close(&format!("{case}, update {step}"), &got, &values.view(step * n, &[n]), TOLERANCE);
            }
            let result = optimizer.result(&run.parameters).unwrap();
            assert_eq!(result.is_some(), case == "schedule_free");
            if let Some(result) = result {
                close(&format!("{case}, result"), &result.to_cpu().unwrap(), &read("result"), TOLERANCE);
            }
        }
    }
}

#[test]
fn every_device_updates_alike() {
    for n in LENGTHS {
        let (start, gradient) = (random(n, 1), random(n, 2));
        let rows = if n.is_multiple_of(2) { 2 } else { 1 };
        let adafactor = Adafactor {
            matrices: vec![[rows, n / rows]],
            eps: (1e-30, 1e-3),
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: Some(0.9),
            weight_decay: 0.01,
            scale_parameter: true,
            relative_step: false,
            warmup_init: false,
        };
        let prodigy = Prodigy { weight_decay: 0.05, use_bias_correction: true, d0: 1e-2, ..PRODIGY };
        let all: [&dyn Optimizer; 5] = [
            &prodigy,
            &Lion { betas: (0.9, 0.99), weight_decay: 0.05 },
            &Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.05 },
            &ScheduleFree { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 },
            &adafactor,
        ];
        for (number, optimizer) in all.into_iter().enumerate() {
            for device in devices() {
                for dtype in [DType::F32, DType::Bf16, DType::F16] {
                    let mut runs =
                        [&selma::device::Device::Cpu, &device].map(|device| Run::new(optimizer, device, &start, dtype));
                    for _ in 1..=3 {
                        runs.iter_mut().for_each(|run| run.step(&gradient, 0.25));
                    }
                    let [here, there] = &mut runs;
                    // Sums go over all values.
                    near("values", &there.parameters.values, &here.parameters.values, n);
                    near("copy", &there.parameters.copy, &here.parameters.copy, n);
                    for ((name, got), (_, expected)) in there.parameters.state.iter().zip(&here.parameters.state) {
                        match number {
                            // Its estimate multiplies differences of steps of 0.01 from values of 1, which are rounded.
                            0 => near_within(name, got, expected, 1e-3),
                            _ => near(name, got, expected, n),
                        }
                    }
                    // Where the gradient was not finite, nothing changes.
                    let count = there.parameters.state.len();
                    for run in [here, there] {
                        let before: Vec<_> = (0..count).map(|i| run.state(i)).collect();
                        let values = run.parameters.values.to_cpu().unwrap();
                        run.step(&gradient, 0.0);
                        assert!(before.iter().enumerate().all(|(i, x)| run.state(i).bytes() == x.bytes()));
                        assert!(run.parameters.values.to_cpu().unwrap().bytes() == values.bytes());
                    }
                }
            }
        }
    }
}

/// Its estimate finds the way to values that no rate was chosen for.
#[test]
fn prodigy_needs_no_learning_rate() {
    const N: usize = 500;
    let target = random(N, 1);
    let mut run = Run::new(&PRODIGY, &selma::device::Device::Cpu, &[0.0; N], DType::F32);
    run.lr = numbers(&[1.0], &selma::device::Device::Cpu);
    let distance =
        |values: &[f32]| values.iter().zip(&target).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    for _ in 0..400 {
        let values = run.parameters.values.to_cpu().unwrap();
        let gradient: Vec<f32> = values.data::<f32>().iter().zip(&target).map(|(p, t)| p - t).collect();
        run.step(&gradient, 1.0);
    }
    let (end, begin) = (distance(run.parameters.values.data()), distance(floats(&[0.0; N]).data()));
    assert!(end < 0.05 * begin, "{end} of {begin}");
}
