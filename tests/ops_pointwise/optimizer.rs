//! AdamW and clipping against PyTorch, and the norm at sizes of many chunks.

use selma::ops::optimizer::{AdamW, BLOCK, Codes, adamw, adamw_8bit, clip_factor, code_values, squared_norm};
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
            assert!((norm - f64::from(expected)).abs() < 1e-6 * norm, "{case}: norm at step {step}");
            let factor = clip_factor(norm, setting("max_norm"));
            adamw(&mut params, &gradients, &mut first, &mut second, adam, step as u64 + 1, factor);
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

const SETTINGS: AdamW = AdamW { lr: 1e-2, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 };

/// One step as sections 1 and 2 of the paper (Dettmers et al. 2022, arXiv:2110.02861) have it, value by value: of each
/// block of moments the codes are read, the step is made in f32, and each value gets the nearest of all codes.
fn written_out(p: &mut [f32], g: &[f32], codes: &mut [Vec<usize>; 2], scales: &mut [Vec<f32>; 2], step: i32) {
    let tables = [code_values(true), code_values(false)];
    let (beta1, beta2) = SETTINGS.betas;
    let rate = (SETTINGS.lr / (1.0 - beta1.powi(step))) as f32;
    let root = (1.0 - beta2.powi(step)).sqrt() as f32;
    let blocks: Vec<Vec<usize>> = (0..p.len()).collect::<Vec<_>>().chunks(BLOCK).map(Vec::from).collect();
    for (block, members) in blocks.iter().enumerate() {
        let read = |moment: usize, i: usize| tables[moment][codes[moment][i]] * scales[moment][block];
        let first = |&i: &usize| beta1 as f32 * read(0, i) + (1.0 - beta1) as f32 * g[i];
        let second = |&i: &usize| beta2 as f32 * read(1, i) + (1.0 - beta2) as f32 * (g[i] * g[i]);
        let new: [Vec<f32>; 2] = [members.iter().map(first).collect(), members.iter().map(second).collect()];
        for (&i, (m, v)) in members.iter().zip(new[0].iter().zip(&new[1])) {
            let decay = (1.0 - SETTINGS.lr * SETTINGS.weight_decay) as f32;
            p[i] = p[i] * decay - rate * (m / (v.sqrt() / root + SETTINGS.eps as f32));
        }
        for moment in [0, 1] {
            let scale = new[moment].iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            scales[moment][block] = scale;
            for (&i, &x) in members.iter().zip(&new[moment]) {
                let distance = |code: &usize| (tables[moment][*code] - if scale > 0.0 { x / scale } else { 0.0 }).abs();
                let nearest = (0..256).min_by(|a, b| distance(a).total_cmp(&distance(b)));
                // The one addition: what is above 0 does not become 0 where it is divided by.
                let least = usize::from(moment == 1 && x > 0.0);
                codes[moment][i] = nearest.unwrap().max(least);
            }
        }
    }
}

#[test]
fn moments_in_8_bits_are_those_of_the_paper() {
    // Less than a block, and blocks and a part.
    for n in [1, 255, 700] {
        let random = |seed| -> Vec<f32> { values(n, seed).into_iter().map(|x| x as f32).collect() };
        let mut params = random(1);
        let mut expected = params.clone();
        let mut both = [true, false].map(|signed| Codes::new(&vec![0.0; n], signed));
        let zero = |signed| code_values(signed).iter().position(|&x| x == 0.0).unwrap();
        let (mut codes, mut scales) = ([vec![zero(true); n], vec![zero(false); n]], [vec![0.0; 3], vec![0.0; 3]]);
        for step in 1..=5 {
            // Gradients of very different sizes, and one that is 0 from a step on.
            let mut gradients: Vec<f32> = random(1 + step).into_iter().map(|x| x.powi(7)).collect();
            gradients[0] *= f32::from(u8::from(step < 3));
            adamw_8bit(&mut params, &gradients, &mut both, SETTINGS, step, 1.0);
            written_out(&mut expected, &gradients, &mut codes, &mut scales, step as i32);
            for (moment, (got, expected)) in both.iter().zip(&codes).enumerate() {
                let codes = got.codes[..n].iter().map(|&code| usize::from(code));
                assert!(codes.eq(expected.iter().copied()), "step {step}: codes of moment {moment}");
                assert_eq!(got.scales, scales[moment][..got.scales.len()], "step {step}");
            }
            assert_eq!(params, expected, "step {step}");
        }
        // What was saved is what is read back.
        for moment in &both {
            let mut other = Codes::new(&random(9), moment.values().iter().any(|&x| x < 0.0));
            other.set_words(&moment.words());
            assert_eq!(other.codes, moment.codes);
        }
    }
}

/// Both optimizers bring noisy parameters as near to their target.
#[test]
fn moments_in_8_bits_are_enough() {
    const N: usize = 1000;
    let target: Vec<f32> = values(N, 1).into_iter().map(|x| x as f32).collect();
    let distance = |params: &[f32]| -> f64 {
        let squares = params.iter().zip(&target).map(|(p, t)| f64::from(p - t).powi(2));
        (squares.sum::<f64>() / N as f64).sqrt()
    };
    let settings = AdamW { weight_decay: 0.0, ..SETTINGS };
    let (mut whole, mut small) = (vec![0.0_f32; N], vec![0.0_f32; N]);
    let (mut first, mut second) = (vec![0.0; N], vec![0.0; N]);
    let mut both = [true, false].map(|signed| Codes::new(&first, signed));
    for step in 1..=400 {
        let noise = values(N, 1 + step);
        let gradients = |params: &[f32]| -> Vec<f32> {
            let pairs = params.iter().zip(&target).zip(&noise);
            pairs.map(|((p, t), noise)| p - t + 0.1 * *noise as f32).collect()
        };
        let g = gradients(&whole);
        adamw(&mut whole, &g, &mut first, &mut second, settings, step, 1.0);
        let g = gradients(&small);
        adamw_8bit(&mut small, &g, &mut both, settings, step, 1.0);
    }
    let (whole, small) = (distance(&whole), distance(&small));
    assert!(small < 1.2 * whole && whole < 0.05 * distance(&[0.0; N]), "{small}, with moments in f32 {whole}");
}
