//! The ops that a training step is made of, at the sizes of Stable Diffusion 1.5.

use std::sync::Arc;

use super::{Library, Op};
use crate::bench::beside::{factored, of_weight, plain};
use crate::device::conv_shape::ConvShape;
use crate::device::gpu::library::{Added, Pass};
use crate::ops::{self, LoraLayer, LoraOrder, LoraSizes, Padding};

/// Text tokens.
const TOKENS: usize = 77;
const RANK: usize = 128;
const HEADS: usize = 8;

/// All of them for `n` samples of `side` x `side` latents, the wide level first.
pub fn ops(n: usize, side: usize) -> Vec<Op> {
    let mut all = Vec::new();
    for (level, c) in [(1, 320), (2, 640), (4, 1280)] {
        let side = (side / level).max(1);
        let rows = n * side * side;
        all.push(conv2d(n, side, c, false));
        all.push(conv2d(n, side, c, true));
        all.push(attention(n, side * side, side * side, c));
        all.push(attention(n, side * side, TOKENS, c));
        all.extend(LoraOrder::NAMES.map(|named| lora_linear(rows, c, named)));
        all.push(linear(rows, c, 8 * c, false));
        all.push(linear(rows, 4 * c, c, true));
        all.push(geglu(rows, c));
        all.push(group_norm(n, side, c));
        all.push(layer_norm(rows, c));
    }
    all
}

fn linear(rows: usize, k: usize, out: usize, bias: bool) -> Op {
    let (flops, values) = (2 * rows * k * out, rows * k + k * out + rows * out);
    let added = if bias { Added::Bias } else { Added::Nothing };
    Op {
        name: format!("linear {rows}x{k}->{out}{}", if bias { " bias" } else { "" }),
        inputs: [vec![rows, k], vec![out, k]].into_iter().chain(bias.then(|| vec![out])).collect(),
        tracked: 1,
        vectors: usize::from(bias),
        run: Arc::new(|tape, x| ops::linear(tape, &x[0], &x[1], x.get(2))),
        flops: [flops as f64; 2],
        values: [values as f64; 2],
        library: [vec![of_weight([rows, k, out], added)], vec![plain([rows, out, k])]],
        order: None,
    }
}

/// In one of its orders. The FLOPs are those of the factored form in both passes, whatever the order, so that milliseconds and
/// shares compare.
fn lora_linear(rows: usize, c: usize, (name, order): (&'static str, LoraOrder)) -> Op {
    let (base, branch) = (2 * rows * c * c, 4 * rows * RANK * c);
    let forward = 2 * rows * c + c * c;
    let sizes = LoraSizes { rows, width: c, out: c, rank: RANK, wants_dx: true, wants_factors: true };
    // The libraries have no other form.
    let library = if order == LoraOrder::Factored { factored(rows, c, RANK) } else { Default::default() };
    Op {
        name: format!("lora_linear {rows}x{c}->{c} r{RANK} {name}"),
        inputs: vec![vec![rows, c], vec![RANK, c], vec![c, RANK], vec![c, c]],
        tracked: 3,
        vectors: 0,
        run: Arc::new(move |tape, x| {
            let lora = LoraLayer { a: &x[1], b: &x[2], scale: 1.0, order };
            ops::lora_linear(tape, &x[0], &x[3], None, lora)
        }),
        flops: [(base + branch) as f64, (base + 2 * branch) as f64],
        values: [forward as f64, (forward + rows * c) as f64],
        library,
        order: Some((order, sizes)),
    }
}

/// Where the weight is trained too, its gradient is part of the backward pass.
fn conv2d(n: usize, side: usize, c: usize, trained: bool) -> Op {
    let map = n * side * side * c;
    let (flops, values) = (2 * map * 9 * c, 2 * map + 9 * c * c);
    let tracked = 1 + usize::from(trained);
    let shape = ConvShape::new([n, side, side, c], [c, 3, 3, c], 1, Padding::all(1)).expect("padded by one");
    let pass = |pass| Library::Convolution(shape, pass);
    let gradients = [Pass::Dgrad, Pass::Wgrad].map(pass);
    Op {
        name: format!("conv2d 3x3 {n}x{side}x{side} {c}->{c}{}", if trained { " trained" } else { "" }),
        inputs: vec![vec![n, side, side, c], vec![c, 3, 3, c]],
        tracked,
        vectors: 0,
        run: Arc::new(|tape, x| ops::conv2d(tape, &x[0], &x[1], None, 1, Padding::all(1))),
        flops: [flops as f64, (tracked * flops) as f64],
        values: [values as f64, (tracked * values) as f64],
        library: [vec![pass(Pass::Forward)], gradients[..tracked].to_vec()],
        order: None,
    }
}

/// The backward pass computes the scores again: 2.5 times the FLOPs.
fn attention(n: usize, queries: usize, keys: usize, c: usize) -> Op {
    let flops = (4 * n * queries * keys * c) as f64;
    let (q, k) = (n * queries * c, n * keys * c);
    Op {
        name: format!("attention {n}x{queries}x{keys}x{c}"),
        inputs: vec![vec![n, queries, c], vec![n, keys, c], vec![n, keys, c]],
        tracked: 3,
        vectors: 0,
        run: Arc::new(|tape, x| ops::attention(tape, &x[0], &x[1], &x[2], HEADS, false)),
        flops: [flops, 2.5 * flops],
        values: [(2 * q + 2 * k) as f64, (4 * q + 4 * k) as f64],
        library: Default::default(),
        order: None,
    }
}

fn geglu(rows: usize, c: usize) -> Op {
    let half = (rows * 4 * c) as f64;
    Op {
        name: format!("geglu {rows}x{}", 8 * c),
        inputs: vec![vec![rows, 8 * c]],
        tracked: 1,
        vectors: 0,
        run: Arc::new(|tape, x| ops::geglu(tape, &x[0])),
        flops: [0.0; 2],
        values: [3.0 * half, 5.0 * half],
        library: Default::default(),
        order: None,
    }
}

fn group_norm(n: usize, side: usize, c: usize) -> Op {
    let map = (n * side * side * c) as f64;
    Op {
        name: format!("group_norm_silu {n}x{side}x{side}x{c}"),
        inputs: vec![vec![n, side, side, c], vec![c], vec![c]],
        tracked: 1,
        vectors: 2,
        run: Arc::new(|tape, x| ops::group_norm(tape, &x[0], &x[1], &x[2], 32, 1e-5, true)),
        flops: [0.0; 2],
        values: [2.0 * map, 3.0 * map],
        library: Default::default(),
        order: None,
    }
}

fn layer_norm(rows: usize, c: usize) -> Op {
    let map = (rows * c) as f64;
    Op {
        name: format!("layer_norm {rows}x{c}"),
        inputs: vec![vec![rows, c], vec![c], vec![c]],
        tracked: 1,
        vectors: 2,
        run: Arc::new(|tape, x| ops::layer_norm(tape, &x[0], &x[1], &x[2], 1e-5)),
        flops: [0.0; 2],
        values: [2.0 * map, 3.0 * map],
        library: Default::default(),
        order: None,
    }
}
