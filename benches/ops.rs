//! The ops that a training step is made of, at the sizes of real UNets: `cargo bench --bench ops [-- FILTER]`. Backward
//! passes are timed together with the forward pass that they need. Where there is an NVIDIA GPU, also those of `selma bench`
//! on it, timed by the device's clock.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use selma::autograd::Tape;
use selma::device::Device;
use selma::device::gpu::Gpu;
use selma::ops::{self, LoraLayer, LoraOrder, Padding};
use selma::tensor::random::{self, Stream};
use selma::tensor::{DType, Tensor};

/// Normal values that differ from tensor to tensor.
fn normal(index: u64, shape: &[usize]) -> Tensor {
    Tensor::new(random::normals(0, Stream::Noise, index, 0, shape.iter().product()), shape)
}

/// Times `op` on `inputs`: alone, and followed by the gradients of the first `tracked` inputs.
fn both(c: &mut Criterion, name: &str, inputs: &[Tensor], tracked: usize, op: fn(&Tape, &[Tensor]) -> Tensor) {
    let dy = normal(99, op(&Tape::off(), inputs).shape());
    c.bench_function(&format!("{name} forward"), |b| b.iter(|| op(&Tape::off(), inputs)));
    c.bench_function(&format!("{name} both"), |b| {
        b.iter(|| {
            let tape = Tape::watching(&inputs[..tracked]);
            let y = op(&tape, inputs);
            tape.backward_from(&y, dy.clone()).expect("a gradient that fits")
        })
    });
}

/// Queries, keys, channels of SD 1.5 at 512 and 256 pixels and of a small model; 8 heads, or 4.
fn attention(c: &mut Criterion) {
    for (n, tq, tk, width) in [(1, 4096, 4096, 320), (1, 1024, 77, 320), (1, 256, 256, 640), (1, 64, 64, 1280)] {
        let inputs = [normal(0, &[n, tq, width]), normal(1, &[n, tk, width]), normal(2, &[n, tk, width])];
        both(c, &format!("attention {tq}x{tk}x{width}"), &inputs, 3, |t, x| {
            ops::attention(t, &x[0], &x[1], &x[2], 8, false).expect("sizes that fit")
        });
    }
    let inputs = [0, 1, 2].map(|i| normal(i, &[16, 256, 32]));
    both(c, "attention 16x256x256x32", &inputs, 3, |t, x| {
        ops::attention(t, &x[0], &x[1], &x[2], 4, false).expect("sizes that fit")
    });
}

fn norms(c: &mut Criterion) {
    for (n, side, width) in [(1, 32, 320), (1, 8, 1280), (16, 16, 32)] {
        let vector = Tensor::full(&[width], 1.0, DType::F32);
        let map = [normal(0, &[n, side, side, width]), vector.clone()];
        both(c, &format!("group_norm_silu {n}x{side}x{side}x{width}"), &map, 1, |t, x| {
            ops::group_norm(t, &x[0], &x[1], &x[1], 32, 1e-5, true).expect("sizes that fit")
        });
        let tokens = [normal(0, &[n, side * side, width]), vector];
        both(c, &format!("layer_norm {n}x{}x{width}", side * side), &tokens, 1, |t, x| {
            ops::layer_norm(t, &x[0], &x[1], &x[1], 1e-5).expect("sizes that fit")
        });
    }
}

fn linear(c: &mut Criterion) {
    for (rows, width, out) in [(1024, 320, 320), (77, 768, 320), (64, 1280, 1280), (4096, 32, 32)] {
        let inputs =
            [normal(0, &[rows, width]), normal(1, &[8, width]), normal(2, &[out, 8]), normal(3, &[out, width])];
        both(c, &format!("lora_linear {rows}x{width}x{out}"), &inputs, 3, |t, x| {
            let lora = LoraLayer { a: &x[1], b: &x[2], scale: 1.0, order: LoraOrder::Factored };
            ops::lora_linear(t, &x[0], &x[3], None, lora).expect("sizes that fit")
        });
    }
    for (rows, width) in [(1024, 320), (4096, 32)] {
        let inputs = [normal(0, &[rows, width]), normal(1, &[8 * width, width])];
        both(c, &format!("linear geglu {rows}x{width}x{}", 8 * width), &inputs, 1, |t, x| {
            let h = ops::linear(t, &x[0], &x[1], None).expect("sizes that fit");
            ops::geglu(t, &h).expect("an even width")
        });
    }
}

fn conv2d(c: &mut Criterion) {
    for (n, side, c_in, c_out) in
        [(1, 32, 320, 320), (1, 32, 960, 320), (1, 16, 640, 640), (1, 4, 1280, 1280), (16, 16, 32, 32)]
    {
        let inputs = [normal(0, &[n, side, side, c_in]), normal(1, &[c_out, 3, 3, c_in])];
        both(c, &format!("conv2d 3x3 {n}x{side}x{side} {c_in}->{c_out}"), &inputs, 1, |t, x| {
            ops::conv2d(t, &x[0], &x[1], None, 1, Padding::all(1)).expect("sizes that fit")
        });
    }
}

/// At 512 pixels, batch 16.
fn on_gpu(c: &mut Criterion) {
    let Ok(gpu) = Gpu::cuda(0) else { return };
    let device = Device::Gpu(gpu.clone());
    for op in selma::bench::ops::ops(16, 64) {
        // Made when it is first run: an op that the filter leaves out takes no memory.
        let mut loaded = None;
        for (backward, pass) in [(false, "forward"), (true, "both")] {
            c.bench_function(&format!("gpu {} {pass}", op.name), |b| {
                let loaded = loaded.get_or_insert_with(|| op.load(&device, DType::Bf16).expect("room for the op"));
                b.iter_custom(|n| {
                    let all = || (0..n).try_for_each(|_| loaded.run(backward));
                    Duration::from_secs_f64(gpu.seconds(all).expect("a device that works"))
                });
            });
        }
    }
}

fn threads(_: &mut Criterion) {
    selma::cli::use_threads(None).expect("the first use of the pool");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = threads, attention, norms, linear, conv2d, on_gpu
}
criterion_main!(benches);
