//! Work that NVIDIA's libraries do as well, so that `bench` can time cuBLASLt and cuDNN beside the kernels here. Nothing
//! else uses them.

use super::{Buffer, Gpu};
use crate::device::conv_shape::ConvShape;
use crate::error::Result;

/// What a library is asked to do, on operands of one dtype with sums in f32 (never TF32).
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// `y = left right`, by cuBLASLt. Operands: left, right, y.
    Product(Product),
    /// By cuDNN. Operands: x, weight, y, or their gradients.
    Convolution(ConvShape, Pass),
}

/// A product of row-major matrices.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Of y, and of left unless it is transposed.
    pub rows: usize,
    /// Of y, and of right unless it is transposed.
    pub columns: usize,
    pub depth: usize,
    /// Whether left is stored as `[depth, rows]`.
    pub left_transposed: bool,
    /// Whether right is stored as `[columns, depth]`, as the weight of a linear layer is.
    pub right_transposed: bool,
    pub added: Added,
}

/// What is added to a product on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    Nothing,
    /// `[columns]`.
    Bias,
    /// What y holds already.
    Y,
}

/// Which of a convolution's three products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Dgrad,
    Wgrad,
}

impl Work {
    /// The library that does it.
    pub fn library(&self) -> &'static str {
        match self {
            Self::Product(_) => "cuBLASLt",
            Self::Convolution(..) => "cuDNN",
        }
    }

    /// Elements of its operands.
    pub fn lens(&self) -> [usize; 3] {
        match self {
            Self::Product(p) => [p.rows * p.depth, p.depth * p.columns, p.rows * p.columns],
            Self::Convolution(conv, _) => [conv.x(), conv.weight(), conv.y()].map(|shape| shape.iter().product()),
        }
    }
}

/// NVIDIA's libraries on one device, each loaded when first asked for.
pub trait Libraries {
    /// Makes `work` ready to be queued on these operands, which have [`Work::lens`] elements.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] where the library is missing, or has nothing for this work.
    fn prepare<'a>(&'a self, work: &Work, operands: [&Buffer; 3]) -> Result<Box<dyn Call + 'a>>;
}

/// Work that is ready.
pub trait Call {
    /// Queues it once, in order with everything else.
    ///
    /// # Errors
    /// What the library says.
    fn queue(&self) -> Result<()>;
}

impl Gpu {
    /// NVIDIA's libraries; none on the simulator.
    pub fn libraries(&self) -> Option<Box<dyn Libraries>> {
        self.0.backend.libraries()
    }
}

/// A product `d = op(a) op(b)` of column-major matrices, as BLAS takes it: `d` is `[m, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMajor {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Stored,
    pub b: Stored,
    pub d: Stored,
}

/// A column-major matrix: element (i, j) is at `i + j * ld`, and columns are packed: `ld` is the number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub rows: usize,
    pub columns: usize,
    /// Whether the product takes its transpose.
    pub transposed: bool,
}

impl Product {
    /// The same bytes as BLAS sees them.
    ///
    /// A row-major `[r, c]` matrix is a column-major `[c, r]` one with `ld = c`: its transpose. So BLAS finds y^T where y is,
    /// and `y = L R` is `y^T = R^T L^T`: right comes first, `m` is columns and `n` is rows. Right stored as `[depth, columns]`
    /// is R^T there already; stored as `[columns, depth]` it is `[depth, columns]` there, R itself, and has to be
    /// transposed. Left stored as `[rows, depth]` is L^T; stored as `[depth, rows]` it is L, and has to be transposed. A
    /// bias goes along the m values of a column of y^T, which is what cuBLASLt's epilogue adds.
    pub fn column_major(&self) -> ColumnMajor {
        let Self { rows, columns, depth, .. } = *self;
        let stored = |[r, c]: [usize; 2], transposed| Stored { rows: c, columns: r, transposed };
        let right = if self.right_transposed { [columns, depth] } else { [depth, columns] };
        let left = if self.left_transposed { [depth, rows] } else { [rows, depth] };
        ColumnMajor {
            m: columns,
            n: rows,
            k: depth,
            a: stored(right, self.right_transposed),
            b: stored(left, self.left_transposed),
            d: stored([rows, columns], false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `op(matrix)` at (i, j), column-major.
    fn at(matrix: &[f64], stored: Stored, i: usize, j: usize) -> f64 {
        let (i, j) = if stored.transposed { (j, i) } else { (i, j) };
        assert!(i < stored.rows && j < stored.columns, "{stored:?} has no ({i}, {j})");
        matrix[i + j * stored.rows]
    }

    /// As the reference BLAS has it.
    fn gemm(p: ColumnMajor, a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut d = vec![f64::NAN; p.m * p.n];
        for j in 0..p.n {
            for i in 0..p.m {
                d[i + j * p.d.rows] = (0..p.k).map(|l| at(a, p.a, i, l) * at(b, p.b, l, j)).sum();
            }
        }
        d
    }

    #[test]
    fn row_major_products_are_column_major_ones_of_the_same_bytes() {
        let (rows, columns, depth) = (3, 5, 7);
        let value = |seed: usize, i: usize, j: usize| ((seed + 31 * i + 17 * j) % 23) as f64 - 11.0;
        for (left_transposed, right_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
            let product = Product { rows, columns, depth, left_transposed, right_transposed, added: Added::Nothing };
            // What is stored at row i, column j, of a row-major matrix of so many columns.
            let store = |r: usize, c: usize, of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
                (0..r * c).map(|at| of(at / c, at % c)).collect()
            };
            let (left, right) = (|i, l| value(1, i, l), |l, j| value(2, l, j));
            let l = match left_transposed {
                false => store(rows, depth, &left),
                true => store(depth, rows, &|a, b| left(b, a)),
            };
            let r = match right_transposed {
                false => store(depth, columns, &right),
                true => store(columns, depth, &|a, b| right(b, a)),
            };
            let expected = store(rows, columns, &|i, j| (0..depth).map(|k| left(i, k) * right(k, j)).sum());
            assert_eq!(gemm(product.column_major(), &r, &l), expected, "{product:?}");
        }
    }

    /// What cuBLASLt is asked for the forward pass of a linear layer of 320 to 640 on 4096 rows, written out.
    #[test]
    fn a_linear_layer_is_the_tn_product() {
        let forward = Product {
            rows: 4096,
            columns: 640,
            depth: 320,
            left_transposed: false,
            right_transposed: true,
            added: Added::Bias,
        };
        let ColumnMajor { m, n, k, a, b, d } = forward.column_major();
        assert_eq!((m, n, k), (640, 4096, 320));
        assert_eq!((a.rows, a.columns, a.transposed), (320, 640, true));
        assert_eq!((b.rows, b.columns, b.transposed), (320, 4096, false));
        assert_eq!((d.rows, d.columns), (640, 4096));
        assert_eq!(Work::Product(forward).lens(), [4096 * 320, 320 * 640, 4096 * 640]);
    }
}
