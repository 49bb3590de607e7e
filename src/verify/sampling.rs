//! Cases of the kinds scheduler and sample.

use serde_json::Value;

use super::case::{Case, Checks, channels_first};
use crate::autograd::Tape;
use crate::device::Device;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Sampler, SchedulerConfig, sampler};
use crate::error::Result;
use crate::generate::{Denoising, Guidance, StableDiffusion, pipeline_config};
use crate::lora;
use crate::ops::{self, Combination};
use crate::tensor::{DType, Tensor};

/// Loosened where zero-SNR rescaling makes the reference itself noisy.
fn zero_snr(config: &Value) -> bool {
    config["rescale_betas_zero_snr"].as_bool().unwrap_or(false)
}

pub fn scheduler(case: &Case, device: &Device) -> Result<Checks> {
    if case.str("op")? == "add_noise" {
        return add_noise(case);
    }
    let mut checks = Checks::default();
    let config = &case.json["config"];
    let steps = case.usize("num_inference_steps")?;
    let mut sampler = sampler(case, case.str("class")?, config, steps)?;
    let loose = zero_snr(config);
    timesteps(case, sampler.as_ref(), &mut checks)?;
    if case.tensors.contains("out.sigmas") {
        let sigmas: Vec<f32> = sampler.sigmas().iter().map(|&s| s as f32).collect();
        checks.relative("sigmas", &sigmas, &case.tensor("out.sigmas")?, 1e-5);
    }
    let outputs = case.tensor("in.model_outputs")?.to(device)?;
    let noise = case.tensors.contains("in.noise").then(|| case.tensor("in.noise")?.to(device)).transpose()?;
    let initial = case.tensor("in.initial")?.to(device)?;
    let (scaled, previous) = (case.tensor("out.scaled_inputs")?, case.tensor("out.prev_samples")?);
    let nth = |t: &Tensor, i: usize| t.view(i * initial.len(), initial.shape());
    let mut x = ops::combine(&[(sampler.init_noise_sigma(), &initial)])?;
    for i in 0..case.usize("model_evaluations")? {
        let input = sampler.scale_model_input(i, &x)?;
        let tolerance = if loose { 2e-4 } else { 2e-5 };
        checks.relative(format!("scaled_inputs[{i}]"), &input.to_cpu()?.reals::<f32>(), &nth(&scaled, i), tolerance);
        let fresh = noise.as_ref().filter(|_| sampler.needs_noise(i)).map(|n| nth(n, i));
        x = sampler.step(i, &Combination::of(&nth(&outputs, i)), &x, fresh.as_ref())?;
        checks.relative(format!("prev_samples[{i}]"), &x.to_cpu()?.reals::<f32>(), &nth(&previous, i), tolerance);
    }
    Ok(checks)
}

/// The schedule of a training configuration, in the keys of diffusers' schedulers.
pub fn noise_schedule(config: &Value) -> Result<NoiseSchedule> {
    NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddpm, config)?)
}

fn sampler(case: &Case, class: &str, config: &Value, steps: usize) -> Result<Box<dyn Sampler>> {
    let mut sampler = sampler::from_config(class, config, steps)?;
    if let Some(eta) = case.json["eta"].as_f64() {
        sampler.set_eta(eta);
    }
    Ok(sampler)
}

fn timesteps(case: &Case, sampler: &dyn Sampler, checks: &mut Checks) -> Result<()> {
    let reference = case.tensor("out.timesteps")?;
    let tolerance = if reference.dtype() == DType::I64 { 0.0 } else { 1e-6 };
    let ours: Vec<f32> = sampler.timesteps().iter().map(|&t| t as f32).collect();
    checks.relative("timesteps", &ours, &reference, tolerance);
    Ok(())
}

fn add_noise(case: &Case) -> Result<Checks> {
    let schedule = noise_schedule(&case.json["config"])?;
    let (original, noise) = (case.tensor("in.original")?, case.tensor("in.noise")?);
    let steps = case.whole_timesteps("in.timesteps")?;
    let mut checks = Checks::default();
    let noisy = schedule.add_noise(&original, &noise, &steps)?;
    let velocity = schedule.velocity(&original, &noise, &steps)?;
    checks.relative("noisy", &noisy.reals::<f32>(), &case.tensor("out.noisy")?, 5e-6);
    checks.relative("velocity", &velocity.reals::<f32>(), &case.tensor("out.velocity")?, 5e-6);
    let snr: Vec<f32> = steps.iter().map(|&t| schedule.snr(t) as f32).collect();
    checks.relative("snr", &snr, &case.tensor("out.snr")?, 2e-4);
    let tolerance = if zero_snr(&case.json["config"]) { 2e-4 } else { 5e-6 };
    let reference = case.tensor("out.alphas_cumprod")?;
    let reference = reference.reals::<f64>();
    let worst = schedule.alphas_cumprod.iter().zip(reference.iter());
    let worst = worst.map(|(&a, &b)| if b == 0.0 { a.abs() } else { ((a - b) / b).abs() }).fold(0.0, f64::max);
    checks.push("alphas_cumprod", worst, tolerance);
    Ok(checks)
}

