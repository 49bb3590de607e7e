//! Launches for GEGLU: `elementwise.cu`, and `matmul_geglu.cu` where the gate joins a layer.

use crate::device::gpu::choice::Operation;
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{Operand, Tile, in_chunks, pack};
use crate::error::Result;
pub use crate::ops::lora::gpu::{hidden, merged};
use crate::ops::matmul::gpu::{Epilogue, Layout, Pair, case, expect, products};
use crate::ops::matmul::{shaped, sizes};
use crate::tensor::Tensor;

const FORWARD: [&Kernel; 4] = [
    &kernels::MATMUL_NT_GEGLU_TALL,
    &kernels::MATMUL_NT_GEGLU_LARGE,
    &kernels::MATMUL_NT_GEGLU_SMALL,
    &kernels::MATMUL_NT_GEGLU_ANY,
];
/// None takes operands of any kind.
const GRADIENT: [&Kernel; 3] =
    [&kernels::MATMUL_NN_GEGLU_TALL, &kernels::MATMUL_NN_GEGLU_LARGE, &kernels::MATMUL_NN_GEGLU_SMALL];

const THREADS: usize = kernels::ELEMENTWISE_THREADS;

pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let [rows, width] = sizes(x);
    let y = x.new_empty(&shaped(x, width / 2), x.dtype())?;
    let launch = x.kernel(&kernels::GEGLU_FORWARD)?.grid(packs_of_rows(&y)).block(THREADS);
    launch.output(&y).input(x).long(rows).int(width / 2).launch()?;
    Ok(y)
}

pub fn gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let [rows, c] = sizes(dy);
    let dx = x.empty_like()?;
    let launch = x.kernel(&kernels::GEGLU_BACKWARD)?.grid(packs_of_rows(dy)).block(THREADS);
    launch.output(&dx).input(dy).input(x).long(rows).int(c).launch()?;
    Ok(dx)
}

/// Blocks whose threads have a pack of one row of the result each.
fn packs_of_rows(y: &Tensor) -> [usize; 3] {
    let [rows, c] = sizes(y);
    [(rows * c.div_ceil(pack(y.dtype()))).div_ceil(THREADS), 1, 1]
}

/// GEGLU of a layer in its own pass: `x` `[.., k]`, `weight` `[2n, k]`, `bias` f32 `[2n]` -> `[.., n]`, and what is between,
/// `[.., 2n]`, where that is wanted. `second` continues the layer's sum: `[h, b]` for `h B^T`.
pub fn gated_layer(
    x: &Tensor,
    weight: &Tensor,
    second: Option<Pair<'_>>,
    bias: Option<&Tensor>,
    wants_between: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let ([m, k], [width, _]) = (sizes(x), sizes(weight));
    let k2 = second.map_or(0, |pair| sizes(pair[0])[1]);
    expect(weight, [width, k])?;
    second.map_or(Ok(()), |[h, b]| expect(h, [m, k2]).and(expect(b, [width, k2])))?;
    bias.map_or(Ok(()), |bias| expect(bias, [1, width]))?;
    let n = width / 2;
    let y = x.new_empty(&shaped(x, n), x.dtype())?;
    let between = wants_between.then(|| x.new_empty(&shaped(x, width), x.dtype())).transpose()?;
    let mut memory: Vec<&dyn Operand> = vec![&y, x, weight];
    memory.extend(second.into_iter().flatten().chain(&between).map(|x| x as &dyn Operand));
    let fits = in_chunks(x.dtype(), &[n, k, k2], &memory);
    let model = || Tile::whole(&Tile::ALL, [m, width], 1, steps(x, k, k2), x.dtype());
    let tile = match (&second, &between) {
        // What a device may prove and time has neither.
        (None, None) => {
            let case = || case(Operation::MatmulGeglu, x.dtype(), vec![m, width, k], bias, None);
            x.gpu()?.choose(fits, case, || (model(), 1))?.0
        }
        _ => model().if_fits(fits),
    };
    let launch = tile.over(x.kernel(tile.choose_of(FORWARD))?, m, width, 1).output(&y).output_if(between.as_ref());
    let launch =
        launch.input(x).input(weight).input_if(second.map(|pair| pair[0])).input_if(second.map(|pair| pair[1]));
    launch.input_if(bias).long(m).int(n).int(k).int(k2).launch()?;
    Ok((y, between))
}

/// [`gated_layer`] of `x W^T + b` alone.
pub fn products_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    Ok(gated_layer(x, weight, None, bias, false)?.0)
}

/// [`gradient`] of `between` from `dy W`, the gradient of a layer's input, in that product's own pass. `second` continues the sum:
/// `[dh, a]` for `dh A`.
pub fn before_gate(dy: &Tensor, weight: &Tensor, second: Option<Pair<'_>>, between: &Tensor) -> Result<Tensor> {
    let ([m, k], [_, n]) = (sizes(dy), sizes(weight));
    let k2 = second.map_or(0, |pair| sizes(pair[0])[1]);
    expect(weight, [k, n])?;
    second.map_or(Ok(()), |[dh, a]| expect(dh, [m, k2]).and(expect(a, [k2, n])))?;
    expect(between, [m, 2 * n])?;
    let dx = between.empty_like()?;
    let mut memory: Vec<&dyn Operand> = vec![&dx, dy, weight, between];
    memory.extend(second.into_iter().flatten().map(|x| x as &dyn Operand));
    if !in_chunks(dy.dtype(), &[n, k, k2], &memory) {
        let d = products(Layout::Plain, [dy, weight], second, Epilogue::default())?;
        return gradient(between, &d);
    }
    let tile = Tile::whole(&Tile::ALL, [m, n], 1, steps(dy, k, k2), dy.dtype());
    let [tall, large, small] = GRADIENT;
    let launch = tile.over(dy.kernel(tile.choose_of([tall, large, small, small]))?, m, n, 1).output(&dx);
    let launch =
        launch.input(dy).input(weight).input_if(second.map(|pair| pair[0])).input_if(second.map(|pair| pair[1]));
    launch.input(between).long(m).int(n).int(k).int(k2).launch()?;
    Ok(dx)
}

/// Steps of k of a sum of two pairs.
fn steps(x: &Tensor, k: usize, k2: usize) -> usize {
    let step = Tile::step(x.dtype());
    k.div_ceil(step) + k2.div_ceil(step)
}
