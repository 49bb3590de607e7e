//! Ops that do little with each value, at the channels of Stable Diffusion.

use super::Check;
use super::shapes::{SIDE, TOKENS, check, fit, frozen, side, tracked};
use crate::autograd::Tape;
use crate::error::Result;
use crate::ops::{self, Combination};
use crate::tensor::Tensor;

/// Activations, sums and what else sees every value for itself, and the loss.
pub fn pointwise(most_flops: usize) -> Vec<Check> {
    type Activation = fn(&Tape, &Tensor) -> Result<Tensor>;
    let rows = fit(most_flops, 50 * 2560, SIDE * SIDE);
    let activations: [(&str, Activation); 4] =
        [("silu", ops::silu), ("gelu", ops::gelu), ("quick_gelu", ops::quick_gelu), ("geglu", ops::geglu)];
    let mut checks = Vec::new();
    for (name, op) in activations {
        let inputs = vec![tracked(&[rows, 2560])];
        checks.push(check(format!("{name} {rows}x2560"), inputs, move |tape, x, _| op(tape, &x[0])));
    }
    let side = side(rows);
    let map = [2, side, side, 320];
    checks.push(check(format!("add 2x{side}x{side}x320"), vec![tracked(&map), tracked(&map)], |tape, x, _| {
        ops::add(tape, &x[0], &x[1])
    }));
    checks.push(check(format!("scale 2x{side}x{side}x320"), vec![tracked(&map)], |tape, x, _| {
        ops::scale(tape, &x[0], 0.3)
    }));
    // As many inputs and combinations as a launch takes: guidance, a clipped image, a corrector and a predictor.
    let inputs = (0..8).map(|_| frozen(&[2, SIDE, SIDE, 4])).collect();
    checks.push(check("combine 2x64x64x4, a sampler step".into(), inputs, |_, x, _| {
        let x: Vec<Combination> = x.iter().map(Combination::of).collect();
        let guided = Combination::sum(&[(-6.5, &x[0]), (7.5, &x[1])]);
        let image = Combination::sum(&[(1.2, &x[2]), (-0.7, &guided)]).limited(1.0);
        let sample = Combination::sum(&[(0.9, &x[3]), (0.3, &image), (-0.1, &x[4]), (0.2, &x[5])]);
        let next = [(0.8, &sample), (0.4, &image), (-0.2, &x[4]), (0.1, &x[6]), (0.3, &x[7])];
        Combination::sum(&next).tensor()
    }));
    let inputs = vec![tracked(&map), tracked(&[2, 320])];
    checks.push(check(format!("add_channel_bias 2x{side}x{side}x320"), inputs, |tape, x, _| {
        ops::add_channel_bias(tape, &x[0], &x[1])
    }));
    checks
        .push(check(format!("clamp 2x{side}x{side}x320"), vec![frozen(&map)], |_, x, _| ops::clamp(&x[0], -0.5, 1.0)));
    checks.push(check(format!("cast 2x{side}x{side}x320"), vec![frozen(&map)], |_, x, _| {
        // To f32 and back; in f64, where there is no rounding to be seen, nothing.
        let stored = x[0].dtype();
        ops::cast(&ops::cast(&x[0], stored.master_dtype())?, stored)
    }));
    // Inception's.
    let inception = [2, 35, 35, 192];
    checks.push(check("max_pool2d 2x35x35x192, 3x3/2".into(), vec![tracked(&inception)], |tape, x, _| {
        ops::max_pool2d(tape, &x[0], ops::Window::square(3, 2, 0))
    }));
    checks.push(check("avg_pool2d 2x35x35x192, 3x3".into(), vec![tracked(&inception)], |tape, x, _| {
        ops::avg_pool2d(tape, &x[0], ops::Window::square(3, 1, 1))
    }));
    let latents = [2, SIDE, SIDE, 4];
    checks.push(check(
        "weighted_mse 2x64x64x4".into(),
        vec![tracked(&latents), frozen(&latents)],
        |tape, x, device| {
            let weights = Tensor::new(vec![0.7_f32, 1.3], &[2]);
            ops::weighted_mse(tape, &x[0], &x[1], &weights.to(device)?)
        },
    ));
    checks.push(check(
        "weighted_distance 2x64x64x4".into(),
        vec![tracked(&latents), frozen(&latents)],
        |tape, x, device| {
            let weights = (0..2 * SIDE * SIDE).map(|i| (i % 3) as f32 * 0.5).collect();
            let weights = Tensor::new(weights, &[2, SIDE, SIDE]).to(device)?;
            let c = Tensor::new(vec![0.1_f32, 0.9], &[2]).to(device)?;
            ops::weighted_distance(tape, &x[0], &x[1], &weights, &c, ops::Distance::Huber)
        },
    ));
    let moments = [2, SIDE, SIDE, 8];
    checks.push(check("posterior_sample 2x64x64x4".into(), vec![tracked(&moments), frozen(&latents)], |tape, x, _| {
        ops::posterior_sample(tape, &x[0], &x[1])
    }));
    checks.push(check("kl_divergence 2x64x64x4".into(), vec![tracked(&moments)], |tape, x, _| {
        ops::kl_divergence(tape, &x[0])
    }));
    checks
}

/// Lookups and reorderings.
pub fn rows(most_flops: usize) -> Vec<Check> {
    let side = side(fit(most_flops, 50 * 960, SIDE * SIDE));
    let (map, skip) = ([1, side, side, 640], [1, side, side, 320]);
    let inputs = vec![tracked(&map), tracked(&skip)];
    let mut checks = vec![check(format!("concat_channels {side}x{side}x640 and 320"), inputs, |tape, x, _| {
        ops::concat_channels(tape, &x[0], &x[1])
    })];
    checks.push(check(format!("slice_channels {side}x{side}x640"), vec![tracked(&map)], |tape, x, _| {
        ops::slice_channels(tape, &x[0], 320, 320)
    }));
    checks.push(check(format!("upsample_nearest {side}x{side}x320"), vec![tracked(&skip)], move |tape, x, _| {
        ops::upsample_nearest(tape, &x[0], 2 * side - 1, 2 * side)
    }));
    checks.push(check("embedding 77 of 1000x768".into(), vec![tracked(&[1000, 768])], |tape, x, _| {
        let ids = (0..TOKENS as i64).map(|i| i * 31 % 1000).collect();
        ops::embedding(tape, &x[0], &Tensor::new(ids, &[1, TOKENS]))
    }));
    checks.push(check("select_rows 2x77x768".into(), vec![tracked(&[2, TOKENS, 768])], |tape, x, _| {
        ops::select_rows(tape, &x[0], &[5, 76])
    }));
    checks.push(check("timestep_embedding 4x320".into(), Vec::new(), |_, _, device| {
        let timesteps = Tensor::new(vec![0.0_f32, 1.0, 500.5, 999.0], &[4]);
        ops::timestep_embedding(&timesteps.to(device)?, 320, true, 0.0)
    }));
    checks
}
