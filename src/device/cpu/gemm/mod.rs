//! Matrix products on the CPU, blocked for caches and registers after Goto and van de Geijn 2008 ("Anatomy of
//! high-performance matrix multiplication").
//!
//! The operand with fewer lines is packed once for all threads; tasks share out the lines of the other one, and pack
//! theirs a block of the depth at a time. What lies close together is read where it is instead. An element of the output
//! is summed in blocks of `DEPTH`, in order, or, in a small output, in pieces of a few blocks that are then added in
//! order: the bytes depend neither on the number of threads nor on how the lines are shared out.

mod blocking;
mod kernel;
mod operand;
mod pack;
mod panels;
mod target;

use blocking::run;
pub use kernel::{Gemm, Kernel, Tile, VECTORS};
pub use operand::{Matrix, Operand};
pub use pack::{LINES, PackTransposed};
pub use panels::{Aligned, Layout, Packer};

/// What happens to the old content of the output.
#[derive(Clone, Copy)]
pub enum Output<'a, T> {
    /// It is overwritten.
    Set,
    /// It is overwritten by the product plus a row vector.
    Bias(&'a [T]),
    /// The product is added to it.
    Add,
}

/// `c = a b`, with `c` contiguous `[a.lines, b.lines]`.
///
/// # Panics
/// If the sizes do not fit.
pub fn product<T: Gemm>(a: &dyn Operand<T>, b: &dyn Operand<T>, output: Output<'_, T>, c: &mut [T]) {
    run(T::kernel(), &[(a, b)], output, c, false);
}

/// `c = (a b)^T`, with `c` contiguous `[b.lines, a.lines]`. Worth it where the lines of `b` would fill no vector.
///
/// # Panics
/// If the sizes do not fit.
pub fn product_transposed<T: Gemm>(a: &dyn Operand<T>, b: &dyn Operand<T>, output: Output<'_, T>, c: &mut [T]) {
    run(T::kernel(), &[(a, b)], output, c, true);
}

/// The sum of several products, as one whose depth is theirs one after the other.
///
/// # Panics
/// If the sizes do not fit.
pub fn sum_of_products<T: Gemm>(pairs: &[Pair<'_, T>], output: Output<'_, T>, c: &mut [T]) {
    run(T::kernel(), pairs, output, c, false);
}

/// What is multiplied: rows and columns.
pub type Pair<'a, T> = (&'a dyn Operand<T>, &'a dyn Operand<T>);

#[cfg(test)]
mod tests;
