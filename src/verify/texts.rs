//! Cases of the kind lora_train_text: whole optimisation steps of a LoRA of UNet and text encoders, with learning rates of their
//! own.

use std::path::Path;

use super::case::{Case, Checks};
use super::networks::matrices;
use super::sampling::noise_schedule;
use super::training::recorded::{recorded_adamw, recorded_of};
use super::training::{BACKWARD, compare};
use crate::autograd::Tape;
use crate::data::batch::{MicroBatch, Noise};
use crate::device::Device;
use crate::diffusion::Prediction;
use crate::error::Result;
use crate::formats::model_dir::ModelDir;
use crate::generate::TextEncoders;
use crate::nn::{AddedConditions, UNet};
use crate::tensor::DType;
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;

pub fn lora_train_text(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let (mut unet, mut texts) = networks(case, device, dtype)?;
    let encoders = texts.encoders.iter().map(|encoder| matrices(encoder.model.parameters()));
    let depth = matrices(unet.parameters()) + encoders.sum::<usize>();
    let (mut params, mut names) = recorded_of(case, "unet", dtype, &mut |f| unet.visit(f))?;
    for (number, encoder) in texts.encoders.iter_mut().enumerate() {
        let component = ["text_encoder", "text_encoder_2"][number];
        let (more, called) = recorded_of(case, component, dtype, &mut |f| encoder.model.visit(f))?;
        params.extend(more);
        names.extend(called);
    }
    let (lr, _) = recorded_adamw(case, "lr")?;
    let factors = factors(case, &names, lr)?;
    let mut flat = FlatParameters::grouped(params, &factors, dtype, |_| Ok(recorded_adamw(case, "lr")?.1))?;
    let start = flat.master()?;
    let objective = Objective {
        schedule: noise_schedule(&case.json["noise_schedule"])?,
        prediction: Prediction::parse(case.str("prediction_type")?)?,
        snr_gamma: case.json["snr_gamma"].as_f64(),
        loss: Loss::default(),
    };
    let (mut checks, mut norms) = (Checks::default(), Vec::new());
    for (step, captions) in captions(case)?.iter().enumerate() {
        loop {
            let tape = Tape::watching(&flat.leaves());
            let states = texts.encode_on(&tape, captions, 0, 1)?;
            let mut prepared = objective.prepare(&batch(case, step, &states, dtype)?)?;
            for tensor in prepared.tensors() {
                *tensor = tensor.to(device)?;
            }
            let context = states.context;
            let computed = objective.differentiate_on(tape, &unet, &prepared, &context, 1.0, flat.loss_scale())?;
            flat.accumulate(&computed.gradients)?;
            // The recorded steps are all updates: one that only lowered the loss scale is done again.
            if !flat.gradient_norm()?.is_finite() && flat.progress()?.scale > 1.0 {
                flat.update(lr, 1.0)?;
                continue;
            }
            let reference = case.tensor(&format!("out.{step}.loss"))?.reals::<f64>()[0];
            let loss = computed.loss.to_cpu()?.item();
            checks.push(format!("{step}.loss"), (loss - reference).abs() / reference.abs(), 3e-5);
            checks.of_network(depth, 2.0);
            if step == 0 {
                let states = context.to_cpu()?;
                checks.relative("states", &states.reals::<f32>(), &case.tensor("out.0.encoder_hidden_states")?, 1e-5);
                checks.of_network(depth, 1.0);
            }
            break;
        }
        if step == 0 {
            let scale = flat.progress()?.scale;
            let gradient: Vec<f32> = flat.gradient()?.data::<f32>().iter().map(|g| g / scale).collect();
            compare(case, &flat, &names, "out.grad.", &gradient, None, [5e-5, 2e-3], depth, &mut checks)?;
        }
        norms.push(flat.update(lr, case.f64("max_grad_norm")?)? as f32);
    }
    let trained = flat.master()?;
    checks.relative("grad_norm", &norms, &case.tensor("out.grad_norm")?, 3e-5);
    checks.of_network(BACKWARD * depth, 1.0);
    compare(case, &flat, &names, "out.lora.", trained.data(), None, [1e-4, f64::INFINITY], depth, &mut checks)?;
    compare(case, &flat, &names, "out.lora.", trained.data(), Some(start.data()), [3e-3, 3e-2], depth, &mut checks)?;
    Ok(checks)
}

fn networks(case: &Case, device: &Device, dtype: DType) -> Result<(UNet, TextEncoders)> {
    let (model, vocab) = (case.path("model")?, case.path("vocab")?);
    let unet = UNet::load(&model.join("unet"), dtype)?;
    let texts = TextEncoders::load(&ModelDir::open(Path::new(&model))?, Some(&vocab), dtype)?;
    unet.to(device)?;
    texts.to(device)?;
    Ok((unet, texts))
}

/// What the learning rate of the UNet's A is multiplied by for each parameter.
fn factors(case: &Case, names: &[String], lr: f64) -> Result<Vec<f64>> {
    let (text, ratio) = (case.f64("text_lr")? / lr, case.f64("lora_plus_ratio")?);
    let factor = |name: &String| {
        let network = if name.starts_with("unet.") { 1.0 } else { text };
        if name.contains(".lora_B.") { network * ratio } else { network }
    };
    Ok(names.iter().map(factor).collect())
}

fn captions(case: &Case) -> Result<Vec<Vec<String>>> {
    serde_json::from_value(case.json["captions"].clone()).map_err(|e| case.error(format!("`captions`: {e}")))
}

fn batch(case: &Case, step: usize, states: &crate::generate::Conditions, dtype: DType) -> Result<MicroBatch> {
    let timesteps = case.whole_timesteps(&format!("in.{step}.timesteps"))?;
    Ok(MicroBatch {
        latents: case.feature_map(&format!("in.{step}.latents"), dtype)?,
        noise: Noise::Given(case.feature_map(&format!("in.{step}.noise"), dtype)?),
        weights: vec![1.0; timesteps.len()],
        mask: None,
        timesteps,
        context: states.context.clone(),
        added: match &states.pooled {
            None => None,
            Some(pooled) => Some(AddedConditions {
                text_embeds: pooled.clone(),
                time_ids: case.tensor(&format!("in.{step}.add_time_ids"))?,
            }),
        },
    })
}
