//! What must not change the result of several ops in a row: the number of threads.

use rayon::ThreadPoolBuilder;
use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::values;

fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Sizes of many chunks, where the partition matters.
#[test]
fn threads_do_not_change_large_sums() {
    let run = || {
        let x = Tensor::new(values(2 * 40 * 40 * 12, 1), &[2, 40, 40, 12]).cast(DType::F32);
        let w = Tensor::new(values(12, 2), &[12]).cast(DType::F32);
        let tape = Tape::watching([&x, &w]);
        let y = ops::group_norm(&tape, &x, &w, &w, 4, 1e-5, true).unwrap();
        let rows = ops::reshape(&tape, &y, &[2, 1600, 12]).unwrap();
        let y = ops::attention(&tape, &rows, &rows, &rows, 2, false).unwrap();
        let y = ops::layer_norm(&tape, &y, &w, &w, 1e-5).unwrap();
        let weights = Tensor::new(vec![1.0_f32, 0.5], &[2]);
        let loss = ops::weighted_mse(&tape, &y, &ops::scale(&Tape::off(), &rows, 0.5).unwrap(), &weights).unwrap();
        let gradients = tape.backward(&loss).unwrap();
        let one = Tensor::new(vec![1.0_f32], &[1]);
        let [norm, _] = ops::optimizer::clip(gradients.get(&x).unwrap(), &one, f64::INFINITY).unwrap();
        (
            loss.bytes().to_vec(),
            gradients.get(&x).unwrap().bytes().to_vec(),
            gradients.get(&w).unwrap().bytes().to_vec(),
            norm.bytes().to_vec(),
        )
    };
    let one = on_threads(1, run);
    assert!(on_threads(2, run) == one);
    assert!(on_threads(8, run) == one);
}
