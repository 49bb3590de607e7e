//! `noise.cu`, `loss.cu` and `posterior.cu`.

use selma::autograd::Tape;
use selma::device::gpu::loss::weighted_mse;
use selma::device::gpu::noise::{self, Draw, Target};
use selma::device::gpu::posterior;
use selma::ops;
use selma::tensor::random::{Stream, normals};
use selma::tensor::{DType, Tensor};

use crate::support::{close, download, everywhere, floats, gradients, tensor, upload};

const SEED: u64 = 0xfedc_ba98_7654_3210;
const STEP: i64 = 5_000_000_000;
const INDEX: [i64; 3] = [0, 7, 6_000_000_001];

/// Not one bit may differ: a run on a GPU sees the noise that a run on the CPU sees.
#[test]
fn normals_are_those_of_the_cpu() {
    everywhere(|gpu, _| {
        for size in [1, 5, 1024, 4098] {
            let index = upload(gpu, &Tensor::new(INDEX.to_vec(), &[3]));
            let step = upload(gpu, &Tensor::new(vec![STEP], &[1]));
            let draw = Draw { seed: SEED, stream: Stream::Noise, index: &index, step: &step };
            let drawn = download(&noise::normals(draw, size).unwrap(), &[3, size]);
            for (row, index) in drawn.data::<f32>().chunks_exact(size).zip(INDEX) {
                let expected = normals(SEED, Stream::Noise, index as u64, STEP as u64, size);
                let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(row), bits(&expected), "sample {index}");
            }
        }
    });
}

#[test]
fn noise_is_added_and_the_target_made() {
    let (signal, sigma) = ([0.9_f32, 0.5, 0.1], [0.43_f32, 0.86, 0.99]);
    everywhere(|gpu, dtype| {
        for size in [1, 6, 2051] {
            let x = tensor(1, &[3, size], dtype);
            let index = upload(gpu, &Tensor::new(INDEX.to_vec(), &[3]));
            let step = upload(gpu, &Tensor::new(vec![STEP], &[1]));
            let [x_gpu, signal_gpu, sigma_gpu] = [&x, &floats(&signal), &floats(&sigma)].map(|t| upload(gpu, t));
            let draw = Draw { seed: SEED, stream: Stream::Noise, index: &index, step: &step };
            let (mut noisy, mut velocity, mut all) = (Vec::new(), Vec::new(), Vec::new());
            let xs = x.reals::<f32>();
            for (i, index) in INDEX.into_iter().enumerate() {
                let e = normals(SEED, Stream::Noise, index as u64, STEP as u64, size);
                for (&x, &e) in xs[i * size..].iter().zip(&e) {
                    noisy.push(signal[i] * x + sigma[i] * e);
                    velocity.push(signal[i] * e - sigma[i] * x);
                }
                all.extend(e);
            }
            let stored = |values: &[f32]| Tensor::new(values.to_vec(), &[3, size]).cast(dtype);
            for (target, wanted) in [(Target::Noise, &all), (Target::Velocity, &velocity)] {
                let [got, got_target] = noise::add_noise(&x_gpu, &signal_gpu, &sigma_gpu, draw, target).unwrap();
                close("noisy", &got, &stored(&noisy), 1);
                close(&format!("{target:?}"), &got_target, &stored(wanted), 1);
            }
        }
    });
}

#[test]
fn weighted_mse_and_its_gradient() {
    const SCALE: f32 = 8.0;
    everywhere(|gpu, dtype| {
        for (n, size) in [(1, 1), (3, 5), (2, 4096), (2, 9001)] {
            let (p, t) = (tensor(1, &[n, size], dtype), tensor(2, &[n, size], dtype));
            let weights: Vec<f32> = (1..=n).map(|i| i as f32 * 0.7).collect();
            let tape = Tape::watching([&p]);
            let loss = ops::weighted_mse(&tape, &p, &t, &floats(&weights)).unwrap();
            let scale = Tensor::full(&[], SCALE.into(), DType::F32);
            let gradient = tape.backward_from(&loss, scale).unwrap().remove(&p).unwrap();
            let inputs = [&p, &t, &floats(&weights), &floats(&[SCALE])].map(|t| upload(gpu, t));
            let [got, got_gradient] = weighted_mse(&inputs[0], &inputs[1], &inputs[2], &inputs[3]).unwrap();
            close("loss", &got, &loss.with_shape(&[1]), n * size);
            close("gradient", &got_gradient, &gradient, 1);
        }
    });
}

#[test]
fn the_posterior_and_its_gradients() {
    const SCALE: f32 = 8.0;
    everywhere(|gpu, dtype| {
        for (rows, c) in [(1, 1), (7, 4), (5, 9), (300, 16)] {
            let mut values = tensor(1, &[rows, 2 * c], DType::F32).data::<f32>().to_vec();
            // Log variances outside of their range; the large one hides what the others do, so not always.
            values[2 * c - 1] = -31.0;
            if c == 9 {
                values[2 * c * rows - c] = 21.0;
            }
            let moments = Tensor::new(values, &[rows, 2 * c]).cast(dtype);
            let [noise, dz] = [2, 3].map(|seed| tensor(seed, &[rows, c], dtype));
            let [m, e, d] = [&moments, &noise, &dz].map(|t| upload(gpu, t));
            let op = |tape: &Tape| ops::posterior_sample(tape, &moments, &noise);
            let z = posterior::draw(&m, &e, [rows, c]).unwrap();
            close("draw", &z, &op(&Tape::off()).unwrap(), 1);
            let got = posterior::draw_backward(&d, &m, &e, [rows, c]).unwrap();
            close("draw, gradient", &got, &gradients(&[&moments], &dz, op)[0], 1);

            let op = |tape: &Tape| ops::kl_divergence(tape, &moments);
            let kl = posterior::divergence(&m, [rows, c]).unwrap();
            close("divergence", &kl, &op(&Tape::off()).unwrap().with_shape(&[1]), rows * c);
            let scale = upload(gpu, &floats(&[SCALE]));
            let got = posterior::divergence_backward(&scale, &m, [rows, c]).unwrap();
            let scale = Tensor::full(&[], SCALE.into(), DType::F32);
            close("divergence, gradient", &got, &gradients(&[&moments], &scale, op)[0], 1);
        }
    });
}
