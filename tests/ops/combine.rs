//! `combine`, `clamp` and `Combination`, and the sampler steps that they make.

use selma::ops::{self, Combination};
use selma::tensor::{DType, Tensor};

use crate::support::{devices, near, values};

const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

fn inputs(count: u64, n: usize, dtype: DType) -> Vec<Tensor> {
    (1..=count).map(|seed| Tensor::new(values(n, seed), &[n]).cast(dtype)).collect()
}

#[test]
fn sums_and_limits() {
    let x = Tensor::new(vec![1.0_f32, -4.0, f32::NAN, 9.0], &[4]);
    let y = Tensor::new(vec![0.5_f32, 1.0, 2.0, 3.0], &[4]);
    let sum = ops::combine(&[(2.0, &x), (-1.0, &y)]).unwrap();
    assert_eq!(sum.data::<f32>()[..2], [1.5, -9.0]);
    let limited = ops::clamp(&x, -1.0, 1.0).unwrap();
    assert_eq!(limited.data::<f32>()[..2], [1.0, -1.0]);
    assert!(limited.data::<f32>()[2].is_nan());
    assert!(ops::combine(&[]).is_err());
    assert!(ops::combine(&[(1.0, &x), (1.0, &y.cast(DType::F64))]).is_err());
}

#[test]
fn limits_agree_on_every_device() {
    for device in devices() {
        for (n, dtype) in [1, 7, 8, 255, 2048, 4099].into_iter().flat_map(|n| DTYPES.map(|dtype| (n, dtype))) {
            let x = &inputs(1, n, dtype)[0];
            let limited = ops::clamp(&x.to(&device).unwrap(), -0.5, 0.75).unwrap().to_cpu().unwrap();
            assert_eq!(limited.bytes(), ops::clamp(x, -0.5, 0.75).unwrap().bytes());
        }
    }
}

/// More terms than one launch takes: two more roundings to the storage type on the way.
#[test]
fn long_sums_agree_on_every_device() {
    let coefficients = || (0..).map(|i| 0.7 - 0.1 * f64::from(i));
    for device in devices() {
        for dtype in DTYPES {
            let xs = inputs(19, 300, dtype);
            let there: Vec<Tensor> = xs.iter().map(|x| x.to(&device).unwrap()).collect();
            let sum = ops::combine(&coefficients().zip(&there).collect::<Vec<_>>()).unwrap();
            let wide: Vec<Tensor> = xs.iter().map(|x| x.cast(DType::F32)).collect();
            let expected = ops::combine(&coefficients().zip(&wide).collect::<Vec<_>>()).unwrap();
            let unit = match dtype {
                DType::Bf16 => 2f64.powi(-8),
                DType::F16 => 2f64.powi(-11),
                _ => 2f64.powi(-21),
            };
            let largest = expected.reals::<f64>().iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            for (got, expected) in sum.to_cpu().unwrap().reals::<f64>().iter().zip(&*expected.reals::<f64>()) {
                assert!((got - expected).abs() <= 3.0 * unit * largest, "{got}, expected {expected}");
            }
        }
    }
}

/// Combinations of inputs and of each other, every second one limited before the next one sees it.
#[test]
fn lines_that_build_on_each_other_agree_on_every_device() {
    let last = |xs: &[Tensor]| {
        let mut made: Vec<Combination> = xs.iter().map(Combination::of).collect();
        for l in 0..4 {
            let terms = made.iter().enumerate().map(|(i, x)| (0.7 - 0.3 * (i + 2 * l) as f64, x));
            let line = Combination::sum(&terms.collect::<Vec<_>>());
            made.push(if l % 2 == 1 { line.limited(0.8) } else { line });
        }
        made.last().unwrap().tensor().unwrap()
    };
    for device in devices() {
        for (count, n) in [(1, 1), (3, 7), (5, 255), (8, 2048), (8, 4099)] {
            for dtype in DTYPES {
                let xs = inputs(count, n, dtype);
                let there: Vec<Tensor> = xs.iter().map(|x| x.to(&device).unwrap()).collect();
                // In f32 to the end, as the kernel.
                let wide: Vec<Tensor> = xs.iter().map(|x| x.cast(DType::F32)).collect();
                near(
                    &format!("{count} inputs of {n} on {}", device.name()),
                    &last(&there),
                    &last(&wide).cast(dtype),
                    12,
                );
            }
        }
    }
}

