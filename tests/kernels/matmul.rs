//! `matmul.cu`.

use selma::autograd::Tape;
use selma::device::Device;
use selma::device::gpu::matmul::{
    Epilogue, Group, Layout, Pair, matmul, matmul_geglu, matmul_group, matmul_transposed,
};
use selma::device::gpu::{Buffer, Checks, Gpu, Order};
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{close, download, everywhere, tensor, upload};

/// Sizes below, at and across the tiles' edges; widths whose rows do not begin at multiples of 16 bytes; a rank.
const SIZES: [[usize; 4]; 6] =
    [[1, 1, 1, 1], [64, 64, 32, 4], [77, 70, 33, 8], [130, 40, 320, 16], [65, 129, 24, 5], [3, 200, 72, 128]];

/// `x W^T + b + h B^T`, SiLU of it, and a residual: against the CPU's own linear layers.
#[test]
fn linear_layers_with_a_second_pair() {
    everywhere(|gpu, dtype| {
        for [m, n, k, rank] in SIZES {
            let what = format!("{m}x{n} over {k} and {rank}");
            let x = tensor(1, &[m, k], dtype);
            let w = tensor(2, &[n, k], dtype);
            let (h, b) = (tensor(3, &[m, rank], dtype), tensor(4, &[n, rank], dtype));
            let (bias, residual) = (tensor(5, &[n], DType::F32), tensor(6, &[m, n], dtype));
            let [x_gpu, w_gpu, h_gpu, b_gpu] = [&x, &w, &h, &b].map(|t| upload(gpu, t));
            let [bias_gpu, residual_gpu] = [&bias, &residual].map(|t| upload(gpu, t));

            let first = Pair { a: &x_gpu, b: &w_gpu, k };
            let second = Pair { a: &h_gpu, b: &b_gpu, k: rank };
            let y = matmul([m, n], Layout::Transposed, first, None, Epilogue::default()).unwrap();
            close(&what, &y, &ops::linear(&Tape::off(), &x, &w, None).unwrap(), k);

            // In f32, since the kernel rounds only the result.
            let wide = |t: &Tensor| t.cast(DType::F32);
            let tape = Tape::off();
            let base = ops::linear(&tape, &wide(&x), &wide(&w), None).unwrap();
            let branch = ops::linear(&tape, &wide(&h), &wide(&b), None).unwrap();
            let both = ops::scale(&tape, &ops::add(&tape, &base, &branch).unwrap(), 0.25).unwrap();
            let both = ops::reshape(&tape, &both, &[1, 1, m, n]).unwrap();
            let with_bias = ops::add_channel_bias(&tape, &both, &bias.with_shape(&[1, n])).unwrap();
            let active = ops::silu(&tape, &with_bias).unwrap().with_shape(&[m, n]);
            let expected = ops::add(&tape, &active, &wide(&residual)).unwrap();
            let epilogue = Epilogue { alpha: 0.25, bias: Some(&bias_gpu), silu: true, residual: Some(&residual_gpu) };
            let y = matmul([m, n], Layout::Transposed, first, Some(second), epilogue).unwrap();
            close(&format!("{what}, all at once"), &y, &expected.cast(dtype), 2 * (k + rank));
        }
    });
}

