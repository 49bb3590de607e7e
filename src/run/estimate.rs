//! What a run will take, before it begins: the work of every task, the disk, and the time by a measurement.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::images::Generator;
use super::{Run, Status, Task};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::generate::Settings;
use crate::lora::base;
use crate::nn::{Config, UNetConfig, VaeConfig};
use crate::train::watcher::Watcher;

/// One task.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    #[serde(rename = "piece")]
    pub task: String,
    /// `done`, `begun`, `outdated` or `to do`.
    #[serde(rename = "standing")]
    pub status: &'static str,
    /// Such as "1000 images".
    pub work: String,
    /// On the disk, roughly.
    pub bytes: u64,
    /// On this machine, roughly; 0 for what takes no time worth mentioning, and for an endpoint's replies.
    pub seconds: f64,
}

/// What a task takes from nothing, roughly.
pub(super) struct Effort {
    /// Such as "1000 images".
    pub work: String,
    pub bytes: u64,
    pub seconds: f64,
}

/// What one image of each model takes.
pub(super) struct Costs {
    /// By the model of `[images]`.
    pub of_images: Cost,
    /// By the model of `[experts]`.
    pub of_experts: Cost,
}

/// What one image takes, in seconds.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    /// A guided step of one image.
    pub step: f64,
    /// Encoders and the VAE.
    rest: f64,
}

impl Cost {
    pub fn image(&self, settings: &Settings) -> f64 {
        self.rest + settings.steps as f64 * self.step
    }
}

impl Run<'_> {
    /// Every task of the run. Generates two images, of one and of two steps, with each model to measure the time.
    ///
    /// # Errors
    /// Whatever is wrong with models or settings.
    pub fn estimates(&self, watcher: &mut dyn Watcher) -> Result<Vec<Estimate>> {
        self.check()?;
        let c = self.config;
        let of_images = self.cost(&c.images.model, c.images.vae.as_deref(), &c.images.draw, watcher)?;
        let of_experts = match c.images.model == c.experts.model {
            true => of_images,
            false => self.cost(&c.experts.model, None, &c.evaluate.draw, watcher)?,
        };
        let costs = Costs { of_images, of_experts };
        self.tasks().iter().map(|task| self.estimate(task, &costs)).collect()
    }

    fn estimate(&self, task: &Task, costs: &Costs) -> Result<Estimate> {
        let status = match self.status(task) {
            Ok(status) => status,
            // What it is made from is still to do itself.
            Err(Error::Failed(_)) => Status::ToDo,
            Err(other) => return Err(other),
        };
        let Effort { work, bytes, seconds } = task.stage.definition().estimate(self, task, costs)?;
        let names = ["done", "begun", "outdated", "to do"];
        let left = if status == Status::Done { 0.0 } else { seconds };
        Ok(Estimate { task: task.to_string(), status: names[status as usize], work, bytes, seconds: left })
    }

    /// An image of one step and one of two.
    fn cost(&self, model: &str, vae: Option<&Path>, settings: &Settings, watcher: &mut dyn Watcher) -> Result<Cost> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let mut times = [0.0; 2];
        for (time, steps) in times.iter_mut().zip(1..) {
            let settings = Settings { steps, scheduler: Some("ddim".into()), batch_size: 1, ..settings.clone() };
            let mut generator = Generator::load(self, model, vae, &settings)?;
            let begin = Instant::now();
            generator.generate(&[Prompt::new("a measurement")], 0, &dir.path().join(steps.to_string()), watcher)?;
            *time = begin.elapsed().as_secs_f64();
        }
        let step = (times[1] - times[0]).max(times[0] / 100.0);
        let rest = (times[0] - step).max(0.0);
        Ok(Cost { step, rest })
    }

    /// The size of a PNG: that of a photograph takes about two thirds of its pixels' bytes.
    ///
    /// # Errors
    /// Those of the model's configurations.
    pub(super) fn image_bytes(&self, model: &str, settings: &Settings) -> Result<u64> {
        let files = ModelDir::open(Path::new(model))?;
        let unet = UNetConfig::parse(&Config::open(&files.unet.join("config.json"))?)?;
        let vae = VaeConfig::parse(&Config::open(&files.vae.join("config.json"))?)?;
        let side = unet.sample_size * vae.downscale();
        Ok((settings.width.unwrap_or(side) * settings.height.unwrap_or(side) * 2) as u64)
    }

    /// The size of one expert's LoRA.
    ///
    /// # Errors
    /// For a model that cannot be read, and targets that it lacks.
    pub(super) fn lora_bytes(&self) -> Result<u64> {
        let config = &self.config.experts;
        let modules = base::modules(Path::new(&config.model))?;
        let values = config.chosen(None, &modules)?.into_iter().map(|chosen| {
            let shape = &modules[chosen.component][&chosen.module];
            chosen.rank * (shape[0] + shape[1..].iter().product::<usize>())
        });
        Ok((4 * values.sum::<usize>()) as u64)
    }
}
