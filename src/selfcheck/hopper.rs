//! The kernels for compute capability 9.0, which no op takes before they have been proved on a GPU.

use super::Check;
use super::shapes::{check, frozen, vector};
use crate::autograd::Tape;
use crate::device::Device;
use crate::device::conv_shape::ConvShape;
use crate::error::{Error, Result};
use crate::ops::hopper::{attention, attention_delta, attention_gradients, forward, products, transposed};
use crate::ops::in_slices::{Epilogue, Layout};
use crate::ops::{self, Padding};
use crate::tensor::Tensor;

/// More than one tile of rows, and of columns; the last ones in part.
const ROWS: usize = 270;
const COLUMNS: usize = 200;
/// Of both pairs: no whole steps.
const DEPTH: usize = 328;
const RANK: usize = 40;

pub fn checks() -> Vec<Check> {
    let untracked = |len| super::Input { tracked: false, ..vector(len) };
    let linear = vec![
        frozen(&[ROWS, DEPTH]),
        frozen(&[COLUMNS, DEPTH]),
        frozen(&[ROWS, RANK]),
        frozen(&[COLUMNS, RANK]),
        untracked(COLUMNS),
        frozen(&[ROWS, COLUMNS]),
    ];
    let plain = vec![frozen(&[ROWS, DEPTH]), frozen(&[DEPTH, COLUMNS]), frozen(&[ROWS, COLUMNS])];
    let mut checks = vec![
        check(format!("two products of {ROWS}x{COLUMNS} by tensor maps"), linear, both),
        check(format!("a product of {ROWS}x{COLUMNS} by tensor maps"), plain, one),
    ];
    for (taps, stride, side) in [(3, 1, 13), (3, 2, 27), (1, 1, 14)] {
        let padding = taps / 2;
        let out = (side + 2 * padding - taps) / stride + 1;
        let inputs = vec![
            frozen(&[2, side, side, 72]),
            frozen(&[168, taps, taps, 72]),
            untracked(168),
            frozen(&[2, 168]),
            frozen(&[2, out, out, 168]),
        ];
        let name = format!("conv2d {taps}x{taps}/{stride} by tensor maps");
        checks.push(check(name, inputs, move |tape, x, device| convolution(tape, x, device, stride, padding)));
    }
    let inputs = vec![frozen(&[2, 13, 13, 72]), frozen(&[72, 3, 3, 168]), frozen(&[2, 13, 13, 168])];
    checks.push(check("conv2d 3x3/1 transposed by tensor maps".into(), inputs, gradient));
    // Keys in whole tiles and not, and a causal mask.
    for (channels, queries, keys, causal) in [(40, 150, 128, false), (64, 40, 77, false), (24, 200, 200, true)] {
        let [q, kv] = [queries, keys].map(|tokens| [2, tokens, 3 * channels]);
        let name =
            |pass: &str| format!("attention of {queries} over {keys}, heads of {channels}, {pass} by tensor maps");
        let inputs = || vec![frozen(&q), frozen(&kv), frozen(&kv)];
        checks.push(check(name("forward"), inputs(), move |tape, x, device| {
            let [q, k, v] = x else { unreachable!("three inputs") };
            match device {
                Device::Cpu => ops::attention(tape, q, k, v, 3, causal),
                Device::Gpu(_) => taken(attention([q, k, v], 3, causal)?.map(|[y, _]| y)),
            }
        }));
        for (at, of) in ["q", "k", "v"].into_iter().enumerate() {
            let inputs = inputs().into_iter().chain([frozen(&q)]).collect();
            let name = name(&format!("the gradient of {of}"));
            checks.push(check(name, inputs, move |_, x, device| attention_gradient(x, device, causal, at)));
        }
    }
    checks
}

fn convolution(tape: &Tape, x: &[Tensor], device: &Device, stride: usize, padding: usize) -> Result<Tensor> {
    let [x, weight, bias, t, residual] = x else { unreachable!("five inputs") };
    let epilogue = ops::Epilogue { channel_bias: Some(t), residual: Some(residual) };
    let padding = Padding::all(padding);
    if *device == Device::Cpu {
        return ops::conv2d_epilogue(tape, x, weight, Some(bias), stride, padding, epilogue);
    }
    let shape = ConvShape::new(x.dims("conv2d")?, weight.dims("conv2d")?, stride, padding)?;
    taken(forward(&shape, x, weight, Some(bias), epilogue)?)
}

/// Of input `at`; the last input is the gradient of the result.
fn attention_gradient(x: &[Tensor], device: &Device, causal: bool, at: usize) -> Result<Tensor> {
    let [q, k, v, dy] = x else { unreachable!("four inputs") };
    if *device == Device::Cpu {
        let tape = Tape::watching([&x[at]]);
        let y = ops::attention(&tape, q, k, v, 3, causal)?;
        let mut gradients = tape.backward_from(&y, dy.clone())?;
        return Ok(gradients.remove(&x[at]).expect("the watched input"));
    }
    let [y, log_sums] = attention([q, k, v], 3, causal)?.ok_or_else(not_taken)?;
    let delta = attention_delta(dy, &y, 3)?;
    let gradients = attention_gradients([q, k, v], [&log_sums, &delta], dy, 3, causal)?;
    gradients.map(|gradients| gradients[at].clone()).ok_or_else(not_taken)
}

