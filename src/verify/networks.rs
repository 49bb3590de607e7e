//! Cases of networks that judge images: clip_image_text, clip_score, aesthetic, blip_vqa, image_reward, inception, lpips.

use std::path::PathBuf;

use super::case::{Case, Checks};
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::Result;
use crate::judges::clip::{self, Clip, cosine, rows};
use crate::judges::files::Files;
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::judges::{Aesthetic, inception, lpips};
use crate::nn::{ClipModel, Inception, Param};
use crate::tensor::{DType, Tensor};

pub fn clip_image_text(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = clip::network(&Files::find(&case.path("model")?)?, precision)?;
    model.to(device)?;
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
        relative(case, &mut checks, name, ours, 1e-5, matrices(model.parameters()))?;
    }
    cosines(case, &mut checks, &model, &rows(&image.embeds)?, &rows(&text_embeds)?, precision)?;
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
        checks.of_network(matrices(clip.model.parameters()), 1.0);
    }
    cosines(case, &mut checks, &clip.model, &images, &texts, precision)?;
    Ok(checks)
}

/// Whatever follows from the cosines of n images and m texts. In 16 bits PickScore's probabilities say nothing, as a logit is
/// off by about one: there the softmax is compared on the recorded scores, and the order of the images of each text.
fn cosines(
    case: &Case,
    checks: &mut Checks,
    model: &ClipModel,
    images: &[Vec<f64>],
    texts: &[Vec<f64>],
    precision: DType,
) -> Result<()> {
    let all = |f: &dyn Fn(f64) -> f64| -> Vec<f64> {
        images.iter().flat_map(|image| texts.iter().map(|text| f(cosine(image, text)))).collect()
    };
    let recorded =
        |name: &str| -> Result<Vec<f64>> { Ok(case.tensor(&format!("out.{name}"))?.reals::<f64>().into_owned()) };
    let spread = spread_of_cosines(case, images, texts)?;
    let scale = model.logit_scale;
    let logits = all(&|cos| scale * cos);
    for (name, ours, tolerance, factor) in [
        ("cosine", all(&|cos| cos), 1e-5, 1.0),
        ("hps", all(&clip::hps), 1e-3, 100.0),
        ("logits_per_image", logits.clone(), 1e-3, scale),
        ("pick_score", logits.clone(), 1e-3, scale),
        ("clip_score_100", all(&clip::clip_score_100), 1e-3, 100.0),
        ("clip_score_hessel", all(&clip::clip_score), 3e-5, 2.5),
    ] {
        checks.absolute(name, &ours, &recorded(name)?, tolerance);
        checks.derived(factor * spread);
    }
    let theirs = recorded("logits_per_image")?;
    let (name, scores) = match precision {
        DType::F32 => ("pick_probability", &logits),
        _ => ("pick_probability_of_recorded_scores", &theirs),
    };
    let mut probability = vec![0.0; scores.len()];
    let mut pairs = Vec::new();
    for text in 0..texts.len() {
        let places: Vec<usize> = (text..scores.len()).step_by(texts.len()).collect();
        let of_text: Vec<f64> = places.iter().map(|&place| scores[place]).collect();
        places.iter().zip(clip::preference(&of_text)).for_each(|(&place, p)| probability[place] = p);
        pairs.extend(ordered(&places.iter().map(|&place| (theirs[place], logits[place])).collect::<Vec<_>>()));
    }
    checks.absolute(name, &probability, &recorded("pick_probability")?, 2e-4);
    checks.order("pick_order", &pairs, 1e-3, scale * spread);
    Ok(())
}

/// The pairs of values as [`Checks::order`] takes them, of recorded values and ours.
pub(super) fn ordered(values: &[(f64, f64)]) -> Vec<(f64, bool)> {
    let pairs = values.iter().enumerate().flat_map(|(i, a)| values[..i].iter().map(move |b| (a, b)));
    pairs.map(|(a, b)| ((a.0 - b.0).abs(), (a.0 - b.0) * (a.1 - b.1) >= 0.0)).collect()
}

/// The standard deviation of a cosine, for errors of the two embeddings that point anywhere: each turns its vector by the
/// relative error, and of d - 1 directions one changes the cosine, by the sine of the angle.
fn spread_of_cosines(case: &Case, images: &[Vec<f64>], texts: &[Vec<f64>]) -> Result<f64> {
    let turns = |name: &str, ours: &[Vec<f64>]| -> Result<(Vec<Vec<f64>>, Vec<f64>)> {
        let recorded = rows(&case.tensor(name)?)?;
        let turns = ours.iter().zip(&recorded).map(|(ours, theirs)| relative_error(ours, theirs)).collect();
        Ok((recorded, turns))
    };
    let (images, of_images) = turns("out.image_embeds", images)?;
    let (texts, of_texts) = turns("out.text_embeds", texts)?;
    let directions = texts.first().map_or(1, |text| text.len().saturating_sub(1).max(1)) as f64;
    let mut largest = 0.0_f64;
    for (image, a) in images.iter().zip(&of_images) {
        for (text, b) in texts.iter().zip(&of_texts) {
            let sine = (1.0 - cosine(image, text).powi(2)).max(0.0).sqrt();
            largest = largest.max(a.hypot(*b) * sine / directions.sqrt());
        }
    }
    Ok(largest)
}

