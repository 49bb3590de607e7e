//! Images that are drawn while training goes on, to see what the expert has learnt.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::TrainConfig;
use super::tensorboard::EventFile;
use super::texts::TrainedTexts;
use crate::data::captions::Captions;
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::formats::{atomic, image, jsonl, png};
use crate::generate::generation::{Batch, Networks};
use crate::generate::parameters::{Parameters, Sources};
use crate::generate::webui::has_marks;
use crate::generate::{Conditions, Generation, Guidance, Request};
use crate::nn::{AutoencoderKl, UNet};
use crate::tensor::{DType, release_pool};

/// Denoising steps of a sample: enough to judge it by.
const STEPS: usize = 25;
/// The file with a row for each image.
pub const ROWS: &str = "metadata.jsonl";

/// A sample image that is asked for, and the prompt's record.
#[derive(Clone)]
pub struct Asked {
    pub request: Request,
    pub prompt: Prompt,
}

/// The sample images of a run of `side` pixels: those of `--sample-prompts`, then those of `--sample-prompt`. What a prompt does
/// not say for itself is the same for all.
///
/// # Errors
/// [`Error::File`] and [`Error::Io`] as for [`prompts::read`]; [`Error::Usage`] for a setting that is not of its type.
pub fn asked(config: &TrainConfig, side: usize, is_xl: bool) -> Result<Vec<Asked>> {
    if config.sample_every == 0 {
        return Ok(Vec::new());
    }
    let shared = Generation {
        scheduler: None,
        steps: STEPS,
        guidance: Guidance { scale: Guidance::default_scale(is_xl), rescale: 0.0 },
        negative: None,
        size: (side, side),
        clip_skip: 0,
        seed: config.seed,
    };
    let mut all = Vec::new();
    if let Some(path) = &config.sample_prompts {
        if !path.is_file() {
            return Err(Error::file(path, "no such file; --sample-prompts names a file of prompts"));
        }
        all = prompts::read(path)?;
    }
    all.extend(config.sample_prompt.iter().map(Prompt::new));
    let ask = |(place, prompt): (usize, Prompt)| {
        let request = Request::new(&prompt, [place, 0, 1], &shared);
        Ok(Asked { request: request.map_err(|error| of_file(config, &error))?, prompt })
    };
    all.into_iter().enumerate().map(ask).collect()
}

/// Checks the settings of sample images for a model that is not loaded, as [`Generation::check_for`].
///
/// # Errors
/// [`Error::Usage`] naming the prompt and the setting.
pub fn check(all: &[Asked], config: &TrainConfig, factor: usize, scheduler: &Value, is_xl: bool) -> Result<()> {
    for Asked { request, .. } in all {
        let checked = request.generation.check_for(factor, scheduler, is_xl);
        checked.map_err(|error| of_file(config, &format!("prompt {}: {error}", request.number + 1)))?;
    }
    Ok(())
}

/// What to say of prompts before the first step: those that are cut to `windows` windows, and marks that mean nothing here.
///
/// # Errors
/// As [`Captions::tokens`].
pub fn notes(all: &[Asked], captions: &Captions, windows: usize) -> Result<Vec<String>> {
    let (mut cut, room) = (0, windows * captions.capacity);
    for Asked { request, .. } in all {
        let negative = request.generation.negative.as_deref().unwrap_or_default();
        cut += usize::from(captions.tokens(&request.prompt)?.max(captions.tokens(negative)?) > room);
    }
    let mut notes = Vec::new();
    if cut > 0 {
        let count = all.len();
        notes.push(format!(
            "warning: {cut} of {count} sample prompts have more than {room} tokens; the rest is cut off"
        ));
    }
    if all.iter().any(|asked| has_marks(&asked.request.prompt)) {
        let marks = "sample prompts have marks such as (word:1.3), BREAK or <lora:name>, which are plain text here";
        notes.push(format!("note: {marks}"));
    }
    Ok(notes)
}

/// What is wrong with a prompt, under the name of the file that it is from.
fn of_file(config: &TrainConfig, error: &dyn std::fmt::Display) -> Error {
    match &config.sample_prompts {
        Some(path) => Error::Usage(format!("{}: {error}", path.display())),
        None => Error::Usage(format!("--sample-prompt: {error}")),
    }
}

