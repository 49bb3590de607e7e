//! The ops, at the channels, head widths and ranks of Stable Diffusion.

use super::pointwise::{pointwise, rows};
use super::{Check, Input};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::ops::{self, LinearLayer, LoraLayer, LoraOrder, Padding};
use crate::tensor::Tensor;

/// Tokens of a text.
pub const TOKENS: usize = 77;
/// Latents of a side at 512 pixels.
pub const SIDE: usize = 64;

/// All of them, none with more FLOPs than `most_flops` forward and backward, unless its fewest rows have.
pub fn checks(most_flops: usize) -> Vec<Check> {
    [
        products(most_flops),
        convolutions(most_flops),
        attentions(most_flops),
        norms(most_flops),
        pointwise(most_flops),
        rows(most_flops),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// As many rows as `most_flops` allow at `flops` forward for each, backward being twice that: at most `most`.
pub fn fit(most_flops: usize, flops: usize, most: usize) -> usize {
    (most_flops / (3 * flops)).clamp(1, most)
}

/// Sides of the largest square of at most this many pixels, 2 at least.
pub fn side(pixels: usize) -> usize {
    ((pixels as f64).sqrt() as usize).max(2)
}

pub fn check(
    name: String,
    inputs: Vec<Input>,
    op: impl Fn(&Tape, &[Tensor], &Device) -> Result<Tensor> + 'static,
) -> Check {
    Check { name, inputs, op: Box::new(op) }
}

/// A matrix or feature map whose gradient is wanted.
pub fn tracked(shape: &[usize]) -> Input {
    Input { shape: shape.to_vec(), vector: false, tracked: true }
}

/// One whose gradient is not.
pub fn frozen(shape: &[usize]) -> Input {
    Input { tracked: false, ..tracked(shape) }
}

pub fn vector(len: usize) -> Input {
    Input { vector: true, ..tracked(&[len]) }
}

fn products(most_flops: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    // The last ones have few values to add up and many sums: they take the large tile and the tall one.
    // Before them one whose rows are no whole chunks of 16 bytes.
    let sizes = [
        [SIDE * SIDE, 320, 320],
        [1024, 640, 5120],
        [256, 1280, 1280],
        [TOKENS, 33, 45],
        [2048, 32, 1024],
        [1536, 32, 1408],
    ];
    for [most, c_in, c_out] in sizes {
        let m = if c_in == 32 { most } else { fit(most_flops, 2 * c_in * c_out, most) };
        let inputs = vec![tracked(&[m, c_in]), tracked(&[c_out, c_in]), vector(c_out)];
        checks.push(check(format!("linear {m}x{c_in} to {c_out}"), inputs, |tape, x, _| {
            ops::linear(tape, &x[0], &x[1], Some(&x[2]))
        }));
    }
    let rows = fit(most_flops, 2 * 320 * 320, SIDE * SIDE);
    let inputs = vec![tracked(&[rows, 320]), frozen(&[320, 320]), tracked(&[rows, 320])];
    checks.push(check(format!("linear {rows}x320 plus a residual"), inputs, |tape, x, _| {
        ops::linear_residual(tape, &x[2], &x[0], &x[1], None, None)
    }));
    // The gate is part of the product, in the small tile, the large and the tall one.
    for [most, c_in, c_out] in [[SIDE * SIDE, 320, 1280], [TOKENS, 33, 45], [2048, 32, 512], [1536, 32, 704]] {
        let m = match c_in {
            32 => most,
            _ => fit(most_flops, 4 * c_in * c_out, most),
        };
        let bias = Input { tracked: false, ..vector(2 * c_out) };
        let inputs = vec![frozen(&[m, c_in]), frozen(&[2 * c_out, c_in]), bias];
        checks.push(check(format!("linear_geglu {m}x{c_in} to {c_out}"), inputs, |tape, x, _| {
            ops::linear_geglu(tape, &x[0], &x[1], Some(&x[2]))
        }));
    }
    // And its gradient part of the product behind it, after which it is large and then tall.
    for [most, c_in, inner, c_out, rank] in
        [[TOKENS, 40, 64, 24, 8], [TOKENS, 33, 45, 30, 3], [2048, 8, 1024, 32, 8], [1536, 8, 1408, 32, 8]]
    {
        let m = if c_in == 8 { most } else { fit(most_flops, 2 * inner * (2 * c_in + c_out), most) };
        let layers = [[2 * inner, c_in], [c_out, inner]];
        let factors = layers.map(|[out, width]| [tracked(&[rank, width]), tracked(&[out, rank])]);
        let mut inputs = vec![tracked(&[m, c_out]), tracked(&[m, c_in])];
        inputs.extend(layers.iter().map(|shape| frozen(shape)).chain(factors.into_iter().flatten()));
        let name = format!("gated_feed_forward {m}x{c_in} to {inner} to {c_out}, rank {rank}");
        checks.push(check(name, inputs, |tape, x, _| {
            let [first, second] = [0, 1].map(|i| {
                let lora = LoraLayer { a: &x[4 + 2 * i], b: &x[5 + 2 * i], scale: 0.5, order: LoraOrder::Factored };
                LinearLayer { weight: &x[2 + i], bias: None, lora: Some(lora) }
            });
            ops::gated_feed_forward(tape, &x[0], &x[1], first, second)
        }));
    }
    // In one of the large tile's size the products over rows and over columns are large as well.
    let inputs = vec![tracked(&[32, 1024]), tracked(&[2048, 1024])];
    checks.push(check("linear 32x1024 to 2048".into(), inputs, |tape, x, _| ops::linear(tape, &x[0], &x[1], None)));
    // The gradient of x has the large tile, then the tall one.
    for [m, c_in] in [[2048, 1024], [1536, 1408]] {
        let inputs = vec![tracked(&[m, c_in]), tracked(&[32, c_in])];
        let name = format!("linear {m}x{c_in} to 32");
        checks.push(check(name, inputs, |tape, x, _| ops::linear(tape, &x[0], &x[1], None)));
    }
    // Query, key and value, at a size of the small tile, at an odd one and at those of the large and the tall one.
    let rows = fit(most_flops, 6 * 320 * 320, SIDE * SIDE);
    for [m, c_in, c_out] in [[rows, 320, 320], [TOKENS, 33, 45], [1024, 32, 640], [2048, 32, 640]] {
        let inputs = [m, c_out, c_out, c_out].map(|rows| tracked(&[rows, c_in]));
        let name = format!("linear {m}x{c_in} to 3 x {c_out}");
        checks.push(check(name, inputs.into(), |tape, x, _| {
            let layers: Vec<_> = x[1..].iter().map(|weight| (weight, None)).collect();
            let y = ops::linear_group(tape, &x[0], &layers)?;
            ops::concat_channels(tape, &ops::concat_channels(tape, &y[0], &y[1])?, &y[2])
        }));
    }
    // With LoRAs, whose gradient of the input is one product, of the three sizes of tiles; the second goes one by one.
    for [most, c_in, c_out, rank] in
        [[rows, 320, 320, 128], [TOKENS, 33, 45, 4], [2048, 1024, 8, 8], [1536, 1408, 8, 8]]
    {
        let weights = (0..3).map(|_| frozen(&[c_out, c_in]));
        let factors = (0..3).flat_map(|_| [tracked(&[rank, c_in]), tracked(&[c_out, rank])]);
        let inputs = [tracked(&[most, c_in])].into_iter().chain(weights).chain(factors).collect();
        let name = format!("lora_linear {most}x{c_in} to 3 x {c_out}, rank {rank}");
        checks.push(check(name, inputs, |tape, x, _| {
            let lora =
                |i: usize| LoraLayer { a: &x[4 + 2 * i], b: &x[5 + 2 * i], scale: 0.5, order: LoraOrder::Factored };
            let layers: Vec<_> = (0..3).map(|i| (&x[1 + i], Some(lora(i)))).collect();
            let y = ops::linear_group(tape, &x[0], &layers)?;
            ops::concat_channels(tape, &ops::concat_channels(tape, &y[0], &y[1])?, &y[2])
        }));
    }
    for [most, c_in, c_out, rank] in
        [[SIDE * SIDE, 320, 320, 128], [TOKENS, 768, 320, 128], [1024, 640, 640, 8], [256, 1280, 1280, 4]]
    {
        let m = fit(most_flops, 2 * (c_in * c_out + rank * (c_in + c_out)), most);
        for (order_name, order) in LoraOrder::NAMES {
            // Auto is one of the others.
            if order == LoraOrder::Auto || (order != LoraOrder::Factored && rank != 128) {
                continue;
            }
            let inputs = vec![
                tracked(&[m, c_in]),
                frozen(&[c_out, c_in]),
                vector(c_out),
                tracked(&[rank, c_in]),
                tracked(&[c_out, rank]),
            ];
            let name = format!("lora_linear {m}x{c_in} to {c_out}, rank {rank}, {order_name}");
            checks.push(check(name, inputs, move |tape, x, _| {
                let lora = LoraLayer { a: &x[3], b: &x[4], scale: 0.5, order };
                ops::lora_linear(tape, &x[0], &x[1], Some(&x[2]), lora)
            }));
        }
    }
    checks.extend(factors(most_flops));
    checks
}

/// Factors of several layers alike, whose gradients are made together: at a text's size, with many columns, and with dh of the
/// large tile's size and of the tall one's.
fn factors(most_flops: usize) -> Vec<Check> {
    const LAYERS: usize = 4;
    let one = |[most, c_in, c_out, rank]: [usize; 4]| {
        let flops = 2 * LAYERS * (c_in * c_out + rank * (c_in + c_out));
        let m = if most == TOKENS { fit(most_flops, flops, most) } else { most };
        let factors = (0..LAYERS).flat_map(|_| [tracked(&[rank, c_in]), tracked(&[c_out, rank])]);
        let inputs = [frozen(&[m, c_in]), frozen(&[c_out, c_in])].into_iter().chain(factors).collect();
        let name = format!("lora_linear {m}x{c_in} to {c_out}, rank {rank}, {LAYERS} layers");
        check(name, inputs, |tape, x, _| {
            let layer = |i: usize| {
                let lora = LoraLayer { a: &x[2 + 2 * i], b: &x[3 + 2 * i], scale: 0.5, order: LoraOrder::Factored };
                ops::lora_linear(tape, &x[0], &x[1], None, lora)
            };
            (1..LAYERS).try_fold(layer(0)?, |all, i| ops::concat_channels(tape, &all, &layer(i)?))
        })
    };
    [[TOKENS, 768, 320, 128], [8, 4096, 8, 8], [2048, 8, 32, 256], [1536, 8, 32, 352]].map(one).into()
}

fn convolutions(most_flops: usize) -> Vec<Check> {
    const VAE: Padding = Padding { top: 0, left: 0, bottom: 1, right: 1 };
    let same = Padding::all(1);
    let layers = [
        (SIDE, 320, 320, 3, 1, same),
        (SIDE, 320, 320, 3, 2, same),
        (SIDE, 128, 128, 3, 2, VAE),
        (16, 1280, 1280, 3, 1, same),
        (SIDE, 960, 320, 1, 1, Padding::all(0)),
        // Few channels on one side: those of latents, and large and tall tiles of the other, forward and backward.
        (82, 4, 320, 3, 1, same),
        (82, 320, 4, 3, 1, same),
        (45, 32, 1024, 1, 1, Padding::all(0)),
        (45, 1024, 32, 1, 1, Padding::all(0)),
        (82, 32, 384, 1, 1, Padding::all(0)),
        (82, 384, 32, 1, 1, Padding::all(0)),
    ];
    let mut checks = Vec::new();
    for (most, c_in, c_out, k, stride, padding) in layers {
        let flops = 2 * k * k * c_in * c_out / (stride * stride);
        let side = match c_in.min(c_out) {
            4 | 32 => most,
            _ => side(fit(most_flops, flops, most * most)),
        };
        let inputs = vec![tracked(&[1, side, side, c_in]), tracked(&[c_out, k, k, c_in]), vector(c_out)];
        let name = format!("conv2d {k}x{k}/{stride} {side}x{side}x{c_in} to {c_out}");
        checks
            .push(check(name, inputs, move |tape, x, _| ops::conv2d(tape, &x[0], &x[1], Some(&x[2]), stride, padding)));
    }
    // Pixels enough for sums of taps.
    let (c_in, c_out) = (64, 96);
    let side = side(fit(most_flops, 2 * 16 * c_in * c_out, SIDE * SIDE)).max(16);
    let inputs =
        vec![tracked(&[1, side, side, c_in]), frozen(&[c_out, 3, 3, c_in]), Input { tracked: false, ..vector(c_out) }];
    let name = format!("upsample_conv2d {side}x{side}x{c_in} to {c_out}");
    checks.push(check(name, inputs, |tape, x, _| ops::upsample_conv2d(tape, &x[0], &x[1], Some(&x[2]))));
    checks
}

fn attentions(most_flops: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    // Heads, channels of one, keys; the queries are the keys where they are not those of a text.
    let shapes = [
        (2, 32, 16, false),
        (8, 40, SIDE * SIDE, false),
        (8, 40, TOKENS, false),
        (5, 64, SIDE * SIDE, false),
        (12, 64, TOKENS, true),
        (8, 80, 1024, false),
        (8, 160, 256, false),
        (8, 160, TOKENS, false),
    ];
    for (heads, size, keys, causal) in shapes {
        let c = heads * size;
        let (queries, keys) = if keys == TOKENS && !causal {
            (fit(most_flops, 4 * TOKENS * c, SIDE * SIDE), TOKENS)
        } else {
            // Products grow with the square of the tokens.
            let tokens = ((most_flops / (12 * c)) as f64).sqrt() as usize;
            (tokens.clamp(16, keys), tokens.clamp(16, keys))
        };
        let inputs = vec![tracked(&[1, queries, c]), tracked(&[1, keys, c]), tracked(&[1, keys, c])];
        let masked = if causal { ", causal" } else { "" };
        let name = format!("attention {heads}x{size}, {queries} queries of {keys} keys{masked}");
        checks.push(check(name, inputs, move |tape, x, _| ops::attention(tape, &x[0], &x[1], &x[2], heads, causal)));
    }
    // The VAE's head.
    let tokens = ((most_flops / (12 * 512)) as f64).sqrt() as usize;
    let tokens = tokens.clamp(16, SIDE * SIDE);
    let inputs = (0..3).map(|_| tracked(&[1, tokens, 512])).collect();
    checks.push(check(format!("attention 1x512, {tokens} queries"), inputs, |tape, x, _| {
        ops::attention(tape, &x[0], &x[1], &x[2], 1, false)
    }));
    checks
}

fn norms(most_flops: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    for (most, c, silu) in [(SIDE, 320, true), (16, 2560, true), (SIDE, 640, false)] {
        let side = side(fit(most_flops, 50 * c, most * most));
        let inputs = vec![tracked(&[2, side, side, c]), vector(c), vector(c)];
        let name = format!("group_norm{} 2x{side}x{side}x{c}", if silu { "+silu" } else { "" });
        checks.push(check(name, inputs, move |tape, x, _| ops::group_norm(tape, &x[0], &x[1], &x[2], 32, 1e-5, silu)));
    }
    for (most, c) in [(SIDE * SIDE, 320), (TOKENS, 768), (256, 1280)] {
        let rows = fit(most_flops, 50 * c, most);
        let inputs = vec![tracked(&[rows, c]), vector(c), vector(c)];
        checks.push(check(format!("layer_norm {rows}x{c}"), inputs, |tape, x, _| {
            ops::layer_norm(tape, &x[0], &x[1], &x[2], 1e-5)
        }));
    }
    // DoRA of a linear layer: the lengths of its changed rows, and what they do to its output.
    let (c, rank) = (320, 16);
    let rows = fit(most_flops, 10 * c, SIDE * SIDE);
    let width = fit(most_flops, 2 * rank * c, 4 * c);
    let inputs = vec![tracked(&[rows, c]), vector(c), frozen(&[c, width]), frozen(&[rank, width]), frozen(&[c, rank])];
    checks.push(check(format!("dora {rows}x{c}, weight {c}x{width}"), inputs, |tape, x, _| {
        let norm = ops::dora_norm(&x[2], &x[3], &x[4], 0.5)?;
        ops::dora(tape, &x[0], &x[1], &norm, None, None)
    }));
    checks
}