pub(super) fn relative_error(ours: &[f64], theirs: &[f64]) -> f64 {
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    length(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / length(&mut theirs.iter().copied())
}

/// The root of the mean square of the differences.
pub(super) fn root_mean_square(ours: &[f64], theirs: &[f64]) -> f64 {
    let squares = ours.iter().zip(theirs).map(|(a, b)| (a - b) * (a - b));
    (squares.sum::<f64>() / ours.len().max(1) as f64).sqrt()
}

/// The length of the gradient of a head without activations, which takes vectors of `width` values.
pub(super) fn slope(width: usize, head: &dyn Fn(&Tensor) -> Result<Vec<f64>>) -> Result<f64> {
    let zero = head(&Tensor::new(vec![0.0_f32; width], &[1, width]))?[0];
    let unit: Vec<f32> = (0..width * width).map(|at| f32::from(u8::from(at / width == at % width))).collect();
    let changes = head(&Tensor::new(unit, &[width, width]))?;
    Ok(changes.iter().map(|value| (value - zero) * (value - zero)).sum::<f64>().sqrt())
}

/// Matrices and kernels of a network.
pub(super) fn matrices(parameters: &[Param]) -> usize {
    parameters.iter().filter(|param| param.get().shape().len() > 1).count()
}

pub fn aesthetic(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let judge = Aesthetic::load(&case.path("model")?, Some(&case.path("clip_model")?), device, precision)?;
    let mut checks = Checks::default();
    let scores = judge.scores(&rows(&case.tensor("in.image_embeds")?)?)?;
    checks.absolute("score", &scores, &case.tensor("out.score")?.reals::<f64>(), 1e-5);
    let recipe = Recipe::parse(case.str("clip_recipe")?)?;
    let pixels = pixels(&images(case)?, recipe, judge.image_size())?;
    let embeds = judge.image_embeds(&pixels)?;
    checks.absolute("image_score", &judge.scores(&embeds)?, &case.tensor("out.image_score")?.reals::<f64>(), 1e-5);
    if precision != DType::F32 {
        // The embeddings are not recorded. In f32 their scores are compared.
        let (head, clip) = (case.path("model")?, case.path("clip_model")?);
        let exact = Aesthetic::load(&head, Some(&clip), &Device::Cpu, DType::F32)?.image_embeds(&pixels)?;
        let turns = embeds.iter().zip(&exact).map(|(ours, exact)| relative_error(ours, exact));
        let width = embeds.first().map_or(0, Vec::len);
        // The head takes unit vectors.
        let slope = slope(width, &|x| judge.head(x))?;
        checks.derived(turns.fold(0.0, f64::max) * slope / (width as f64).sqrt());
    }
    Ok(checks)
}

pub fn inception(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = inception::load(&case.path("model")?, device, precision)?.model;
    let matrices = matrices(model.parameters());
    let images = images(case)?;
    let tape = Tape::off();
    let mut checks = Checks::default();
    let output = model.forward(&tape, &pixels(&images, Recipe::parse(case.str("resize")?)?, Inception::SIZE)?)?;
    for (name, map) in [64, 192, 768].into_iter().zip(&output.maps) {
        let means = inception::spatial_means(map)?;
        checks.relative(format!("features.{name}"), &means, &case.tensor(&format!("out.features.{name}"))?, 2e-5);
        checks.of_network(matrices, 1.0);
    }
    relative(case, &mut checks, "features.2048", &output.features, 2e-5, matrices)?;
    let logits = model.logits_unbiased(&tape, &output.features)?;
    let logits = logits.ok_or_else(|| case.error("the model has no fc.weight"))?;
    relative(case, &mut checks, "logits_unbiased", &logits, 2e-5, matrices)?;
    for recipe in [Recipe::FidClean, Recipe::FidTf1] {
        let features = model.forward(&tape, &pixels(&images, recipe, Inception::SIZE)?)?.features;
        relative(case, &mut checks, &format!("features.2048.{}", recipe.name()), &features, 2e-5, matrices)?;
    }
    Ok(checks)
}

pub fn lpips(case: &Case, device: &Device, precision: DType) -> Result<Checks> {
    let model = lpips::load(&case.path("model")?, device, precision)?.model;
    let mut distances = Vec::new();
    for pair in case.list("pairs")? {
        let image = |i: usize| {
            let path = pair[i].as_str().ok_or_else(|| case.error("`pairs`: expected pairs of paths"))?;
            DecodedImage::read(&case.below_root(path))
        };
        distances.push(lpips::distance(&model, &image(0)?, &image(1)?)?);
    }
    let mut checks = Checks::default();
    let recorded = case.tensor("out.distance")?.reals::<f64>().into_owned();
    checks.absolute("distance", &distances, &recorded, 1e-5);
    checks.of_network(matrices(model.parameters()), recorded.iter().copied().fold(0.0, f64::max));
    Ok(checks)
}

/// Compares `out.NAME`, an output of a network with so many matrices, where the case has it.
pub(super) fn relative(
    case: &Case,
    checks: &mut Checks,
    name: &str,
    ours: &Tensor,
    tolerance: f64,
    matrices: usize,
) -> Result<()> {
    let recorded = format!("out.{name}");
    if case.tensors.contains(&recorded) {
        checks.relative(name, &ours.to_cpu()?.reals::<f32>(), &case.tensor(&recorded)?, tolerance);
        checks.of_network(matrices, 1.0);
    }
    Ok(())
}

pub(super) fn images(case: &Case) -> Result<Vec<DecodedImage>> {
    let names = case.strings("images")?.unwrap_or_default();
    let paths: Vec<PathBuf> = names.iter().map(|name| case.below_root(name)).collect();
    paths.iter().map(|path| DecodedImage::read(path)).collect()
}

pub(super) fn pixels(images: &[DecodedImage], recipe: Recipe, size: usize) -> Result<Tensor> {
    let pixels = images.iter().map(|image| Ok(recipe.apply(image, size)?.values)).collect::<Result<Vec<_>>>()?;
    clip::stacked(&pixels)
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
