//! Cases of what judges and metrics compute without a network: preprocess, bert_tokenizer, fid_stats, kid, cmmd, diversity,
//! image_similarity.

use serde_json::Value;

use super::case::{Case, Checks};
use crate::data::word_piece::{self, WordPiece};
use crate::error::Result;
use crate::formats;
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::metrics::diversity::{pairwise_cosine_distance, vendi};
use crate::metrics::fid::fid;
use crate::metrics::similarity::similarity;
use crate::metrics::statistics::Statistics;
use crate::metrics::{Features, cmmd, kid};

pub fn preprocess(case: &Case) -> Result<Checks> {
    let name = case.str("recipe")?;
    let recipe = Recipe::parse(name)?;
    let size = case.usize("size")?;
    let mut checks = Checks::default();
    for (image, path) in case.paths("images")? {
        let pixels = recipe.apply(&DecodedImage::read(&path)?, size)?;
        let resized = format!("out.{image}.resized");
        if let (true, Some(ours)) = (case.tensors.contains(&resized), &pixels.resized) {
            let reference = case.tensor(&resized)?;
            let ours: Vec<i64> = ours.as_raw().iter().map(|&v| v.into()).collect();
            let reference = reference.data::<i64>();
            if name == "clip_transformers_torch" {
                // PyTorch's rounding of 8-bit tensors is its own: one level, in one value of a hundred.
                let wide = |v: &[i64]| v.iter().map(|&v| v as f64).collect::<Vec<f64>>();
                checks.absolute(format!("{image} resized"), &wide(&ours), &wide(reference), 1.0);
                let different = ours.iter().zip(reference).filter(|(a, b)| a != b).count();
                checks.push(format!("{image} share of values"), different as f64 / ours.len() as f64, 0.01);
            } else {
                checks.equal(format!("{image} resized"), &ours, reference);
            }
        }
        let values = format!("out.{image}.pixel_values");
        if case.tensors.contains(&values) && name != "clip_transformers_torch" {
            let tolerance = match recipe {
                Recipe::Hps | Recipe::HpsAntialias | Recipe::FidPytorch => 1e-4,
                _ => 2e-6,
            };
            let ours = crate::lora::attach::transposed(&pixels.values.reals::<f32>(), 1, size * size, 3);
            let ours: Vec<f64> = ours.into_iter().map(f64::from).collect();
            let reference = case.tensor(&values)?;
            checks.absolute(format!("{image} pixel_values"), &ours, &reference.reals::<f64>(), tolerance);
        }
    }
    Ok(checks)
}

pub fn bert_tokenizer(case: &Case) -> Result<Checks> {
    let tokenizer = WordPiece::load(&case.path("vocab")?)?;
    let texts = case.strings("texts")?.unwrap_or_default();
    let length = case.usize("max_length")?;
    let mut checks = Checks::default();
    checks.equal("[DEC]", &[Some(tokenizer.dec)], &[case.json["added_tokens"]["[DEC]"].as_i64()]);
    checks.equal("[ENC]", &[Some(tokenizer.enc)], &[case.json["added_tokens"]["[ENC]"].as_i64()]);
    let rows = |name: &str| -> Result<Vec<i64>> { Ok(case.tensor(name)?.data::<i64>().to_vec()) };
    let (mut ids, mut mask, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    for (i, text) in texts.iter().enumerate() {
        let padded = tokenizer.encode_padded(text, length)?;
        ids.extend(padded.ids);
        mask.extend(padded.mask);
        let question = word_piece::prepared_question(text);
        checks.equal(
            format!("question {i}"),
            &[&*question],
            &[case.json["prepared_questions"][i].as_str().unwrap_or_default()],
        );
        let mut row = tokenizer.encode_padded(&question, length)?.ids;
        row[0] = tokenizer.enc;
        questions.extend(row);
        let whole = tokenizer.encode(text)?;
        let reference: Option<Vec<i64>> = serde_json::from_value(case.json["untruncated_ids"][i].clone()).ok();
        checks.equal(format!("untruncated ids {i}"), &whole, &reference.unwrap_or_default());
        let decoded = tokenizer.decode(&whole)?;
        checks.equal(format!("decoded {i}"), &[Some(&*decoded)], &[case.json["decoded"][i].as_str()]);
    }
    checks.equal("ids", &ids, &rows("out.ids")?);
    checks.equal("attention mask", &mask, &rows("out.attention_mask")?);
    checks.equal("question ids", &questions, &rows("out.question_ids")?);
    Ok(checks)
}

fn features(case: &Case, name: &str) -> Result<Features> {
    Features::new(&case.tensor(name)?)
}

/// A number of `expected`.
fn expected(case: &Case, key: &str) -> Result<f64> {
    let value = case.json["expected"][key].as_f64();
    value.ok_or_else(|| case.error(format!("`expected.{key}`: expected a number")))
}

pub fn fid_stats(case: &Case) -> Result<Checks> {
    let first = Statistics::of(&features(case, "in.features_1")?)?;
    let second = Statistics::of(&features(case, "in.features_2")?)?;
    let d = first.mu.len();
    let sigma: Vec<f64> = (0..d * d).map(|at| first.sigma[(at / d, at % d)]).collect();
    let mut checks = Checks::default();
    for (name, ours) in [("mu_1", &first.mu), ("sigma_1", &sigma)] {
        let reference = case.tensor(&format!("out.{name}"))?;
        checks.push(name, relative_f64(ours, &reference.reals::<f64>()), 1e-12);
    }
    let reference = expected(case, "fid")?;
    let error = (fid(&first, &second)? - reference).abs() / reference.max(1.0);
    checks.push("fid", error, 1e-6);
    Ok(checks)
}

fn relative_f64(ours: &[f64], reference: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(reference).map(|(a, b)| a - b));
    let size = norm(&mut reference.iter().copied());
    match (ours.len() == reference.len(), size == 0.0) {
        (false, _) => f64::INFINITY,
        (_, true) => difference,
        _ => difference / size,
    }
}

