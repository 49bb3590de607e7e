//! Text encoders that are trained too: what they read is all that differs from one micro-batch to the next, and a replay finds
//! it in memory.

use serde_json::json;

use super::ACCUMULATED;
use super::run::schedule;
use crate::autograd::Tape;
use crate::bench::branches_of;
use crate::data::batch::{MicroBatch, Noise};
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::device::gpu::graph::CachedGraph;
use crate::device::gpu::{Checks, Gpu, Order};
use crate::diffusion::Prediction;
use crate::generate::{Conditions, TextEncoder, TextEncoders};
use crate::nn::{AddedConditions, ClipText, UNet};
use crate::ops::optimizer::AdamW;
use crate::random::Stream;
use crate::tensor::{DType, Tensor, random};
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;
use crate::train::steps::Steps;

const WIDTH: usize = 8;
const STEPS: u64 = 4;
const RATE: f64 = 1e-2;

struct Run {
    gpu: Gpu,
    unet: UNet,
    encoders: TextEncoders,
    flat: FlatParameters,
    objective: Objective,
    /// Windows of each caption.
    windows: usize,
}

fn encoder(seed: u64, projected: bool) -> TextEncoder {
    let config = json!({
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "attention_dropout": 0.0, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    });
    let model = ClipText::initial(config, projected, seed, DType::F32).expect("a network");
    TextEncoder { tokenizer: Tokenizer::clip().expect("a vocabulary"), model }
}

impl Run {
    fn new(xl: bool, windows: usize) -> Self {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
        let mut config = json!({
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": true, "freq_shift": 0,
            "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
            "block_out_channels": [8], "layers_per_block": 1, "cross_attention_dim": WIDTH,
            "attention_head_dim": 2, "norm_num_groups": 4, "norm_eps": 1e-5, "act_fn": "silu",
        });
        let mut all = vec![encoder(1, false)];
        if xl {
            all.push(encoder(2, true));
            config["cross_attention_dim"] = (2 * WIDTH).into();
            config["addition_embed_type"] = "text_time".into();
            config["addition_time_embed_dim"] = 4.into();
            config["projection_class_embeddings_input_dim"] = (WIDTH + 24).into();
        }
        let mut unet = UNet::initial(config, 0, DType::F32).expect("a network");
        let mut encoders = TextEncoders { encoders: all, force_zeros_for_empty_prompt: true };
        let device = Device::Gpu(gpu.clone());
        unet.to(&device).expect("room");
        encoders.to(&device).expect("room");
        let mut params = branches_of(&mut |f| unet.visit(f), "to_q", 2, DType::F32).expect("modules");
        for encoder in &mut encoders.encoders {
            let of_text = branches_of(&mut |f| encoder.model.visit(f), "q_proj", 2, DType::F32);
            params.extend(of_text.expect("modules"));
        }
        let adamw = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 };
        let flat = FlatParameters::new(params, DType::F32, Box::new(adamw)).expect("room");
        let objective =
            Objective { schedule: schedule(), prediction: Prediction::Epsilon, snr_gamma: None, loss: Loss::default() };
        Self { gpu, unet, encoders, flat, objective, windows }
    }

    /// Micro-batch `number`, whose texts have words and lengths of their own.
    fn batch(&self, number: u64) -> (MicroBatch, Vec<String>) {
        let n = 2;
        let captions = (0..n as u64).map(|i| format!("{} red fox {number}", "very ".repeat((number + i) as usize * 9)));
        let values = random::normals(7, Stream::Latents, number, 0, n * 8 * 8 * 4);
        let pending = Conditions::pending(self.encoders.is_xl());
        let batch = MicroBatch {
            latents: Tensor::new(values, &[n, 8, 8, 4]),
            noise: Noise::Drawn { seed: 7, positions: (number * n as u64..).take(n).collect() },
            timesteps: (0..n).map(|i| (i * 397 + number as usize * 211) % 1000).collect(),
            weights: vec![1.0; n],
            mask: None,
            context: pending.context,
            added: pending.pooled.map(|text_embeds| AddedConditions {
                text_embeds,
                time_ids: Tensor::new(vec![8.0 + number as f32; n * 6], &[n, 6]),
            }),
        };
        (batch, captions.collect())
    }

    /// A micro-batch as it comes.
    fn direct(&mut self, number: u64) {
        let (batch, captions) = self.batch(number);
        let device = Device::Gpu(self.gpu.clone());
        let tape = Tape::watching(&self.flat.leaves());
        let states = self.encoders.encode_on(&tape, &captions, 0, self.windows).expect("states");
        let mut prepared = self.objective.prepare(&batch).expect("a batch");
        for tensor in prepared.tensors() {
            *tensor = tensor.to(&device).expect("room");
        }
        let (factor, scale) = (1.0 / ACCUMULATED as f64, self.flat.loss_scale());
        let computed = self.objective.differentiate_with(tape, &self.unet, &prepared, &states, factor, scale);
        self.flat.accumulate(&computed.expect("a step").gradients).expect("a device");
    }

    fn replayed(&mut self, steps: &mut Steps, number: u64) {
        let (batch, captions) = self.batch(number);
        let read = self.encoders.input(&captions, self.windows).expect("texts");
        let networks = (&self.unet, &self.encoders);
        let factor = 1.0 / ACCUMULATED as f64;
        let done = steps.micro_batch_with(&self.objective, networks, &mut self.flat, (&batch, read), factor);
        done.expect("a micro-batch");
    }

    fn master(&self) -> Vec<u8> {
        let saved = self.flat.saved().expect("a device");
        saved.iter().find(|(name, _)| name == "master").expect("a tensor of the run").1.bytes().to_vec()
    }
}

#[test]
fn steps_with_text_encoders_are_replayed_and_give_the_same_bytes() {
    for (xl, windows) in [(false, 1), (false, 2), (true, 1)] {
        let (mut direct, mut run) = (Run::new(xl, windows), Run::new(xl, windows));
        let begun = run.master();
        let device = Device::Gpu(run.gpu.clone());
        let mut steps = Steps::new(&device, ACCUMULATED, vec![RATE], &run.flat.factors()).expect("room");
        for step in 0..STEPS {
            for number in step * ACCUMULATED as u64..(step + 1) * ACCUMULATED as u64 {
                direct.direct(number);
                run.replayed(&mut steps, number);
            }
            direct.flat.update(RATE, 1.0).expect("a device");
            steps.update(&mut run.flat, 1.0).expect("an update");
        }
        assert!(steps.micro_batch.graph().is_some(), "xl {xl}, {windows} windows: nothing was recorded");
        assert!(run.master() == direct.master() && run.master() != begun, "xl {xl}, {windows} windows");
        // What would be recorded at another step is the same.
        let commands = |steps: &Steps| steps.micro_batch.graph().expect("recorded").commands();
        let first = commands(&steps);
        steps.micro_batch = CachedGraph::Done(run.gpu.memory_state());
        run.replayed(&mut steps, 100);
        assert!(first == commands(&steps) && !first.is_empty());
    }
}