/// The last input has the shape of the result.
fn gradient(_: &Tape, x: &[Tensor], device: &Device) -> Result<Tensor> {
    let [dy, weight, dx] = x else { unreachable!("three inputs") };
    if *device == Device::Cpu {
        let tape = Tape::watching([dx]);
        let y = ops::conv2d(&tape, dx, weight, None, 1, Padding::all(1))?;
        let mut gradients = tape.backward_from(&y, dy.clone())?;
        return Ok(gradients.remove(dx).expect("the watched input"));
    }
    let shape = ConvShape::new(dx.dims("conv2d")?, weight.dims("conv2d")?, 1, Padding::all(1))?;
    taken(transposed(&shape, dy, weight, None)?)
}

fn both(tape: &Tape, x: &[Tensor], device: &Device) -> Result<Tensor> {
    let [a, b, a2, b2, bias, residual] = x else { unreachable!("six inputs") };
    if *device == Device::Cpu {
        let (a, b) = (ops::concat_channels(tape, a, a2)?, ops::concat_channels(tape, b, b2)?);
        return ops::linear_residual(tape, residual, &a, &b, Some(bias), None);
    }
    let epilogue = Epilogue { alpha: 1.0, bias: Some(bias), residual: Some(residual) };
    taken(products(Layout::Transposed, [a, b], Some([a2, b2]), epilogue)?)
}

fn one(_: &Tape, x: &[Tensor], device: &Device) -> Result<Tensor> {
    let [a, b, residual] = x else { unreachable!("three inputs") };
    if *device == Device::Cpu {
        return ops::matmul(a, b, Some(residual));
    }
    taken(products(Layout::Plain, [a, b], None, Epilogue { residual: Some(residual), ..Epilogue::default() })?)
}

fn taken(y: Option<Tensor>) -> Result<Tensor> {
    y.ok_or_else(not_taken)
}

