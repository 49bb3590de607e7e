//! Gradients of an added token in both text encoders of SDXL, against PyTorch's (`tests/generate_fixtures/token_gradients.py`).

use std::path::Path;

use selma::autograd::Tape;
use selma::data::batch::{MicroBatch, Noise};
use selma::diffusion::config::{Class, SchedulerConfig};
use selma::diffusion::{NoiseSchedule, Prediction};
use selma::formats::embeddings::Embedding;
use selma::formats::model_dir::ModelDir;
use selma::formats::safetensors::Safetensors;
use selma::generate::TextEncoders;
use selma::nn::{AddedConditions, UNet};
use selma::ops::optimizer::AdamW;
use selma::tensor::{DType, Tensor};
use selma::train::loss::Loss;
use selma::train::parameters::FlatParameters;
use selma::train::step::Objective;
use serde_json::json;

use crate::parity;

/// `[n, c, h, w]` as `[n, h, w, c]`.
fn channels_last(tensor: &Tensor) -> Tensor {
    let [n, c, h, w] = tensor.dims("fixture").unwrap();
    let values = tensor.data::<f32>();
    let at = |i: usize, y: usize, x: usize, k: usize| values[((i * c + k) * h + y) * w + x];
    let mut out = Vec::with_capacity(values.len());
    for i in 0..n {
        for y in 0..h {
            for x in 0..w {
                out.extend((0..c).map(|k| at(i, y, x, k)));
            }
        }
    }
    Tensor::new(out, &[n, h, w, c])
}

fn relative(ours: &[f32], theirs: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut theirs.iter().map(|x| f64::from(*x)))
}

#[test]
fn a_token_of_sdxl_learns_through_both_encoders_and_the_pooled_text() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/token_gradients.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let tensor = |name: &str| file.tensor(name).unwrap();
    let captions: Vec<String> = file.metadata()["captions"].lines().map(str::to_owned).collect();
    let model = parity("models/tiny-sdxl");
    let unet = UNet::load(&model.join("unet"), DType::F32).unwrap();
    let files = ModelDir::open(&model).unwrap();
    let mut encoders = TextEncoders::load(&files, Some(&parity("clip_vocab")), DType::F32).unwrap();
    let row = |number: usize| {
        let row = tensor(&format!("in.row.{number}"));
        Tensor::new(row.data::<f32>().to_vec(), &[1, row.len()])
    };
    let token = Embedding { token: "<x>".into(), rows: vec![row(0), row(1)] };
    encoders.add(&[token], DType::F32).unwrap();
    for (number, encoder) in encoders.encoders.iter().enumerate() {
        let recorded = tensor(&format!("in.ids.{number}"));
        let ours: Vec<i64> = captions.iter().flat_map(|text| encoder.tokenizer.encode(text).unwrap().ids).collect();
        assert_eq!(ours, recorded.data::<i64>());
    }
    let added = encoders.encoders.iter().map(|encoder| encoder.model.added().unwrap().clone()).collect();
    let adamw = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 };
    let mut rows = FlatParameters::new(added, DType::F32, Box::new(adamw)).unwrap();

    let schedule = json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000});
    let objective = Objective {
        schedule: NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, &schedule).unwrap()).unwrap(),
        prediction: Prediction::Epsilon,
        snr_gamma: None,
        loss: Loss::default(),
    };
    let tape = Tape::watching(&rows.leaves());
    let states = encoders.encode_on(&tape, &captions, 0, 1).unwrap();
    let pooled = states.pooled.unwrap();
    assert!(relative(pooled.data::<f32>(), tensor("out.pooled").data::<f32>()) < 1e-5, "the pooled text");
    let batch = MicroBatch {
        latents: channels_last(&tensor("in.latents")),
        noise: Noise::Given(channels_last(&tensor("in.noise"))),
        timesteps: tensor("in.timesteps").data::<i64>().iter().map(|t| *t as usize).collect(),
        weights: vec![1.0; 2],
        mask: None,
        context: states.context.clone(),
        added: Some(AddedConditions { text_embeds: pooled, time_ids: tensor("in.time_ids") }),
    };
    let prepared = objective.prepare(&batch).unwrap();
    let scale = rows.loss_scale();
    let computed = objective.differentiate_on(tape, &unet, &prepared, &states.context, 1.0, scale).unwrap();
    let loss = computed.loss.item();
    let recorded = f64::from(tensor("out.loss").data::<f32>()[0]);
    assert!((loss - recorded).abs() < 3e-5 * recorded, "loss {loss} is not {recorded}");
    rows.accumulate(&computed.gradients).unwrap();
    let scale = rows.progress().unwrap().scale;
    let gradient: Vec<f32> = rows.gradient().unwrap().data::<f32>().iter().map(|g| g / scale).collect();
    let width = tensor("in.row.0").len();
    for (number, ours) in [&gradient[..width], &gradient[width..]].into_iter().enumerate() {
        let theirs = tensor(&format!("out.grad.{number}"));
        let error = relative(ours, theirs.data::<f32>());
        assert!(error < 5e-5, "encoder {number}: the gradient is off by {error}");
    }
    // Half of the second encoder's gradient comes by way of the pooled text.
    assert!(relative(&gradient[width..], tensor("out.without_pooled.1").data::<f32>()) > 0.1);
}
