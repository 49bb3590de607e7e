//! Launches of `matmul.cu`.

use super::{OP, hopper, shaped, sizes};
use crate::device::gpu::choice::{Added, Case, Operation};
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{Operand, Tile, in_chunks};
use crate::error::{Error, Result};
use crate::ops::sums::gpu::{Finish, sum_slices};
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const NT: [&Kernel; 4] =
    [&kernels::MATMUL_NT_TALL, &kernels::MATMUL_NT_LARGE, &kernels::MATMUL_NT_SMALL, &kernels::MATMUL_NT_ANY];
const NN: [&Kernel; 4] =
    [&kernels::MATMUL_NN_TALL, &kernels::MATMUL_NN_LARGE, &kernels::MATMUL_NN_SMALL, &kernels::MATMUL_NN_ANY];

/// How the right side of a product is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[n, k]`: `a b^T`, as in a linear layer.
    Transposed,
    /// `[k, n]`: `a b`, as in the gradient of its input.
    Plain,
}

/// `a` `[.., k]`, and `b` in one of the layouts.
pub type Pair<'a> = [&'a Tensor; 2];

/// What happens to a product before it is stored: `alpha product + bias + residual`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    pub alpha: f64,
    /// f32 `[n]`.
    pub bias: Option<&'a Tensor>,
    /// Like the result.
    pub residual: Option<&'a Tensor>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { alpha: 1.0, bias: None, residual: None }
    }
}

pub fn matmul(a: &Tensor, b: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    products(Layout::Plain, [a, b], None, Epilogue { residual, ..Epilogue::default() })
}

/// The sum of one or two products, `[.., n]` in the dtype of the operands. The second pair continues the sum of the
/// first, before `alpha`: how a LoRA joins its layer.
pub fn products(layout: Layout, first: Pair<'_>, second: Option<Pair<'_>>, epilogue: Epilogue<'_>) -> Result<Tensor> {
    let [a, b] = first;
    let n = match layout {
        Layout::Transposed => sizes(b)[0],
        Layout::Plain => sizes(b)[1],
    };
    let y = a.new_empty(&shaped(a, n), a.dtype())?;
    products_into(&y, layout, first, second, epilogue)?;
    Ok(y)
}

/// [`products`] into a tensor that is there already.
pub fn products_into(
    y: &Tensor,
    layout: Layout,
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let [m, n] = sizes(y);
    for [a, b] in [Some(first), second].into_iter().flatten() {
        let k = sizes(a)[1];
        let right = match layout {
            Layout::Transposed => [n, k],
            Layout::Plain => [k, n],
        };
        expect(a, [m, k])?;
        expect(b, right)?;
    }
    epilogue.bias.map_or(Ok(()), |bias| expect(bias, [1, n]))?;
    epilogue.residual.map_or(Ok(()), |residual| expect(residual, [m, n]))?;
    let (k, k2) = (sizes(first[0])[1], second.map_or(0, |pair| sizes(pair[0])[1]));
    let mut memory: Vec<&dyn Operand> = vec![y, first[0], first[1]];
    memory.extend(second.into_iter().flatten().chain(epilogue.residual).map(|x| x as &dyn Operand));
    let fits = in_chunks(y.dtype(), &[n, k, k2], &memory);
    let steps = k.div_ceil(Tile::step(y.dtype())) + k2.div_ceil(Tile::step(y.dtype()));
    let operation = match layout {
        Layout::Transposed => Operation::MatmulNt,
        Layout::Plain => Operation::MatmulNn,
    };
    let case = || case(operation, y.dtype(), vec![m, n, k, k2], epilogue.bias, epilogue.residual);
    let (tile, slices) = y.gpu()?.choose(fits, case, || match fits {
        true => Tile::split(m, n, 1, steps, y.dtype()),
        false => (Tile::SMALL, 1),
    })?;
    if slices > 1 {
        return products_in_slices(y, layout, (tile, slices), first, second, epilogue);
    }
    if tile == Tile::HOPPER && hopper::products_into(y, layout, first, second, epilogue)? {
        return Ok(());
    }
    let tile = tile.without_maps();
    let kernel = tile.choose_of(match layout {
        Layout::Transposed => NT,
        Layout::Plain => NN,
    });
    let launch = tile.over(first[0].kernel(kernel)?, m, n, 1).output(y).input(first[0]).input(first[1]);
    let launch = launch.input_if(second.map(|pair| pair[0])).input_if(second.map(|pair| pair[1]));
    let launch = launch.input_if(epilogue.bias).input_if(epilogue.residual);
    launch.long(m).int(n).int(k).int(k2).float(epilogue.alpha as f32).launch()
}