fn not_taken() -> Error {
    Error::Failed("the kernels for compute capability 9.0 do not take these operands".into())
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use super::checks;
    use crate::device::Device;
    use crate::device::conv_shape::ConvShape;
    use crate::device::gpu::{Checks, Gpu, Order, Tile};
    use crate::ops::hopper::{attention, attention_delta, attention_gradients, forward, products, transposed};
    use crate::ops::in_slices::{Epilogue, Layout, forward_in_slices, transposed_in_slices};
    use crate::ops::{self, Padding};
    use crate::selfcheck::normals;
    use crate::tensor::{DType, Tensor};

    #[test]
    fn products_are_right_whichever_copy_lands_first() {
        for order in [Order::Forwards, Order::Backwards] {
            let (gpu, launched) = Gpu::simulator(Checks::On, order).unwrap().recorded();
            let device = Device::Gpu(gpu);
            for check in checks() {
                for dtype in [DType::Bf16, DType::F16] {
                    let row = check.run(&device, &launched, dtype).unwrap();
                    assert!(row.ok(), "{} in {}: {} of {}", row.check, dtype.name(), row.error, row.bound);
                    assert!(row.kernels.iter().any(|kernel| kernel.ends_with("_hopper")), "{}", row.check);
                }
            }
        }
    }

    /// Both paths add up along k in one order, and the simulator rounds after each value: their bytes are the same.
    #[test]
    fn the_bytes_are_those_of_the_other_path() {
        let device = Device::Gpu(Gpu::simulator(Checks::Off, Order::Forwards).unwrap());
        // Below, at and across the edges of tiles and of steps.
        for [m, n, k, k2] in
            [[8, 8, 8, 0], [256, 160, 64, 8], [257, 168, 72, 128], [700, 320, 200, 0], [40, 488, 136, 16]]
        {
            let values = |i, shape: &[usize], dtype| normals(i, shape).cast(dtype).to(&device).unwrap();
            for (dtype, layout) in
                [DType::Bf16, DType::F16].iter().flat_map(|d| [Layout::Transposed, Layout::Plain].map(|l| (*d, l)))
            {
                let right = |k| if layout == Layout::Transposed { [n, k] } else { [k, n] };
                let (a, b) = (values(0, &[m, k], dtype), values(1, &right(k), dtype));
                let (a2, b2) = (values(2, &[m, k2.max(8)], dtype), values(3, &right(k2.max(8)), dtype));
                let (bias, residual) = (values(4, &[n], DType::F32), values(5, &[m, n], dtype));
                let second = (k2 > 0).then_some([&a2, &b2]);
                for epilogue in
                    [Epilogue::default(), Epilogue { alpha: 0.37, bias: Some(&bias), residual: Some(&residual) }]
                {
                    let y = products(layout, [&a, &b], second, epilogue).unwrap().expect("it takes these");
                    let reference = crate::ops::in_slices::products(layout, [&a, &b], second, epilogue).unwrap();
                    let [y, reference] = [y, reference].map(|y| y.to_cpu().unwrap());
                    let what = format!("{layout:?} [{m}, {n}] over {k} and {k2} in {}", dtype.name());
                    assert!(y.bytes() == reference.bytes(), "{what}");
                }
            }
        }
    }

    /// Of convolutions too: with other padding before than after, with fewer channels than a step, and a gradient whose taps are
    /// turned round.
    #[test]
    fn the_bytes_of_convolutions_are_those_of_the_other_path() {
        let device = Device::Gpu(Gpu::simulator(Checks::Off, Order::Forwards).unwrap());
        let uneven = Padding { top: 0, left: 2, bottom: 1, right: 0 };
        for (image, [c_out, kh, kw], stride, padding) in [
            ([3, 5, 7, 64], [32, 3, 3], 1, Padding::all(1)),
            ([2, 17, 18, 96], [160, 3, 2], 1, uneven),
            ([2, 18, 17, 32], [64, 3, 3], 2, uneven),
            ([1, 20, 20, 192], [320, 1, 1], 1, Padding::all(0)),
        ] {
            let shape = ConvShape::new(image, [c_out, kh, kw, image[3]], stride, padding).unwrap();
            for dtype in [DType::Bf16, DType::F16] {
                let values = |i, shape: &[usize]| normals(i, shape).cast(dtype).to(&device).unwrap();
                let (x, weight) = (values(0, &image), values(1, &shape.weight()));
                let (t, residual, dy) = (values(2, &[image[0], c_out]), values(3, &shape.y()), values(4, &shape.y()));
                let bias = normals(5, &[c_out]).to(&device).unwrap();
                let epilogue = ops::Epilogue { channel_bias: Some(&t), residual: Some(&residual) };
                let same = |y: Tensor, reference: Tensor, what: &str| {
                    let [y, reference] = [y, reference].map(|y| y.to_cpu().unwrap());
                    assert!(y.bytes() == reference.bytes(), "{what} of {shape:?} in {}", dtype.name());
                };
                // In one slice the sums of the other path are in the same order.
                let one = (Tile::SMALL, 1);
                let y = forward(&shape, &x, &weight, Some(&bias), epilogue).unwrap().expect("it takes these");
                same(y, forward_in_slices(&shape, &x, &weight, Some(&bias), epilogue, one).unwrap(), "forward");
                match transposed(&shape, &dy, &weight, None).unwrap() {
                    Some(dx) => same(dx, transposed_in_slices(&shape, &dy, &weight, None, one).unwrap(), "transposed"),
                    None => assert_eq!(stride, 2),
                }
            }
        }
    }

    /// The logarithms that the backward pass reads are those of the other path, but for another order of sums; with the same
    /// ones, the gradients have the same bytes.
    #[test]
    fn attention_is_that_of_the_other_path() {
        let device = Device::Gpu(Gpu::simulator(Checks::Off, Order::Forwards).unwrap());
        for (heads, tokens, causal) in [(2, [130, 130], true), (1, [200, 77], false), (3, [70, 192], false)] {
            let sides = [tokens[0], tokens[1], tokens[1], tokens[0]];
            let values =
                |i: usize| normals(i as u64, &[1, sides[i], heads * 40]).cast(DType::Bf16).to(&device).unwrap();
            let [q, k, v, dy] = [0, 1, 2, 3].map(values);
            let [y, sums] = attention([&q, &k, &v], heads, causal).unwrap().expect("it takes these");
            let (reference, saved) = crate::ops::in_slices::attention([&q, &k, &v], heads, causal).unwrap();
            for (there, here) in [(&y, &reference), (&sums, &saved[1])] {
                let [there, here] = [there, here].map(|x| x.to_cpu().unwrap().cast(DType::F32));
                let far = there.data::<f32>().iter().zip(here.data::<f32>()).map(|(a, b)| (a - b).abs());
                // Two neighbours of the probabilities' and the result's type, below 2.
                assert!(far.fold(0.0, f32::max) <= 2.0_f32.powi(-6));
            }
            let delta = attention_delta(&dy, &reference, heads).unwrap();
            let gradients = attention_gradients([&q, &k, &v], [&saved[1], &delta], &dy, heads, causal).unwrap();
            let references =
                crate::ops::in_slices::attention_gradients([&q, &k, &v], &saved, &dy, heads, causal).unwrap();
            for (there, here) in gradients.expect("it takes these").iter().zip(references) {
                let [there, here] = [there, &here.unwrap()].map(|x| x.to_cpu().unwrap());
                assert!(there.bytes() == here.bytes(), "{heads} heads, {tokens:?}");
            }
        }
    }

    /// What the kernels cannot take is left to the others.
    #[test]
    fn operands_of_other_kinds_are_not_taken() {
        let device = Device::Gpu(Gpu::simulator(Checks::Off, Order::Forwards).unwrap());
        for (dtype, k) in [(DType::F32, 64), (DType::Bf16, 12)] {
            let [a, b] = [[4, k], [8, k]].map(|shape| Tensor::zeros(&shape, dtype).to(&device).unwrap());
            assert!(products(Layout::Transposed, [&a, &b], None, Epilogue::default()).unwrap().is_none());
        }
    }
}
