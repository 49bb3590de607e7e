//! `matmul`, and how the products of every layer are cut into tiles.

use selma::autograd::Tape;
use selma::device::Device;
use selma::ops;
use selma::tensor::{DType, Tensor};

use crate::support::{devices, inputs, near};

/// m, n and k: below, at and across the edges of tiles; widths whose rows do not begin at multiples of 16 bytes.
pub const SIZES: [[usize; 3]; 6] = [[1, 1, 1], [64, 64, 32], [77, 70, 33], [130, 40, 320], [65, 129, 24], [3, 200, 72]];
/// Sizes for which a GPU takes the tall tile, and the large one.
const TALL: [usize; 3] = [128 * 12 - 40, 128 * 11 - 8, 40];
const LARGE: [usize; 3] = [128 * 16 - 40, 128 * 8 - 8, 40];
const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// `a` `[m, k]` times `b` `[k, n]`, plus `residual`, in f64.
fn product(a: &Tensor, b: &Tensor, residual: Option<&Tensor>) -> Vec<f64> {
    let &[k, n] = b.shape() else { unreachable!("a matrix") };
    let (a, b) = (a.reals::<f64>(), b.reals::<f64>());
    let mut sums = residual.map_or(vec![0.0; a.len() / k * n], |residual| residual.reals::<f64>().into_owned());
    for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    sums
}

fn transposed(x: &Tensor) -> Tensor {
    let &[rows, columns] = x.shape() else { unreachable!("a matrix") };
    let values = x.reals::<f32>();
    let turned = (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect();
    Tensor::new::<f32>(turned, &[columns, rows]).cast(x.dtype())
}

/// The CPU and the devices of the build.
fn all_devices() -> impl Iterator<Item = Device> {
    std::iter::once(Device::Cpu).chain(devices())
}

#[test]
fn equals_its_sums_on_every_device() {
    for [m, n, k] in SIZES.into_iter().chain([LARGE, TALL]) {
        for dtype in DTYPES {
            let x = inputs(&[&[m, k], &[k, n], &[m, n]], dtype);
            for residual in [None, Some(&x[2])] {
                let expected = Tensor::new(product(&x[0], &x[1], residual), &[m, n]).cast(dtype);
                for device in all_devices() {
                    let there = [&x[0], &x[1]].map(|x| x.to(&device).unwrap());
                    let residual = residual.map(|x| x.to(&device).unwrap());
                    let y = ops::matmul(&there[0], &there[1], residual.as_ref()).unwrap();
                    let what = format!("[{m}, {n}] over {k} on {} in {}", device.name(), dtype.name());
                    near(&what, &y, &expected, k);
                }
            }
        }
    }
}

/// The products of a layer that is large enough: its result, and the gradient of its weight in one slice.
#[test]
fn layers_of_large_tiles() {
    for ([m, n, k], dtype) in [LARGE, TALL].into_iter().flat_map(|size| DTYPES.map(|dtype| (size, dtype))) {
        let x = inputs(&[&[m, k], &[n, k], &[k, m], &[k, n]], dtype);
        let y = Tensor::new(product(&x[0], &transposed(&x[1]), None), &[m, n]).cast(dtype);
        let dw = Tensor::new(product(&transposed(&x[2]), &x[3], None), &[m, n]).cast(DType::F32);
        for device in devices() {
            let there: Vec<Tensor> = x.iter().map(|x| x.to(&device).unwrap()).collect();
            let what = format!("on {} in {}", device.name(), dtype.name());
            near(&what, &ops::linear(&Tape::off(), &there[0], &there[1], None).unwrap(), &y, k);
            let weight = Tensor::zeros(&[m, n], dtype).to(&device).unwrap();
            let tape = Tape::watching([&weight]);
            let zeros = ops::linear(&tape, &there[3], &weight, None).unwrap();
            let gradients = tape.backward_from(&zeros, there[2].clone()).unwrap();
            near(&what, gradients.get(&weight).unwrap(), &dw, k);
        }
    }
}

/// Few tiles of a long sum go in slices, which are added up in their order: again the sums, and the same bytes each time.
#[test]
fn long_sums_of_few_tiles() {
    let [m, n, k] = [70, 72, 2400];
    for dtype in DTYPES {
        let x = inputs(&[&[m, k], &[k, n], &[n, k], &[m, n], &[n]], dtype);
        let bias = x[4].cast(DType::F32);
        let plain = Tensor::new(product(&x[0], &x[1], Some(&x[3])), &[m, n]).cast(dtype);
        let mut linear = product(&x[0], &transposed(&x[2]), Some(&x[3]));
        let rows = linear.chunks_exact_mut(n);
        rows.for_each(|row| row.iter_mut().zip(bias.data::<f32>()).for_each(|(y, &bias)| *y += f64::from(bias)));
        let linear = Tensor::new(linear, &[m, n]).cast(dtype);
        for device in devices() {
            let there: Vec<Tensor> = x.iter().chain([&bias]).map(|x| x.to(&device).unwrap()).collect();
            let what = format!("on {} in {}", device.name(), dtype.name());
            let y = || ops::matmul(&there[0], &there[1], Some(&there[3])).unwrap();
            near(&what, &y(), &plain, k);
            assert_eq!(y().to_cpu().unwrap().bytes(), y().to_cpu().unwrap().bytes(), "{what}");
            let y = ops::linear_residual(&Tape::off(), &there[3], &there[0], &there[2], Some(&there[5]), None).unwrap();
            near(&what, &y, &linear, k);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32);
    let refused = |a: &Tensor, b: &Tensor, residual: Option<&Tensor>| {
        let error = ops::matmul(a, b, residual).unwrap_err().to_string();
        assert!(error.contains("matmul"), "{error}");
        error
    };
    let (a, b) = (zeros(&[4, 3]), zeros(&[3, 5]));
    refused(&a, &zeros(&[5, 3]), None);
    refused(&a, &zeros(&[3]), None);
    refused(&a, &b.cast(DType::Bf16), None);
    refused(&Tensor::new(vec![1_i64], &[1, 1]), &zeros(&[1, 1]), None);
    assert!(refused(&a, &b, Some(&zeros(&[5, 4]))).contains("[5, 4]"));
    for device in devices() {
        assert!(refused(&a, &b.to(&device).unwrap(), None).contains(&device.name()));
    }
}
