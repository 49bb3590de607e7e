//! What NVIDIA's libraries do for the same work.

use crate::device::gpu::library::{Added, Call, Libraries, Product, Work};
use crate::device::gpu::{Buffer, Gpu};
use crate::error::Result;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};

/// Random numbers that operands repeat: making all of them anew takes longer than what is timed.
const PERIOD: usize = 1 << 16;

/// Work that is ready to be queued, on random operands of its own.
///
/// # Errors
/// Where the library is missing, or has nothing for it; where the device has no room.
pub fn ready<'a>(
    libraries: &'a dyn Libraries,
    gpu: &Gpu,
    work: &[Work],
    dtype: DType,
) -> Result<Vec<Box<dyn Call + 'a>>> {
    let operand = |i: usize, len: usize| -> Result<Buffer> {
        let normals = random::normals(0, Stream::Noise, i as u64, 0, PERIOD.min(len));
        let scale = if i == 1 { 0.02 } else { 1.0 };
        let values = normals.iter().map(|x| scale * x).cycle().take(len).collect();
        gpu.upload_bytes(Tensor::new(values, &[len]).cast(dtype).bytes(), dtype)
    };
    let prepare = |work: &Work| {
        let [a, b, c] = work.lens();
        let (a, b, c) = (operand(0, a)?, operand(1, b)?, operand(2, c)?);
        libraries.prepare(work, [&a, &b, &c])
    };
    work.iter().map(prepare).collect()
}

/// `[rows, k]` by a weight that is stored as `[out, k]`.
pub fn of_weight([rows, k, out]: [usize; 3], added: Added) -> Work {
    product([rows, k, out], false, true, added)
}

/// `[rows, k]` by `[k, out]`.
pub fn plain([rows, k, out]: [usize; 3]) -> Work {
    product([rows, k, out], false, false, Added::Nothing)
}

/// The gradient `[out, k]` of a weight from dy `[rows, out]` and x `[rows, k]`.
fn weight_gradient([rows, k, out]: [usize; 3]) -> Work {
    product([out, rows, k], true, false, Added::Nothing)
}

fn product([rows, depth, columns]: [usize; 3], left_transposed: bool, right_transposed: bool, added: Added) -> Work {
    Work::Product(Product { rows, columns, depth, left_transposed, right_transposed, added })
}

/// A LoRA layer of `c` to `c`, forward and backward: h = x A^T, y = x W^T, y += h B^T; dh = dy B, dx = dy W, dx += dh A, dA = dh^T x, dB = dy^T h.
pub fn factored(rows: usize, c: usize, rank: usize) -> [Vec<Work>; 2] {
    let forward = vec![
        of_weight([rows, c, rank], Added::Nothing),
        of_weight([rows, c, c], Added::Nothing),
        of_weight([rows, rank, c], Added::Y),
    ];
    let backward = vec![
        plain([rows, c, rank]),
        plain([rows, c, c]),
        product([rows, rank, c], false, false, Added::Y),
        weight_gradient([rows, c, rank]),
        weight_gradient([rows, rank, c]),
    ];
    [forward, backward]
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::bench::ops::ops;
    use crate::device::gpu::{Checks, Order};
    use crate::error::Error;

    /// Knows products only, and remembers what it was given.
    #[derive(Default)]
    struct Products {
        queued: RefCell<Vec<Vec<f32>>>,
    }

    struct Remembered<'a>(&'a Products, [Buffer; 3]);

    impl Libraries for Products {
        fn prepare<'a>(&'a self, work: &Work, operands: [&Buffer; 3]) -> Result<Box<dyn Call + 'a>> {
            assert_eq!(operands.map(Buffer::len), work.lens());
            match work {
                Work::Product(_) => Ok(Box::new(Remembered(self, operands.map(Buffer::clone)))),
                Work::Convolution(..) => Err(Error::Failed("no convolutions here".into())),
            }
        }
    }

    impl Call for Remembered<'_> {
        fn queue(&self) -> Result<()> {
            let right = &self.1[1];
            let values = Tensor::on_gpu(right.clone(), &[right.len()]).to_cpu()?;
            self.0.queued.borrow_mut().push(values.reals::<f32>().into_owned());
            Ok(())
        }
    }

    #[test]
    fn work_is_made_ready_on_operands_of_its_sizes() {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).unwrap();
        let library = Products::default();
        let mut convolutions = 0;
        for op in ops(1, 4) {
            match ready(&library, &gpu, &op.library(true), DType::Bf16) {
                Ok(calls) => calls.iter().for_each(|call| call.queue().unwrap()),
                Err(e) => {
                    assert!(op.name.starts_with("conv2d") && e.to_string().contains("no convolutions here"));
                    convolutions += 1;
                }
            }
        }
        let queued = library.queued.into_inner();
        assert_eq!((queued.len(), convolutions), (3 * (8 + 2 + 2), 6));
        // Not zeros, which a GPU multiplies with less power; small, as weights are.
        assert!(queued.iter().flatten().any(|&x| x != 0.0) && queued.iter().flatten().all(|&x| x.abs() < 0.2));
    }
}
