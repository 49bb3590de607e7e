//! Adapters of LyCORIS that are another function of small tensors than a product of two: LoHa, LoKr and full differences. Each is
//! brought into two factors exactly, of as low a rank as it has.
//!
//! Source: LyCORIS 4.1 (`functional/loha.py`, `lokr.py`); Hyeon-Woo et al. 2022, arXiv:2108.06098; Yeh et al. 2024,
//! arXiv:2309.14859.

use std::collections::BTreeMap;

use super::expert::LoraFactors;
use super::file::{finite, scalar};
use super::keys::Role;
use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::tensor::{DType, Tensor};

/// A matrix, or a convolution's kernels as rows `[out, in * kh * kw]`, in row-major order.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

/// The tensors of one module.
struct Parts<'a> {
    file: &'a Safetensors,
    keys: &'a BTreeMap<Role, String>,
}

impl Parts<'_> {
    fn key(&self, name: &'static str) -> Option<&String> {
        self.keys.get(&Role::Lycoris(name))
    }

    fn tensor(&self, name: &'static str) -> Result<Option<Tensor>> {
        self.key(name).map(|key| finite(self.file, key)).transpose()
    }

    fn needed(&self, name: &'static str) -> Result<Tensor> {
        self.tensor(name)?.ok_or_else(|| {
            let beside = self.keys.values().next().expect("a module has a tensor");
            Error::file(self.file.path(), format!("{beside} has no {name} beside it"))
        })
    }

    fn wrong(&self, name: &'static str, tensor: &Tensor) -> Error {
        let key = self.key(name).map_or(name, String::as_str);
        Error::file(self.file.path(), format!("{key} has shape {:?}, which does not fit the others", tensor.shape()))
    }
}

/// The change that the tensors `keys` of a module are, where its weight has the shape `weight`, if that is known.
///
/// # Errors
/// [`Error::File`] naming a tensor that is missing, or whose shape does not fit.
pub(super) fn factors(
    file: &Safetensors,
    keys: &BTreeMap<Role, String>,
    weight: Option<&Vec<usize>>,
) -> Result<LoraFactors> {
    let parts = Parts { file, keys };
    let (up, down, kernel, rank) = if parts.key("diff").is_some() {
        let diff = parts.needed("diff")?;
        let (up, down) = whole(flat(&diff));
        (up, down, diff.shape().get(1..).map(<[usize]>::to_vec), None)
    } else if parts.keys.keys().any(|role| matches!(role, Role::Lycoris(name) if name.starts_with("hada"))) {
        loha(&parts)?
    } else {
        lokr(&parts)?
    };
    let first = keys.values().next().expect("a module has a tensor");
    let refuse = |message: String| Error::file(file.path(), format!("{first}: {message}"));
    let mut shape = vec![down.rows];
    match (weight, kernel) {
        (Some(weight), _) => {
            let inputs: usize = weight[1..].iter().product();
            if (weight[0], inputs) != (up.rows, down.columns) {
                let message = format!("its module changes a weight of {} x {}", up.rows, down.columns);
                return Err(refuse(format!("{message}, expected {weight:?}; is it for another model family?")));
            }
            shape.extend(&weight[1..]);
        }
        (None, Some(kernel)) if kernel.len() == 3 && kernel[1..] != [1, 1] => shape.extend(kernel),
        (None, _) => shape.push(down.columns),
    }
    // A kind whose parts are all whole has no rank, and alpha says nothing.
    let scale = match (keys.get(&Role::Alpha), rank) {
        (Some(key), Some(rank)) => scalar(file, key)? / rank as f64,
        _ => 1.0,
    };
    let tensor = |matrix: Matrix, shape: &[usize]| Tensor::from_reals(matrix.values, shape, DType::F32);
    let (outputs, width) = (up.rows, up.columns);
    LoraFactors::new(tensor(down, &shape), tensor(up, &[outputs, width]), scale * width as f64)
        .map_err(|e| refuse(e.to_string()))
}