pub fn sample(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let vocab = case.path("vocab")?;
    let mut model = StableDiffusion::load(&case.path("model")?, Some(&vocab), dtype)?;
    model.to(device)?;
    if let Some(file) = case.json["lora"]["file"].as_str() {
        let base = lora::base::modules(&case.path("model")?)?;
        let expert = lora::load(&case.dir.join(file), Some(&base), false)?.expert;
        let scale = case.json["lora"]["scale"].as_f64().unwrap_or(1.0);
        model.apply(&[expert.scaled(scale)])?;
    }
    let prompts = case.strings("prompt")?.unwrap_or_default();
    let clip_skip = case.json["clip_skip"].as_u64().unwrap_or(0) as usize;
    let positive = model.encode(&prompts, case.strings("prompt_2")?.as_deref(), clip_skip)?;
    let negative = model.encode_negative(
        case.strings("negative_prompt")?.as_deref(),
        case.strings("negative_prompt_2")?.as_deref(),
        &positive,
    )?;

    let mut checks = Checks::default();
    for (prefix, conditions) in [("", &positive), ("negative_", &negative)] {
        for (name, ours) in
            [("prompt_embeds", Some(&conditions.context)), ("pooled_prompt_embeds", conditions.pooled.as_ref())]
        {
            let name = format!("{prefix}{name}");
            if let (Some(ours), true) = (ours, case.tensors.contains(&format!("out.{name}"))) {
                let reference = case.tensor(&format!("out.{name}"))?;
                checks.relative(&name, &ours.to_cpu()?.reals::<f32>(), &reference, 1e-5);
            }
        }
    }
    let settings = &case.json["scheduler"];
    let class = settings["class"].as_str().ok_or_else(|| case.error("`scheduler.class`: expected a string"))?;
    let config = pipeline_config(&settings["config"], model.is_xl());
    let sampler = sampler(case, class, &config, case.usize("num_inference_steps")?)?;
    timesteps(case, sampler.as_ref(), &mut checks)?;
    let (start, latents) = initial_latents(case, &model, sampler.as_ref(), dtype)?;
    let guidance =
        Guidance { scale: case.f64("guidance_scale")?, rescale: case.json["guidance_rescale"].as_f64().unwrap_or(0.0) };
    let size = (case.usize("height")?, case.usize("width")?);
    let mut denoising = Denoising { unet: &model.unet, sampler, guidance, positive, negative, size, mixture: None };
    let noise = case.tensors.contains("in.noise").then(|| case.tensor("in.noise")).transpose()?;
    let steps = case.tensor("out.step_latents")?;
    let &[_, n, c, h, w] = steps.shape() else {
        return Err(case.error("out.step_latents: expected five dimensions"));
    };
    let nth = |t: &Tensor, i: usize| t.view(i * n * c * h * w, &[n, c, h, w]);
    let fresh = |i: usize, like: &Tensor| {
        let noise = noise.as_ref().ok_or_else(|| case.error("the sampler draws noise, but the case has none"))?;
        Ok(channels_last(&nth(noise, i - start), like.shape()))
    };
    let mut seen = |i: usize, latents: &Tensor| {
        checks.feature_map(format!("step_latents[{i}]"), latents, &nth(&steps, i - start), 1e-4)
    };
    let latents = denoising.run(start, latents, fresh, &mut seen)?;
    checks.feature_map("latents", &latents, &case.tensor("out.latents")?, 1e-4)?;
    let decoded = model.decode(&latents)?;
    checks.feature_map("decoded", &decoded, &case.tensor("out.decoded")?, 1e-4)?;
    let image = case.tensor("out.image")?;
    let ours = channels_first(&decoded)?.into_iter().map(|x| (x / 2.0 + 0.5).clamp(0.0, 1.0));
    let worst = ours.zip(image.reals::<f32>().iter()).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    checks.push("image", worst, 5e-4);
    Ok(checks)
}

fn channels_last(x: &Tensor, shape: &[usize]) -> Tensor {
    let &[n, h, w, c] = shape else { return x.clone() };
    Tensor::new(lora::attach::transposed(&x.reals::<f32>(), n, c, h * w), shape)
}

/// The first step to run, and the latents it starts from: scaled noise, or an image noised to that step.
fn initial_latents(
    case: &Case,
    model: &StableDiffusion,
    sampler: &dyn Sampler,
    dtype: DType,
) -> Result<(usize, Tensor)> {
    if !case.json["image_to_image"].as_bool().unwrap_or(false) {
        let unit = case.feature_map("in.latents", DType::F32)?;
        return Ok((0, ops::combine(&[(sampler.init_noise_sigma(), &unit)])?));
    }
    let steps = case.usize("num_inference_steps")?;
    let kept = ((steps as f64 * case.f64("strength")?) as usize).min(steps);
    let pixels = case.feature_map("in.image", DType::F32)?;
    let ones = Tensor::full(pixels.shape(), 1.0, DType::F32);
    let pixels = ops::combine(&[(2.0, &pixels), (-1.0, &ones)])?.cast(dtype);
    let (mean, logvar) = model.vae.encode(&Tape::off(), &pixels)?;
    let noise = case.feature_map("in.vae_noise", DType::F32)?;
    let x0 = model.latents(&mean, &logvar, &noise)?;
    let start = steps - kept;
    let latents = sampler.add_noise_at(start, &x0, &case.feature_map("in.init_noise", DType::F32)?)?;
    Ok((start, latents))
}
