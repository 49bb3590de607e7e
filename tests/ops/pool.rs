//! `max_pool2d` and `avg_pool2d`.

use selma::autograd::Tape;
use selma::ops::{self, Window};
use selma::tensor::{DType, Tensor};

use crate::support::Case;

type Pool = fn(&Tape, &Tensor, Window) -> selma::Result<Tensor>;
const POOLS: [(&str, Pool); 2] = [("max_pool2d", ops::max_pool2d), ("avg_pool2d", ops::avg_pool2d)];

/// Inception's, one that is no square, and one over the whole image.
const WINDOWS: [Window; 4] = [
    Window::square(3, 2, 0),
    Window::square(3, 1, 1),
    Window { kernel: [2, 5], stride: 3, padding: [1, 2] },
    Window { kernel: [8, 9], stride: 1, padding: [0, 0] },
];

#[test]
fn gradients_threads_and_rounding() {
    for (name, op) in POOLS {
        for window in WINDOWS {
            Case::new(name, &[&[2, 8, 9, 3]], &|t, x| op(t, &x[0], window)).check();
        }
    }
}

#[test]
fn every_device_agrees() {
    for (name, op) in POOLS {
        for window in WINDOWS {
            for c in [1, 8, 19] {
                Case::new(name, &[&[2, 8, 9, c]], &|t, x| op(t, &x[0], window)).devices(&[72, 9]);
            }
        }
    }
}

/// By hand: pixels outside of the image are in neither, and of equal values the first takes the gradient.
#[test]
fn the_padding_does_not_count() {
    let x = Tensor::new(vec![-1.0_f32, -2.0, -2.0, -4.0], &[1, 2, 2, 1]);
    let window = Window::square(3, 1, 1);
    let largest = ops::max_pool2d(&Tape::off(), &x, window).unwrap();
    assert_eq!(largest.data::<f32>(), [-1.0; 4]);
    let mean = ops::avg_pool2d(&Tape::off(), &x, window).unwrap();
    assert_eq!(mean.data::<f32>(), [-2.25; 4]);

    let equal = Tensor::full(&[1, 2, 2, 1], 3.0, DType::F32);
    let tape = Tape::watching([&equal]);
    let y = ops::max_pool2d(&tape, &equal, window).unwrap();
    let gradients = tape.backward_from(&y, Tensor::full(&[1, 2, 2, 1], 1.0, DType::F32)).unwrap();
    assert_eq!(gradients.get(&equal).unwrap().data::<f32>(), [4.0, 0.0, 0.0, 0.0]);

    let nan = Tensor::new(vec![1.0_f32, f32::NAN, 2.0, 3.0], &[1, 2, 2, 1]);
    let y = ops::max_pool2d(&Tape::off(), &nan, window).unwrap();
    assert!(y.data::<f32>().iter().all(|y| y.is_nan()));
}

#[test]
fn windows_that_do_not_fit_are_errors() {
    let x = Tensor::zeros(&[1, 4, 4, 2], DType::F32);
    for window in [Window::square(5, 1, 0), Window::square(2, 1, 2), Window::square(2, 0, 0), Window::square(0, 1, 0)] {
        for (name, op) in POOLS {
            let error = op(&Tape::off(), &x, window).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
