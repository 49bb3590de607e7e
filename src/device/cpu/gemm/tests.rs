//! Every kernel that this processor can run, at awkward sizes.

use super::kernel::Kernels;
use super::*;
use crate::dtype::Real;

fn values<T: Real>(len: usize, seed: u32) -> Vec<T> {
    let word = |i: usize| (i as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    (0..len).map(|i| T::from_f64(f64::from(word(i) as i32) / f64::from(1 << 30))).collect()
}

/// Sizes around one, a vector, a panel, a tile and a block of the depth.
const SIZES: [[usize; 3]; 11] = [
    [1, 1, 1],
    [3, 17, 0],
    [13, 33, 5],
    [2, 1, 257],
    [95, 16, 3],
    [97, 31, 256],
    [100, 257, 40],
    [7, 300, 513],
    [193, 65, 300],
    [520, 700, 20],
    [900, 1100, 9],
];

/// The transpose of `[rows, columns]`.
fn transpose<T: Real>(data: &[T], rows: usize, columns: usize) -> Vec<T> {
    let at = |i: usize| data[i % rows * columns + i / rows];
    (0..data.len()).map(at).collect()
}

fn every_kernel_is_right<T: Gemm + Kernels>(tolerance: f64, fused: impl Fn(usize) -> bool) {
    for [m, n, k] in SIZES {
        let (a, b, bias, old) =
            (values::<T>(m * k, 1), values::<T>(k * n, 2), values::<T>(n, 3), values::<T>(m * n, 4));
        let exact = |i: usize, j: usize| -> f64 { (0..k).map(|s| a[i * k + s].to_f64() * b[s * n + j].to_f64()).sum() };
        let mut first: Option<Vec<T>> = None;
        for (number, kernel) in T::kernels().iter().enumerate() {
            // Both layouts of either operand.
            let (a_steps, b_lines) = (transpose(&a, m, k), transpose(&b, k, n));
            let operands = [
                (Matrix::row_major(&a, m, k), Matrix::transposed(&b, k, n)),
                (Matrix::transposed(&a_steps, k, m), Matrix::row_major(&b_lines, n, k)),
            ];
            for output in [Output::Set, Output::Bias(&bias), Output::Add] {
                let mut c = old.clone();
                run(kernel, &[(&operands[0].0, &operands[0].1)], output, &mut c, false);
                for (a, b) in &operands {
                    let mut transposed = old.clone();
                    run(kernel, &[(b, a)], output, &mut transposed, true);
                    assert_eq!(c, transposed, "{m} {n} {k}: the transposed product");
                }
                for (at, &got) in c.iter().enumerate() {
                    let start = match output {
                        Output::Set => 0.0,
                        Output::Bias(bias) => bias[at % n].to_f64(),
                        Output::Add => old[at].to_f64(),
                    };
                    let expected = start + exact(at / n, at % n);
                    let allowed = tolerance * (1.0 + k as f64).sqrt() * 4.0;
                    assert!((got.to_f64() - expected).abs() <= allowed, "{m} {n} {k}: {got:?} at {at}, not {expected}");
                }
                if matches!(output, Output::Set) && fused(number) {
                    assert_eq!(*first.get_or_insert_with(|| c.clone()), c, "{m} {n} {k}: kernel {number}");
                }
            }
        }
    }
}

/// And all that use FMA give the same bytes.
#[test]
fn every_kernel_is_right_and_gives_the_same_bytes() {
    // The last kernel is the portable one, which has no FMA unless the target has.
    let fused = |count: usize| move |number: usize| number + 1 < count;
    every_kernel_is_right::<f32>(1e-6, fused(f32::kernels().len()));
    every_kernel_is_right::<f64>(1e-15, fused(f64::kernels().len()));
}

/// Every number of steps around one, eight and sixteen, and of lines, some of them missing.
#[test]
fn every_kernel_turns_lines() {
    for kernel in f32::kernels() {
        for (steps, lines) in (1..=41).flat_map(|steps| (1..=LINES).map(move |lines| (steps, lines))) {
            let data = values::<f32>(LINES * steps, 5);
            let line = |i: usize| (i != 3).then(|| &data[i * steps..][..steps]);
            let untouched = 7.0;
            let mut to = vec![untouched; steps * (LINES + 1)];
            let transposed = PackTransposed {
                from: std::array::from_fn(|i| line(i).filter(|_| i < lines).map_or(std::ptr::null(), <[f32]>::as_ptr)),
                steps,
                to: to.as_mut_ptr(),
                to_step: LINES + 1,
                lines,
            };
            // SAFETY: every line has all steps, and `to` a row for each of them.
            unsafe { kernel.pack_transposed(&transposed) };
            for (k, row) in to.chunks_exact(LINES + 1).enumerate() {
                for (i, &got) in row.iter().enumerate() {
                    let expected = if i < lines { line(i).map_or(0.0, |line| line[k]) } else { untouched };
                    assert_eq!(got, expected, "step {k} of {steps}, line {i} of {lines}");
                }
            }
        }
    }
}
