//! Launches of `elementwise.cu`.

use super::Buffer;
use super::table::kernels;
use crate::dtype::DType;
use crate::error::{Error, Result};

const THREADS: usize = kernels::ELEMENTWISE_THREADS;

/// `factor x`.
pub fn scale(x: &Buffer, factor: f32) -> Result<Buffer> {
    let y = like(x)?;
    let launch = x.gpu().kernel(&kernels::SCALE_FORWARD, x.dtype());
    let launch = launch.grid(packs_of(x)).block(THREADS);
    launch.output(&y).input(x).long(x.len()).float(factor).launch()?;
    Ok(y)
}

/// `x` in another type, rounded to nearest even: from f32 to a storage type, or from one to f32.
///
/// # Errors
/// [`Error::Shape`] for any other pair of types.
pub fn cast(x: &Buffer, dtype: DType) -> Result<Buffer> {
    let y = x.gpu().buffer(dtype, x.len())?;
    let (kernel, stored) = match (x.dtype(), dtype) {
        (DType::F32, _) => (&kernels::CAST_FROM_FLOAT, &y),
        (_, DType::F32) => (&kernels::CAST_TO_FLOAT, x),
        (from, to) => {
            let (from, to) = (from.name(), to.name());
            return Err(Error::shape("cast", format!("there is no kernel from {from} to {to}")));
        }
    };
    let launch = x.gpu().kernel(kernel, stored.dtype()).grid(packs_of(stored)).block(THREADS);
    launch.output(&y).input(x).long(x.len()).launch()?;
    Ok(y)
}

fn like(x: &Buffer) -> Result<Buffer> {
    x.gpu().buffer(x.dtype(), x.len())
}

/// Blocks whose threads have a pack of `x` each.
fn packs_of(x: &Buffer) -> [usize; 3] {
    [x.len().div_ceil(x.pack()).div_ceil(THREADS), 1, 1]
}
