//! Stage `images`, and the drawing of the stages that draw too.

use std::path::Path;
use std::time::Instant;

use super::settings::DrawSettings;
use super::{Run, Task, select};
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::formats::model_dir::{self, ModelDir};
use crate::generate::draw::{Drawing, Job};
use crate::generate::loras::{self, Strength};
use crate::generate::parameters::{Parameters, Sources};
use crate::generate::pictures::{Artist, PictureFolder};
use crate::generate::{Guidance, StableDiffusion};
use crate::nn::AutoencoderKl;
use crate::train::identity;
use crate::train::watcher::Watcher;

/// Draws the prompts of every task's skill into `images/SKILL`.
///
/// # Errors
/// Whatever is wrong with the model; [`Error::Interrupted`].
pub(super) fn draw(run: &Run, tasks: Vec<Task>, watcher: &mut dyn Watcher) -> Result<()> {
    let read = |task: &Task| prompts::read(&run.folder.path(format!("prompts/{}.json", task.part())));
    for task in &tasks {
        select::check(run, task.part(), &read(task)?)?;
    }
    let painter = Painter::generator(run)?;
    for mut task in tasks {
        task.begin = Instant::now();
        let prompts = read(&task)?;
        let out = run.folder.path(format!("images/{}", task.part()));
        painter.draw(&prompts, run.pipeline.seed, &out, watcher)?;
        run.finish(task)?;
    }
    Ok(())
}

/// A model that is loaded once and draws several folders.
pub(super) struct Painter<'a> {
    run: &'a Run<'a>,
    path: &'a Path,
    vae: Option<&'a Path>,
    settings: &'a DrawSettings,
    model: StableDiffusion,
    loras: Vec<Strength>,
}

impl<'a> Painter<'a> {
    /// The model that draws what is learnt from.
    ///
    /// # Errors
    /// As [`StableDiffusion::load`].
    pub fn generator(run: &'a Run) -> Result<Self> {
        let images = &run.pipeline.images;
        Self::load(run, &images.model, images.vae.as_deref(), &images.draw)
    }

    /// # Errors
    /// As [`StableDiffusion::load`].
    pub fn load(run: &'a Run, path: &'a str, vae: Option<&'a Path>, settings: &'a DrawSettings) -> Result<Self> {
        let mut model = StableDiffusion::load(Path::new(path), run.pipeline.vocab.as_deref(), run.dtype)?;
        if let Some(vae) = vae {
            let own = ModelDir::open(Path::new(path))?.vae;
            model.vae = AutoencoderKl::load_standing_in(&model_dir::vae_folder(vae)?, &own, run.dtype)?;
        }
        model.place(&run.device)?;
        Ok(Self { run, path: Path::new(path), vae, settings, model, loras: Vec::new() })
    }

    /// Draws with this LoRA from now on, or with none.
    ///
    /// # Errors
    /// As [`loras::apply`].
    pub fn wear(&mut self, lora: Option<&Path>) -> Result<()> {
        self.model.take_off();
        let strength = |path: &Path| Strength { path: path.into(), scale: 1.0 };
        self.loras = lora.map(strength).into_iter().collect();
        loras::apply(&self.loras, self.path, false, &mut self.model, &mut |_| ())
    }

    /// One picture of each prompt; what is there already stays.
    ///
    /// # Errors
    /// As [`PictureFolder::draw`].
    pub fn draw(&self, prompts: &[Prompt], seed: u64, out: &Path, watcher: &mut dyn Watcher) -> Result<()> {
        let s = self.settings;
        let side = self.model.unet.config.sample_size * self.model.vae.config.downscale();
        let drawing = Drawing {
            model: &self.model,
            scheduler: s.scheduler.as_deref(),
            steps: s.steps,
            guidance: Guidance {
                scale: s.guidance.unwrap_or(if self.model.is_xl() { 5.0 } else { 7.5 }),
                rescale: s.guidance_rescale,
            },
            negative: s.negative.as_deref(),
            size: (s.height.unwrap_or(side), s.width.unwrap_or(side)),
            clip_skip: s.clip_skip,
            seed,
            start: None,
        };
        drawing.check()?;
        let mut inputs = self.run.model(&self.path.to_string_lossy(), self.vae)?;
        for lora in &self.loras {
            inputs += &crate::formats::digest::file(&lora.path)?;
        }
        let sources = Sources {
            model: self.path,
            vae: self.vae,
            loras: &self.loras,
            inputs: identity::of_bytes(inputs.as_bytes())[..16].into(),
        };
        let parameters = Parameters::new(&drawing, &sources)?;
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
        let folder = PictureFolder {
            out,
            drawing: &drawing,
            parameters: &parameters,
            prompts,
            images_per_prompt: 1,
            long_prompts: s.long_prompts,
            batch_size: s.batch_size,
        };
        let (jobs, long) = folder.jobs()?;
        if long > 0 && !s.long_prompts {
            watcher.note(&format!(
                "warning: {long} of {} prompts are longer than the 75 tokens that the text encoder reads",
                prompts.len()
            ));
        }
        let mut progress = Progress { watcher, done: 0, total: jobs.len() };
        folder.draw(&jobs, true, &mut progress)
    }
}

/// Finished pictures, for the watcher.
struct Progress<'a> {
    watcher: &'a mut dyn Watcher,
    done: usize,
    total: usize,
}

impl Artist for Progress<'_> {
    fn stepped(&mut self, _: usize) -> Result<()> {
        match self.watcher.stopped() {
            false => Ok(()),
            true => {
                Err(Error::Interrupted("stopped; the finished pictures are kept, and the same command goes on".into()))
            }
        }
    }

    fn finished(&mut self, jobs: &[Job], _: bool) {
        self.done += jobs.len();
        self.watcher.prepared("pictures", self.done, self.total);
    }
}