pub fn kid(case: &Case) -> Result<Checks> {
    let (x, y) = (features(case, "in.features_1")?, features(case, "in.features_2")?);
    let (first, second) = (case.tensor("in.subsets_1")?, case.tensor("in.subsets_2")?);
    let [_, size] = first.dims("verify")?;
    let indices = |row: &[i64], n: usize| -> Result<Vec<usize>> {
        let index = |&i: &i64| usize::try_from(i).ok().filter(|&i| i < n);
        let indices: Option<Vec<usize>> = row.iter().map(index).collect();
        indices.ok_or_else(|| case.error("a subset names an image that is not there"))
    };
    let mut values = Vec::new();
    for (a, b) in first.data::<i64>().chunks(size).zip(second.data::<i64>().chunks(size)) {
        values.push(kid::mmd2(&x.subset(&indices(a, x.len())?), &y.subset(&indices(b, y.len())?))?);
    }
    let mut checks = Checks::default();
    checks.absolute("mmd2", &values, &case.tensor("out.mmd2")?.reals::<f64>(), 1e-9);
    let summary = kid::summary(&values).ok_or_else(|| case.error("no subsets"))?;
    checks.absolute("mean", &[summary.mean], &[expected(case, "kid_mean")?], 1e-9);
    checks.absolute("std", &[summary.std], &[expected(case, "kid_std")?], 1e-9);
    Ok(checks)
}

pub fn cmmd(case: &Case) -> Result<Checks> {
    let ours = cmmd::cmmd(&features(case, "in.embeds_1")?, &features(case, "in.embeds_2")?)?;
    let mut checks = Checks::default();
    checks.absolute("cmmd", &[ours], &[expected(case, "cmmd")?], 1e-8);
    Ok(checks)
}

pub fn diversity(case: &Case) -> Result<Checks> {
    let mut checks = Checks::default();
    let mut distances = Vec::new();
    for i in 0.. {
        let name = format!("in.{i}.embeds");
        if !case.tensors.contains(&name) {
            break;
        }
        let embeds = features(case, &name)?;
        let distance = pairwise_cosine_distance(&embeds);
        optional(&mut checks, format!("pairwise {i}"), distance, &case.json["expected"]["pairwise_cosine_distance"][i]);
        optional(&mut checks, format!("vendi {i}"), Some(vendi(&embeds)?), &case.json["expected"]["vendi"][i]);
        distances.extend(distance);
    }
    let mean = distances.iter().sum::<f64>() / distances.len() as f64;
    checks.absolute("mean pairwise", &[mean], &[expected(case, "mean_pairwise_cosine_distance")?], 1e-9);
    checks.absolute("prompts used", &[distances.len() as f64], &[expected(case, "groups_used")?], 0.0);
    Ok(checks)
}

/// A number at 1e-9, or null and nothing.
fn optional(checks: &mut Checks, quantity: String, ours: Option<f64>, reference: &Value) {
    match (ours, reference.as_f64()) {
        (Some(ours), Some(reference)) => checks.absolute(quantity, &[ours], &[reference], 1e-9),
        (ours, _) => checks.equal(quantity, &[ours.is_none()], &[reference.is_null()]),
    }
}

pub fn image_similarity(case: &Case) -> Result<Checks> {
    let mut checks = Checks::default();
    for (i, pair) in case.list("pairs")?.iter().enumerate() {
        let image = |side: usize| {
            let path = pair[side].as_str().ok_or_else(|| case.error(format!("`pairs[{i}]`: expected two paths")))?;
            formats::image::read(&case.below_root(path))
        };
        let ours = similarity(&image(0)?, &image(1)?);
        let expected = &case.json["expected"][i];
        let values = [
            ("ssim_luma", ours.ssim_luma),
            ("ssim_rgb", ours.ssim_rgb),
            ("psnr", ours.psnr),
            ("mae", Some(ours.mae)),
            ("histogram_intersection", Some(ours.histogram_intersection)),
        ];
        for (name, ours) in values {
            optional(&mut checks, format!("{name} {i}"), ours, &expected[name]);
        }
    }
    Ok(checks)
}
