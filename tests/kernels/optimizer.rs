//! `optimizer.cu` and `adamw_8bit.cu`.

use selma::autograd::Tape;
use selma::device::Device;
use selma::device::gpu::optimizer::{self, Parameters, adamw_rates};
use selma::nn::Param;
use selma::ops::{self, optimizer as cpu};
use selma::tensor::{DType, Tensor};
use selma::train::parameters::FlatParameters;

use crate::support::{close, close_within, download, everywhere, floats, tensor, upload};

const LENGTHS: [usize; 4] = [1, 6, 1030, 40_001];
const SETTINGS: cpu::AdamW = cpu::AdamW { lr: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 };

#[test]
fn gradients_are_added_up() {
    everywhere(|gpu, _| {
        for n in LENGTHS {
            let (sum, part) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let got = upload(gpu, &sum);
            optimizer::accumulate(&got, &upload(gpu, &part)).unwrap();
            close("sum", &got, &sum.accumulate(part).unwrap(), 1);
            got.clear().unwrap();
            close("nothing", &got, &Tensor::zeros(&[n], DType::F32), 0);
        }
    });
}

#[test]
fn norm_and_clipping() {
    everywhere(|gpu, _| {
        for n in LENGTHS {
            let gradients = tensor(1, &[n], DType::F32);
            for (scale, most) in [(1.0, 1e9), (1024.0, 0.01)] {
                let norm = cpu::squared_norm(gradients.data()).sqrt() / f64::from(scale);
                let clip = cpu::clip_factor(norm, f64::from(most)) / f64::from(scale);
                let scale = upload(gpu, &floats(&[scale]));
                let [got_norm, got_clip] = optimizer::clip_factor(&upload(gpu, &gradients), &scale, most).unwrap();
                close("norm", &got_norm, &floats(&[norm as f32]), n);
                close("clip", &got_clip, &floats(&[clip as f32]), n);
            }
        }
    });
}

#[test]
fn adamw_moves_parameters_as_on_the_cpu() {
    const CLIP: f64 = 0.25;
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let (start, gradients) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let (mut values, mut first, mut second) = (start.data::<f32>().to_vec(), vec![0.0; n], vec![0.0; n]);
            let zeros = || upload(gpu, &Tensor::zeros(&[n], DType::F32));
            let (values_gpu, first_gpu, second_gpu) = (upload(gpu, &start), zeros(), zeros());
            let copy = gpu.buffer(dtype, n).unwrap();
            let gradients_gpu = upload(gpu, &gradients);
            let clip = upload(gpu, &floats(&[CLIP as f32]));
            let progress = upload(gpu, &floats(&[1.0, 0.0, 0.0]));
            let lr = upload(gpu, &floats(&[SETTINGS.lr as f32]));
            for step in 1..=3 {
                cpu::adamw(&mut values, gradients.data(), &mut first, &mut second, SETTINGS, step, CLIP);
                let parameters =
                    Parameters { values: &values_gpu, first: &first_gpu, second: &second_gpu, copy: &copy };
                let rates = adamw_rates(&progress, &clip, &lr, SETTINGS, 0).unwrap();
                optimizer::adamw(parameters, &gradients_gpu, SETTINGS, &rates, &clip).unwrap();
            }
            close("parameters", &values_gpu, &floats(&values), 1);
            close("first moment", &first_gpu, &floats(&first), 1);
            close("second moment", &second_gpu, &floats(&second), 1);
            close("copy", &copy, &floats(&values).cast(dtype), 1);
        }
    });
}

/// Moments in 8 bits: the CPU's codes, but for a few values that lie between two of them but for rounding.
#[test]
fn adamw_with_moments_in_8_bits() {
    const CLIP: f64 = 0.25;
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let start = tensor(1, &[n], DType::F32);
            let mut values = start.data::<f32>().to_vec();
            let mut both = [true, false].map(|signed| cpu::Codes::new(&vec![0.0; n], signed));
            let there = both.each_ref().map(|moment| {
                let words = moment.words();
                let len = words.len();
                optimizer::Codes {
                    codes: upload(gpu, &Tensor::new(words, &[len])),
                    scales: upload(gpu, &floats(&moment.scales)),
                }
            });
            let meaning = [*cpu::code_values(true), *cpu::code_values(false)].concat();
            let meaning = upload(gpu, &floats(&meaning));
            let (values_gpu, copy) = (upload(gpu, &start), upload(gpu, &start.cast(dtype)));
            let clip = upload(gpu, &floats(&[CLIP as f32]));
            let progress = upload(gpu, &floats(&[1.0, 0.0, 0.0]));
            let lr = upload(gpu, &floats(&[SETTINGS.lr as f32]));
            for step in 1..=3 {
                let gradients = tensor(1 + step, &[n], DType::F32);
                cpu::adamw_8bit(&mut values, gradients.data(), &mut both, SETTINGS, step, CLIP);
                let rates = adamw_rates(&progress, &clip, &lr, SETTINGS, 0).unwrap();
                let gradients = upload(gpu, &gradients);
                let moved = [&values_gpu, &copy];
                optimizer::adamw_8bit(moved, &there, &meaning, &gradients, SETTINGS, &rates, &clip).unwrap();
            }
            for (there, here) in there.iter().zip(&both) {
                let mut got = here.clone();
                got.set_words(download(&there.codes, &[there.codes.len()]).data());
                close("scales", &there.scales, &floats(&here.scales), 1);
                let pairs = got.codes.iter().zip(&here.codes);
                let off: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).filter(|&by| by > 0).collect();
                assert!(off.len() <= n / 1000 && off.iter().all(|&by| by == 1), "{n}: {off:?}");
            }
            // What a code is off by, and what a step makes of it.
            close_within("parameters", &values_gpu, &floats(&values), 1e-3);
            close_within("copy", &copy, &floats(&values).cast(dtype), 1e-3);

            // Where the gradients were not finite, nothing changes.
            let before = download(&there[0].codes, &[there[0].codes.len()]);
            let rates = upload(gpu, &floats(&[0.5, 0.5, 0.5]));
            let (gradients, none) = (upload(gpu, &start), upload(gpu, &floats(&[0.0])));
            let moved = [&values_gpu, &copy];
            optimizer::adamw_8bit(moved, &there, &meaning, &gradients, SETTINGS, &rates, &none).unwrap();
            let after = download(&there[0].codes, &[there[0].codes.len()]);
            assert!(before.bytes() == after.bytes());
            close_within("parameters", &values_gpu, &floats(&values), 1e-3);
        }
    });
}

