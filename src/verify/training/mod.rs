//! Cases of the kinds lora_train and class_tokens: whole optimisation steps of a UNet LoRA. Those of the text encoders too are in
//! `texts`.

pub(super) mod recorded;

use std::path::Path;

use serde_json::Value;

use crate::autograd::Tape;
use crate::data::batch::{MicroBatch, Noise};
use crate::device::Device;
use crate::diffusion::Prediction;
use crate::error::Result;
use crate::formats::component;
use crate::lora::attach::transposed;
use crate::nn::{ClipText, Param, UNet};
use crate::tensor::{DType, Tensor};
use crate::train::loss::Loss;
use crate::train::parameters::FlatParameters;
use crate::train::step::Objective;
use crate::verify::case::{Case, Checks, channels_first, relative_error};
use crate::verify::models::added_conditions;
use crate::verify::networks::matrices;
use crate::verify::sampling::noise_schedule;

use recorded::{recorded_adamw, recorded_loras};

pub fn lora_train(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let mut unet = UNet::load(&case.path("model")?.join("unet"), dtype)?;
    unet.to(device)?;
    let depth = matrices(unet.parameters());
    let (params, names) = recorded_loras(case, &mut unet, dtype)?;

    let objective = Objective {
        schedule: noise_schedule(&case.json["noise_schedule"])?,
        prediction: Prediction::parse(case.str("prediction_type")?)?,
        snr_gamma: case.json["snr_gamma"].as_f64(),
        loss: Loss::default(),
    };
    let (lr, adamw) = recorded_adamw(case, "lr")?;
    let mut flat = FlatParameters::new(params, dtype, adamw)?;
    let start = flat.master()?;
    let (accumulation, max_norm) = (case.usize("grad_accum")?, case.f64("max_grad_norm")?);
    let (mut checks, mut norms) = (Checks::default(), Vec::new());
    for step in 0..case.usize("steps")? {
        let micro_batches = step * accumulation..(step + 1) * accumulation;
        let mut all = Vec::new();
        // The recorded steps are all updates: one that only lowered the loss scale is done again.
        loop {
            for i in micro_batches.clone() {
                let batch = micro_batch(case, i, dtype)?;
                let factor = 1.0 / accumulation as f64;
                let computed = objective.compute(&unet, &batch, &flat.leaves(), factor, flat.loss_scale())?;
                flat.accumulate(&computed.gradients)?;
                all.push(computed);
            }
            if flat.gradient_norm()?.is_finite() || flat.progress()?.scale <= 1.0 {
                break;
            }
            flat.update(lr, max_norm)?;
            all.clear();
        }
        for (i, computed) in micro_batches.zip(all) {
            let reference = case.tensor(&format!("out.{i}.loss"))?.item();
            checks.push(
                format!("{i}.loss"),
                (computed.loss.to_cpu()?.item() - reference).abs() / reference.abs(),
                3e-5,
            );
            // The square of a difference.
            checks.of_network(depth, 2.0);
            if i == 0 {
                let outputs = [
                    ("noisy_latents", &computed.noisy),
                    ("target", &computed.target),
                    ("model_pred", &computed.predicted),
                ];
                for (name, ours) in outputs {
                    checks.relative(name, &channels_first(ours)?, &case.tensor(&format!("out.0.{name}"))?, 2e-5);
                    checks.of_network(if name == "model_pred" { depth } else { 1 }, 1.0);
                }
            }
        }
        if step == 0 {
            let scale = flat.progress()?.scale;
            let gradient: Vec<f32> = flat.gradient()?.data::<f32>().iter().map(|g| g / scale).collect();
            compare(case, &flat, &names, "out.grad.", &gradient, None, [5e-5, 2e-3], depth, &mut checks)?;
        }
        norms.push(flat.update(lr, max_norm)? as f32);
    }
    let trained = flat.master()?;
    checks.relative("grad_norm", &norms, &case.tensor("out.grad_norm")?, 3e-5);
    checks.of_network(BACKWARD * depth, 1.0);
    compare(case, &flat, &names, "out.lora.", trained.data(), None, [1e-4, f64::INFINITY], depth, &mut checks)?;
    compare(case, &flat, &names, "out.lora.", trained.data(), Some(start.data()), [3e-3, 3e-2], depth, &mut checks)?;
    Ok(checks)
}

