//! `layer_norm.cu` and `sums.cu`.

use selma::autograd::Tape;
use selma::device::gpu::layer_norm::LayerNorm;
use selma::device::gpu::sums::{sum_rows, sum_rows_of_each};
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{close, everywhere, gradients, tensor, upload};

/// Values whose mean is far from zero: sums of squares would cancel.
fn shifted(seed: u64, shape: &[usize], dtype: DType) -> Tensor {
    let x = tensor(seed, shape, DType::F32);
    let values = x.data::<f32>().iter().map(|x| x + 20.0).collect();
    Tensor::new::<f32>(values, shape).cast(dtype)
}

#[test]
fn layer_norm_and_its_gradients() {
    everywhere(|gpu, dtype| {
        for (rows, c) in [(1, 1), (3, 7), (9, 64), (130, 33), (11, 768), (5, 1300)] {
            let what = format!("layer_norm of {rows}x{c}");
            let x = shifted(1, &[rows, c], dtype);
            let (weight, bias) = (tensor(2, &[c], DType::F32), tensor(3, &[c], DType::F32));
            let dy = tensor(4, &[rows, c], dtype);
            let op = |tape: &Tape| ops::layer_norm(tape, &x, &weight, &bias, 1e-5);
            let norm = LayerNorm { rows, c, eps: 1e-5 };
            let [x_gpu, weight_gpu, bias_gpu, dy_gpu] = [&x, &weight, &bias, &dy].map(|t| upload(gpu, t));
            let (y, statistics) = norm.forward(&x_gpu, &weight_gpu, &bias_gpu).unwrap();
            close(&what, &y, &op(&Tape::off()).unwrap(), 1000);
            let expected = gradients(&[&x, &weight, &bias], &dy, op);
            if c > 1 {
                let dx = norm.backward(&dy_gpu, &x_gpu, &weight_gpu, &statistics).unwrap();
                close(&format!("{what}, dx"), &dx, &expected[0], 1000);
            }
            let [dweight, dbias] = norm.backward_parameters(&dy_gpu, &x_gpu, &statistics).unwrap();
            close(&format!("{what}, dweight"), &dweight, &expected[1], 4000);
            close(&format!("{what}, dbias"), &dbias, &expected[2], 1000);
        }
    });
}

#[test]
fn sums_of_rows() {
    everywhere(|gpu, dtype| {
        for (rows, c) in [(1, 1), (127, 130), (300, 5), (16_500, 3)] {
            let x = tensor(1, &[rows, c], dtype);
            let mut sums = vec![0.0_f64; c];
            for (i, &x) in x.reals::<f64>().iter().enumerate() {
                sums[i % c] += x;
            }
            let sum = sum_rows(&upload(gpu, &x), rows, c).unwrap();
            let sums = Tensor::new(sums, &[c]).cast(DType::F32);
            close("sum_rows", &sum, &sums, 4 * rows);
            // Twice the same matrix.
            let twice = Tensor::new([x.reals::<f32>(), x.reals::<f32>()].concat(), &[2, rows, c]).cast(dtype);
            let both = sum_rows_of_each(&upload(gpu, &twice), [2, rows, c]).unwrap();
            close("first", &both.view(0, c), &sums, 4 * rows);
            close("second", &both.view(c, c), &sums, 4 * rows);
        }
    });
}
