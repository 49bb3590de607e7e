//! The calls of cuBLASLt and cuDNN against a stand-in (`stand_in.cpp`) that computes what it is asked for, on the memory of the
//! simulator: it has to be what the host or the kernels compute.

use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::super::Last;
use super::{Loaded, Queue};
use crate::device::conv_shape::{ConvShape, Padding};
use crate::device::gpu::library::{Added, Libraries, Pass, Product, Work};
use crate::device::gpu::{Buffer, Checks, Gpu, Order};
use crate::dtype::DType;
use crate::random::{self, Stream};

/// Set where the stand-in can be found.
const CHILD: &str = "SELMA_TEST_STAND_IN";

/// Where libraries are looked for a process is told at its start: this runs the test named `test` in another one, which finds the
/// driver and `libraries`.
fn with_the_stand_in(test: &str, libraries: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/gpu/cuda/libraries/tests/stand_in.cpp");
    let driver = dir.path().join("libcuda.so.1");
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let mut compile = Command::new(compiler);
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&driver).arg(source);
    assert!(compile.status().unwrap().success());
    for name in libraries {
        std::fs::hard_link(&driver, dir.path().join(name)).unwrap();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", &format!("{}::{test}", module_path!().split_once("::").unwrap().1)]);
    let output = child.env("LD_LIBRARY_PATH", dir.path()).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A stream of nothing, which the stand-in does without.
fn loaded() -> Loaded {
    Loaded::new(&Arc::new(Queue {
        name: "the stand-in".into(),
        capability: (9, 0),
        context: ptr::null_mut(),
        stream: ptr::null_mut(),
        blocking: false,
        capturing: AtomicBool::new(false),
        last: Mutex::new(Last::Nothing),
    }))
}

fn simulator() -> Gpu {
    Gpu::simulator(Checks::Off, Order::Forwards).unwrap()
}

fn normals(gpu: &Gpu, seed: u64, len: usize) -> Buffer {
    let values = random::normals(seed, Stream::Noise, 0, 0, len);
    gpu.upload(&values).unwrap()
}

fn values(buffer: &Buffer) -> Vec<f32> {
    buffer.download().unwrap()
}

/// To what sums of a few hundred f32 products round.
fn agree(got: &Buffer, expected: &Buffer, what: &str) {
    let (got, expected) = (values(got), values(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() < 1e-4, "{what}: {got}, expected {expected}");
    }
}

/// The row-major product as its description has it; a bias of zeros changes nothing.
fn host(product: &Product, operands: [&Buffer; 3]) -> Vec<f32> {
    let Product { rows, columns, depth, left_transposed, right_transposed, added } = *product;
    let [left, right, before] = operands.map(values);
    let left = |i: usize, l: usize| if left_transposed { left[l * rows + i] } else { left[i * depth + l] };
    let right = |l: usize, j: usize| if right_transposed { right[j * depth + l] } else { right[l * columns + j] };
    let value = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        let start = if added == Added::Y { before[at] } else { 0.0 };
        (0..depth).fold(start, |sum, l| sum + left(i, l) * right(l, j))
    };
    (0..rows * columns).map(value).collect()
}

/// One of a convolution's three products as its definition has it, tap by tap.
fn host_convolution(conv: &ConvShape, pass: Pass, operands: [&Buffer; 3]) -> Vec<f32> {
    let ConvShape { n, h, w, c_in, ho, wo, c_out, kh, kw, stride, padding } = *conv;
    let [x, weight, y] = operands.map(values);
    let mut result = vec![0.0; [y.len(), x.len(), weight.len()][pass as usize]];
    for (pixel, tap) in (0..n * ho * wo).flat_map(|pixel| (0..kh * kw).map(move |tap| (pixel, tap))) {
        let (image, row, column) = (pixel / wo / ho, pixel / wo % ho, pixel % wo);
        let (row, column) = (row * stride + tap / kw, column * stride + tap % kw);
        let inside =
            (padding.top..h + padding.top).contains(&row) && (padding.left..w + padding.left).contains(&column);
        if !inside {
            continue;
        }
        let source = (image * h + row - padding.top) * w + column - padding.left;
        for (o, i) in (0..c_out).flat_map(|o| (0..c_in).map(move |i| (o, i))) {
            let [x_at, weight_at, y_at] = [source * c_in + i, (o * kh * kw + tap) * c_in + i, pixel * c_out + o];
            match pass {
                Pass::Forward => result[y_at] += x[x_at] * weight[weight_at],
                Pass::Dgrad => result[x_at] += y[y_at] * weight[weight_at],
                Pass::Wgrad => result[weight_at] += y[y_at] * x[x_at],
            }
        }
    }
    result
}

