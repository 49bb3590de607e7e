//! `optimizer.cu`.

use selma::device::gpu::optimizer::{self, Parameters, adamw_rates};
use selma::ops::{self, optimizer as cpu};
use selma::tensor::{DType, Tensor};

use crate::support::{close, everywhere, floats, tensor};

const LENGTHS: [usize; 4] = [1, 6, 1030, 40_001];

#[test]
fn gradients_are_added_up() {
    everywhere(|gpu, _| {
        for n in LENGTHS {
            let (sum, part) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let got = gpu.upload(&sum).unwrap();
            optimizer::accumulate(&got, &gpu.upload(&part).unwrap()).unwrap();
            close("sum", &got, &ops::accumulate(sum, part).unwrap(), 1);
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
                let scale = gpu.upload(&floats(&[scale])).unwrap();
                let [got_norm, got_clip] =
                    optimizer::clip_factor(&gpu.upload(&gradients).unwrap(), &scale, most).unwrap();
                close("norm", &got_norm, &floats(&[norm as f32]), n);
                close("clip", &got_clip, &floats(&[clip as f32]), n);
            }
        }
    });
}

#[test]
fn adamw_moves_parameters_as_on_the_cpu() {
    let settings = cpu::AdamW {
        lr: 1e-2,
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.05,
    };
    const CLIP: f64 = 0.25;
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let (start, gradients) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let (mut values, mut first, mut second) = (start.data::<f32>().to_vec(), vec![0.0; n], vec![0.0; n]);
            let zeros = || gpu.upload(&Tensor::zeros(&[n], DType::F32)).unwrap();
            let (values_gpu, first_gpu, second_gpu) = (gpu.upload(&start).unwrap(), zeros(), zeros());
            let copy = gpu.buffer(dtype, n).unwrap();
            let gradients_gpu = gpu.upload(&gradients).unwrap();
            let clip = gpu.upload(&floats(&[CLIP as f32])).unwrap();
            for step in 1..=3 {
                cpu::adamw(
                    &mut values,
                    gradients.data(),
                    &mut first,
                    &mut second,
                    settings,
                    step,
                    CLIP,
                );
                let parameters = Parameters {
                    values: &values_gpu,
                    first: &first_gpu,
                    second: &second_gpu,
                    copy: &copy,
                };
                let rates = gpu.upload(&floats(&adamw_rates(settings, step))).unwrap();
                optimizer::adamw(parameters, &gradients_gpu, settings, &rates, &clip).unwrap();
            }
            close("parameters", &values_gpu, &floats(&values), 1);
            close("first moment", &first_gpu, &floats(&first), 1);
            close("second moment", &second_gpu, &floats(&second), 1);
            close("copy", &copy, &floats(&values).cast(dtype), 1);
        }
    });
}

#[test]
fn moving_averages() {
    everywhere(|gpu, _| {
        for n in LENGTHS {
            let (average, values) = (tensor(1, &[n], DType::F32), tensor(2, &[n], DType::F32));
            let average_gpu = gpu.upload(&average).unwrap();
            optimizer::moving_average(&average_gpu, &gpu.upload(&values).unwrap(), 0.9).unwrap();
            let mixed = average
                .data::<f32>()
                .iter()
                .zip(values.data::<f32>())
                .map(|(a, v)| 0.9 * a + 0.1 * v);
            close("average", &average_gpu, &floats(&mixed.collect::<Vec<_>>()), 4);
        }
    });
}