/// Two factors, the shape of a row of the weight where the tensors tell it, and the rank that alpha refers to.
type Found = (Matrix, Matrix, Option<Vec<usize>>, Option<usize>);

/// `(w1_a w1_b) * (w2_a w2_b)`, entry by entry: the column (i, j) of B is column i of `w1_a` times column j of `w2_a`, and likewise
/// the rows of A.
fn loha(parts: &Parts) -> Result<Found> {
    let [w1a, w1b, w2a, w2b] = [
        parts.needed("hada_w1_a")?,
        parts.needed("hada_w1_b")?,
        parts.needed("hada_w2_a")?,
        parts.needed("hada_w2_b")?,
    ];
    let rank = w1b.shape().first().copied();
    if let Some(t1) = parts.tensor("hada_t1")? {
        let halves = [(t1, &w1a, &w1b, "hada_t1"), (parts.needed("hada_t2")?, &w2a, &w2b, "hada_t2")];
        let [one, two] = halves.map(|(t, a, b, name)| tucker(&t, a, b).ok_or_else(|| parts.wrong(name, &t)));
        let ((mut one, kernel), (two, _)) = (one?, two?);
        if one.values.len() != two.values.len() {
            return Err(parts.wrong("hada_w2_a", &w2a));
        }
        one.values.iter_mut().zip(&two.values).for_each(|(a, b)| *a *= b);
        let (up, down) = whole(one);
        return Ok((up, down, Some(kernel), rank));
    }
    let (w1a, w1b, b, a) = (flat(&w1a), flat(&w1b), flat(&w2a), flat(&w2b));
    if w1a.columns != w1b.rows || b.columns != a.rows || w1a.rows != b.rows || w1b.columns != a.columns {
        return Err(parts.wrong("hada_w2_a", &parts.needed("hada_w2_a")?));
    }
    let (outputs, inputs, r1, r2) = (w1a.rows, w1b.columns, w1a.columns, b.columns);
    let up = Matrix::from_fn(outputs, r1 * r2, |o, k| w1a.at(o, k / r2) * b.at(o, k % r2));
    let down = Matrix::from_fn(r1 * r2, inputs, |k, i| w1b.at(k / r2, i) * a.at(k % r2, i));
    let (up, down) = if r1 * r2 < outputs.min(inputs) { (up, down) } else { whole(up.times(&down)) };
    Ok((up, down, None, rank))
}

/// The Kronecker product of `w1` `[a, b]` and `w2` `[c, d, ..]`: with `w2 = B A` it is `(w1 x B) (1 x A)`.
fn lokr(parts: &Parts) -> Result<Found> {
    let w1b = parts.tensor("lokr_w1_b")?;
    let w1 = match parts.tensor("lokr_w1")? {
        Some(w1) => flat(&w1),
        None => {
            let (a, b) = (parts.needed("lokr_w1_a")?, parts.needed("lokr_w1_b")?);
            flat(&a).checked_times(&flat(&b)).ok_or_else(|| parts.wrong("lokr_w1_b", &b))?
        }
    };
    let w2b = parts.tensor("lokr_w2_b")?;
    let rank = w2b.as_ref().or(w1b.as_ref()).and_then(|tensor| tensor.shape().first().copied());
    // B [c, r], A [r, d * kh * kw], and how many entries of A belong to one d where that is known.
    let (b, a, kernel) = if let Some(w2) = parts.tensor("lokr_w2")? {
        let (kernel, w2) = (w2.shape()[2.min(w2.shape().len())..].to_vec(), flat(&w2));
        let (b, a) = whole(w2);
        (b, a, Some(kernel))
    } else if let Some(t2) = parts.tensor("lokr_t2")? {
        let (wa, wb) = (parts.needed("lokr_w2_a")?, parts.needed("lokr_w2_b")?);
        let (w2, kernel) = tucker(&t2, &wa, &wb).ok_or_else(|| parts.wrong("lokr_t2", &t2))?;
        let (b, a) = whole(w2);
        (b, a, Some(kernel[1..].to_vec()))
    } else {
        let (wa, wb) = (flat(&parts.needed("lokr_w2_a")?), parts.needed("lokr_w2_b")?);
        let kernel = (wb.shape().len() > 2).then(|| wb.shape()[2..].to_vec());
        let wb_flat = flat(&wb);
        if wa.columns != wb_flat.rows {
            return Err(parts.wrong("lokr_w2_b", &wb));
        }
        (wa, wb_flat, kernel)
    };
    let (r, inner) = (b.columns, a.columns);
    // Rows of the weight are [b * d, kh * kw]: entries of one b lie together, with their pixels.
    let up =
        Matrix::from_fn(w1.rows * b.rows, w1.columns * r, |o, k| w1.at(o / b.rows, k / r) * b.at(o % b.rows, k % r));
    let down = Matrix::from_fn(w1.columns * r, w1.columns * inner, |k, i| match k / r == i / inner {
        true => a.at(k % r, i % inner),
        false => 0.0,
    });
    let kernel = kernel.filter(|kernel| kernel.len() == 2).map(|kernel| {
        let pixels: usize = kernel.iter().product();
        [vec![w1.columns * inner / pixels], kernel].concat()
    });
    let narrow = up.columns < up.rows.min(down.columns);
    let (up, down) = if narrow { (up, down) } else { whole(up.times(&down)) };
    Ok((up, down, kernel, rank))
}