/// Products of one launch are those of a launch each, to the byte.
#[test]
fn groups() {
    everywhere(|gpu, dtype| {
        // The last one takes the large tile, which one of its products alone would not.
        let large = ([128 * 9 - 40, 128 * 5 - 8, 8, 4], 3..=3);
        for ([m, n, k, rank], groups) in SIZES.map(|size| (size, 1..=3)).into_iter().chain([large]) {
            for groups in groups {
                let upload = |seed, rows, columns| upload(gpu, &tensor(seed, &[rows, columns], dtype));
                let (x, h) = (upload(1, m, k), upload(2, groups * m, rank));
                let of_each = |seed, columns| (0..groups as u64).map(move |i| upload(seed + i, n, columns));
                let (w, b): (Vec<_>, Vec<_>) = (of_each(3, k).collect(), of_each(6, rank).collect());
                let (w_all, b_all): (Vec<_>, Vec<_>) = (w.iter().collect(), b.iter().collect());
                let first = Group { a: &x, b: &w_all, k };
                let second = Group { a: &h, b: &b_all, k: rank };
                for second in [None, Some(second)] {
                    let together = matmul_group([m, n], first, second, 0.25).unwrap();
                    let together = download(&together, &[groups, m * n]);
                    for i in 0..groups {
                        let own = h.view(i * m * rank, m * rank);
                        let pair = |a, b, k| Pair { a, b, k };
                        let beside = second.map(|_| pair(&own, &b[i], rank));
                        let epilogue = Epilogue { alpha: 0.25, ..Epilogue::default() };
                        let alone = matmul([m, n], Layout::Transposed, pair(&x, &w[i], k), beside, epilogue);
                        let alone = download(&alone.unwrap(), &[m * n]);
                        let part = together.view(i * m * n, &[m * n]);
                        assert!(part.bytes() == alone.bytes(), "{dtype:?}: {i} of {groups}, {m}x{n} over {k}");
                    }
                }
            }
        }
        let (a, b) = (gpu.buffer(dtype, 12).unwrap(), gpu.buffer(dtype, 15).unwrap());
        let refused = |first: &[&Buffer], second: Option<&[&Buffer]>| {
            let group = |b| Group { a: &a, b, k: 3 };
            let made = matmul_group([4, 5], group(first), second.map(group), 1.0);
            made.unwrap_err().to_string()
        };
        let message = refused(&[&b, &a], None);
        assert!(message.contains("do not make [2, 4, 5]"), "{message}");
        for message in [refused(&[], None), refused(&[&b; 4], None), refused(&[&b; 2], Some(&[&b]))] {
            assert!(message.contains("expected 1 to 3"), "{message}");
        }
    });
}

/// `dx = dy W + dh A`.
#[test]
fn gradients_of_inputs() {
    everywhere(|gpu, dtype| {
        for [m, n, k, rank] in SIZES {
            let (dy, w) = (tensor(1, &[m, k], dtype), tensor(2, &[k, n], dtype));
            let (dh, a) = (tensor(3, &[m, rank], dtype), tensor(4, &[rank, n], dtype));
            let [dy_gpu, w_gpu, dh_gpu, a_gpu] = [&dy, &w, &dh, &a].map(|t| upload(gpu, t));
            let first = Pair { a: &dy_gpu, b: &w_gpu, k };
            let second = Pair { a: &dh_gpu, b: &a_gpu, k: rank };
            let sums = add(&product(&dy, &w), &product(&dh, &a));
            let dx = matmul([m, n], Layout::Plain, first, Some(second), Epilogue::default()).unwrap();
            close(&format!("{m}x{n} over {k} and {rank}"), &dx, &stored(&sums, [m, n], dtype), k + rank);
        }
    });
}

/// `dW = dy^T x`, in one slice and in several.
#[test]
fn gradients_of_weights() {
    everywhere(|gpu, dtype| {
        for [m, n, k, _] in SIZES.into_iter().chain([[8, 40, 1500, 0], [130, 65, 515, 0]]) {
            let (dy, x) = (tensor(1, &[k, m], dtype), tensor(2, &[k, n], dtype));
            let dw = matmul_transposed(&upload(gpu, &dy), &upload(gpu, &x), [m, n, k]).unwrap();
            let sums = product(&transposed(&dy), &x);
            close(&format!("{m}x{n} over {k}"), &dw, &stored(&sums, [m, n], DType::F32), k);
        }
    });
}

/// The large tile, which only large products take.
#[test]
fn large_tiles() {
    let [m, n, k] = [128 * 12 - 40, 128 * 11 - 8, 40];
    everywhere(|gpu, dtype| {
        let (x, w) = (tensor(1, &[m, k], dtype), tensor(2, &[n, k], dtype));
        let (x_gpu, w_gpu) = (upload(gpu, &x), upload(gpu, &w));
        let first = Pair { a: &x_gpu, b: &w_gpu, k };
        let y = matmul([m, n], Layout::Transposed, first, None, Epilogue::default()).unwrap();
        let expected = ops::linear(&Tape::off(), &x, &w, None).unwrap();
        close("nt", &y, &expected, k);

        let w = transposed(&w);
        let w_gpu = upload(gpu, &w);
        let first = Pair { a: &x_gpu, b: &w_gpu, k };
        let y = matmul([m, n], Layout::Plain, first, None, Epilogue::default()).unwrap();
        close("nn", &y, &expected, k);

        let x_gpu = upload(gpu, &transposed(&x));
        let y = matmul_transposed(&x_gpu, &w_gpu, [m, n, k]).unwrap();
        let wide = |t: &Tensor| t.cast(DType::F32);
        let expected = ops::linear(&Tape::off(), &wide(&x), &transposed(&wide(&w)), None).unwrap();
        close("tn", &y, &expected, k);
    });
}