/// [`products_into`] in slices of k side by side, which then are added up in their order.
pub fn products_in_slices(
    y: &Tensor,
    layout: Layout,
    (tile, slices): (Tile, usize),
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let [m, n] = sizes(y);
    let parts = y.new_empty(&[slices, m, n], DType::F32)?;
    let kernel = tile.choose_split(match layout {
        Layout::Transposed => [&kernels::MATMUL_NT_SPLIT_LARGE, &kernels::MATMUL_NT_SPLIT_SMALL],
        Layout::Plain => [&kernels::MATMUL_NN_SPLIT_LARGE, &kernels::MATMUL_NN_SPLIT_SMALL],
    });
    let launch = tile.over(first[0].kernel(kernel)?, m, n, slices).output(&parts).input(first[0]).input(first[1]);
    let launch = launch.input_if(second.map(|pair| pair[0])).input_if(second.map(|pair| pair[1]));
    let (k, k2) = (sizes(first[0])[1], second.map_or(0, |pair| sizes(pair[0])[1]));
    launch.long(m).int(n).int(k).int(k2).int(slices).launch()?;
    let Epilogue { alpha, bias, residual } = epilogue;
    sum_slices(y, &parts, n, Finish { alpha, bias, t: None, residual })
}

/// `a^T b` of `a` `[.., m]` and `b` `[.., n]` -> f32 `[m, n]`: the gradient of a weight. Slices of the rows are summed
/// side by side and then added up in their order.
pub fn matmul_transposed(a: &Tensor, b: &Tensor, _stored: DType) -> Result<Tensor> {
    let ([k, m], [_, n]) = (sizes(a), sizes(b));
    if k == 0 {
        return Err(Error::shape(OP, format!("no rows to add up: {a:?} and {b:?}")));
    }
    expect(b, [k, n])?;
    let case = || case(Operation::MatmulTn, a.dtype(), vec![m, n, k], None, None);
    let fits = in_chunks(a.dtype(), &[m, n], &[a, b]);
    let (tile, slices) = a.gpu()?.choose(fits, case, || Tile::sliced(&[[m, n]], k, a.dtype()))?;
    let k_slice = Tile::slice(k, slices, a.dtype());
    let slices = k.div_ceil(k_slice);
    let parts = a.new_empty(&[slices, m, n], DType::F32)?;
    let kernel = tile.choose([&kernels::MATMUL_TN_LARGE, &kernels::MATMUL_TN_SMALL, &kernels::MATMUL_TN_ANY]);
    let launch = tile.over(a.kernel(kernel)?, m, n, slices).output(&parts);
    launch.input(a).input(b).int(m).int(n).long(k).int(k_slice).launch()?;
    let sum = if slices == 1 { parts } else { sum_rows(&parts, [slices, m * n])? };
    Ok(sum.with_shape(&[m, n]))
}

pub fn case(
    operation: Operation,
    dtype: DType,
    sizes: Vec<usize>,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Case {
    let added = bias.map(|_| Added::Bias).into_iter().chain(residual.map(|_| Added::Residual)).collect();
    Case { operation, dtype, sizes, added, any: false }
}

/// Many ops come here, each with checks of its own: none may send a kernel beyond its operands.
pub fn expect(x: &Tensor, [rows, columns]: [usize; 2]) -> Result<()> {
    match x.len() == rows * columns {
        true => Ok(()),
        false => Err(Error::shape(OP, format!("{x:?} is no matrix [{rows}, {columns}]"))),
    }
}
