//! `noise.cu`, and the CPU's draws.

use selma::device::Device;
use selma::diffusion::config::Class;
use selma::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use selma::ops::noise::{Draw, Target, add_noise, normals};
use selma::tensor::random::{self, Stream};
use selma::tensor::{DType, Tensor};

use crate::support::{devices, inputs, near};

const SEED: u64 = 0xfedc_ba98_7654_3210;
const STEP: i64 = 5_000_000_000;
const INDEX: [i64; 3] = [0, 7, 6_000_000_001];

/// Index and step on a device.
fn place(device: &Device) -> [Tensor; 2] {
    let there = |values: &[i64]| Tensor::new(values.to_vec(), &[values.len()]).to(device).unwrap();
    [there(&INDEX), there(&[STEP])]
}

fn draw([index, step]: &[Tensor; 2]) -> Draw<'_> {
    Draw { seed: SEED, stream: Stream::Noise, index, step }
}

/// Not one bit may differ: a run on a GPU sees the noise that a run on the CPU sees.
#[test]
fn normals_are_the_same_everywhere() {
    for device in [Device::Cpu].into_iter().chain(devices()) {
        let place = place(&device);
        for size in [1, 5, 1024, 4098] {
            let drawn = normals(draw(&place), size).unwrap().to_cpu().unwrap();
            assert_eq!(drawn.shape(), [3, size]);
            for (row, index) in drawn.data::<f32>().chunks_exact(size).zip(INDEX) {
                let expected = random::normals(SEED, Stream::Noise, index as u64, STEP as u64, size);
                let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(row), bits(&expected), "sample {index}");
            }
        }
    }
}

/// A GPU adds the noise as it is drawn.
#[test]
fn noise_is_added_and_the_target_made() {
    let (signal, sigma) = ([0.9_f32, 0.5, 0.1], [0.43_f32, 0.86, 0.99]);
    let floats = |values: &[f32]| Tensor::new(values.to_vec(), &[values.len()]);
    for device in devices() {
        let place = place(&device);
        let rates = [&signal, &sigma].map(|rates| floats(rates).to(&device).unwrap());
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            for size in [1, 6, 2051] {
                let x = inputs(&[&[3, size]], dtype).remove(0);
                let (mut noisy, mut velocity, mut all) = (Vec::new(), Vec::new(), Vec::new());
                let xs = x.reals::<f32>();
                for (i, index) in INDEX.into_iter().enumerate() {
                    let e = random::normals(SEED, Stream::Noise, index as u64, STEP as u64, size);
                    for (&x, &e) in xs[i * size..].iter().zip(&e) {
                        noisy.push(signal[i] * x + sigma[i] * e);
                        velocity.push(signal[i] * e - sigma[i] * x);
                    }
                    all.extend(e);
                }
                let stored = |values: &[f32]| Tensor::new(values.to_vec(), &[3, size]).cast(dtype);
                let there = x.to(&device).unwrap();
                let targets =
                    [(Target::Noise, stored(&all)), (Target::Velocity, stored(&velocity)), (Target::Sample, x.clone())];
                for (target, wanted) in targets {
                    let [got, got_target] = add_noise(&there, &rates[0], &rates[1], draw(&place), target).unwrap();
                    near("noisy", &got, &stored(&noisy), 1);
                    near(&format!("{target:?}"), &got_target, &wanted, 1);
                }
            }
        }
    }
}

/// On the CPU to the byte what a noise schedule makes of the same noise, given in the dtype of the images.
#[test]
fn drawn_noise_is_as_given_noise() {
    let config = serde_json::json!({ "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear" });
    let schedule = NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &config).unwrap()).unwrap();
    let timesteps = [3, 500, 999];
    let place = place(&Device::Cpu);
    let rate = |of: fn(f64) -> f64| {
        let values = timesteps.iter().map(|&t| of(schedule.alpha(t).unwrap()).sqrt() as f32);
        Tensor::new(values.collect::<Vec<f32>>(), &[3])
    };
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let x = inputs(&[&[3, 5, 7, 4]], dtype).remove(0);
        let noise = normals(draw(&place), 140).unwrap().with_shape(x.shape()).cast(dtype);
        for (prediction, target) in [
            (Prediction::Epsilon, Target::Noise),
            (Prediction::V, Target::Velocity),
            (Prediction::Sample, Target::Sample),
        ] {
            let [noisy, wanted] = add_noise(&x, &rate(|a| a), &rate(|a| 1.0 - a), draw(&place), target).unwrap();
            assert_eq!(noisy.bytes(), schedule.add_noise(&x, &noise, &timesteps).unwrap().bytes());
            assert_eq!(wanted.bytes(), prediction.target(&schedule, &x, &noise, &timesteps).unwrap().bytes());
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let place = place(&Device::Cpu);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let add = |x: &Tensor, signal: &Tensor, place: &[Tensor; 2]| {
        add_noise(x, signal, &zeros(&[3]), draw(place), Target::Noise).map(drop).unwrap_err().to_string()
    };
    assert!(add(&zeros(&[2, 4]), &zeros(&[3]), &place).contains("3 samples"));
    assert!(add(&zeros(&[3, 4]), &zeros(&[2]), &place).contains("3 samples"));
    let [index, step] = place;
    let floats = [index.clone(), zeros(&[1])];
    assert!(add(&zeros(&[3, 4]), &zeros(&[3]), &floats).contains("i64"));
    for device in devices() {
        let apart = [index.to(&device).unwrap(), step.clone()];
        assert!(add(&zeros(&[3, 4]), &zeros(&[3]), &apart).contains(&device.name()));
    }
}
