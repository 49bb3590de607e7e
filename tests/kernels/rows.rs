//! `embedding.cu`.

use selma::autograd::Tape;
use selma::device::gpu::embedding;
use selma::ops;
use selma::tensor::Tensor;

use crate::support::{close, everywhere, floats, gradients, tensor, upload};

#[test]
fn tokens() {
    everywhere(|gpu, dtype| {
        for (v, d) in [(1, 1), (50, 7), (33, 768)] {
            let table = tensor(1, &[v, d], dtype);
            let ids = Tensor::new((0..77).map(|i| (i * 31 % v) as i64).collect(), &[77]);
            let y = embedding::embedding(&upload(gpu, &table), ids.data(), [v, d]).unwrap();
            let op = |tape: &Tape| ops::embedding(tape, &table, &ids);
            close("embedding", &y, &op(&Tape::off()).unwrap(), 1);
            let dy = tensor(2, &[77, d], dtype);
            let got = embedding::embedding_backward(&upload(gpu, &dy), ids.data(), [v, d]).unwrap();
            close("embedding, gradient", &got, &gradients(&[&table], &dy, op)[0], 77);
        }
        let table = upload(gpu, &tensor(1, &[4, 2], dtype));
        let error = embedding::embedding(&table, &[3, 4], [4, 2]).unwrap_err();
        assert!(error.to_string().contains("id 4 is not in a table of 4 rows"), "{error}");
    });
}

#[test]
fn channels_side_by_side_and_apart() {
    everywhere(|gpu, dtype| {
        for (rows, a, b) in [(1, 1, 1), (6, 3, 9), (15, 40, 24), (4, 16, 320)] {
            let (x, z) = (tensor(1, &[rows, 1, 1, a], dtype), tensor(2, &[rows, 1, 1, b], dtype));
            let (x_gpu, z_gpu) = (upload(gpu, &x), upload(gpu, &z));
            let y = embedding::concat_channels(&x_gpu, &z_gpu, rows, [a, b]).unwrap();
            close("concat", &y, &ops::concat_channels(&Tape::off(), &x, &z).unwrap(), 1);
            close("first", &embedding::slice_channels(&y, rows, a + b, 0, a).unwrap(), &x, 1);
            close("second", &embedding::slice_channels(&y, rows, a + b, a, b).unwrap(), &z, 1);
            // The middle of them, which begins and ends anywhere in a pack.
            let whole = tensor(3, &[rows, a + b], dtype);
            let (start, len) = (a / 2, (a + b) / 2);
            let dy = tensor(4, &[rows, len], dtype);
            let got = embedding::spread_channels(&upload(gpu, &dy), rows, a + b, start, len).unwrap();
            let op = |tape: &Tape| ops::slice_channels(tape, &whole, start, len);
            close("gradient of a slice", &got, &gradients(&[&whole], &dy, op)[0], 0);
        }
    });
}

#[test]
fn one_row_of_each_sample() {
    everywhere(|gpu, dtype| {
        for (t, c, rows) in [(1, 1, vec![0]), (5, 7, vec![4, 0, 2]), (77, 40, vec![76, 3])] {
            let n = rows.len();
            let (x, dy) = (tensor(1, &[n, t, c], dtype), tensor(2, &[n, c], dtype));
            let ids: Vec<i64> = rows.iter().enumerate().map(|(i, row)| (i * t + row) as i64).collect();
            let got = embedding::spread_rows(&upload(gpu, &dy), &ids, [t, c]).unwrap();
            let op = |tape: &Tape| ops::select_rows(tape, &x, &rows);
            close("gradient of a row", &got, &gradients(&[&x], &dy, op)[0], 0);
        }
    });
}

#[test]
fn timesteps() {
    everywhere(|gpu, _| {
        let t = [0.0, 1.0, 37.5, 500.0, 999.0];
        for (dim, flip, shift) in [(2, false, 0.0), (7, true, 1.0), (320, true, 0.0), (64, false, 1.0)] {
            let y = embedding::timestep_embedding(&upload(gpu, &floats(&t)), dim, flip, shift as f32).unwrap();
            let expected = ops::timestep_embedding(&floats(&t), dim, flip, shift).unwrap();
            close("timesteps", &y, &expected, 1);
        }
    });
}

#[test]
fn nearest_neighbours() {
    let sizes = [([1, 1, 1, 1], [3, 2]), ([2, 3, 5, 7], [6, 10]), ([1, 4, 3, 40], [7, 8]), ([1, 8, 8, 16], [3, 5])];
    everywhere(|gpu, dtype| {
        for ([n, h, w, c], [height, width]) in sizes {
            let (x, dy) = (tensor(1, &[n, h, w, c], dtype), tensor(2, &[n, height, width, c], dtype));
            let op = |tape: &Tape| ops::upsample_nearest(tape, &x, height, width);
            let y = embedding::upsample_nearest(&upload(gpu, &x), [n, h, w, c], [height, width]).unwrap();
            close("upsampling", &y, &op(&Tape::off()).unwrap(), 1);
            let dy_gpu = upload(gpu, &dy);
            let dx = embedding::upsample_nearest_backward(&dy_gpu, [n, h, w, c], [height, width]).unwrap();
            close("upsampling, gradient", &dx, &gradients(&[&x], &dy, op)[0], 16);
        }
    });
}
