//! Blocks that are computed again in the backward pass.

use selma::autograd::Tape;
use selma::lora::{Targets, attach};
use selma::nn::UNet;
use selma::ops;
use selma::tensor::random::{Stream, normals};
use selma::tensor::{DType, Tensor};
use serde_json::json;

use crate::relative_error;

fn noise(index: u64, shape: &[usize]) -> Tensor {
    Tensor::new(normals(0, Stream::Noise, index, 0, shape.iter().product::<usize>()), shape)
}

#[test]
fn recomputed_blocks_have_the_same_output_and_gradients() {
    let config = json!({
        "block_out_channels": [32, 64], "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "cross_attention_dim": 16,
        "attention_head_dim": 4, "sample_size": 8,
    });
    let mut unet = UNet::initial(config, 3, DType::F64).unwrap();
    let mut leaves = Vec::new();
    let targets = Targets::parse("attention,conv").unwrap();
    unet.visit(&mut |mut layer| {
        let shape = attach::weight_shape(&layer);
        if targets.matches(layer.name(), &shape) {
            let mut down = shape.clone();
            down[0] = 2;
            let down = attach::in_files(&noise(leaves.len() as u64, &down));
            let up = noise(leaves.len() as u64 + 1, &[shape[0], 2]);
            leaves.extend(attach::branch(&mut layer, &down, &up, 0.1, DType::F64).unwrap());
        }
    });
    let leaves: Vec<Tensor> = leaves.iter().map(|param| param.get()).collect();
    let mut run = |checkpointing| {
        unet.set_checkpointing(checkpointing);
        let tape = Tape::watching(&leaves);
        let (sample, context) = (noise(100, &[2, 8, 8, 4]), noise(101, &[2, 5, 16]));
        let y = unet.forward(&tape, &sample, &[7.0, 400.0], &context, None).unwrap();
        let loss =
            ops::weighted_mse(&tape, &y, &noise(102, y.shape()).cast(DType::F64), &Tensor::full(&[2], 1.0, DType::F32))
                .unwrap();
        (y, tape.backward(&loss).unwrap())
    };
    let (kept, expected) = run(false);
    let (recomputed, gradients) = run(true);
    assert!(kept.bytes() == recomputed.bytes(), "the outputs differ");
    for (i, leaf) in leaves.iter().enumerate() {
        let (a, b) = (gradients.get(leaf).unwrap(), expected.get(leaf).unwrap());
        let error = relative_error(a, b);
        assert!(error < 1e-12, "gradient {i} differs by {error:e}");
    }
}
