//! Cases of networks that judge images: clip_image_text, clip_score, aesthetic, blip_vqa, image_reward, inception, lpips.

use std::path::PathBuf;

use super::case::{Case, Checks};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::judges::clip::{self, Clip, cosine, rows};
use crate::judges::files::Files;
use crate::judges::preprocess::{Picture, Recipe};
use crate::judges::{Aesthetic, inception, lpips};
use crate::nn::{ClipModel, Inception};
use crate::tensor::{DType, Tensor};

pub fn clip_image_text(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = clip::network(&Files::find(&case.path("model")?)?, precision)?;
    model.place(device)?;
    let tape = Tape::off();
    let mut checks = Checks::default();
    let image = model.image(&tape, &case.feature_map("in.pixel_values", DType::F32)?)?;
    let text = model.text_output(&tape, &case.tensor("in.input_ids")?)?;
    let text_embeds = text.text_embeds.ok_or_else(|| case.error("the model has no text projection"))?;
    for (name, ours) in [
        ("image_embeds", &image.embeds),
        ("text_embeds", &text_embeds),
        ("vision_last_hidden", &image.last_hidden_state),
        ("vision_pooled", &image.pooled),
        ("text_pooled", &text.pooled),
    ] {
        relative(case, &mut checks, name, ours, 1e-5)?;
    }
    cosines(case, &mut checks, &model, &rows(&image.embeds)?, &rows(&text_embeds)?)?;
    Ok(checks)
}

pub fn clip_score(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let clip = Clip::load(&case.path("model")?, device, precision)?;
    let prefix = case.str("text_prefix")?;
    let texts = case.strings("texts")?.unwrap_or_default();
    let texts: Vec<String> = texts.iter().map(|text| format!("{prefix}{text}")).collect();
    let mut checks = Checks::default();
    let (ids, _) = clip.ids(&texts)?;
    let reference = case.tensor("out.input_ids")?;
    let length = ids.shape()[1];
    let until_end = |ids: &[i64]| -> Vec<Vec<i64>> {
        let end = |row: &[i64]| row.iter().max().and_then(|max| row.iter().position(|id| id == max)).unwrap_or(0);
        ids.chunks_exact(length).map(|row| row[..=end(row)].to_vec()).collect()
    };
    checks.equal("input_ids", &until_end(ids.data()), &until_end(reference.data()));
    let pixels = pixels(&images(case)?, Recipe::parse(case.str("recipe")?)?, clip.model.image_size())?;
    let (images, texts) = (clip.image_embeds(&pixels)?, clip.text_embeds(&texts)?);
    for (name, ours) in [("image_embeds", &images), ("text_embeds", &texts)] {
        checks.relative(name, &narrow(&ours.concat()), &case.tensor(&format!("out.{name}"))?, 2e-5);
    }
    cosines(case, &mut checks, &clip.model, &images, &texts)?;
    Ok(checks)
}

/// Whatever follows from the cosines of n images and m texts.
fn cosines(case: &Case, checks: &mut Checks, model: &ClipModel, images: &[Vec<f64>], texts: &[Vec<f64>]) -> Result<()> {
    let all = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        images.iter().flat_map(|image| texts.iter().map(|text| f(cosine(image, text)))).collect()
    };
    let logits = all(&|cos| model.logit_scale * cos);
    let mut absolute = |name: &str, ours: &[f64], tolerance: f64| -> Result<()> {
        checks.absolute(name, ours, &case.tensor(&format!("out.{name}"))?.reals::<f64>(), tolerance);
        Ok(())
    };
    absolute("cosine", &all(&|cos| cos), 1e-5)?;
    absolute("hps", &all(&clip::hps), 1e-3)?;
    absolute("logits_per_image", &logits, 1e-3)?;
    absolute("pick_score", &logits, 1e-3)?;
    absolute("clip_score_100", &all(&clip::clip_score_100), 1e-3)?;
    absolute("clip_score_hessel", &all(&clip::clip_score), 3e-5)?;
    let mut probability = vec![0.0; logits.len()];
    for text in 0..texts.len() {
        let of_text: Vec<f64> = logits.iter().skip(text).step_by(texts.len()).copied().collect();
        let places = (text..logits.len()).step_by(texts.len());
        places.zip(clip::preference(&of_text)).for_each(|(place, p)| probability[place] = p);
    }
    absolute("pick_probability", &probability, 2e-4)
}

