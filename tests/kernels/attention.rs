//! `attention.cu` and `attention_backward.cu`.

use selma::autograd::Tape;
use selma::device::gpu::attention::{Attention, Saved};
use selma::ops;
use selma::tensor::DType;

use crate::support::{close_within, everywhere, gradients, tensor, upload};

/// Each size of head that has kernels, and some between; fewer and more rows than a block has; one key.
const SIZES: [(usize, usize, usize, usize, usize, bool); 9] = [
    (1, 1, 1, 1, 8, false),
    (2, 33, 77, 2, 40, false),
    (1, 70, 70, 3, 16, true),
    (1, 64, 64, 1, 64, true),
    (1, 100, 5, 2, 80, false),
    (1, 40, 65, 1, 160, false),
    (1, 35, 35, 1, 160, true),
    (2, 20, 21, 2, 5, false),
    (1, 9, 130, 1, 24, true),
];

/// The VAE's head, which is as wide as its channels.
#[test]
fn attention_of_wide_heads() {
    everywhere(|gpu, dtype| {
        for (n, tq, tk, size) in [(2, 9, 33, 512), (1, 70, 5, 161)] {
            let attention = Attention { n, tq, tk, heads: 1, size, causal: false };
            let q = tensor(1, &[n, tq, size], dtype);
            let [k, v] = [2, 3].map(|seed| tensor(seed, &[n, tk, size], dtype));
            let memory = [&q, &k, &v].map(|t| upload(gpu, t));
            let op = |tape: &Tape| ops::attention(tape, &q, &k, &v, 1, false);
            let y = attention.forward_wide(&memory).unwrap();
            close_within(&format!("{attention:?}"), &y, &op(&Tape::off()).unwrap(), 2f64.powi(-18));
            let dy = tensor(4, &[n, tq, size], dtype);
            let got = attention.backward_wide(&upload(gpu, &dy), &memory).unwrap();
            let expected = gradients(&[&q, &k, &v], &dy, op);
            // The CPU takes y, rounded in 16 bits, for its gradients of scores.
            let share = match dtype {
                DType::Bf16 => 2f64.powi(-8),
                DType::F16 => 2f64.powi(-11),
                _ => 2f64.powi(-18),
            };
            for (name, (got, expected)) in ["dq", "dk", "dv"].into_iter().zip(got.iter().zip(&expected)) {
                close_within(&format!("{attention:?}, {name}"), got, expected, share);
            }
            let masked = Attention { causal: true, ..attention };
            let error = masked.forward_wide(&memory).unwrap_err().to_string();
            assert!(error.contains("must be single"), "{error}");
        }
    });
}

#[test]
fn attention_and_its_gradients() {
    everywhere(|gpu, dtype| {
        // In 16 bits the kernels round probabilities and their gradients before they multiply them.
        let share = match dtype {
            DType::Bf16 => 2f64.powi(-6),
            DType::F16 => 2f64.powi(-9),
            _ => 2f64.powi(-18),
        };
        for (n, tq, tk, heads, size, causal) in SIZES {
            let attention = Attention { n, tq, tk, heads, size, causal };
            let what = format!("{attention:?}");
            let c = heads * size;
            let [q, dy] = [1, 2].map(|seed| tensor(seed, &[n, tq, c], dtype));
            let [k, v] = [3, 4].map(|seed| tensor(seed, &[n, tk, c], dtype));
            let [q_gpu, k_gpu, v_gpu, dy_gpu] = [&q, &k, &v, &dy].map(|t| upload(gpu, t));
            let op = |tape: &Tape| ops::attention(tape, &q, &k, &v, heads, causal);
            let [y, log_sums] = attention.forward(&q_gpu, &k_gpu, &v_gpu).unwrap();
            close_within(&what, &y, &op(&Tape::off()).unwrap(), share);
            let saved = Saved { q: &q_gpu, k: &k_gpu, v: &v_gpu, y: &y, log_sums: &log_sums };
            let got = attention.backward(&dy_gpu, saved).unwrap();
            let expected = gradients(&[&q, &k, &v], &dy, op);
            for (name, (got, expected)) in ["dq", "dk", "dv"].into_iter().zip(got.iter().zip(&expected)) {
                // One key has all the weight, whatever its score: the gradients of scores are rounding.
                if tk > 1 || name == "dv" {
                    close_within(&format!("{what}, {name}"), got, expected, share);
                }
            }
        }
    });
}

#[test]
fn heads_without_a_kernel_are_refused() {
    everywhere(|gpu, dtype| {
        let attention = Attention { n: 1, tq: 1, tk: 1, heads: 1, size: 512, causal: false };
        let x = gpu.buffer(dtype, 512).unwrap();
        let error = attention.forward(&x, &x, &x).unwrap_err().to_string();
        assert!(error.contains("up to 160 channels"), "{error}");
    });
}
