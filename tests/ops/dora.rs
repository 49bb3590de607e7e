//! `dora` and `dora_norm`.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{Case, devices, inputs, near, values};

/// A constant for each of `n` channels of `x`.
fn norms(n: usize, x: &Tensor) -> Tensor {
    let values = values(n, 5).iter().map(|x| 1.5 + x).collect();
    Tensor::new::<f64>(values, &[n]).cast(x.dtype().master_dtype()).to(&x.device()).unwrap()
}

/// Every input, at sizes around one, a vector and a block of rows.
#[test]
fn holds_at_awkward_sizes() {
    for (rows, out) in [(1, 1), (3, 7), (256, 3), (300, 17), (5, 261)] {
        let map: [usize; 2] = [rows, out];
        let whole: [&[usize]; 4] = [&map, &map, &[out], &[out]];
        let op = |t: &Tape, x: &[Tensor]| ops::dora(t, &x[0], &x[2], &norms(out, &x[0]), Some(&x[3]), Some(&x[1]));
        let case = Case::new("dora", &whole, &op).linear().parameters(2);
        case.check();
        case.devices(&[4, 4, 1, rows, rows]);
        let plain: [&[usize]; 2] = [&map, &[out]];
        let op = |t: &Tape, x: &[Tensor]| ops::dora(t, &x[0], &x[1], &norms(out, &x[0]), None, None);
        let case = Case::new("dora", &plain, &op).linear().parameters(1);
        case.check();
        case.devices(&[4, 4, rows]);
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

/// Blocks of rows, columns and ranks that are not whole.
#[test]
fn lengths_of_rows_are_those_of_the_cpu() {
    for (out, width, rank) in [(1, 1, 1), (7, 300, 3), (24, 256, 64), (13, 515, 70), (9, 20, 129)] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let x = inputs(&[&[out, width], &[rank, width], &[out, rank]], dtype);
            let expected = ops::dora_norm(&x[0], &x[1], &x[2], 0.6).unwrap();
            for device in devices() {
                let there: Vec<Tensor> = x.iter().map(|x| x.to(&device).unwrap()).collect();
                let norm = ops::dora_norm(&there[0], &there[1], &there[2], 0.6).unwrap();
                let what = format!("lengths of {out}x{width}, rank {rank}, on {} in {}", device.name(), dtype.name());
                near(&what, &norm, &expected, width + rank);
            }
        }
    }
}
