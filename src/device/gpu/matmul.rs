//! Launches of `matmul.cu` for attention of wide heads; those of layers are in `ops::matmul`.

use super::Buffer;
use super::buffer::expect;
use super::sums::sum_rows;
use super::table::kernels;
use super::tile::{Tile, in_chunks};
use crate::dtype::DType;
use crate::error::{Error, Result};

const OP: &str = "matmul";

/// `a` `[m, k]` and `b`, which is `[n, k]` or `[k, n]`.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub a: &'a Buffer,
    pub b: &'a Buffer,
    pub k: usize,
}

/// How `b` is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[n, k]`: `a b^T`, as in a linear layer.
    Transposed,
    /// `[k, n]`: `a b`, as in the gradient of its input.
    Plain,
}

/// What happens to a product before it is stored: `f(alpha product + bias) + residual`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    pub alpha: f32,
    /// f32 `[n]`.
    pub bias: Option<&'a Buffer>,
    /// Whether f is SiLU.
    pub silu: bool,
    /// `[m, n]`.
    pub residual: Option<&'a Buffer>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { alpha: 1.0, bias: None, silu: false, residual: None }
    }
}

/// The sum of one or two products, `[m, n]` in the dtype of the operands. The second pair continues the sum of the
/// first, before `alpha`: how a LoRA branch joins its layer.
pub fn matmul(
    [m, n]: [usize; 2],
    layout: Layout,
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<Buffer> {
    let y = first.a.gpu().buffer(first.a.dtype(), m * n)?;
    matmul_into(&y, [m, n], layout, first, second, epilogue)?;
    Ok(y)
}

/// [`matmul`] into memory that is there already.
pub fn matmul_into(
    y: &Buffer,
    [m, n]: [usize; 2],
    layout: Layout,
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    expect(OP, &[("y", y, m * n)])?;
    for pair in [Some(first), second].into_iter().flatten() {
        if pair.a.len() != m * pair.k || pair.b.len() != n * pair.k {
            let (a, b, k) = (pair.a.len(), pair.b.len(), pair.k);
            return Err(misfit(format!("operands of {a} and {b} values do not make [{m}, {n}] over k = {k}")));
        }
    }
    if epilogue.bias.is_some_and(|bias| bias.len() != n) || epilogue.residual.is_some_and(|r| r.len() != m * n) {
        return Err(misfit(format!("bias or residual do not fit [{m}, {n}]")));
    }
    let (gpu, dtype) = (first.a.gpu(), first.a.dtype());
    let k2 = second.map_or(0, |pair| pair.k);
    let mut memory: Vec<&dyn Operand> = vec![y, first.a, first.b];
    memory.extend(second.iter().flat_map(|pair| [pair.a, pair.b]).map(|buffer| buffer as &dyn Operand));
    memory.extend(epilogue.residual.map(|residual| residual as &dyn Operand));
    let chunks = in_chunks(dtype, &[n, first.k, k2], &memory);
    let tile = Tile::fit(m, n, 1).if_fits(chunks && !epilogue.silu);
    let kernel = tile.choose(match layout {
        Layout::Transposed => [&kernels::MATMUL_NT_LARGE, &kernels::MATMUL_NT_SMALL, &kernels::MATMUL_NT_ANY],
        Layout::Plain => [&kernels::MATMUL_NN_LARGE, &kernels::MATMUL_NN_SMALL, &kernels::MATMUL_NN_ANY],
    });
    let launch = tile.over(gpu.kernel(kernel, dtype), m, n, 1);
    let launch = launch.output(y).input(first.a).input(first.b);
    let launch = launch.input_if(second.map(|pair| pair.a)).input_if(second.map(|pair| pair.b));
    let launch = launch.input_if(epilogue.bias).input_if(epilogue.residual);
    let launch = launch.long(m).int(n).int(first.k).int(k2).float(epilogue.alpha);
    let launch = if tile.takes_any() { launch.int(epilogue.silu.into()) } else { launch };
    launch.launch()
}

/// `a^T b` for `a` `[k, m]` and `b` `[k, n]` -> f32 `[m, n]`: the gradient of a weight. Slices of k are summed side by
/// side and then added up in their order.
pub fn matmul_transposed(a: &Buffer, b: &Buffer, [m, n, k]: [usize; 3]) -> Result<Buffer> {
    if a.len() != k * m || b.len() != k * n || k == 0 {
        let (a, b) = (a.len(), b.len());
        return Err(misfit(format!("operands of {a} and {b} values do not make [{m}, {n}] over k = {k}")));
    }
    let (gpu, dtype) = (a.gpu(), a.dtype());
    let (tile, k_slice) = Tile::sliced(m, n, k, dtype);
    let tile = tile.if_fits(in_chunks(dtype, &[m, n], &[a, b]));
    let slices = k.div_ceil(k_slice);
    let parts = gpu.buffer(DType::F32, slices * m * n)?;
    let kernel = tile.choose([&kernels::MATMUL_TN_LARGE, &kernels::MATMUL_TN_SMALL, &kernels::MATMUL_TN_ANY]);
    let launch = tile.over(gpu.kernel(kernel, dtype), m, n, slices).output(&parts);
    launch.input(a).input(b).int(m).int(n).long(k).int(k_slice).launch()?;
    if slices == 1 { Ok(parts) } else { sum_rows(&parts, slices, m * n) }
}

fn misfit(message: String) -> Error {
    Error::shape(OP, message)
}