#[test]
fn products_are_what_is_asked_for() {
    if !is_child() {
        return with_the_stand_in("products_are_what_is_asked_for", &["libcublasLt.so"]);
    }
    let (gpu, libraries) = (simulator(), loaded());
    let (rows, columns, depth) = (6, 10, 14);
    for (left_transposed, right_transposed, added) in [
        (false, true, Added::Nothing),
        (false, true, Added::Bias),
        (false, true, Added::Y),
        (false, false, Added::Nothing),
        (false, false, Added::Y),
        (true, false, Added::Nothing),
    ] {
        let product = Product { rows, columns, depth, left_transposed, right_transposed, added };
        let work = Work::Product(product);
        let [left, right, y] = work.lens();
        let (left, right, y) = (normals(&gpu, 1, left), normals(&gpu, 2, right), normals(&gpu, 3, y));
        let before = normals(&gpu, 3, y.len());
        let call = libraries.prepare(&work, [&left, &right, &y]).unwrap();
        call.queue().unwrap();
        let expected = gpu.upload(&host(&product, [&left, &right, &before])).unwrap();
        agree(&y, &expected, &format!("{product:?}"));
    }
    // In other types the stand-in has nothing, which is told and not more.
    let half = gpu.buffer(DType::F16, 16).unwrap();
    let work = Work::Product(Product {
        rows: 4,
        columns: 4,
        depth: 4,
        left_transposed: false,
        right_transposed: true,
        added: Added::Nothing,
    });
    let error = libraries.prepare(&work, [&half, &half, &half]).err().unwrap().to_string();
    assert!(error.contains("cuBLASLt: a product of m 4, n 4, k 4") && error.contains("INVALID_VALUE"), "{error}");
}

#[test]
fn convolutions_are_what_is_asked_for() {
    if !is_child() {
        return with_the_stand_in("convolutions_are_what_is_asked_for", &["libcudnn.so"]);
    }
    let (gpu, libraries) = (simulator(), loaded());
    for (stride, kernel, padding) in [(1, [3, 3], 1), (2, [3, 3], 1), (1, [1, 1], 0), (1, [3, 2], 1)] {
        let [kh, kw] = kernel;
        let conv = ConvShape::new([2, 7, 9, 4], [6, kh, kw, 4], stride, Padding::all(padding)).unwrap();
        for pass in [Pass::Forward, Pass::Dgrad, Pass::Wgrad] {
            let work = Work::Convolution(conv, pass);
            let [x, weight, y] = work.lens();
            let (x, weight, y) = (normals(&gpu, 1, x), normals(&gpu, 2, weight), normals(&gpu, 3, y));
            let expected = gpu.upload(&host_convolution(&conv, pass, [&x, &weight, &y])).unwrap();
            libraries.prepare(&work, [&x, &weight, &y]).unwrap().queue().unwrap();
            let got = match pass {
                Pass::Forward => &y,
                Pass::Dgrad => &x,
                Pass::Wgrad => &weight,
            };
            agree(got, &expected, &format!("{pass:?} {conv:?}"));
        }
    }
    let uneven = Padding { top: 0, left: 0, bottom: 1, right: 1 };
    let padded = ConvShape::new([1, 4, 4, 1], [1, 3, 3, 1], 2, uneven).unwrap();
    let x = gpu.buffer(DType::F32, 16).unwrap();
    let refused = libraries.prepare(&Work::Convolution(padded, Pass::Forward), [&x, &x, &x]);
    assert!(refused.err().unwrap().to_string().contains("no such convolution"));
}

/// A library that is not installed, or that cannot work with the driver, is an error that names it, every time.
#[test]
fn missing_libraries_are_told() {
    if !is_child() {
        return with_the_stand_in("missing_libraries_are_told", &[]);
    }
    let (gpu, libraries) = (simulator(), loaded());
    let x = gpu.buffer(DType::F32, 16).unwrap();
    let product = Product {
        rows: 4,
        columns: 4,
        depth: 4,
        left_transposed: false,
        right_transposed: true,
        added: Added::Nothing,
    };
    let conv = ConvShape::new([1, 4, 4, 1], [1, 1, 1, 1], 1, Padding::all(0)).unwrap();
    for work in [Work::Product(product), Work::Convolution(conv, Pass::Forward)] {
        for _ in 0..2 {
            let told = libraries.prepare(&work, [&x, &x, &x]).err().unwrap().to_string();
            assert!(told.starts_with(work.library()), "{told}");
        }
    }
}