/// LoRA and new token rows trained together; only the LoRA's gradient is clipped.
pub fn class_tokens(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let model = case.path("model")?;
    let (mut unet, encoder) =
        (UNet::load(&model.join("unet"), dtype)?, ClipText::load(&model.join("text_encoder"), dtype)?);
    unet.to(device)?;
    encoder.to(device)?;
    if case.usize("first_new_id")? != encoder.config.vocab_size {
        return Err(case.error("`first_new_id`: new tokens follow the vocabulary"));
    }
    let depth = matrices(unet.parameters()) + matrices(encoder.parameters());
    let (params, names) = recorded_loras(case, &mut unet, dtype)?;
    let row = encoder.token(case.usize("initializer_id")? as i64)?.to_cpu()?;
    let (classes, width) = (case.usize("classes")?, row.len());
    let rows = Tensor::from_reals(row.reals::<f32>().repeat(classes), &[classes, width], dtype).to(device)?;
    let own_schedule = scheduler_of(&model)?;
    let objective = Objective {
        schedule: noise_schedule(match &case.json["noise_schedule"] {
            Value::Null => &own_schedule,
            given => given,
        })?,
        prediction: Prediction::parse(case.json["prediction_type"].as_str().unwrap_or("epsilon"))?,
        snr_gamma: case.json["snr_gamma"].as_f64(),
        loss: Loss::default(),
    };
    let (lora_lr, adamw) = recorded_adamw(case, "lr")?;
    let mut lora = FlatParameters::new(params, dtype, adamw)?;
    let (rows_lr, adamw) = recorded_adamw(case, "embedding_lr")?;
    let mut embeddings = FlatParameters::new(vec![Param::new("embeddings", rows)], dtype, adamw)?;
    let (lora_start, rows_start) = (lora.master()?, embeddings.master()?);
    let (mut checks, mut norms) = (Checks::default(), Vec::new());
    for step in 0..case.usize("steps")? {
        let timesteps = case.whole_timesteps(&format!("in.{step}.timesteps"))?;
        let batch = MicroBatch {
            latents: case.feature_map(&format!("in.{step}.latents"), dtype)?,
            noise: Noise::Given(case.feature_map(&format!("in.{step}.noise"), dtype)?),
            weights: vec![1.0; timesteps.len()],
            mask: None,
            timesteps,
            // That of the tape takes its place.
            context: Tensor::zeros(&[1], dtype),
            added: None,
        };
        let mut prepared = objective.prepare(&batch)?;
        for tensor in prepared.tensors() {
            *tensor = tensor.to(device)?;
        }
        let new = embeddings.leaves();
        let tape = Tape::watching(&[lora.leaves(), new.clone()].concat());
        let states = encoder.forward_with(&tape, &case.tensor(&format!("in.{step}.input_ids"))?, Some(&new[0]))?;
        let context = states.last_hidden_state;
        let computed = objective.differentiate_on(tape, &unet, &prepared, &context, 1.0, lora.loss_scale())?;
        lora.accumulate(&computed.gradients)?;
        embeddings.accumulate(&computed.gradients)?;
        let reference = case.tensor(&format!("out.{step}.loss"))?.reals::<f64>()[0];
        let loss = computed.loss.to_cpu()?.item();
        checks.push(format!("{step}.loss"), (loss - reference).abs() / reference.abs(), 3e-5);
        if step == 0 {
            let states = context.to_cpu()?;
            checks.relative("states", &states.reals::<f32>(), &case.tensor("out.0.encoder_hidden_states")?, 1e-5);
            let scale = lora.progress()?.scale;
            let unscaled = |flat: &FlatParameters| -> Result<Vec<f32>> {
                Ok(flat.gradient()?.data::<f32>().iter().map(|g| g / scale).collect())
            };
            compare(case, &lora, &names, "out.grad.", &unscaled(&lora)?, None, [5e-5, 2e-3], depth, &mut checks)?;
            checks.relative("grad.embeddings", &unscaled(&embeddings)?, &case.tensor("out.grad.embeddings")?, 5e-5);
        }
        norms.push(lora.update(lora_lr, case.f64("max_grad_norm")?)? as f32);
        embeddings.update(rows_lr, 0.0)?;
    }
    checks.relative("grad_norm", &norms, &case.tensor("out.grad_norm")?, 3e-5);
    let trained = lora.master()?;
    compare(case, &lora, &names, "out.lora.", trained.data(), None, [1e-4, f64::INFINITY], depth, &mut checks)?;
    compare(
        case,
        &lora,
        &names,
        "out.lora.",
        trained.data(),
        Some(lora_start.data()),
        [3e-3, 3e-2],
        depth,
        &mut checks,
    )?;
    let (ours, reference) = (embeddings.master()?, case.tensor("out.embeddings")?);
    checks.relative("embeddings", ours.data::<f32>(), &reference, 1e-4);
    let minus = |x: &[f32]| x.iter().zip(rows_start.data::<f32>()).map(|(a, b)| a - b).collect::<Vec<f32>>();
    let moved = Tensor::new(minus(&reference.reals::<f32>()), reference.shape());
    checks.relative("update of the embeddings", &minus(ours.data()), &moved, 3e-3);
    Ok(checks)
}

