//! Launches of `matmul_group.cu`: several products at once.

use super::gpu::{Epilogue, Layout, Pair, case, expect, matmul_transposed, products};
use super::{OP, shaped, sizes};
use crate::device::gpu::choice::Operation;
use crate::device::gpu::table::{Kernel, kernels};
use crate::device::gpu::{Operand, Tile, in_chunks};
use crate::error::{Error, Result};
use crate::ops::sums::sum_rows;
use crate::tensor::{DType, Tensor};

const GROUP: [&Kernel; 4] = [
    &kernels::MATMUL_GROUP_TALL,
    &kernels::MATMUL_GROUP_LARGE,
    &kernels::MATMUL_GROUP_SMALL,
    &kernels::MATMUL_GROUP_ANY,
];
/// None takes operands of any kind.
const NN_GROUP: [&Kernel; 3] =
    [&kernels::MATMUL_NN_GROUP_TALL, &kernels::MATMUL_NN_GROUP_LARGE, &kernels::MATMUL_NN_GROUP_SMALL];
const NN_SUM: [&Kernel; 3] =
    [&kernels::MATMUL_NN_SUM_TALL, &kernels::MATMUL_NN_SUM_LARGE, &kernels::MATMUL_NN_SUM_SMALL];
const TN_GROUP: [&Kernel; 2] = [&kernels::MATMUL_TN_GROUP_LARGE, &kernels::MATMUL_TN_GROUP_SMALL];

/// The most products of one launch of [`products_group`].
pub const MOST: usize = 8;

/// The products `a b^T` of one `a` `[.., k]` with one to [`MOST`] `b` `[n, k]`, each times `alpha`, `[groups, m, n]`: one
/// launch, and the bytes of [`products`] where those are in one slice. `second` continues their sums, with an `a` of its own for each product,
/// `[groups, m, k]`.
pub fn products_group(
    (a, b): (&Tensor, &[&Tensor]),
    second: Option<(&Tensor, &[&Tensor])>,
    alpha: f64,
) -> Result<Tensor> {
    let groups = b.len();
    if !(1..=MOST).contains(&groups) || second.is_some_and(|(_, b)| b.len() != groups) {
        return Err(Error::shape(OP, format!("{groups} products in a group")));
    }
    let ([m, k], n) = (sizes(a), sizes(b[0])[0]);
    b.iter().try_for_each(|b| expect(b, [n, k]))?;
    let mut k2 = 0;
    if let Some((a, b)) = second {
        k2 = sizes(a)[1];
        expect(a, [groups * m, k2])?;
        b.iter().try_for_each(|b| expect(b, [n, k2]))?;
    }
    let y = a.new_empty(&[groups, m, n], a.dtype())?;
    let mut memory: Vec<&dyn Operand> = vec![&y, a];
    memory.extend(b.iter().map(|&b| b as &dyn Operand));
    if let Some((a, b)) = second {
        memory.push(a);
        memory.extend(b.iter().map(|&b| b as &dyn Operand));
    }
    let steps = k.div_ceil(Tile::step(y.dtype())) + k2.div_ceil(Tile::step(y.dtype()));
    let case = || case(Operation::MatmulGroup, y.dtype(), vec![groups, m, n, k, k2], None, None);
    let model = || (Tile::whole(&Tile::ALL, [m, n], groups, steps, y.dtype()), 1);
    let (tile, _) = a.gpu()?.choose(in_chunks(y.dtype(), &[n, k, k2], &memory), case, model)?;
    let mut launch = tile.over(a.kernel(tile.choose_of(GROUP))?, m, n, groups).output(&y).input(a);
    for i in 0..MOST {
        launch = launch.input_if(b.get(i).copied());
    }
    launch = launch.input_if(second.map(|(a, _)| a));
    for i in 0..MOST {
        launch = launch.input_if(second.and_then(|(_, b)| b.get(i).copied()));
    }
    launch.long(m).int(n).int(k).int(k2).float(alpha as f32).launch()?;
    Ok(y)
}

/// The most products of one launch of [`products_of_each`].
pub const MOST_OF_EACH: usize = 4;

