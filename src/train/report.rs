//! `report.html` of a training run: curves, sample images by step, settings. It says nothing that the run's other files do not
//! say, and has no clock: the same run gives the same page, also after a resume.

mod page;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use toml::Table;

use super::config::TrainConfig;
use super::samples::ROWS;
use super::watcher::StepReport;
use crate::error::{Error, Result};
use crate::formats::{atomic, jsonl};
use crate::page::image::data_uri;

/// The file in the output folder.
pub const NAME: &str = "report.html";
/// What the page's title begins with, and the bytes that it is looked for in.
const TITLE: &str = "selma: training of ";
const HEAD: usize = 1 << 10;
/// Images of one prompt that are shown, the first and the last among them.
const STEPS: usize = 12;
/// Prompts whose images are shown.
const PROMPTS: usize = 16;

/// What the page tells of.
pub struct Report {
    out: PathBuf,
    /// Of the LoRA.
    name: String,
    model: String,
    steps: u64,
    /// Images that are learnt from.
    images: usize,
    /// Numbers that are trained, and the modules that they belong to.
    trained: (usize, usize),
    /// All settings, and those that are not the default.
    settings: String,
    chosen: Vec<(String, String)>,
    /// By step: the numbers of each curve, under the names that `metrics.jsonl` has.
    curves: BTreeMap<&'static str, Vec<(u64, f64)>>,
    validation: Vec<(u64, f64)>,
    /// Sample images as the page holds them, by file name.
    shown: BTreeMap<String, String>,
}

/// The curves of `metrics.jsonl`, each with its title.
const CURVES: [(&str, &str); 4] =
    [("loss", "loss"), ("lr", "learning rate"), ("grad_norm", "norm of the gradient"), ("loss_scale", "loss scale")];

/// Images of one prompt with its settings, by step.
struct Drawn {
    prompt: Value,
    images: Vec<(u64, String)>,
}

impl Report {
    /// Of a run whose records reach to the step that it goes on from.
    ///
    /// # Errors
    /// [`Error::Failed`] for settings that are no TOML; [`Error::File`] for records that cannot be read.
    pub fn new(config: &TrainConfig, images: usize, trained: (usize, usize)) -> Result<Self> {
        let table = |config: &TrainConfig| -> Result<Table> {
            config.to_toml()?.parse().map_err(|e: toml::de::Error| Error::Failed(e.to_string()))
        };
        let (mut all, default) = (table(config)?, table(&TrainConfig::default())?);
        // Where the page lies is seen.
        all.remove("out");
        let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let chosen = all.iter().filter(|(key, value)| default.get(*key) != Some(value));
        let model = Path::new(&config.model);
        let mut report = Self {
            out: config.out.clone(),
            name: config.output_name.clone(),
            model: model.file_name().map_or_else(|| config.model.clone(), |name| name.to_string_lossy().into_owned()),
            steps: config.steps,
            images,
            trained,
            chosen: chosen.map(|(key, value)| (key.clone(), text(value))).collect(),
            settings: all.to_string(),
            curves: BTreeMap::new(),
            validation: Vec::new(),
            shown: BTreeMap::new(),
        };
        for record in records(&config.out.join("metrics.jsonl"))? {
            for (name, _) in CURVES {
                report.add(name, record["step"].as_u64().unwrap_or(0), record[name].as_f64());
            }
        }
        for record in records(&config.out.join("validation.jsonl"))? {
            let point = record["step"].as_u64().zip(record["loss"].as_f64());
            report.validation.extend(point);
        }
        Ok(report)
    }

    /// What a step measured.
    pub fn step(&mut self, done: &StepReport) {
        let StepReport { step, loss, lr, grad_norm, loss_scale } = *done;
        let values =
            [("loss", Some(loss)), ("lr", Some(lr)), ("grad_norm", Some(grad_norm)), ("loss_scale", loss_scale)];
        values.into_iter().for_each(|(name, value)| self.add(name, step, value));
    }

    fn add(&mut self, name: &'static str, step: u64, value: Option<f64>) {
        self.curves.entry(name).or_default().extend(value.filter(|value| value.is_finite()).map(|value| (step, value)));
    }

    /// The loss of held-out images after `step` steps.
    pub fn validation(&mut self, step: u64, loss: f64) {
        // A run that was killed before its first state measures step 0 again.
        self.validation.retain(|(other, _)| *other != step);
        self.validation.push((step, loss));
    }

    /// Writes the page of a run that is at `step`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, step: u64) -> Result<()> {
        let drawn = self.drawn(step);
        let page = page::page(self, &drawn, step).into_string();
        atomic::write_bytes(&self.out.join(NAME), page.as_bytes())
    }

    /// The sample images up to `step` that the page shows. What cannot be read is left out: the images are not what the run is
    /// for.
    fn drawn(&mut self, step: u64) -> Vec<Drawn> {
        let dir = self.out.join("samples");
        let mut all: Vec<Drawn> = Vec::new();
        for mut row in records(&dir.join(ROWS)).unwrap_or_default() {
            let (Some(at), Some(name)) = (row["step"].as_u64(), row["file_name"].as_str().map(str::to_owned)) else {
                continue;
            };
            let mut parts = Path::new(&name).components();
            if at > step || !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                continue;
            }
            // What is left tells one prompt from another.
            let _ = row.as_object_mut().map(|row| (row.remove("step"), row.remove("file_name")));
            match all.iter_mut().find(|drawn| drawn.prompt == row) {
                Some(drawn) => drawn.images.push((at, name)),
                None => all.push(Drawn { prompt: row, images: vec![(at, name)] }),
            }
        }
        all.truncate(PROMPTS);
        for drawn in &mut all {
            let spread = spread(drawn.images.len());
            drawn.images = spread.into_iter().map(|i| drawn.images[i].clone()).collect();
        }
        let names = || all.iter().flat_map(|drawn| drawn.images.iter().map(|(_, name)| name));
        let mut shown = BTreeMap::new();
        for name in names() {
            let known = self.shown.remove(name);
            if let Some(uri) = known.or_else(|| data_uri(&dir.join(name)).ok()) {
                shown.insert(name.clone(), uri);
            }
        }
        self.shown = shown;
        all
    }
}

/// Whether a file is the page of a training run.
pub fn is_ours(path: &Path) -> bool {
    let page = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&page[..page.len().min(HEAD)]).contains(&format!("<title>{TITLE}"))
}

/// Which of `count` images are shown: [`STEPS`] at most, evenly, with the first and the last.
fn spread(count: usize) -> Vec<usize> {
    match count > STEPS {
        true => (0..STEPS).map(|i| i * (count - 1) / (STEPS - 1)).collect(),
        false => (0..count).collect(),
    }
}

/// The records of a file, none where there is no file.
fn records(path: &Path) -> Result<Vec<Value>> {
    match path.exists() {
        true => Ok(jsonl::read(path)?.into_iter().map(|(_, record)| record).collect()),
        false => Ok(Vec::new()),
    }
}
