//! Products in slices of k. The ops take them where the sizes say so, which is where there is much to do; here small ones go
//! so in tiles of both sizes.

use super::Check;
use super::shapes::{check, frozen, vector};
use crate::autograd::Tape;
use crate::device::Device;
use crate::device::conv_shape::ConvShape;
use crate::device::gpu::Tile;
use crate::error::Result;
use crate::ops::in_slices::{Epilogue, Layout, forward_in_slices, products_in_slices, transposed_in_slices};
use crate::ops::{self, Padding};
use crate::tensor::Tensor;

/// More than one tile of either size, and less than two large ones.
const ROWS: usize = 150;
const CHANNELS: usize = 136;
/// Of both pairs: no whole steps, and no whole number of steps a slice.
const DEPTH: usize = 168;
const RANK: usize = 40;
const SLICES: usize = 3;

pub fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for (size, tile) in [("small", Tile::SMALL), ("large", Tile::LARGE)] {
        let inputs = vec![
            frozen(&[ROWS, DEPTH]),
            frozen(&[CHANNELS, DEPTH]),
            frozen(&[ROWS, RANK]),
            frozen(&[CHANNELS, RANK]),
            untracked(CHANNELS),
            frozen(&[ROWS, CHANNELS]),
        ];
        let name = format!("two products of {ROWS}x{CHANNELS} in {SLICES} slices, {size} tile");
        checks.push(check(name, inputs, move |tape, x, device| linear(tape, x, device, tile)));
        let inputs = vec![frozen(&[ROWS, DEPTH]), frozen(&[DEPTH, CHANNELS]), frozen(&[ROWS, CHANNELS])];
        let name = format!("a product of {ROWS}x{CHANNELS} in {SLICES} slices, {size} tile");
        checks.push(check(name, inputs, move |_, x, device| plain(x, device, tile)));
        for (kernel, stride, side) in [(3, 1, 7), (3, 2, 14), (4, 2, 13)] {
            let out = (side + 2 - kernel) / stride + 1;
            let inputs = vec![
                frozen(&[2, side, side, 64]),
                frozen(&[72, kernel, kernel, 64]),
                untracked(72),
                frozen(&[2, 72]),
                frozen(&[2, out, out, 72]),
            ];
            let name = format!("conv2d {kernel}x{kernel}/{stride} in {SLICES} slices, {size} tile");
            checks.push(check(name, inputs, move |tape, x, device| forward(tape, x, device, stride, tile)));
            let inputs =
                vec![frozen(&[2, out, out, 64]), frozen(&[64, kernel, kernel, 72]), frozen(&[2, side, side, 72])];
            let name = format!("conv2d {kernel}x{kernel}/{stride} transposed in {SLICES} slices, {size} tile");
            checks.push(check(name, inputs, move |_, x, device| transposed(x, device, stride, tile)));
        }
    }
    checks
}

fn untracked(len: usize) -> super::Input {
    super::Input { tracked: false, ..vector(len) }
}

fn linear(tape: &Tape, x: &[Tensor], device: &Device, tile: Tile) -> Result<Tensor> {
    let [a, b, a2, b2, bias, residual] = x else { unreachable!("six inputs") };
    if *device == Device::Cpu {
        let (a, b) = (ops::concat_channels(tape, a, a2)?, ops::concat_channels(tape, b, b2)?);
        return ops::linear_residual(tape, residual, &a, &b, Some(bias), None);
    }
    let y = residual.empty_like()?;
    let epilogue = Epilogue { alpha: 1.0, bias: Some(bias), residual: Some(residual) };
    products_in_slices(&y, Layout::Transposed, (tile, SLICES), [a, b], Some([a2, b2]), epilogue)?;
    Ok(y)
}

fn plain(x: &[Tensor], device: &Device, tile: Tile) -> Result<Tensor> {
    let [a, b, residual] = x else { unreachable!("three inputs") };
    if *device == Device::Cpu {
        return ops::matmul(a, b, Some(residual));
    }
    let y = residual.empty_like()?;
    let epilogue = Epilogue { residual: Some(residual), ..Epilogue::default() };
    products_in_slices(&y, Layout::Plain, (tile, SLICES), [a, b], None, epilogue)?;
    Ok(y)
}

fn forward(tape: &Tape, x: &[Tensor], device: &Device, stride: usize, tile: Tile) -> Result<Tensor> {
    let [x, weight, bias, t, residual] = x else { unreachable!("five inputs") };
    let epilogue = ops::Epilogue { channel_bias: Some(t), residual: Some(residual) };
    if *device == Device::Cpu {
        return ops::conv2d_epilogue(tape, x, weight, Some(bias), stride, Padding::all(1), epilogue);
    }
    let shape = ConvShape::new(x.dims("conv2d")?, weight.dims("conv2d")?, stride, Padding::all(1))?;
    forward_in_slices(&shape, x, weight, Some(bias), epilogue, (tile, SLICES))
}

/// The last input has the shape of the result.
fn transposed(x: &[Tensor], device: &Device, stride: usize, tile: Tile) -> Result<Tensor> {
    let [dy, weight, dx] = x else { unreachable!("three inputs") };
    if *device == Device::Cpu {
        let tape = Tape::watching([dx]);
        let y = ops::conv2d(&tape, dx, weight, None, stride, Padding::all(1))?;
        let mut gradients = tape.backward_from(&y, dy.clone())?;
        return Ok(gradients.remove(dx).expect("the watched input"));
    }
    let shape = ConvShape::new(dx.dims("conv2d")?, weight.dims("conv2d")?, stride, Padding::all(1))?;
    transposed_in_slices(&shape, dy, weight, None, (tile, SLICES))
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use super::checks;
    use crate::device::Device;
    use crate::device::gpu::{Checks, Gpu, Order};
    use crate::tensor::DType;

    #[test]
    fn slices_are_right_in_any_order_of_threads() {
        for order in [Order::Forwards, Order::Backwards] {
            let (gpu, launched) = Gpu::simulator(Checks::On, order).unwrap().recorded();
            let device = Device::Gpu(gpu);
            for check in checks() {
                for dtype in [DType::F32, DType::Bf16, DType::F16] {
                    let row = check.run(&device, &launched, dtype).unwrap();
                    assert!(row.ok(), "{} in {}: {} of {}", row.check, dtype.name(), row.error, row.bound);
                    assert!(row.kernels.contains("sum_slices"), "{}", row.check);
                }
            }
        }
    }
}
