//! Metrics of a folder of images.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::networks::Loaded;
use super::sets::{self, Named};
use super::{Measured, Metrics};
use crate::cli::Common;
use crate::error::{Error, Result};
use crate::evaluate::{folder, statistics};
use crate::formats::image;
use crate::judges::clip::Clip;
use crate::judges::inception::Extractor;
use crate::judges::lpips;
use crate::judges::preprocess::Recipe;
use crate::metrics::features::dot;
use crate::metrics::measure::{self, Set};
use crate::metrics::report::Metric;
use crate::metrics::similarity::{Similarity, similarity};
use crate::metrics::statistics::Statistics;

/// The images that are measured, and what is known of them.
struct Images {
    paths: Vec<PathBuf>,
    /// The number of each image's prompt; none where no metadata.jsonl says.
    prompts: Option<Vec<usize>>,
    /// Those with a reference of the same name.
    pairs: Vec<Named>,
    /// Of each pair; where nothing says it, each is of its own.
    prompts_of_pairs: Vec<usize>,
    /// Of the intervals.
    seed: u64,
}

impl Images {
    /// The mean of a number of every pair, with the interval over prompts.
    fn mean_of_pairs(&self, name: &str, values: &[Option<f64>]) -> Metric {
        let mut metric = Metric::mean(name, values, [Some(values.len()); 2]);
        let there = values.iter().zip(&self.prompts_of_pairs).filter_map(|(value, prompt)| Some((*prompt, (*value)?)));
        let (prompts, values): (Vec<usize>, Vec<f64>) = there.unzip();
        metric.interval = statistics::estimate(&prompts, &values, self.seed).and_then(|estimate| estimate.interval);
        metric
    }
}

impl Metrics {
    pub(super) fn of_folder(&self, measured: &mut Measured, common: &Common) -> Result<()> {
        let images = sets::images(&self.images)?;
        let names: Vec<&String> = images.keys().collect();
        let reference = self.reference.as_deref();
        let folder = reference.filter(|path| path.is_dir());
        let (pairs, alone) = folder.map(|folder| sets::pairs(&images, folder)).transpose()?.unwrap_or_default();
        self.check_folder(&pairs)?;
        let prompts = prompts(&self.images, &names)?;
        let place = |pair: &Named| names.binary_search(&&pair.name).unwrap_or(0);
        let prompts_of_pairs = pairs.iter().map(place).map(|at| prompts.as_ref().map_or(at, |of| of[at])).collect();
        let paths = images.values().cloned().collect();
        let images = Images { paths, prompts, pairs, prompts_of_pairs, seed: common.seed() };
        if images.pairs.is_empty() {
            if self.per_image.is_some() {
                let message = "--per-image: no image has the name of one in the reference, so there are no pairs";
                return Err(Error::Usage(message.into()));
            }
        } else {
            against(&images, alone, measured)?;
        }
        if self.networks.any() {
            let networks = self.networks.load(&self.out.with_extension("values.jsonl"), common)?;
            if let Some(inception) = &networks.inception {
                self.by_inception(&networks, inception, &images, measured, common)?;
            }
            if let Some(clip) = &networks.clip {
                self.by_clip(&networks, clip, &images, measured)?;
            }
            if let Some(metric) = &networks.lpips {
                by_lpips(&networks, metric, &images, measured)?;
            }
            if networks.saw_alpha() {
                measured.notes.push("some images have an alpha channel, which is dropped as the originals do".into());
            }
        }
        measured.notes.extend(self.not_measured());
        Ok(())
    }

    /// That the options give something to measure.
    fn check_folder(&self, pairs: &[Named]) -> Result<()> {
        let networks = &self.networks;
        if self.save_statistics.is_some() && (networks.inception.is_none() || networks.fid_rule.len() != 1) {
            return Err(Error::Usage("--save-statistics: images need --inception, and one --fid-rule".into()));
        }
        let Some(reference) = &self.reference else {
            let measures = networks.clip.is_some() || networks.lpips.is_some() || self.save_statistics.is_some();
            return match measures {
                true => Ok(()),
                false => {
                    Err(Error::Usage("--reference, --clip or --lpips: expected one, or nothing is measured".into()))
                }
            };
        };
        if !reference.is_dir() && networks.inception.is_none() {
            let message = "--inception: expected the network that made the statistics or features of --reference";
            return Err(Error::Usage(message.into()));
        }
        if pairs.is_empty() && networks.inception.is_none() && networks.clip.is_none() {
            let message = format!(
                "no image has the name of one in {}; for other metrics than of pairs give --inception or --clip",
                reference.display()
            );
            return Err(Error::file(&self.images, message));
        }
        Ok(())
    }