/// Three updates in a row double the scale; gradients that are not finite change nothing but the scale, which halves. Each
/// update has its own rate, and those past the last have the last.
#[test]
fn loss_scale() {
    everywhere(|gpu, dtype| {
        let upload = |values: &[f32]| upload(gpu, &floats(values));
        let (values, first, second) = (upload(&[1.0, -2.0]), upload(&[0.5, 0.5]), upload(&[0.25, 0.25]));
        let copy = crate::support::upload(gpu, &floats(&[1.0, -2.0]).cast(dtype));
        let (progress, lr) = (upload(&[1024.0, 1.0, 7.0]), upload(&[[f32::NAN; 7].as_slice(), &[1e-2, 3e-2]].concat()));
        let parameters = Parameters { values: &values, first: &first, second: &second, copy: &copy };
        let step = |gradients: &[f32]| {
            let gradients = upload(gradients);
            let [norm, clip] = optimizer::clip_factor(&gradients, &progress.view(0, 1), 1.0).unwrap();
            let rates = adamw_rates(&progress, &clip, &lr, SETTINGS, 3).unwrap();
            optimizer::adamw(parameters, &gradients, SETTINGS, &rates, &clip).unwrap();
            let buffers = [&values, &first, &second, &progress, &norm].map(|b| download(b, &[b.len()]));
            buffers.map(|tensor| tensor.data::<f32>().to_vec())
        };
        let mut before = [vec![1.0, -2.0], vec![0.5, 0.5], vec![0.25, 0.25]];
        for (broken, scale) in [(f32::INFINITY, 512.0), (f32::NAN, 256.0)] {
            let [values, first, second, progress, norm] = step(&[broken, 3.0]);
            assert_eq!([values, first, second], before);
            assert_eq!(progress, [scale, 0.0, 7.0]);
            assert!(!norm[0].is_finite());
        }
        let steps = [(8, [256.0, 1.0], 1e-2), (9, [256.0, 2.0], 3e-2), (10, [512.0, 0.0], 3e-2)];
        for (updates, [scale, clean], lr) in steps {
            let [values, first, second, progress, norm] = step(&[0.0, 128.0]);
            assert_eq!(progress, [scale, clean, updates as f32]);
            close("norm", &upload(&norm), &floats(&[0.5]), 1);
            let [v, m, s] = &mut before;
            cpu::adamw(v, &[0.0, 0.5], m, s, cpu::AdamW { lr, ..SETTINGS }, updates, 1.0);
            for (got, expected) in [values, first, second].iter().zip(&before) {
                close("buffer", &upload(got), &floats(expected), 1);
            }
        }
    });
}

#[test]
fn a_step_that_overflows_changes_the_scale_only() {
    everywhere(|gpu, dtype| {
        for device in [Device::Cpu, Device::Gpu(gpu.clone())].iter().filter(|_| dtype == DType::F16) {
            let weight = tensor(1, &[2, 3], dtype).to(device).unwrap();
            let mut flat = FlatParameters::new(vec![Param::new("weight", weight)], dtype).unwrap();
            let start = flat.buffers().unwrap().master.clone();
            let mut step = |dy: f32| {
                let leaves = flat.leaves();
                let tape = Tape::watching(&leaves);
                let x = tensor(2, &[1, 3], dtype).to(device).unwrap();
                let y = ops::linear(&tape, &x, &leaves[0], None).unwrap();
                let dy = floats(&[dy, dy]).with_shape(&[1, 2]).cast(dtype).to(device).unwrap();
                flat.accumulate(&tape.backward_from(&y, dy).unwrap()).unwrap();
                let norm = flat.update(SETTINGS, 1.0).unwrap();
                let master = flat.buffers().unwrap().master.clone();
                (norm.is_finite(), flat.progress().unwrap().values(), master)
            };
            assert_eq!(step(f32::INFINITY), (false, [32768.0, 0.0, 0.0], start.clone()));
            let (finite, progress, master) = step(1.0);
            assert!(finite && progress == [32768.0, 1.0, 1.0] && master != start, "{progress:?}");
        }
    });
}

#[test]
fn moving_averages() {
    everywhere(|gpu, _| {
        for n in LENGTHS {
            let (average, values) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let average_gpu = upload(gpu, &average);
            let keep = upload(gpu, &floats(&[0.9]));
            optimizer::moving_average(&average_gpu, &upload(gpu, &values), &keep).unwrap();
            let mixed = average.data::<f32>().iter().zip(values.data::<f32>()).map(|(a, v)| 0.9 * a + 0.1 * v);
            close("average", &average_gpu, &floats(&mixed.collect::<Vec<_>>()), 4);
        }
    });
}