/// Two factors of a matrix, of which one is the identity.
fn whole(matrix: Matrix) -> (Matrix, Matrix) {
    let identity = |n| Matrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)));
    match matrix.rows <= matrix.columns {
        true => (identity(matrix.rows), matrix),
        false => {
            let columns = matrix.columns;
            (matrix, identity(columns))
        }
    }
}

/// `sum_ij t[i, j, ..] a[i, p] b[j, r]` as `[p, r * kh * kw]`, and the shape `[r, kh, kw]` of a row.
fn tucker(t: &Tensor, a: &Tensor, b: &Tensor) -> Option<(Matrix, Vec<usize>)> {
    let (&[ti, tj, kh, kw], &[ai, outputs], &[bj, inputs]) = (t.shape(), a.shape(), b.shape()) else {
        return None;
    };
    if (ti, tj) != (ai, bj) {
        return None;
    }
    let (t, a, b) = (t.reals::<f64>(), a.reals::<f64>(), b.reals::<f64>());
    let pixels = kh * kw;
    let matrix = Matrix::from_fn(outputs, inputs * pixels, |p, at| {
        let (r, k) = (at / pixels, at % pixels);
        let one = |i: usize, j: usize| t[(i * tj + j) * pixels + k] * a[i * outputs + p] * b[j * inputs + r];
        (0..ti).map(|i| (0..tj).map(|j| one(i, j)).sum::<f64>()).sum()
    });
    Some((matrix, vec![inputs, kh, kw]))
}

fn flat(tensor: &Tensor) -> Matrix {
    let rows = tensor.shape().first().copied().unwrap_or(1);
    Matrix { rows, columns: tensor.len() / rows.max(1), values: tensor.reals::<f64>().into_owned() }
}

impl Matrix {
    fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|at| value(at / columns, at % columns)).collect();
        Self { rows, columns, values }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = vec![0.0; self.rows * other.columns];
        for (row, out) in product.chunks_exact_mut(other.columns).enumerate() {
            for k in 0..self.columns {
                let by = self.at(row, k);
                let line = &other.values[k * other.columns..(k + 1) * other.columns];
                out.iter_mut().zip(line).for_each(|(sum, x)| *sum += by * x);
            }
        }
        Self { rows: self.rows, columns: other.columns, values: product }
    }

    fn checked_times(&self, other: &Self) -> Option<Self> {
        (self.columns == other.rows).then(|| self.times(other))
    }
}
