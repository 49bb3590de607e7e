//! Stage `images`, and the generator of the stages that generate images too.

use std::path::Path;
use std::time::Instant;

use super::estimate::{Costs, Effort};
use super::folder::{Inputs, Paths};
use super::plan::put;
use super::stage::{Stage, Task, Work};
use super::{ActiveTask, Run, select};
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::digest;
use crate::generate::folder::{Existing, Finished, Folder};
use crate::generate::loras::Strength;
use crate::generate::webui::Syntax;
use crate::generate::{self, Observer, Settings, Source};
use crate::train::watcher::Watcher;

pub(super) struct Images;

impl Work for Images {
    fn tasks(&self, run: &Run) -> Vec<Task> {
        run.task_a_skill(Stage::Images)
    }

    fn needs(&self, _: &Run, task: &Task) -> Vec<Task> {
        vec![Task::new(Stage::Prompts, task.part())]
    }

    fn inputs(&self, run: &Run, task: &Task, inputs: &mut Inputs) -> Result<Paths> {
        model_inputs(run, inputs)?;
        Ok(Paths::one(&format!("images/{}", task.part())))
    }

    fn estimate(&self, run: &Run, _: &Task, costs: &Costs) -> Result<Effort> {
        effort(run, run.config.prompts.count, costs)
    }

    fn work(&self, run: &Run, tasks: Vec<ActiveTask>, watcher: &mut dyn Watcher) -> Result<()> {
        let read = |task: &ActiveTask| prompts::read(&run.folder.path(format!("prompts/{}.json", task.part())));
        for task in &tasks {
            select::check(run, task.part(), &read(task)?)?;
        }
        let mut generator = Generator::of_images(run)?;
        for mut task in tasks {
            task.begin = Instant::now();
            let prompts = read(&task)?;
            let out = run.folder.path(format!("images/{}", task.part()));
            generator.generate(&prompts, run.config.seed, &out, watcher)?;
            run.finish(task)?;
        }
        Ok(())
    }
}

/// Adds the model of `[images]` and its settings.
///
/// # Errors
/// Those of the model's files.
pub(super) fn model_inputs(run: &Run, inputs: &mut Inputs) -> Result<()> {
    let images = &run.config.images;
    put(inputs, "model", run.model(&images.model, images.vae.as_deref())?);
    put(inputs, "settings", run.generation_inputs(&images.draw));
    Ok(())
}

/// What so many images of the model of `[images]` take.
///
/// # Errors
/// Those of the model's files.
pub(super) fn effort(run: &Run, count: usize, costs: &Costs) -> Result<Effort> {
    let images = &run.config.images;
    Ok(Effort {
        work: format!("{count} images"),
        bytes: count as u64 * run.image_bytes(&images.model, &images.draw)?,
        seconds: count as f64 * costs.of_images.image(&images.draw),
    })
}

/// A model that is loaded once and fills several folders of the run.
pub(super) struct Generator<'a> {
    run: &'a Run<'a>,
    path: &'a str,
    vae: Option<&'a Path>,
    settings: &'a Settings,
    inner: generate::Generator,
    /// Of images that are learnt from.
    keeps_latents: bool,
}

impl<'a> Generator<'a> {
    /// The model of `[images]`, which makes what experts learn from.
    ///
    /// # Errors
    /// As [`generate::Generator::load`].
    pub fn of_images(run: &'a Run) -> Result<Self> {
        let images = &run.config.images;
        Ok(Self { keeps_latents: true, ..Self::load(run, &images.model, images.vae.as_deref(), &images.draw)? })
    }

    /// # Errors
    /// As [`generate::Generator::load`].
    pub fn load(run: &'a Run, path: &'a str, vae: Option<&'a Path>, settings: &'a Settings) -> Result<Self> {
        let source = Source {
            model: path.into(),
            vae: vae.map(Path::to_path_buf),
            vocab: run.config.vocab.clone(),
            prediction: None,
            embeddings: Vec::new(),
        };
        // Training says what is unusual about the model.
        let inner = generate::Generator::load(source, run.dtype, &mut |_| ())?;
        inner.to(&run.device)?;
        Ok(Self { run, path, vae, settings, inner, keeps_latents: false })
    }

    /// Generates with these settings from now on.
    pub fn set(&mut self, settings: &'a Settings) {
        self.settings = settings;
    }

    /// Generates with this LoRA from now on, or with none.
    ///
    /// # Errors
    /// As [`generate::Generator::with_loras`].
    pub fn with_lora(&mut self, lora: Option<&Path>) -> Result<()> {
        let strength = |path: &Path| Strength { path: path.into(), scale: 1.0 };
        self.inner.with_loras(lora.map(strength).into_iter().collect(), false, &mut |_| ()).map(drop)
    }

    /// One image of each prompt; what is there already stays.
    ///
    /// # Errors
    /// As [`generate::Generator::generate`].
    pub fn generate(&mut self, prompts: &[Prompt], seed: u64, out: &Path, watcher: &mut dyn Watcher) -> Result<()> {
        let mut inputs = self.run.model(self.path, self.vae)?;
        for lora in self.inner.loras() {
            inputs += &digest::file(lora)?;
        }
        let folder = Folder {
            out,
            prompts,
            settings: self.settings,
            images_per_prompt: 1,
            seed,
            named: &[],
            syntax: &Syntax::Plain,
            inputs: content_hash::of_bytes(inputs.as_bytes())[..16].into(),
            existing: Existing::Repair,
            latents: self.keeps_latents.then(|| self.inner.vae_identity()).transpose()?,
        };
        self.inner.generate(&folder, &mut Progress { watcher, done: 0, total: 0 })
    }
}

/// Finished images, for the watcher.
struct Progress<'a> {
    watcher: &'a mut dyn Watcher,
    done: usize,
    total: usize,
}

impl Observer for Progress<'_> {
    fn note(&mut self, text: &str) {
        self.watcher.note(text);
    }

    fn begin(&mut self, images: usize, _: usize) {
        self.total = images;
    }

    fn stepped(&mut self, _: usize) -> Result<()> {
        match self.watcher.stopped() {
            false => Ok(()),
            true => {
                Err(Error::Interrupted("stopped; the finished images are kept, and the same command goes on".into()))
            }
        }
    }

    fn finished(&mut self, _: &Finished) {
        self.done += 1;
        self.watcher.prepared("images", self.done, self.total);
    }
}
