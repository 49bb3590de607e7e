//! What a run will take, before it begins: the work of every piece, the disk, and the time by a measurement.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::held_out::{self, Purpose};
use super::images::Generator;
use super::{Piece, Run, Stage, Standing, choose, evaluate, experts, questions};
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::generate::Settings;
use crate::lora::{Targets, base};
use crate::nn::{Config, UNetConfig, VaeConfig};
use crate::train::watcher::Watcher;

/// One piece.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    pub piece: String,
    /// `done`, `begun`, `outdated` or `to do`.
    pub standing: &'static str,
    /// Such as "1000 pictures".
    pub work: String,
    /// On the disk, roughly.
    pub bytes: u64,
    /// On this machine, roughly; 0 for what takes no time worth mentioning, and for an endpoint's replies.
    pub seconds: f64,
}

/// What one picture takes.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// A guided step of one picture.
    step: f64,
    /// Encoders and the VAE.
    rest: f64,
}

impl Run<'_> {
    /// Every piece of the pipeline. Draws two pictures of one and two steps with each model to measure time.
    ///
    /// # Errors
    /// Whatever is wrong with models or settings.
    pub fn estimates(&self, watcher: &mut dyn Watcher) -> Result<Vec<Estimate>> {
        self.check()?;
        let p = self.pipeline;
        let of_images = self.cost(&p.images.model, p.images.vae.as_deref(), &p.images.draw, watcher)?;
        let trainee = match p.images.model == p.experts.model {
            true => of_images,
            false => self.cost(&p.experts.model, None, &p.evaluate.draw, watcher)?,
        };
        self.pieces().iter().map(|piece| self.estimate(piece, of_images, trainee)).collect()
    }

    fn estimate(&self, piece: &Piece, of_images: Cost, trainee: Cost) -> Result<Estimate> {
        let p = self.pipeline;
        let part = piece.part.as_deref().unwrap_or_default();
        let standing = match self.standing(piece) {
            Ok(standing) => standing,
            // What it is made from is still to do itself.
            Err(Error::Failed(_)) => Standing::ToDo,
            Err(other) => return Err(other),
        };
        let picture = |cost: Cost, draw: &Settings| cost.rest + draw.steps as f64 * cost.step;
        let (work, bytes, seconds) = match piece.stage {
            Stage::Prompts => (format!("{} prompts", p.prompts.count), p.prompts.count as u64 * 200, 0.0),
            Stage::Questions => {
                let count: usize = questions::all(self).iter().map(|about| about.prompts(self)).sum();
                (format!("{} requests", 3 * count), count as u64 * 2000, 0.0)
            }
            Stage::Images | Stage::Select => {
                let further = p.select.as_ref().map_or(0, |select| select.draws() as usize - 1);
                let count = p.prompts.count * if piece.stage == Stage::Select { further } else { 1 };
                let draw = &p.images.draw;
                let size = self.picture_bytes(&p.images.model, draw)?;
                let seconds = count as f64 * picture(of_images, draw);
                (format!("{count} pictures"), count as u64 * size, seconds)
            }
            Stage::Experts => {
                let config = experts::config(self, part);
                let samples = config.steps * (config.batch_size * config.grad_accum) as u64;
                let lora = self.lora_bytes()?;
                let states = (config.keep as u64).min(config.steps.div_ceil(config.save_every));
                // Forward, and backward through what is frozen, on one row where a guided step has two.
                let seconds = samples as f64 * 1.5 * trainee.step;
                let candidates = p.choose.as_ref().map_or(0, |_| choose::steps(self, part).len() as u64);
                let sets = held_out::names(self, Purpose::Choice);
                let drawn_from = sets.iter().filter(|set| self.learns(part, set)).count();
                let pictures = candidates * (drawn_from * held_out::count(self, Purpose::Choice)?) as u64;
                let draw = &p.evaluate.draw;
                let size = self.picture_bytes(&p.experts.model, draw)?;
                (
                    format!("{} steps, {samples} samples", config.steps),
                    lora * (1 + 3 * states + candidates) + pictures * size,
                    seconds + pictures as f64 * picture(trainee, draw),
                )
            }
            Stage::Merge => {
                let bytes = self.lora_bytes()? * p.skills.len() as u64;
                ("1 LoRA".into(), bytes, 0.0)
            }
            Stage::Evaluate => {
                let folders: usize = evaluate::arms(self).iter().map(|arm| arm.sets.len()).sum();
                let prompts = held_out::count(self, Purpose::Evaluation)?;
                let count = (folders * prompts) as u64 * p.evaluate.seeds;
                let draw = &p.evaluate.draw;
                let size = self.picture_bytes(&p.experts.model, draw)?;
                let seconds = count as f64 * picture(trainee, draw);
                (format!("{count} pictures"), count * size, seconds)
            }
            Stage::Report => ("1 page".into(), 4 << 20, 0.0),
        };
        let names = ["done", "begun", "outdated", "to do"];
        let left = if standing == Standing::Done { 0.0 } else { seconds };
        Ok(Estimate { piece: piece.to_string(), standing: names[standing as usize], work, bytes, seconds: left })
    }

    /// A picture of one step and one of two.
    fn cost(&self, model: &str, vae: Option<&Path>, draw: &Settings, watcher: &mut dyn Watcher) -> Result<Cost> {
        let dir = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let mut times = [0.0; 2];
        for (time, steps) in times.iter_mut().zip(1..) {
            let settings = Settings { steps, scheduler: Some("ddim".into()), batch_size: 1, ..draw.clone() };
            let generator = Generator::load(self, model, vae, &settings)?;
            let begin = Instant::now();
            generator.generate(&[Prompt::new("a measurement")], 0, &dir.path().join(steps.to_string()), watcher)?;
            *time = begin.elapsed().as_secs_f64();
        }
        let step = (times[1] - times[0]).max(times[0] / 100.0);
        let rest = (times[0] - step).max(0.0);
        Ok(Cost { step, rest })
    }

    /// A PNG of a photograph takes about two thirds of its pixels' bytes.
    fn picture_bytes(&self, model: &str, draw: &Settings) -> Result<u64> {
        let files = ModelDir::open(Path::new(model))?;
        let unet = UNetConfig::parse(&Config::open(&files.unet.join("config.json"))?)?;
        let vae = VaeConfig::parse(&Config::open(&files.vae.join("config.json"))?)?;
        let side = unet.sample_size * vae.downscale();
        Ok((draw.width.unwrap_or(side) * draw.height.unwrap_or(side) * 2) as u64)
    }

    fn lora_bytes(&self) -> Result<u64> {
        let config = &self.pipeline.experts;
        let modules = base::modules(Path::new(&config.model))?;
        let targets = Targets::parse(&config.targets.join(","))?;
        let chosen = targets.select(&modules["unet"])?;
        let values = chosen.iter().map(|module| {
            let shape = &modules["unet"][module];
            shape[0] + shape[1..].iter().product::<usize>()
        });
        Ok((4 * config.rank * values.sum::<usize>()) as u64)
    }
}
