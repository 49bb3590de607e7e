//! Training steps of one LoRA linear layer on the tape: y = x W^T + s (x A^T) B^T, with W frozen.
//!
//!     cargo run --release --example lora_step

use selma::autograd::Tape;
use selma::ops::{self, LoraLayer, LoraOrder};
use selma::tensor::random::{Stream, normals};
use selma::tensor::{DType, Tensor};

fn main() -> selma::Result<()> {
    let (rows, width, out, rank) = (64, 32, 16, 4);
    let normal = |index, shape: &[usize], scale: f32| {
        let values = normals(42, Stream::Init, index, 0, shape.iter().product());
        Tensor::new(values.into_iter().map(|v| v * scale).collect::<Vec<f32>>(), shape)
    };
    let x = normal(0, &[rows, width], 1.0);
    let weight = normal(1, &[out, width], 0.2);
    let target = normal(2, &[rows, out], 1.0);
    let mut a = normal(3, &[rank, width], 0.2);
    let mut b = Tensor::zeros(&[out, rank], DType::F32); // as peft: the update is zero at first
    let weights = Tensor::full(&[rows], 1.0, DType::F32);

    for step in 0..=200 {
        let tape = Tape::watching([&a, &b]);
        let branch = LoraLayer { a: &a, b: &b, scale: 1.0, order: LoraOrder::Auto };
        let y = ops::lora_linear(&tape, &x, &weight, None, branch)?;
        let loss = ops::weighted_mse(&tape, &y, &target, &weights)?;
        if step % 50 == 0 {
            println!("step {step:3}: loss {:.4}", loss.item());
        }
        let gradients = tape.backward(&loss)?;
        for factor in [&mut a, &mut b] {
            let Some(gradient) = gradients.get(factor) else { continue };
            let updated = factor.data::<f32>().iter().zip(gradient.data::<f32>()).map(|(w, g)| w - 2.0 * g).collect();
            *factor = Tensor::new::<f32>(updated, factor.shape());
        }
    }
    Ok(())
}
