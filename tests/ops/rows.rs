//! Concat and slice of channels, row selection, lookups, timesteps, upsampling, reshape.

use selma::autograd::Tape;
use selma::ops;
use selma::tensor::{DType, Tensor};
use serde_json::Value;

use crate::support::{Case, devices, near, pytorch};

fn number(settings: &Value, key: &str) -> usize {
    settings[key].as_u64().unwrap() as usize
}

fn concat(rows: usize, a: usize, b: usize) -> Case<'static> {
    let shapes: [&[usize]; 2] = [&[rows, 1, a], &[rows, 1, b]];
    Case::new("concat_channels", &shapes, &|t: &Tape, x: &[Tensor]| ops::concat_channels(t, &x[0], &x[1]))
        .linear()
        .parameters(2)
}

/// The middle of the channels, which begins and ends anywhere in a pack.
fn middle(t: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let c = x[0].shape()[1];
    ops::slice_channels(t, &x[0], c / 4, c / 2)
}

fn last_rows(t: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let &[n, rows, _] = x[0].shape() else { panic!("[n, t, c]") };
    ops::select_rows(t, &x[0], &(0..n).map(|i| (rows - 1).saturating_sub(2 * i)).collect::<Vec<_>>())
}

/// 77 ids, each of the table's rows several times; the gradient of the table is f32 in 16 bits.
fn tokens(t: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let v = x[0].shape()[0];
    ops::embedding(t, &x[0], &Tensor::new((0..77).map(|i| (i * 31 % v) as i64).collect(), &[7, 11]))
}

fn enlarged(t: &Tape, x: &[Tensor]) -> selma::Result<Tensor> {
    let &[_, h, w, _] = x[0].shape() else { panic!("[n, h, w, c]") };
    ops::upsample_nearest(t, &x[0], 2 * h + 1, w + 2)
}

#[test]
fn equal_pytorch() {
    let input = |x: &[Option<Tensor>], i: usize| x[i].clone().unwrap();
    pytorch("concat_channels", &["x", "skip"], 0.0, |t, x, _| ops::concat_channels(t, &input(x, 0), &input(x, 1)));
    pytorch("embedding", &["w", "ids"], 1e-6, |t, x, _| ops::embedding(t, &input(x, 0), &input(x, 1)));
    pytorch("timestep_embedding", &["t"], 1e-6, |_, x, s| {
        let (flip, shift) = (s["flip_sin_to_cos"].as_bool().unwrap(), s["freq_shift"].as_f64().unwrap());
        ops::timestep_embedding(&input(x, 0), number(s, "dim"), flip, shift)
    });
    pytorch("upsample_nearest", &["x"], 1e-6, |t, x, s| {
        ops::upsample_nearest(t, &input(x, 0), number(s, "height"), number(s, "width"))
    });
}

#[test]
fn hold_at_awkward_sizes() {
    concat(6, 5, 1).check();
    Case::new("slice_channels", &[&[6, 9]], &middle).linear().check();
    Case::new("select_rows", &[&[2, 4, 3]], &last_rows).linear().check();
    Case::new("embedding", &[&[5, 3]], &tokens).linear().parameters(0).check();
    Case::new("upsample_nearest", &[&[2, 3, 2, 3]], &enlarged).linear().check();
    let reshape = |t: &Tape, x: &[Tensor]| ops::reshape(t, &x[0], &[4, 3]);
    Case::new("reshape", &[&[2, 3, 2]], &reshape).linear().check();
}

#[test]
fn every_device_agrees() {
    for (rows, a, b) in [(1, 1, 1), (6, 3, 9), (15, 40, 24), (4, 16, 320)] {
        concat(rows, a, b).devices(&[0, 0, 0]);
        Case::new("slice_channels", &[&[rows, a + b]], &middle).linear().devices(&[0, 0]);
    }
    for (n, t, c) in [(1, 1, 1), (3, 5, 7), (2, 77, 40)] {
        Case::new("select_rows", &[&[n, t, c]], &last_rows).devices(&[0, 0]);
    }
    for (v, d) in [(1, 1), (50, 7), (33, 768)] {
        Case::new("embedding", &[&[v, d]], &tokens).devices(&[0, 77]);
    }
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 4, 3, 40], [1, 8, 8, 16]] {
        Case::new("upsample_nearest", &[&shape], &enlarged).devices(&[0, 16]);
    }
}

#[test]
fn timesteps_agree_on_every_device() {
    let t = Tensor::new(vec![0.0_f32, 1.0, 37.5, 500.0, 999.0], &[5]);
    for (dim, flip, shift) in [(2, false, 0.0), (7, true, 1.0), (320, true, 0.0), (64, false, 1.0)] {
        let expected = ops::timestep_embedding(&t, dim, flip, shift).unwrap();
        for device in devices() {
            let got = ops::timestep_embedding(&t.to(&device).unwrap(), dim, flip, shift).unwrap();
            near(&format!("timesteps on {}", device.name()), &got, &expected, 1);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let tape = Tape::off();
    let x = zeros(&[2, 3, 3, 6]);
    let id = |id: i64| Tensor::new(vec![id], &[1]);
    let failures = [
        ("concat_channels", ops::concat_channels(&tape, &x, &zeros(&[6]))),
        ("slice_channels", ops::slice_channels(&tape, &x, 4, 3)),
        ("slice_channels", ops::slice_channels(&tape, &x, usize::MAX, 3)),
        ("select_rows", ops::select_rows(&tape, &zeros(&[2, 9, 6]), &[9, 0])),
        ("reshape", ops::reshape(&tape, &x, &[5])),
        ("id 6 is not in a table of 6 rows", ops::embedding(&tape, &zeros(&[6, 2]), &id(6))),
        ("id -1 is not in a table of 6 rows", ops::embedding(&tape, &zeros(&[6, 2]), &id(-1))),
        ("upsample_nearest", ops::upsample_nearest(&tape, &x, 0, 3)),
    ];
    for (words, failure) in failures {
        let message = failure.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}
