//! The simulator's checks of barriers, tensor maps and products from shared memory, each against a kernel with that mistake
//! (`kernels/sim/planted_hopper.cu`): threads run forwards, with the oldest copy landing first, and backwards, with the newest.

use super::table::planted::{
    self as kernels, PLANTED_COLUMNS as COLUMNS, PLANTED_GROUPS, PLANTED_STAGE, PLANTED_STEP as STEP,
};
use super::tensor_map::{Boxes, TensorMap};
use super::{Buffer, Checks, Gpu, Order};
use crate::dtype::DType;
use crate::error::Result;

/// Of the products: rows of a group of four warps.
const ROWS: usize = 64;
const TILE: usize = ROWS * STEP * 2;

/// Whole numbers that bf16 holds, and so small that every sum of products is exact.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 2_654_435_761 + seed * 40_503) >> 7) % 5).map(|v| v as f32 - 2.0).collect()
}

fn upload(gpu: &Gpu, values: &[f32]) -> Buffer {
    let bytes: Vec<u8> = values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
    gpu.upload_bytes(&bytes, DType::Bf16).expect("memory")
}

/// What `launch` gives for y in both orders, of so many values.
fn both_orders(len: usize, dtype: DType, launch: impl Fn(&Gpu, &Buffer) -> Result<()>) -> [Result<Vec<f32>>; 2] {
    [Order::Forwards, Order::Backwards].map(|order| {
        let gpu = Gpu::simulator(Checks::On, order)?;
        let y = gpu.buffer(dtype, len)?;
        launch(&gpu, &y)?;
        y.download()
    })
}

/// That both orders fail with messages that contain these.
fn caught<T: std::fmt::Debug>(expected: [&str; 2], results: [Result<T>; 2]) {
    for (expected, result) in expected.into_iter().zip(results) {
        let message = result.expect_err(expected).to_string();
        assert!(message.contains(expected), "expected {expected:?}, got {message:?}");
    }
}

fn passes(expected: &[f32], results: [Result<Vec<f32>>; 2]) {
    for result in results {
        assert_eq!(result.expect("no mistake"), expected);
    }
}

/// `a` `[m, k]` times the transposed `b` `[n, k]`.
fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let dot = |row: &[f32], column: &[f32]| row.iter().zip(column).map(|(x, y)| x * y).sum();
    a.chunks(k).flat_map(|row| b.chunks(k).map(move |column| dot(row, column))).collect()
}

/// The pipeline of a producer and two groups that multiply, over six steps of a ring of two stages.
fn pipeline(bug: usize) -> [Result<Vec<f32>>; 2] {
    const K: usize = 6 * STEP;
    let (a, b) = (values(2 * ROWS * K, 1), values(COLUMNS * K, 2));
    both_orders(2 * ROWS * COLUMNS, DType::F32, |gpu, y| {
        let (a, b) = (upload(gpu, &a), upload(gpu, &b));
        let launch = gpu.kernel(&kernels::PLANTED_PIPELINE, DType::Bf16).block(PLANTED_GROUPS);
        let launch = launch.dynamic_shared(kernels::PLANTED_STAGES * PLANTED_STAGE + 1024).output(y);
        let launch = launch.input_map(&a, TensorMap::matrix([2 * ROWS, K], [128, 64], 128));
        launch.input_map(&b, TensorMap::matrix([COLUMNS, K], [32, 64], 128)).int(K).int(bug).launch()
    })
}

#[test]
fn mistakes_at_barriers_are_named() {
    const K: usize = 6 * STEP;
    passes(&product(&values(2 * ROWS * K, 1), &values(COLUMNS * K, 2), K), pipeline(0));
    caught(["a product reads uninitialised dynamic shared memory"; 2], pipeline(1));
    caught(["where a copy has not landed yet"; 2], pipeline(2));
    let lacks = "for parity 0 of `full[0]` in line 61: phase 0 lacks 0 of 1 arrivals and 16 bytes";
    caught([lacks; 2], pipeline(3));
    caught(["arrives at the barrier `full[0]` in line 41, though all 1 arrivals of phase 0 have come"; 2], pipeline(4));
    caught(["race: a copy to dynamic shared memory at offset 0, which a product of warp"; 2], pipeline(5));
    caught(["race: a copy to dynamic shared memory at offset 0, which a product of warp"; 2], pipeline(6));
    caught(["arrives at the barrier `full[0]` in line 41, though all 1 arrivals of phase 0 have come"; 2], pipeline(7));
    let unknown = ["with no barriers_ready between", "which is no barrier: nobody has called barrier_init"];
    caught(unknown, pipeline(8));
    caught(["the block ends with 1 copies under way, one for the barrier `full[0]`"; 2], pipeline(9));
    caught(["which expects only 4080 more in phase 0", "which expects only 16368 more in phase 0"], pipeline(19));
}