    /// What other options would have measured.
    fn not_measured(&self) -> Vec<String> {
        let networks = &self.networks;
        let mut missing = Vec::new();
        if networks.inception.is_none() && self.reference.is_some() {
            missing.push("FID and KID (--inception)");
        }
        if networks.clip.is_none() {
            missing.push("CMMD, CLIP-I and diversity (--clip)");
        }
        if networks.lpips.is_none() {
            missing.push("LPIPS (--lpips)");
        }
        if missing.is_empty() { Vec::new() } else { vec![format!("not measured: {}", missing.join(", "))] }
    }

    /// FID and KID by each rule, and the statistics of the set.
    fn by_inception(
        &self,
        networks: &Loaded,
        inception: &Extractor,
        images: &Images,
        measured: &mut Measured,
        common: &Common,
    ) -> Result<()> {
        for rule in &self.networks.fid_rule {
            let recipe = rule.recipe();
            let features = networks.inception_features(inception, recipe, &images.paths)?;
            if let Some(file) = &self.save_statistics {
                Statistics::of(&features)?.write(file)?;
            }
            let Some(reference) = &self.reference else {
                return Ok(());
            };
            let theirs = match reference.is_dir() {
                true => {
                    let others: Vec<PathBuf> = sets::images(reference)?.into_values().collect();
                    Set::Features(networks.inception_features(inception, recipe, &others)?)
                }
                false => sets::read(reference)?,
            };
            let metrics = measure::distances(&Set::Features(features), &theirs, recipe.name(), self.subsets(common))?;
            measured.metrics.extend(metrics.into_iter().map(|metric| of_weights(metric, &inception.hash)));
        }
        Ok(())
    }

    /// CMMD, diversity, and CLIP-I of pairs.
    fn by_clip(&self, networks: &Loaded, clip: &Clip, images: &Images, measured: &mut Measured) -> Result<()> {
        let ours = networks.embeddings(clip, Recipe::ClipOpenai, &images.paths)?;
        let rule = format!("CLIP at {} pixels, {} values", clip.model.image_size(), ours.width());
        let diversities = measure::diversities(&ours, images.prompts.as_deref(), &rule)?;
        measured.metrics.extend(diversities.into_iter().map(|metric| of_weights(metric, &clip.hash)));
        if let Some(reference) = self.reference.as_deref().filter(|path| path.is_dir()) {
            let others: Vec<PathBuf> = sets::images(reference)?.into_values().collect();
            let [x, y] = [&images.paths, &others].map(|paths| networks.embeddings(clip, Recipe::Cmmd, paths));
            let mut metric = of_weights(measure::embedding_distance(&x?, &y?, &rule)?, &clip.hash);
            if (clip.model.image_size(), ours.width()) != (336, 768) {
                metric.name = "clip_mmd".into();
                metric.notes.push("only CLIP ViT-L/14 at 336 pixels gives what is called CMMD".into());
            }
            measured.metrics.push(metric);
        }
        if !images.pairs.is_empty() {
            let side = |path: fn(&Named) -> &PathBuf| {
                let paths: Vec<PathBuf> = images.pairs.iter().map(|pair| path(pair).clone()).collect();
                networks.embeddings(clip, Recipe::ClipOpenai, &paths)
            };
            let (a, b) = (side(|pair| &pair.image)?.normalized(), side(|pair| &pair.reference)?.normalized());
            let values: Vec<f64> = a.rows().zip(b.rows()).map(|(a, b)| dot(a, b)).collect();
            add_to_pairs(images, "clip_i", &rule, &clip.hash, &values, measured);
        }
        Ok(())
    }
}

