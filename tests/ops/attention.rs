//! `attention`.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, Op, devices, pytorch};

/// Samples, queries, keys, heads, channels of a head, and whether a query sees only keys up to its own place.
type Size = (usize, usize, usize, usize, usize, bool);

/// Calls `check` with the case of this size.
fn with((n, tq, tk, heads, size, causal): Size, check: impl Fn(Case)) {
    let (c, name) = (heads * size, if causal { "causal attention" } else { "attention" });
    let op: Op = &|t, x| ops::attention(t, &x[0], &x[1], &x[2], heads, causal);
    check(Case::new(&format!("{name} with {heads} heads"), &[&[n, tq, c], &[n, tk, c], &[n, tk, c]], op));
}

#[test]
fn equals_pytorch() {
    pytorch("attention", &["q", "k", "v"], 2e-5, |tape, x, settings| {
        let [q, k, v] = [0, 1, 2].map(|i| x[i].as_ref().unwrap());
        let heads = settings["heads"].as_u64().unwrap() as usize;
        ops::attention(tape, q, k, v, heads, settings["causal"].as_bool().unwrap())
    });
}

/// More and fewer queries than keys, a vector and a block of each.
#[test]
fn holds_at_awkward_sizes() {
    for (tq, tk, causal) in
        [(1, 1, false), (19, 7, false), (7, 19, false), (17, 17, true), (18, 5, true), (5, 18, true)]
    {
        with((2, tq, tk, 2, 3, causal), |case| case.check());
    }
    with((1, 3, 130, 1, 5, false), |case| case.check());
}

#[test]
fn threads_do_not_change_large_sums() {
    with((1, 600, 300, 2, 6, false), |case| case.threads());
}

/// Each size of head that has kernels, and some between; fewer and more rows than a block or a tile has. In 16 bits the kernels round
/// probabilities and their gradients before they multiply them.
#[test]
fn every_device_agrees() {
    for size in [
        (2, 33, 77, 2, 40, false),
        (1, 70, 70, 3, 16, true),
        (1, 64, 64, 1, 64, true),
        (1, 100, 5, 2, 80, false),
        (1, 40, 65, 1, 160, false),
        (1, 35, 35, 1, 160, true),
        (2, 20, 21, 2, 5, false),
        (1, 9, 130, 1, 24, true),
        // Some queries of a second block and one key of another tile; one query; more and fewer queries than keys.
        (1, 130, 65, 1, 40, false),
        (2, 1, 77, 1, 40, false),
        (1, 70, 33, 1, 48, true),
        (1, 40, 140, 1, 64, true),
        (1, 131, 40, 1, 80, true),
        // Queries in slices for the gradients of keys and values, the last of them shorter.
        (1, 600, 20, 2, 40, false),
        (2, 800, 77, 1, 72, false),
        (1, 530, 9, 1, 160, false),
        // The first sizes that need the next kernels, of which rows are no whole chunks, and an odd one.
        (1, 20, 40, 2, 33, false),
        (1, 40, 20, 1, 41, true),
        (1, 33, 34, 1, 65, false),
        (1, 40, 50, 1, 88, true),
    ] {
        with(size, |case| case.devices_within([2f64.powi(-18), 2f64.powi(-6), 2f64.powi(-9)]));
    }
}

/// The VAE's head, which is as wide as its channels. The CPU takes y, rounded in 16 bits, for its gradients of scores.
#[test]
fn wide_heads_on_every_device() {
    for (n, tq, tk, size) in [(2, 9, 33, 512), (1, 70, 5, 161)] {
        let shares = [2f64.powi(-18), 2f64.powi(-8), 2f64.powi(-11)];
        with((n, tq, tk, 1, size, false), |case| case.devices_within(shares));
    }
}

/// One key has all the weight, whatever its score.
#[test]
fn one_key_is_the_result() {
    let x = crate::support::inputs(&[&[1, 3, 8], &[1, 1, 8], &[1, 1, 8]], DType::F32);
    for device in devices() {
        let [q, k, v] = [0, 1, 2].map(|i| x[i].to(&device).unwrap());
        let y = ops::attention(&Tape::off(), &q, &k, &v, 1, false).unwrap().to_cpu().unwrap();
        for row in y.data::<f32>().chunks(8) {
            assert_eq!(row, x[2].data::<f32>());
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let refused = |q: &Tensor, k: &Tensor, heads, causal| {
        let error = ops::attention(&Tape::off(), q, k, k, heads, causal).unwrap_err().to_string();
        assert!(error.contains("attention"), "{error}");
        error
    };
    let x = zeros(&[2, 9, 6]);
    assert!(refused(&x, &x, 4, false).contains("4 heads"));
    refused(&x, &x, 0, false);
    refused(&x, &zeros(&[2, 0, 6]), 2, false);
    refused(&x, &zeros(&[1, 9, 6]), 2, false);
    refused(&x, &x.cast(DType::Bf16), 2, false);
    refused(&zeros(&[9, 6]), &x, 2, false);
    for device in devices() {
        let there = |x: &Tensor| x.to(&device).unwrap();
        assert!(refused(&x, &there(&x), 2, false).contains(&device.name()));
        let wide = there(&zeros(&[1, 2, 400]));
        assert!(refused(&wide, &wide, 1, true).contains("must be single"));
        assert!(refused(&wide, &wide, 2, false).contains("more than 160 channels"));
    }
}