#[test]
fn mistakes_in_products_are_named() {
    caught(["permuted over 64 bytes, where a copy has permuted it over 128"; 2], pipeline(10));
    caught(
        ["load_box at offset 16896 of dynamic shared memory; a tile of 128-byte rows begins at a multiple of 1024"; 2],
        pipeline(11),
    );
    caught(["were changed with no products_begin before the product in line"; 2], pipeline(12));
    caught(["the warps of its group do different things: products_commit in line"; 2], pipeline(14));
    caught(["the warps of its group do different things: products_begin in line"; 2], pipeline(17));
    caught(["waits for 10240 registers at registers_more in line 55, and 9216 are free"; 2], pipeline(20));
    caught(["the descriptor of b has a stride of 512 bytes, where 8 rows take 1024"; 2], pipeline(21));
    caught(["in a tile that is at no multiple of 1024"; 2], pipeline(22));
    caught(["writes sums of a product that products_wait has not waited for"; 2], pipeline(23));
    caught(["reads sums of a product that products_wait has not waited for"; 2], pipeline(24));
    caught(["exits with products that have not been waited for"; 2], pipeline(25));
}

#[test]
fn what_threads_write_reaches_products_by_a_fence() {
    let (a, b) = (values(ROWS * STEP, 3), values(COLUMNS * STEP, 4));
    let written = |held: usize, bug: usize| {
        both_orders(ROWS * COLUMNS, DType::F32, |gpu, y| {
            let (a, b) = (upload(gpu, &a), upload(gpu, &b));
            let launch = gpu.kernel(&kernels::PLANTED_WRITTEN, DType::Bf16).block(128).dynamic_shared(12 << 10);
            launch.output(y).input(&a).input(&b).int(held).int(bug).launch()
        })
    };
    let expected = product(&a, &b, STEP);
    for held in [0, 1] {
        passes(&expected, written(held, 0));
        caught(["which thread 0 wrote with no shared_is_written after it"; 2], written(held, 1));
        caught(["which thread 0 wrote with no shared_is_written after it"; 2], written(held, 2));
        caught(["race: write of dynamic shared memory at offset 8192, which a product of warp"; 2], written(held, 4));
    }
    caught(["the registers of a of thread 0 were written before products_wait"; 2], written(1, 3));
}

/// Operands whose rows are values of k, of 128 and of 64 bytes.
#[test]
fn columns_are_multiplied() {
    let (a, b) = (values(64 * 64, 5), values(64 * 64, 6));
    let columns = |bug: usize| {
        both_orders(64 * 64, DType::F32, |gpu, y| {
            let (a, b) = (upload(gpu, &a), upload(gpu, &b));
            let launch = gpu.kernel(&kernels::PLANTED_TRANSPOSED, DType::Bf16).block(128).dynamic_shared(2 * TILE);
            let launch = launch.output(y).input_map(&a, TensorMap::matrix([64, 64], [64, 64], 128));
            launch.input_map(&b, TensorMap::matrix([64, 64], [64, 32], 64)).int(bug).launch()
        })
    };
    let transposed = |x: &[f32]| (0..64 * 64).map(|i| x[i % 64 * 64 + i / 64]).collect::<Vec<_>>();
    passes(&product(&transposed(&a), &transposed(&b), 64), columns(0));
    caught(["a product reads bytes outside of the block's shared memory, at offset 16384"; 2], columns(1));
}

