//! An operation made from a case alone: the places of its operands, and the call.

use crate::device::gpu::choice::{Added, Case, Operation};
use crate::error::{Error, Result};
use crate::ops::Epilogue as ConvEpilogue;
use crate::ops::several::{
    Epilogue, Layout, forward, matmul_transposed, products, products_geglu, products_group, transposed, weight_gradient,
};
use crate::tensor::{DType, Tensor};

/// An operand.
pub struct Place {
    pub shape: Vec<usize>,
    pub dtype: DType,
    pub part: Part,
}

/// What an operand is of the sums.
#[derive(Clone, Copy)]
pub enum Part {
    /// One factor of every product: lines that are multiplied with lines of the other.
    Lines { lines: Lines, second: bool },
    /// The other factor.
    Other,
    /// Not in a product.
    Added,
}

/// How lines lie in memory.
#[derive(Clone, Copy)]
pub enum Lines {
    /// Each in one piece, of so many values.
    Rows(usize),
    /// So many side by side.
    Columns(usize),
}

impl Place {
    fn new(shape: &[usize], dtype: DType, part: Part) -> Self {
        Self { shape: shape.to_vec(), dtype, part }
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Those of `case`, in the order in which [`run`] takes them.
pub fn places(case: &Case) -> Vec<Place> {
    let (dtype, sizes) = (case.dtype, case.sizes.as_slice());
    let of = |shape: &[usize], part| Place::new(shape, dtype, part);
    let lines = |lines, second| Part::Lines { lines, second };
    let bias = |len: usize| case.added.contains(&Added::Bias).then(|| Place::new(&[len], DType::F32, Part::Added));
    let residual = |shape: &[usize]| case.added.contains(&Added::Residual).then(|| of(shape, Part::Added));
    let mut places = Vec::new();
    if let Some(conv) = case.convolution() {
        let ([x, y], weight) = ([conv.x(), conv.y()], conv.weight());
        match case.operation {
            Operation::ConvForward => {
                let depth = weight[1..].iter().product();
                places.extend([of(&x, Part::Other), of(&weight, lines(Lines::Rows(depth), false))]);
                places.extend(bias(conv.c_out));
                let t = case.added.contains(&Added::ChannelBias);
                places.extend(t.then(|| of(&[conv.n, conv.c_out], Part::Added)));
                places.extend(residual(&y));
            }
            Operation::ConvDgrad => {
                places.extend([of(&y, Part::Other), of(&weight, lines(Lines::Columns(conv.c_in), false))]);
                places.extend(bias(conv.c_in));
            }
            _ => places.extend([of(&y, lines(Lines::Columns(conv.c_out), false)), of(&x, Part::Other)]),
        }
        return places;
    }
    match (case.operation, sizes) {
        (Operation::MatmulGroup, &[groups, m, n, k, k2]) => {
            places.push(of(&[m, k], lines(Lines::Rows(k), false)));
            places.extend((0..groups).map(|_| of(&[n, k], Part::Other)));
            if k2 > 0 {
                places.push(of(&[groups, m, k2], lines(Lines::Rows(k2), true)));
                places.extend((0..groups).map(|_| of(&[n, k2], Part::Other)));
            }
        }
        (Operation::MatmulTn, &[m, n, k]) => {
            places.extend([of(&[k, m], lines(Lines::Columns(m), false)), of(&[k, n], Part::Other)]);
        }
        (Operation::MatmulGeglu, &[m, width, k]) => {
            places.extend([of(&[m, k], lines(Lines::Rows(k), false)), of(&[width, k], Part::Other)]);
            places.extend(bias(width));
        }
        (operation, &[m, n, k, k2]) => {
            for (k, second) in [(k, false), (k2, true)].into_iter().filter(|&(k, second)| k > 0 || !second) {
                let right = if operation == Operation::MatmulNt { [n, k] } else { [k, n] };
                places.extend([of(&[m, k], lines(Lines::Rows(k), second)), of(&right, Part::Other)]);
            }
            places.extend(bias(n));
            places.extend(residual(&[m, n]));
        }
        _ => {}
    }
    places
}

/// The result of `case` on a GPU, by whatever is chosen there.
///
/// # Errors
/// What the device says; [`Error::Failed`] for a case of no launch.
pub fn run(case: &Case, operands: &[Tensor]) -> Result<Tensor> {
    let mut operands = operands.iter();
    let mut next = || operands.next().ok_or_else(|| Error::Failed(format!("{case}: an operand is missing")));
    let has = |added| case.added.contains(&added);
    if let Some(conv) = case.convolution() {
        let [first, second] = [next()?, next()?];
        let bias = has(Added::Bias).then(&mut next).transpose()?;
        return match case.operation {
            Operation::ConvForward => {
                let channel_bias = has(Added::ChannelBias).then(&mut next).transpose()?;
                let residual = has(Added::Residual).then(&mut next).transpose()?;
                forward(&conv, first, second, bias, ConvEpilogue { channel_bias, residual })
            }
            Operation::ConvDgrad => transposed(&conv, first, second, bias),
            _ => weight_gradient(&conv, first, second, case.dtype),
        };
    }
    let a = next()?;
    match (case.operation, case.sizes.as_slice()) {
        (Operation::MatmulGroup, &[groups, .., k2]) => {
            let b: Vec<&Tensor> = (0..groups).map(|_| next()).collect::<Result<_>>()?;
            if k2 == 0 {
                return products_group((a, &b), None, 1.0);
            }
            let a2 = next()?;
            let b2: Vec<&Tensor> = (0..groups).map(|_| next()).collect::<Result<_>>()?;
            products_group((a, &b), Some((a2, &b2)), 1.0)
        }
        (Operation::MatmulTn, _) => matmul_transposed(a, next()?, case.dtype),
        (Operation::MatmulGeglu, _) => {
            let weight = next()?;
            products_geglu(a, weight, has(Added::Bias).then(&mut next).transpose()?)
        }
        (operation, sizes) => {
            let b = next()?;
            let second = if sizes.last() == Some(&0) { None } else { Some([next()?, next()?]) };
            let bias = has(Added::Bias).then(&mut next).transpose()?;
            let residual = has(Added::Residual).then(&mut next).transpose()?;
            let layout = if operation == Operation::MatmulNt { Layout::Transposed } else { Layout::Plain };
            products(layout, [a, b], second, Epilogue { bias, residual, ..Epilogue::default() })
        }
    }
}
