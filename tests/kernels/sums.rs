//! `sums.cu`.

use selma::device::gpu::sums::{sum_rows, sum_rows_of_each};
use selma::tensor::{DType, Tensor};

use crate::support::{close, everywhere, tensor, upload};

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
