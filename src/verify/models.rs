//! Cases of single networks: unet_forward, text_encoder, vae, tokenizer.

use super::case::{Case, Checks};
use super::networks::matrices;
use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{AddedConditions, AutoencoderKl, ClipText, UNet};
use crate::tensor::DType;

pub fn unet_forward(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let unet = UNet::load(&case.path("model")?.join("unet"), dtype)?;
    unet.to(device)?;
    let sample = case.feature_map("in.sample", dtype)?;
    let context = case.tensor("in.encoder_hidden_states")?.cast(dtype);
    let added = added_conditions(case, "in.", dtype)?;
    let ours = unet.forward(&Tape::off(), &sample, &case.timesteps("in.timestep")?, &context, added.as_ref())?;
    let mut checks = Checks::default();
    checks.feature_map("sample", &ours, &case.tensor("out.sample")?, 2e-5)?;
    checks.of_network(matrices(unet.parameters()), 1.0);
    Ok(checks)
}

/// SDXL's pooled text and size conditions, where the case has them.
pub fn added_conditions(case: &Case, prefix: &str, dtype: DType) -> Result<Option<AddedConditions>> {
    let name = format!("{prefix}add_text_embeds");
    if !case.tensors.contains(&name) {
        return Ok(None);
    }
    Ok(Some(AddedConditions {
        text_embeds: case.tensor(&name)?.cast(dtype),
        time_ids: case.tensor(&format!("{prefix}add_time_ids"))?,
    }))
}

pub fn text_encoder(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let encoder = ClipText::load(&case.path("model")?.join(case.str("subfolder")?), dtype)?;
    encoder.to(device)?;
    let ours = encoder.forward(&Tape::off(), &case.tensor("in.input_ids")?)?;
    let mut checks = Checks::default();
    let mut compare = |name: &str, tensor: &crate::tensor::Tensor| -> Result<()> {
        let reference = case.tensor(&format!("out.{name}"))?;
        checks.relative(name, &tensor.to_cpu()?.reals::<f32>(), &reference, 1e-5);
        checks.of_network(matrices(encoder.parameters()), 1.0);
        Ok(())
    };
    compare("last_hidden_state", &ours.last_hidden_state)?;
    compare("hidden_states.-2", &ours.hidden_states[ours.hidden_states.len() - 2])?;
    compare("pooler_output", &ours.pooled)?;
    if let Some(embeds) = &ours.text_embeds {
        compare("text_embeds", embeds)?;
    }
    Ok(checks)
}

pub fn vae(case: &Case, device: &Device, dtype: DType) -> Result<Checks> {
    let vae = AutoencoderKl::load(&case.path("model")?.join("vae"), dtype)?;
    vae.to(device)?;
    let (mean, logvar) = vae.encode(&Tape::off(), &case.feature_map("in.image", dtype)?)?;
    let image = vae.decode(&Tape::off(), &case.feature_map("in.latents", dtype)?)?;
    let mut checks = Checks::default();
    for (name, ours) in [("mean", mean), ("logvar", logvar), ("image", image)] {
        checks.feature_map(name, &ours, &case.tensor(&format!("out.{name}"))?, 2e-5)?;
        checks.of_network(matrices(vae.parameters()), 1.0);
    }
    Ok(checks)
}

pub fn tokenizer(case: &Case) -> Result<Checks> {
    let vocab = case.path("vocab")?;
    let text = |name: &str| {
        let path = vocab.join(name);
        std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))
    };
    let config = serde_json::json!({ "pad_token": case.str("pad_token")? });
    let tokenizer = Tokenizer::from_texts(&text("vocab.json")?, &text("merges.txt")?, &config, &vocab)?;
    let texts = case.strings("texts")?.unwrap_or_default();
    let reference = case.tensor("out.ids")?;
    let mut checks = Checks::default();
    for (i, (text, row)) in texts.iter().zip(reference.data::<i64>().chunks(77)).enumerate() {
        let wrong = tokenizer.encode(text)?.ids.iter().zip(row).filter(|(a, b)| a != b).count();
        checks.push(format!("ids of text {i}"), wrong as f64, 0.0);
    }
    Ok(checks)
}
