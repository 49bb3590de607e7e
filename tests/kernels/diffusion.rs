//! `noise.cu`.

use selma::device::gpu::noise::{self, Draw, Target};
use selma::tensor::Tensor;
use selma::tensor::random::{Stream, normals};

use crate::support::{close, download, everywhere, floats, tensor, upload};

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