/// The noise schedule of a model, in the keys that training takes.
fn scheduler_of(model: &Path) -> Result<Value> {
    let config = component::json(&model.join("scheduler/scheduler_config.json"))?;
    let keys = ["beta_start", "beta_end", "beta_schedule", "num_train_timesteps"];
    Ok(keys.into_iter().filter_map(|key| Some((key.to_owned(), config.get(key)?.clone()))).collect())
}

fn micro_batch(case: &Case, i: usize, dtype: DType) -> Result<MicroBatch> {
    let timesteps = case.whole_timesteps(&format!("in.{i}.timesteps"))?;
    Ok(MicroBatch {
        latents: case.feature_map(&format!("in.{i}.latents"), dtype)?,
        noise: Noise::Given(case.feature_map(&format!("in.{i}.noise"), dtype)?),
        weights: vec![1.0; timesteps.len()],
        mask: None,
        timesteps,
        context: case.tensor(&format!("in.{i}.encoder_hidden_states"))?.cast(dtype),
        added: added_conditions(case, &format!("in.{i}."), dtype)?,
    })
}

/// Compares a flat buffer (less `origin`, where given) with recorded tensors: all together, and each on its own.
#[allow(clippy::too_many_arguments)]
pub(super) fn compare(
    case: &Case,
    flat: &FlatParameters,
    names: &[String],
    prefix: &str,
    values: &[f32],
    origin: Option<&[f32]>,
    tolerances: [f64; 2],
    depth: usize,
    checks: &mut Checks,
) -> Result<()> {
    let (mut ours, mut theirs, mut offset) = (Vec::new(), Vec::new(), 0);
    let what = if origin.is_some() { "update" } else { prefix.trim_start_matches("out.").trim_end_matches('.') };
    for (param, name) in flat.params().iter().zip(names) {
        let shape = param.get().shape().to_vec();
        let len: usize = shape.iter().product();
        let minus = |x: Vec<f32>, y: &[f32]| x.iter().zip(y).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let as_recorded = |x: &[f32]| match *shape.as_slice() {
            [r, kh, kw, c] => transposed(x, r, kh * kw, c),
            _ => x.to_vec(),
        };
        let mut a = as_recorded(&values[offset..offset + len]);
        let mut b = case.tensor(&format!("{prefix}{name}"))?.reals::<f32>().into_owned();
        if let Some(origin) = origin {
            let origin = as_recorded(&origin[offset..offset + len]);
            (a, b) = (minus(a, &origin), minus(b, &origin));
        }
        checks.push(format!("{what} {name}"), relative_error(&a, &b), tolerances[1]);
        of_format(checks, what, depth, A_MATRIX);
        ours.extend(a);
        theirs.extend(b);
        offset += len;
    }
    checks.push(format!("{what}, all"), relative_error(&ours, &theirs), tolerances[0]);
    of_format(checks, what, depth, 1.0);
    Ok(())
}

/// A gradient passed through each matrix three times: forwards, backwards, and to the parameter.
pub(super) const BACKWARD: usize = 3;
/// One matrix of a LoRA may have a gradient far smaller than what it is the difference of.
const A_MATRIX: f64 = 4.0;

/// Where the bound of what was compared last comes from in 16 bits, through a network of `depth` matrices.
pub(super) fn of_format(checks: &mut Checks, what: &str, depth: usize, scale: f64) {
    match what {
        "grad" => checks.of_network(BACKWARD * depth, scale),
        "update" => checks.of_signs(BACKWARD * depth, scale),
        // The update says more.
        _ => {}
    }
}