/// What is drawn, always from the same noise.
pub struct Samples {
    /// The folder that images go to.
    dir: PathBuf,
    asked: Vec<Asked>,
    /// Prompt and negative prompt of each image, where the text encoders stay as they are.
    prompts: Vec<(Conditions, Conditions)>,
    parameters: Parameters,
    /// The rows of all images that are there, by step.
    rows: Vec<Value>,
    model: SampledModel,
}

/// The model as sample images need it.
pub struct SampledModel {
    /// `scheduler_config.json`.
    pub scheduler: Value,
    pub is_xl: bool,
    /// Loaded for the images and dropped again.
    pub vae_folder: PathBuf,
    /// The model's own VAE, where `vae_folder` is another.
    pub own_vae: PathBuf,
    pub dtype: DType,
}

impl Samples {
    /// Of a run that writes into `config.out`. `prompts`: prompt and negative prompt of each image, where the text encoders
    /// stay as they are.
    ///
    /// # Errors
    /// [`Error::Failed`] where the rows of earlier images cannot be read.
    pub fn new(
        config: &TrainConfig,
        asked: Vec<Asked>,
        prompts: Vec<(Conditions, Conditions)>,
        model: SampledModel,
    ) -> Result<Self> {
        let requests: Vec<Request> = asked.iter().map(|asked| asked.request.clone()).collect();
        let sources = Sources {
            model: Some(Path::new(&config.model)),
            vae: config.vae.as_deref(),
            training: &config.output_name,
            ..Sources::default()
        };
        let parameters = Parameters::new(&model.scheduler, model.dtype, &sources, &requests)?;
        let dir = config.out.join("samples");
        Ok(Self { rows: rows(&dir)?, dir, asked, prompts, parameters, model })
    }

    /// Writes `step-NNNNNNNN-I.png` for each prompt, as `texts` encode it where those are trained, and a row for each into
    /// `metadata.jsonl`; both also go to `events`.
    ///
    /// # Errors
    /// [`Error::Io`] where an image cannot be written; whatever is wrong with the VAE.
    pub fn draw(&mut self, unet: &UNet, texts: Option<&TrainedTexts>, step: u64, events: &mut EventFile) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let vae = AutoencoderKl::load_standing_in(&self.model.vae_folder, &self.model.own_vae, self.model.dtype)?;
        vae.to(&unet.device())?;
        let mut rows = Vec::new();
        for (i, asked) in self.asked.iter().enumerate() {
            let Asked { request, prompt } = asked;
            let (positive, negative) = match texts {
                Some(texts) => texts.of_sample(&request.prompt, request.generation.negative.as_deref())?,
                None => self.prompts[i].clone(),
            };
            let SampledModel { scheduler, is_xl, .. } = &self.model;
            let batch = Batch {
                mixture: None,
                networks: Networks { unet, vae: &vae, scheduler, is_xl: *is_xl },
                generation: &request.generation,
                noise: vec![(request.generation.seed, request.index)],
                positive,
                negative,
                start: None,
            };
            let (_, pixels) = batch.pixels(|| Ok(()))?;
            let text = self.parameters.text_after(request, Some(step));
            let name = format!("step-{step:08}-{i}.png");
            for image in image::from_tensor(&pixels)? {
                let bytes = png::encode(&image, Some(&text))?;
                atomic::write_bytes(&self.dir.join(&name), &bytes)?;
                events.image(step, &format!("samples/{i}"), request.generation.size, &bytes)?;
            }
            events.text(step, &format!("samples/{i}/settings"), &text)?;
            let mut row = self.parameters.row(name, request, &prompt.rest);
            row["step"] = step.into();
            rows.push(row);
        }
        drop(vae);
        // The steps ask for other sizes.
        release_pool();
        self.rows.retain(|row| row["step"] != step);
        self.rows.extend(rows);
        self.rows.sort_by_key(|row| row["step"].as_u64());
        jsonl::write(&self.dir.join(ROWS), &self.rows)
    }
}

/// The rows of the sample images that are in `dir`.
///
/// # Errors
/// [`Error::Failed`] naming the line that cannot be read.
fn rows(dir: &Path) -> Result<Vec<Value>> {
    let path = dir.join(ROWS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let there = |row: &Value| row["file_name"].as_str().is_some_and(|name| dir.join(name).is_file());
    let rows = jsonl::read::<Value>(&path);
    let rows = rows.map_err(|error| Error::Failed(format!("{error}; move the file away to go on")))?;
    Ok(rows.into_iter().map(|(_, row)| row).filter(there).collect())
}
