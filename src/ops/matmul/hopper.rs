//! Launches of `matmul_hopper.cu`: products as [`gpu`](super::gpu) has them, on compute capability 9.0. An op takes them where
//! they have proved themselves on the GPU, and are the fastest. Selfcheck and tests take them anyway.

use super::gpu::{Epilogue, Layout, Pair, expect};
use super::{shaped, sizes};
use crate::device::gpu::table::kernels;
use crate::device::gpu::tensor_map::TensorMap;
use crate::device::gpu::{Operand, in_chunks};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Blocks, which take tiles in turn: one for each multiprocessor of an H100.
const BLOCKS: usize = 132;
/// Bytes of a row of a tile.
const ROW: u32 = 128;

/// [`products`](super::gpu::products) by tensor maps: the same sums in the same order. None where the kernels do not take
/// operands of this kind: f32, rows that are no multiple of 16 bytes, none or too many rows.
pub fn products(
    layout: Layout,
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<Option<Tensor>> {
    let n = sizes(first[1])[if layout == Layout::Transposed { 0 } else { 1 }];
    let y = first[0].new_empty(&shaped(first[0], n), first[0].dtype())?;
    Ok(products_into(&y, layout, first, second, epilogue)?.then_some(y))
}

/// [`products`] into a tensor that is there already; whether the kernels take the operands.
pub fn products_into(
    y: &Tensor,
    layout: Layout,
    first: Pair<'_>,
    second: Option<Pair<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<bool> {
    let ([m, k], k2) = (sizes(first[0]), second.map_or(0, |pair| sizes(pair[0])[1]));
    let (n, kernel) = match layout {
        Layout::Transposed => (sizes(first[1])[0], &kernels::MATMUL_NT_HOPPER),
        Layout::Plain => (sizes(first[1])[1], &kernels::MATMUL_NN_HOPPER),
    };
    let right = |k| if layout == Layout::Transposed { [n, k] } else { [k, n] };
    for ([a, b], k) in [(first, k)].into_iter().chain(second.map(|pair| (pair, k2))) {
        expect(a, [m, k])?;
        expect(b, right(k))?;
    }
    epilogue.bias.map_or(Ok(()), |bias| expect(bias, [1, n]))?;
    epilogue.residual.map_or(Ok(()), |residual| expect(residual, [m, n]))?;
    let mut memory: Vec<&dyn Operand> = vec![y, first[0], first[1]];
    memory.extend(second.into_iter().flatten().chain(epilogue.residual).map(|x| x as &dyn Operand));
    let whole = in_chunks(y.dtype(), &[n, k, k2], &memory);
    if y.dtype() == DType::F32 || !whole || m == 0 || n == 0 || k == 0 || m > i32::MAX as usize {
        return Ok(false);
    }
    let tiles = m.div_ceil(kernels::PIPE_ROWS) * n.div_ceil(kernels::PIPE_COLUMNS);
    let maps = |k: usize| {
        let [step, rows, columns, part] =
            [kernels::PIPE_STEP, kernels::PIPE_ROWS, kernels::PIPE_COLUMNS, kernels::PIPE_BOX_COLUMNS]
                .map(|n| n as u32);
        let b = match layout {
            Layout::Transposed => TensorMap::matrix(right(k), [columns, step], ROW),
            Layout::Plain => TensorMap::matrix(right(k), [step, part], ROW / 2),
        };
        [TensorMap::matrix([m, k], [rows, step], ROW), b]
    };
    // Of a pair that is missing, the maps are never used.
    let ([a2, b2], of_second) = second.filter(|_| k2 > 0).map_or((first, maps(k)), |pair| (pair, maps(k2)));
    let ([a, b], of_first) = (first, maps(k));
    let launch = a.kernel(kernel)?.grid([tiles.min(BLOCKS), 1, 1]).block(kernels::PIPE_THREADS);
    let launch = launch.dynamic_shared(kernels::PIPE_SHARED).output(y);
    let launch = launch.input_map(a, of_first[0]).input_map(b, of_first[1]);
    let launch = launch.input_map(a2, of_second[0]).input_map(b2, of_second[1]);
    let launch = launch.input_if(epilogue.bias).input_if(epilogue.residual);
    launch.int(m).int(n).int(k).int(k2).float(epilogue.alpha as f32).launch()?;
    Ok(true)
}
