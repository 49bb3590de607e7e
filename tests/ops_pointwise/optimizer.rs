//! AdamW and clipping against PyTorch, and the norm at sizes of many chunks.

use selma::ops::optimizer::{AdamW, adamw, clip_factor, squared_norm};
use selma::tensor::Tensor;

use crate::pytorch::{close, fixtures};
use crate::support::values;

#[test]
fn adamw_with_clipping_is_that_of_pytorch() {
    let fixtures = fixtures();
    for (case, settings) in fixtures.cases.iter().filter(|(_, s)| s["op"] == "adamw") {
        let setting = |key: &str| settings[key].as_f64().unwrap();
        // Both tensors in one flat buffer, as training holds them.
        let flat = |kind: &str| -> Vec<f32> {
            let part = |i| fixtures.file.tensor(&format!("{case}.{kind}.{i}")).unwrap();
            [part(0).data::<f32>(), part(1).data::<f32>()].concat()
        };
        let mut params = flat("p");
        let (mut first, mut second) = (vec![0.0; params.len()], vec![0.0; params.len()]);
        let norms = fixtures.file.tensor(&format!("{case}.norm")).unwrap();
        let adam = AdamW {
            lr: setting("lr"),
            betas: (setting("beta1"), setting("beta2")),
            eps: setting("eps"),
            weight_decay: setting("weight_decay"),
        };
        for (step, &expected) in norms.data::<f32>().iter().enumerate() {
            let gradients = flat(&format!("g.{step}"));
            let norm = squared_norm(&gradients).sqrt();
            assert!(
                (norm - f64::from(expected)).abs() < 1e-6 * norm,
                "{case}: norm at step {step}"
            );
            let factor = clip_factor(norm, setting("max_norm"));
            adamw(
                &mut params,
                &gradients,
                &mut first,
                &mut second,
                adam,
                step as u64 + 1,
                factor,
            );
        }
        let (got, expected) = (Tensor::new(params, &[49]), Tensor::new(flat("y"), &[49]));
        close(case, &got, &expected, 1e-6);
    }
}

#[test]
fn the_norm_survives_extreme_values() {
    let x: Vec<f32> = values(50_001, 3).into_iter().map(|x| x as f32).collect();
    let expected: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    assert!((squared_norm(&x) / expected - 1.0).abs() < 1e-6);
    assert_eq!(squared_norm(&[1e30, 0.0]).sqrt(), f64::from(1e30_f32));
    assert_eq!(squared_norm(&[1e-30, 0.0]).sqrt(), f64::from(1e-30_f32));
    assert_eq!(squared_norm(&[]), 0.0);
    assert!(squared_norm(&[f32::NAN]).is_nan());
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
}