/// `alpha a b` of each pair, `a` `[.., k]` and `b` `[k, n]`, all of the same sizes: one launch for up to [`MOST_OF_EACH`].
pub fn products_of_each(pairs: &[Pair<'_>], alpha: f64) -> Result<Vec<Tensor>> {
    let [a, b] = pairs[0];
    let ([m, k], n) = (sizes(a), sizes(b)[1]);
    for [a, b] in pairs {
        expect(a, [m, k])?;
        expect(b, [k, n])?;
    }
    let dtype = a.dtype();
    let memory: Vec<&dyn Operand> = pairs.iter().flatten().map(|&x| x as &dyn Operand).collect();
    if pairs.len() == 1 || pairs.len() > MOST_OF_EACH || !in_chunks(dtype, &[n, k], &memory) {
        let epilogue = Epilogue { alpha, ..Epilogue::default() };
        return pairs.iter().map(|&pair| products(Layout::Plain, pair, None, epilogue)).collect();
    }
    let y = a.new_empty(&[pairs.len(), m, n], dtype)?;
    let tile = Tile::whole(&Tile::ALL, [m, n], pairs.len(), k.div_ceil(Tile::step(dtype)), dtype);
    let [tall, large, small] = NN_GROUP;
    let mut launch = tile.over(a.kernel(tile.choose_of([tall, large, small, small]))?, m, n, pairs.len()).output(&y);
    for side in 0..2 {
        for i in 0..MOST_OF_EACH {
            launch = launch.input_if(pairs.get(i).map(|pair| pair[side]));
        }
    }
    launch.long(m).int(n).int(k).float(alpha as f32).launch()?;
    let shape = shaped(a, n);
    Ok((0..pairs.len()).map(|i| y.view(i * m * n, &shape)).collect())
}

/// The most products, and second ones, of one launch of [`products_in_sum`].
const MOST_IN_SUM: usize = 3;

/// The sum of `a b` of up to [`MOST_IN_SUM`] pairs of the same sizes, of as many second ones, and of `residual`: `a` `[.., k]`, `b`
/// `[k, n]` -> `[.., n]`.
pub fn products_in_sum(first: &[Pair<'_>], second: &[Pair<'_>], residual: Option<&Tensor>) -> Result<Tensor> {
    let [a, b] = first[0];
    let ([m, k], n, k2) = (sizes(a), sizes(b)[1], sizes(second[0][0])[1]);
    for (pairs, k) in [(first, k), (second, k2)] {
        for [a, b] in pairs {
            expect(a, [m, k])?;
            expect(b, [k, n])?;
        }
    }
    residual.map_or(Ok(()), |residual| expect(residual, [m, n]))?;
    let y = a.new_empty(&shaped(a, n), a.dtype())?;
    let all: Vec<&Tensor> = first.iter().chain(second).flatten().copied().chain(residual).chain([&y]).collect();
    let memory: Vec<&dyn Operand> = all.iter().map(|&x| x as &dyn Operand).collect();
    if first.len() > MOST_IN_SUM || first.len() != second.len() || !in_chunks(a.dtype(), &[n, k, k2], &memory) {
        let mut sum = residual.cloned();
        for (first, second) in first.iter().zip(second) {
            let epilogue = Epilogue { residual: sum.as_ref(), ..Epilogue::default() };
            sum = Some(products(Layout::Plain, *first, Some(*second), epilogue)?);
        }
        return sum.ok_or_else(|| Error::shape(OP, "a sum of no products"));
    }
    let steps = k.div_ceil(Tile::step(a.dtype())) + k2.div_ceil(Tile::step(a.dtype()));
    let tile = Tile::whole(&Tile::ALL, [m, n], 1, first.len() * steps, a.dtype());
    let [tall, large, small] = NN_SUM;
    let mut launch = tile.over(a.kernel(tile.choose_of([tall, large, small, small]))?, m, n, 1).output(&y);
    for (pairs, side) in [(first, 0), (first, 1), (second, 0), (second, 1)] {
        for i in 0..MOST_IN_SUM {
            launch = launch.input_if(pairs.get(i).map(|pair| pair[side]));
        }
    }
    launch.input_if(residual).int(first.len()).long(m).int(n).int(k).int(k2).launch()?;
    Ok(y)
}

/// The most products of one launch of [`transposed_of_each`].
pub const MOST_TRANSPOSED: usize = 8;

/// [`matmul_transposed`] of each pair, f32, one launch and one of sums for up to [`MOST_TRANSPOSED`]: all have as many rows, and
/// those of each of the two kinds the same sizes.
pub fn transposed_of_each(kinds: [&[Pair<'_>]; 2]) -> Result<Vec<Tensor>> {
    let pairs: Vec<Pair<'_>> = kinds.concat();
    let dtype = pairs[0][0].dtype();
    let k = sizes(pairs[0][0])[0];
    let all_sizes = pairs.iter().map(|[a, b]| [sizes(a)[1], sizes(b)[1]]).collect::<Vec<_>>();
    for ([a, b], [m, n]) in pairs.iter().zip(&all_sizes) {
        expect(a, [k, *m])?;
        expect(b, [k, *n])?;
    }
    let [first, second] = kinds.map(|pairs| pairs.first().map_or([0, 0], |[a, b]| [sizes(a)[1], sizes(b)[1]]));
    let (of_first, of_second) = all_sizes.split_at(kinds[0].len());
    let alike = of_first.iter().all(|size| *size == first) && of_second.iter().all(|size| *size == second);
    let memory: Vec<&dyn Operand> = pairs.iter().flatten().map(|&x| x as &dyn Operand).collect();
    let fits = in_chunks(dtype, &[first, second].concat(), &memory);
    if pairs.len() == 1 || pairs.len() > MOST_TRANSPOSED || !alike || !fits || k == 0 {
        return pairs.iter().map(|[a, b]| matmul_transposed(a, b, dtype)).collect();
    }
    let (tile, slices) = Tile::sliced(&all_sizes, k, dtype);
    let k_slice = Tile::slice(k, slices, dtype);
    let whole = all_sizes.iter().map(|[m, n]| m * n).sum();
    let parts = pairs[0][0].new_empty(&[slices, whole], DType::F32)?;
    let [large, small] = TN_GROUP;
    let kernel = pairs[0][0].kernel(tile.choose([large, small, small]))?;
    let mut launch = tile.over_all(kernel, &all_sizes, slices).output(&parts);
    for side in 0..2 {
        for i in 0..MOST_TRANSPOSED {
            launch = launch.input_if(pairs.get(i).map(|pair| pair[side]));
        }
    }
    launch = launch.int(kinds[0].len());
    for [m, n] in [first, second] {
        launch = launch.int(m).int(n);
    }
    launch.long(k).int(k_slice).launch()?;
    let sum = if slices == 1 { parts } else { sum_rows(&parts, [slices, whole])? };
    let mut at = 0;
    let one = |[m, n]: &[usize; 2]| {
        let y = sum.view(at, &[*m, *n]);
        at += m * n;
        y
    };
    Ok(all_sizes.iter().map(one).collect())
}