/// `v gelu(g)` of `[v, g] = x W^T + b`, with and without a bias: against the CPU's layer and gate in f32.
#[test]
fn gated_linear_layers() {
    let large = [128 * 9 - 5, 64 * 15 - 8, 40];
    let sizes = [[1, 1, 1], [64, 32, 32], [70, 33, 33], [77, 20, 8], [65, 130, 24], [3, 100, 72], large];
    everywhere(|gpu, dtype| {
        for [m, n, k] in sizes {
            let (x, w) = (tensor(1, &[m, k], dtype), tensor(2, &[2 * n, k], dtype));
            let bias = tensor(3, &[2 * n], DType::F32);
            let [x_gpu, w_gpu, bias_gpu] = [&x, &w, &bias].map(|t| upload(gpu, t));
            for with_bias in [false, true] {
                let y = matmul_geglu(&x_gpu, &w_gpu, with_bias.then_some(&bias_gpu), [m, n, k]).unwrap();
                let wide = |t: &Tensor| t.cast(DType::F32);
                let layer = ops::linear(&Tape::off(), &wide(&x), &wide(&w), with_bias.then_some(&bias)).unwrap();
                let expected = ops::geglu(&Tape::off(), &layer).unwrap();
                let what = format!("{m}x{n} over {k}, bias {with_bias}");
                close(&what, &y, &expected.cast(dtype), 2 * k);
            }
        }
        let error = matmul_geglu(&gpu.buffer(dtype, 12).unwrap(), &gpu.buffer(dtype, 10).unwrap(), None, [4, 2, 3])
            .unwrap_err()
            .to_string();
        assert!(error.contains("`weight` has 10 elements; expected 12"), "{error}");
    });
}

/// A frozen layer is gated in its own pass; where a gradient is wanted, its gate is apart and has one.
#[test]
fn a_gate_joins_its_layer_where_no_gradient_is_wanted() {
    let (gpu, launched) = Gpu::simulator(Checks::On, Order::Forwards).unwrap().recorded();
    let device = Device::Gpu(gpu);
    let shapes: [&[usize]; 3] = [&[2, 5, 24], &[32, 24], &[32]];
    let inputs: Vec<Tensor> = (1..).zip(shapes).map(|(seed, shape)| tensor(seed, shape, DType::F32)).collect();
    let there: Vec<Tensor> = inputs.iter().map(|x| x.to(&device).unwrap()).collect();
    let gated = |tape: &Tape, x: &[Tensor]| ops::linear_geglu(tape, &x[0], &x[1], Some(&x[2])).unwrap();
    let expected = gated(&Tape::off(), &inputs);
    for (tape, kernels) in [
        (Tape::off(), &["matmul_nt_geglu_small"][..]),
        (Tape::watching(&there[..1]), &["geglu_forward", "matmul_nt_small"]),
        (Tape::watching(&there[1..2]), &["geglu_forward", "matmul_nt_small"]),
    ] {
        launched.take();
        let y = gated(&tape, &there);
        assert_eq!(launched.take().into_keys().collect::<Vec<_>>(), kernels);
        assert_eq!(y.shape(), [2, 5, 16]);
        close("gated", &y.memory().unwrap(), &expected, 48);
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    everywhere(|gpu, dtype| {
        let (a, b) = (gpu.buffer(dtype, 12).unwrap(), gpu.buffer(dtype, 10).unwrap());
        let pair = Pair { a: &a, b: &b, k: 3 };
        let error = matmul([4, 5], Layout::Plain, pair, None, Epilogue::default()).unwrap_err().to_string();
        assert!(error.contains("operands of 12 and 10 values do not make [4, 5] over k = 3"), "{error}");
    });
}

/// `a` `[m, k]` times `b` `[k, n]` in f64.
fn product(a: &Tensor, b: &Tensor) -> Vec<f64> {
    let &[k, n] = b.shape() else { unreachable!("a matrix") };
    let (a, b) = (a.reals::<f64>(), b.reals::<f64>());
    let mut sums = vec![0.0; a.len() / k * n];
    for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    sums
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn stored(values: &[f64], shape: [usize; 2], dtype: DType) -> Tensor {
    Tensor::new(values.to_vec(), &shape).cast(dtype)
}

fn transposed(x: &Tensor) -> Tensor {
    let &[rows, columns] = x.shape() else { unreachable!("a matrix") };
    let values = x.reals::<f32>();
    let turned = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
    Tensor::new::<f32>(turned, &[columns, rows]).cast(x.dtype())
}