pub fn aesthetic(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let judge = Aesthetic::load(&case.path("model")?, Some(&case.path("clip_model")?), device, precision)?;
    let mut checks = Checks::default();
    let scores = judge.scores(&rows(&case.tensor("in.image_embeds")?)?)?;
    checks.absolute("score", &scores, &case.tensor("out.score")?.reals::<f64>(), 1e-5);
    let recipe = Recipe::parse(case.str("clip_recipe")?)?;
    let pixels = pixels(&images(case)?, recipe, judge.image_size())?;
    let scores = judge.scores(&judge.image_embeds(&pixels)?)?;
    checks.absolute("image_score", &scores, &case.tensor("out.image_score")?.reals::<f64>(), 1e-5);
    Ok(checks)
}

pub fn inception(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = inception::load(&case.path("model")?, device, precision)?.model;
    let images = images(case)?;
    let tape = Tape::off();
    let mut checks = Checks::default();
    let output = model.forward(&tape, &pixels(&images, Recipe::parse(case.str("resize")?)?, Inception::SIZE)?)?;
    for (name, map) in [64, 192, 768].into_iter().zip(&output.maps) {
        let means = inception::spatial_means(map)?;
        checks.relative(format!("features.{name}"), &means, &case.tensor(&format!("out.features.{name}"))?, 2e-5);
    }
    relative(case, &mut checks, "features.2048", &output.features, 2e-5)?;
    let logits = model.logits_unbiased(&tape, &output.features)?;
    let logits = logits.ok_or_else(|| case.error("the model has no fc.weight"))?;
    relative(case, &mut checks, "logits_unbiased", &logits, 2e-5)?;
    for recipe in [Recipe::FidClean, Recipe::FidTf1] {
        let features = model.forward(&tape, &pixels(&images, recipe, Inception::SIZE)?)?.features;
        relative(case, &mut checks, &format!("features.2048.{}", recipe.name()), &features, 2e-5)?;
    }
    Ok(checks)
}

pub fn lpips(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = lpips::load(&case.path("model")?, device, precision)?.model;
    let mut distances = Vec::new();
    for pair in case.list("pairs")? {
        let picture = |i: usize| {
            let path = pair[i].as_str().ok_or_else(|| case.error("`pairs`: expected pairs of paths"))?;
            Picture::read(&case.below_root(path))
        };
        distances.push(lpips::distance(&model, &picture(0)?, &picture(1)?)?);
    }
    let mut checks = Checks::default();
    checks.absolute("distance", &distances, &case.tensor("out.distance")?.reals::<f64>(), 1e-5);
    Ok(checks)
}

/// Compares `out.NAME` where the case has it.
pub(super) fn relative(case: &Case, checks: &mut Checks, name: &str, ours: &Tensor, tolerance: f64) -> Result<()> {
    let recorded = format!("out.{name}");
    if case.tensors.contains(&recorded) {
        checks.relative(name, &ours.to_cpu()?.reals::<f32>(), &case.tensor(&recorded)?, tolerance);
    }
    Ok(())
}

pub(super) fn images(case: &Case) -> Result<Vec<Picture>> {
    let names = case.strings("images")?.unwrap_or_default();
    let paths: Vec<PathBuf> = names.iter().map(|name| case.below_root(name)).collect();
    paths.iter().map(|path| Picture::read(path)).collect()
}

pub(super) fn pixels(images: &[Picture], recipe: Recipe, size: usize) -> Result<Tensor> {
    let pixels = images.iter().map(|image| Ok(recipe.apply(image, size)?.values)).collect::<Result<Vec<_>>>()?;
    clip::stacked(&pixels)
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