/// The distance of pairs, and of the images of one prompt from each other.
fn by_lpips(networks: &Loaded, metric: &lpips::Metric, images: &Images, measured: &mut Measured) -> Result<()> {
    const RULE: &str = "v0.1, AlexNet";
    if !images.pairs.is_empty() {
        let pairs: Vec<[&Path; 2]> = images.pairs.iter().map(|pair| [&*pair.reference, &*pair.image]).collect();
        add_to_pairs(images, "lpips", RULE, &metric.hash, &networks.distances(metric, &pairs)?, measured);
    }
    let Some(prompts) = &images.prompts else {
        return Ok(());
    };
    let mut groups: BTreeMap<usize, Vec<&Path>> = BTreeMap::new();
    for (path, prompt) in images.paths.iter().zip(prompts) {
        groups.entry(*prompt).or_default().push(path);
    }
    let mut means = Vec::new();
    for group in groups.values() {
        let pairs: Vec<[&Path; 2]> =
            (0..group.len()).flat_map(|i| (0..i).map(move |j| [j, i])).map(|[j, i]| [group[j], group[i]]).collect();
        let distances = networks.distances(metric, &pairs)?;
        means.push((!distances.is_empty()).then(|| distances.iter().sum::<f64>() / distances.len() as f64));
    }
    let used = means.iter().flatten().count();
    let mean = Metric::mean("lpips_of_a_prompt", &means, [Some(images.paths.len()), None]);
    let mut mean = of_weights(mean.note(format!("over {used} prompts with two or more images")), &metric.hash);
    mean.rule = Some(RULE.into());
    measured.metrics.push(mean);
    Ok(())
}

fn of_weights(mut metric: Metric, hash: &str) -> Metric {
    metric.weights_sha256 = Some(hash.into());
    metric
}

/// Each image against the one of the same name.
fn against(images: &Images, alone: usize, measured: &mut Measured) -> Result<()> {
    let mut all: Vec<Similarity> = Vec::new();
    for pair in &images.pairs {
        let ours = similarity(&image::read(&pair.reference)?, &image::read(&pair.image)?);
        let mut row = json!(ours);
        row["file_name"] = json!(pair.name);
        measured.rows.push(row);
        all.push(ours);
    }
    let of = |name: &str, value: fn(&Similarity) -> Option<f64>| {
        let metric = images.mean_of_pairs(name, &all.iter().map(value).collect::<Vec<_>>());
        if alone > 0 { metric.note(format!("{alone} images have no partner of their name")) } else { metric }
    };
    let mut metrics = vec![
        of("ssim_luma", |s| s.ssim_luma),
        of("ssim_rgb", |s| s.ssim_rgb),
        of("psnr", |s| s.psnr),
        of("mae", |s| Some(s.mae)),
        of("histogram_intersection", |s| Some(s.histogram_intersection)),
    ];
    let identical = all.iter().filter(|s| s.identical).count();
    if identical > 0 {
        metrics[2].notes.push(format!("{identical} pairs are identical, which have no PSNR"));
    }
    measured.metrics.extend(metrics);
    Ok(())
}

/// One more number of every pair, and its mean.
fn add_to_pairs(images: &Images, name: &str, rule: &str, hash: &str, values: &[f64], measured: &mut Measured) {
    for (row, value) in measured.rows.iter_mut().zip(values) {
        row[name] = json!(value);
    }
    let values: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
    let mut metric = of_weights(images.mean_of_pairs(name, &values), hash);
    metric.rule = Some(rule.into());
    measured.metrics.push(metric);
}

/// The number of each image's prompt, where metadata.jsonl says them.
fn prompts(dir: &Path, names: &[&String]) -> Result<Option<Vec<usize>>> {
    if !dir.join("metadata.jsonl").is_file() {
        return Ok(None);
    }
    let (entries, _) = folder::list(dir)?;
    let by_name: HashMap<String, String> = entries.into_iter().map(|e| (e.file_name, e.prompt)).collect();
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut prompts = Vec::new();
    for name in names {
        let prompt = by_name.get(*name).ok_or_else(|| {
            let message = format!("{name} is not in its metadata.jsonl, which says the prompts of the others");
            Error::file(dir, message)
        })?;
        let next = numbers.len();
        prompts.push(*numbers.entry(prompt).or_insert(next));
    }
    Ok(Some(prompts))
}
