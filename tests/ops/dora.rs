//! `dora` and `dora_norm`.

use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, inputs, values};

/// A constant for each of `n` channels, in the type that an op on `dtype` reads it in.
fn norms(n: usize, dtype: DType) -> Tensor {
    let values = values(n, 5).iter().map(|x| 1.5 + x).collect();
    Tensor::new::<f64>(values, &[n]).cast(dtype.accumulator())
}

/// Every input, at sizes around one, a vector and a block of rows.
#[test]
fn holds_at_awkward_sizes() {
    for (rows, out) in [(1, 1), (3, 7), (256, 3), (300, 17), (5, 261)] {
        let map: [usize; 2] = [rows, out];
        let whole: [&[usize]; 4] = [&map, &map, &[out], &[out]];
        Case::new("dora", &whole, &|t, x| {
            ops::dora(t, &x[0], &x[2], &norms(out, x[0].dtype()), Some(&x[3]), Some(&x[1]))
        })
        .linear()
        .parameters(2)
        .check();
        let plain: [&[usize]; 2] = [&map, &[out]];
        Case::new("dora", &plain, &|t, x| ops::dora(t, &x[0], &x[1], &norms(out, x[0].dtype()), None, None))
            .linear()
            .parameters(1)
            .check();
    }
}

#[test]
fn lengths_of_rows_are_those_of_the_changed_weight() {
    for (shape, down) in [(vec![7, 5], vec![3, 5]), (vec![4, 3, 3, 2], vec![2, 3, 3, 2])] {
        let (out, rank) = (shape[0], down[0]);
        let x = inputs(&[&shape, &down, &[out, rank]], DType::F64);
        let norm = ops::dora_norm(&x[0], &x[1], &x[2], -0.7).unwrap();
        let [w, a, b] = [0, 1, 2].map(|i| x[i].data::<f64>());
        let width = w.len() / out;
        for (o, norm) in norm.data::<f64>().iter().enumerate() {
            let changed = |i: usize| {
                let product: f64 = (0..rank).map(|k| b[o * rank + k] * a[k * width + i]).sum();
                w[o * width + i] - 0.7 * product
            };
            let expected = (0..width).map(|i| changed(i).powi(2)).sum::<f64>().sqrt();
            assert!((norm - expected).abs() <= 1e-14 * expected, "{norm} and {expected}");
        }
        // 16 bits do not round small updates away: the sum is f32.
        let narrow: Vec<Tensor> = x.iter().map(|x| x.cast(DType::Bf16)).collect();
        assert_eq!(ops::dora_norm(&narrow[0], &narrow[1], &narrow[2], 1.0).unwrap().dtype(), DType::F32);
    }
    let x = inputs(&[&[7, 5], &[3, 4], &[7, 3]], DType::F32);
    assert!(ops::dora_norm(&x[0], &x[1], &x[2], 1.0).unwrap_err().to_string().contains("do not fit"));
}