/// A coefficient of zero keeps even infinity out.
#[test]
fn what_a_line_does_not_take_does_not_reach_it() {
    for device in devices() {
        let [finite, infinite] = [1.5_f32, f32::INFINITY].map(|x| Tensor::new(vec![x; 20], &[20]).to(&device).unwrap());
        let infinite = Combination::of(&infinite);
        let twice = Combination::sum(&[(2.0, &Combination::of(&finite))]);
        let [sum, limited] = [&twice, &infinite.limited(4.0)].map(|x| x.tensor().unwrap().to_cpu().unwrap());
        assert_eq!((sum.data::<f32>()[0], limited.data::<f32>()[0]), (3.0, 4.0));
    }
}

#[test]
fn inputs_of_different_lengths_are_refused() {
    for device in devices() {
        let [a, b] = [3, 4].map(|n| Tensor::zeros(&[n], DType::F32).to(&device).unwrap());
        assert!(ops::combine(&[(1.0, &a), (1.0, &b)]).is_err());
        let sum = Combination::sum(&[(1.0, &Combination::of(&a)), (1.0, &Combination::of(&b))]);
        assert!(sum.tensor().is_err());
    }
}

/// Every scheduler that has a name, guided: the CPU's samples from launches of one kernel, one a step.
#[test]
#[cfg(feature = "simulator")]
fn guided_steps_of_every_scheduler_are_one_launch() {
    const SHAPE: [usize; 4] = [2, 3, 5, 4];
    let normal = |seed| Tensor::new(values(2 * 3 * 5 * 4, seed), &SHAPE).cast(DType::F32);
    use selma::device::Device;
    use selma::device::gpu::{Checks, Gpu, Order};
    use selma::diffusion::guidance::guide;
    use selma::diffusion::{names::NAMES, sampler};
    use serde_json::json;
    let config = json!({
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    });
    let predictions = ["epsilon", "v_prediction", "sample"];
    for (name, _) in NAMES {
        for (prediction, clip) in predictions.into_iter().flat_map(|p| [(p, false), (p, true)]) {
            if prediction == "sample" && ["pndm", "dpm2", "dpm2-a", "dpmpp-sde"].contains(&name) {
                continue; // There is no such sampler.
            }
            let mut config = config.clone();
            config["prediction_type"] = prediction.into();
            config["clip_sample"] = clip.into();
            let what = format!("{name}, {prediction}, clip {clip}");
            let (gpu, launched) = Gpu::simulator(Checks::On, Order::Forwards).unwrap().recorded();
            let device = Device::Gpu(gpu);
            let mut samplers = [(); 2].map(|()| sampler::from_config(name, &config, 6).unwrap());
            let [mut x, mut x_there] = [normal(1), normal(1).to(&device).unwrap()];
            for i in 0..samplers[0].timesteps().len() {
                let drawn = [2, 3, 4].map(|seed| normal(10 * i as u64 + seed));
                let there = drawn.clone().map(|x| x.to(&device).unwrap());
                launched.take();
                for (sampler, x, [u, c, noise]) in [(0, &mut x, &drawn), (1, &mut x_there, &there)] {
                    let guided = guide(u, c, 7.5, 0.0).unwrap();
                    *x = samplers[sampler].step(i, &guided, x, Some(noise)).unwrap();
                }
                let launches = launched.take();
                assert_eq!(launches.into_iter().collect::<Vec<_>>(), [("combine", 1)], "{what}, step {i}");
                near(&format!("{what}, step {i}"), &x_there, &x, 16);
            }
        }
    }
}
