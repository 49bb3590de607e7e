//! What of `elementwise.cu` has no file in `tests/ops` yet.

use selma::device::gpu::elementwise;
use selma::ops;

use crate::support::{close, everywhere, tensor, upload};

const LENGTHS: [usize; 6] = [1, 7, 8, 255, 2048, 4099];

#[test]
fn limits() {
    everywhere(|gpu, dtype| {
        for n in LENGTHS {
            let x = tensor(1, &[n], dtype);
            let limited = elementwise::clamp(&upload(gpu, &x), -0.5, 1.25).unwrap();
            close("clamp", &limited, &ops::clamp(&x, -0.5, 1.25).unwrap(), 0);
        }
    });
}