/// Three images in one tile that ends behind the last one, with other corners along x than along y: a convolution of 3 x 3
/// with padding along x alone. Corners exchanged, and taps in the other order, give other values.
#[test]
fn patches_are_those_of_a_convolution() {
    const N: usize = 3;
    const H: usize = 5;
    const W: usize = 7;
    const C: usize = 64;
    let (x, weights) = (values(N * H * W * C, 7), values(9 * COLUMNS * C, 8));
    let patches = |[left, top]: [usize; 2], lower: [i32; 2], upper: [i32; 2], flipped: usize| {
        both_orders(ROWS * COLUMNS, DType::F32, |gpu, y| {
            let (x, weights) = (upload(gpu, &x), upload(gpu, &weights));
            let boxes = Boxes::Patches { channels: 64, pixels: 64, lower, upper };
            let launch = gpu.kernel(&kernels::PLANTED_PATCHES, DType::Bf16).block(128);
            let launch = launch.dynamic_shared(12 << 10).output(y);
            let launch = launch.input_map(&x, TensorMap::patches([N, H, W, C], 1, 128, boxes));
            let tap = [C as u64 * 2, (COLUMNS * C) as u64 * 2];
            let launch = launch.input_map(&weights, TensorMap::tiled(&[C, COLUMNS, 9], &tap, &[64, 32, 1], 128));
            launch.int(left).int(top).int(flipped).launch()
        })
    };
    let expected = |flipped: bool| {
        let mut y = vec![0.0; ROWS * COLUMNS];
        let pixels = (0..N).flat_map(|n| (0..H - 2).flat_map(move |oy| (0..W).map(move |ox| (n, oy, ox))));
        for ((n, oy, ox), y) in pixels.zip(y.chunks_mut(COLUMNS)) {
            for tap in 0..9 {
                let (ix, iy) = ((ox + tap % 3).wrapping_sub(1), oy + tap / 3);
                if ix < W {
                    let pixel = &x[((n * H + iy) * W + ix) * C..][..C];
                    let weights = &weights[if flipped { 8 - tap } else { tap } * COLUMNS * C..][..COLUMNS * C];
                    y.iter_mut().zip(product(pixel, weights, C)).for_each(|(y, sum)| *y += sum);
                }
            }
        }
        y
    };
    let (right, turned) = (expected(false), expected(true));
    assert_ne!(right, turned);
    passes(&right, patches([1, 0], [-1, 0], [-1, -2], 0));
    passes(&turned, patches([1, 0], [-1, 0], [-1, -2], 1));
    for wrong in patches([0, 1], [0, -1], [-2, -1], 0) {
        assert_ne!(wrong.expect("it runs"), right);
    }
    let outside = "load_patches from x = -1 on, outside of the map's bounds 0 to 6";
    caught([outside; 2], patches([1, 0], [0, 0], [0, -2], 0));
}

#[test]
fn stored_boxes_are_read_before_they_are_overwritten() {
    let x = values(64 * 64, 9);
    let store = |bug: usize| {
        [Order::Forwards, Order::Backwards].map(|order| {
            let gpu = Gpu::simulator(Checks::On, order)?;
            let (x, y) = (upload(&gpu, &x), gpu.buffer(DType::Bf16, 64 * 64)?);
            let launch = gpu.kernel(&kernels::PLANTED_STORE, DType::Bf16).block(64).dynamic_shared(TILE);
            launch.output_map(&y, TensorMap::matrix([64, 64], [64, 64], 128)).input(&x).int(bug).launch()?;
            Ok((x.download::<half::bf16>()?, y.download::<half::bf16>()?))
        })
    };
    for result in store(0) {
        let (x, y) = result.expect("no mistake");
        assert_eq!(x, y);
    }
    caught(
        ["a stored box reads dynamic shared memory at offset 0, which thread 0 wrote with no shared_is_written"; 2],
        store(1),
    );
    caught(["a stored box reads uninitialised", "race: a stored box reads"], store(2));
    caught(["1 of 64 threads wait at meet<2> in line"; 2], store(3));
    caught(["which a stored box of warp 0 may still read"; 2], store(4));
    caught(["exits with stored boxes that have not been waited for"; 2], store(5));
    caught(["race: a stored box reads", "which a stored box of warp 0 may still read"], store(6));
}

#[test]
fn launches_with_tensor_maps_are_checked() {
    let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
    let y = gpu.buffer(DType::F32, ROWS * COLUMNS).expect("memory");
    let a = gpu.buffer(DType::Bf16, ROWS * STEP).expect("memory");
    let refused = |expected: &str, x: &Buffer, map: TensorMap, shared: usize, scalar: DType| {
        let launch = gpu.kernel(&kernels::PLANTED_PIPELINE, scalar).block(PLANTED_GROUPS).dynamic_shared(shared);
        let launch = launch.output(&y).input_map(x, map).input_map(x, map).int(STEP).int(0);
        let message = launch.launch().expect_err(expected).to_string();
        assert!(message.contains("planted_pipeline") && message.contains(expected), "{message}");
    };
    let map = TensorMap::matrix([ROWS, STEP], [64, 64], 128);
    refused("not compiled for f32", &a, map, 0, DType::F32);
    refused("`a` holds f32; expected bf16", &y, map, 0, DType::Bf16);
    refused("expected a multiple of 1024 up to 232448", &a, map, 4096 + 16, DType::Bf16);
    refused("expected a multiple of 1024 up to 232448", &a, map, 228 << 10, DType::Bf16);
    let narrow = TensorMap { span: 64, ..map };
    refused("the tensor map `a` has boxes with rows of 128 bytes, more than the 64", &a, narrow, 0, DType::Bf16);
    let mut crooked = map;
    crooked.strides[0] = 136;
    refused("the tensor map `a` has a stride of 136 bytes; expected a multiple of 16", &a, crooked, 0, DType::Bf16);
    let larger = TensorMap::matrix([ROWS + 1, STEP], [64, 64], 128);
    refused("the tensor map `a` covers 8320 bytes of memory that has 8192", &a, larger, 0, DType::Bf16);
}
