//! `selma generate`: pictures from prompts.

mod loras;
mod parameters;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Common;
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::formats::{image, jsonl, model_dir, png};
use crate::nn::AutoencoderKl;
use crate::pipeline::draw::{Drawing, Job, Start};
use crate::pipeline::{Guidance, StableDiffusion};
use loras::Strength;
use parameters::Parameters;

/// Draw pictures with a model and any number of LoRAs.
#[derive(clap::Args)]
pub struct Generate {
    /// Folder of a model in the layout of diffusers.
    #[arg(long, alias = "pretrained-model-name-or-path")]
    model: PathBuf,
    /// A LoRA file, and its strength (1 if left out). Repeatable.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Tensors of a LoRA that fit nothing are a warning, not an error.
    #[arg(long)]
    allow_unused: bool,
    /// What to draw.
    #[arg(long, required_unless_present = "prompts", conflicts_with = "prompts")]
    prompt: Option<String>,
    /// A file with one prompt a line, or records with `text` (.jsonl, or a list in .json).
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Folder for the pictures and `metadata.jsonl`.
    #[arg(long, alias = "output-dir")]
    out: PathBuf,
    #[arg(long, alias = "num-inference-steps", default_value_t = 50)]
    steps: usize,
    /// Guidance scale (default 7.5; SDXL 5.0).
    #[arg(
        long,
        visible_alias = "cfg-scale",
        alias = "guidance-scale",
        allow_negative_numbers = true
    )]
    guidance: Option<f64>,
    /// Rescale the guided prediction towards the conditional one's deviation; 0 is off.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    guidance_rescale: f64,
    /// ddim, pndm, euler, euler-a, dpmpp-2m, dpmpp-2m-karras, unipc, lcm or ddpm (default: the model's).
    #[arg(long)]
    scheduler: Option<String>,
    #[arg(long)]
    width: Option<usize>,
    #[arg(long)]
    height: Option<usize>,
    /// What the picture should not show.
    #[arg(long, alias = "negative-prompt")]
    negative: Option<String>,
    #[arg(long, default_value_t = 1)]
    batch_size: usize,
    #[arg(long, default_value_t = 1)]
    images_per_prompt: usize,
    /// Start from this picture instead of noise.
    #[arg(long)]
    init_image: Option<PathBuf>,
    /// How much of the schedule runs on the picture, 0 to 1.
    #[arg(long, default_value_t = 0.8, requires = "init_image", allow_negative_numbers = true)]
    strength: f64,
    /// Text-encoder layers to skip from the end, as diffusers counts (webui's number less one).
    #[arg(long, default_value_t = 0)]
    clip_skip: usize,
    /// Read prompts of more than 75 tokens whole, in parts of 75, instead of cutting them.
    #[arg(long)]
    long_prompts: bool,
    /// Another VAE: its folder, or that of a model with it.
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// Keep the pictures in --out that this command would draw again.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

/// Keys of a prompt's record that the rows of `metadata.jsonl` set themselves.
const OWN_KEYS: [&str; 4] = ["file_name", "text", "seed", "index"];

impl Generate {
    pub fn run(self, common: &Common) -> Result<()> {
        self.check()?;
        let prompts = self.read_prompts()?;
        let picture = self.init_image.as_deref().map(image::read).transpose()?;
        let vae = self.vae.as_deref().map(model_dir::vae_folder).transpose()?;
        let loras = loras::parse(&self.lora)?;
        let inputs = parameters::inputs_hash(self.input_files(vae.as_deref(), &loras)?);
        let dtype = common.precision()?;
        let mut model = StableDiffusion::load(&self.model, self.vocab.as_deref(), dtype)?;
        if let Some(folder) = &vae {
            model.vae = AutoencoderKl::load(folder, dtype)?;
        }
        loras::apply(&loras, &self.model, self.allow_unused, &mut model, common)?;
        let mut drawing = self.drawing(&model, common.seed);
        drawing.check()?;
        if let Some(picture) = &picture {
            drawing.start = Some(Start::new(&model, picture, drawing.size, self.strength)?);
            drawing.check()?;
        }
        let jobs = self.jobs(&prompts, &model, common)?;
        std::fs::create_dir_all(&self.out).map_err(|e| Error::io(&self.out, e))?;
        let inputs = inputs.join().expect("hashing does not panic")?;
        let parameters = Parameters::new(&self, &drawing, &loras, inputs)?;
        let rows: Vec<_> = (jobs.iter()).map(|job| self.row(job, &prompts, common.seed)).collect();
        let done = |job: &Job| match common.json {
            true => println!("{}", rows[job.index as usize]),
            false => println!("{}", self.out.join(file_name(job)).display()),
        };
        self.draw(&drawing, &jobs, &parameters, done, common)?;
        jsonl::write(&self.out.join("metadata.jsonl"), &rows)
    }

    fn check(&self) -> Result<()> {
        const MOST: usize = 100_000;
        for (name, value) in [
            ("batch-size", self.batch_size),
            ("images-per-prompt", self.images_per_prompt),
        ] {
            if value == 0 || value > MOST {
                return Err(Error::Usage(format!("--{name} {value}: expected 1 to {MOST}")));
            }
        }
        Ok(())
    }

    fn read_prompts(&self) -> Result<Vec<Prompt>> {
        match (&self.prompt, &self.prompts) {
            (Some(prompt), _) => Ok(vec![Prompt::new(prompt)]),
            (None, Some(path)) => prompts::read(path),
            (None, None) => Err(Error::Usage("no prompt: give --prompt or --prompts".into())),
        }
    }

    /// All that decides the pictures besides the options.
    fn input_files(&self, vae: Option<&Path>, loras: &[Strength]) -> Result<Vec<PathBuf>> {
        let mut files = parameters::model_files(&self.model, vae, self.vocab.as_deref())?;
        for lora in loras {
            files.push(lora.path.clone());
            // peft keeps the strength that was trained beside the file.
            files.extend(Some(lora.path.with_file_name("adapter_config.json")).filter(|beside| beside.is_file()));
        }
        files.extend(self.init_image.clone());
        Ok(files)
    }

    fn drawing<'a>(&'a self, model: &'a StableDiffusion, seed: u64) -> Drawing<'a> {
        let side = model.unet.config.sample_size * model.vae.config.downscale();
        Drawing {
            model,
            scheduler: self.scheduler.as_deref(),
            steps: self.steps,
            guidance: Guidance {
                scale: self.guidance.unwrap_or(if model.is_xl() { 5.0 } else { 7.5 }),
                rescale: self.guidance_rescale,
            },
            negative: self.negative.as_deref(),
            size: (self.height.unwrap_or(side), self.width.unwrap_or(side)),
            clip_skip: self.clip_skip,
            seed,
            start: None,
        }
    }

    /// A job a picture; says how many prompts are too long.
    fn jobs(&self, prompts: &[Prompt], model: &StableDiffusion, common: &Common) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut long = 0;
        for prompt in prompts {
            let parts = model.text.parts(&prompt.text)?;
            long += usize::from(parts > 1);
            for _ in 0..self.images_per_prompt {
                jobs.push(Job {
                    index: jobs.len() as u64,
                    prompt: prompt.text.clone(),
                    parts: if self.long_prompts { parts } else { 1 },
                });
            }
        }
        if long > 0 && !self.long_prompts {
            common.note(format!(
                "warning: {long} of {} prompts are longer than the 75 tokens that the text encoder reads; the rest of \
                 their words is left out (--long-prompts reads them whole)",
                prompts.len()
            ));
        }
        let negative = self.negative.as_deref().map_or(Ok(1), |text| model.text.parts(text))?;
        if negative > 1 {
            common.note("warning: the negative prompt is longer than 75 tokens; the rest of its words is left out");
        }
        Ok(jobs)
    }

    /// Draws what is not there yet. A batch with a picture missing is drawn whole, so that a resumed run gives the bytes of
    /// an unbroken one. `done` is told of every picture that is there.
    fn draw(
        &self,
        drawing: &Drawing,
        jobs: &[Job],
        parameters: &Parameters,
        done: impl Fn(&Job),
        common: &Common,
    ) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
            .map_err(|e| Error::Failed(format!("cannot listen for Ctrl-C: {e}")))?;
        let bar = progress(common, jobs.len() * drawing.calls()?);
        let mut kept = 0;
        for batch in batches(jobs, self.batch_size) {
            let there = |job: &Job| self.is_drawn(job, drawing.size, parameters);
            if self.resume && batch.iter().all(there) {
                kept += batch.len();
                bar.inc((batch.len() * drawing.calls()?) as u64);
            } else {
                let pictures = drawing.draw(batch, || {
                    bar.inc(batch.len() as u64);
                    match stop.load(Ordering::Relaxed) {
                        true => Err(interrupted()),
                        false => Ok(()),
                    }
                })?;
                for (job, picture) in batch.iter().zip(&pictures) {
                    png::save(&self.out.join(file_name(job)), picture, Some(&parameters.text(job)))?;
                }
            }
            bar.suspend(|| batch.iter().for_each(&done));
        }
        bar.finish_and_clear();
        if kept > 0 {
            common.note(format!("{kept} of {} pictures were there already", jobs.len()));
        }
        Ok(())
    }

    /// Whether the picture on disk decodes and was made with these very settings.
    fn is_drawn(&self, job: &Job, size: (usize, usize), parameters: &Parameters) -> bool {
        let path = self.out.join(file_name(job));
        let Ok(bytes) = std::fs::read(&path) else {
            return false;
        };
        let fits = |picture: &::image::RgbImage| (picture.height() as usize, picture.width() as usize) == size;
        png::parameters(&bytes).is_some_and(|text| text == parameters.text(job))
            && image::decode(&bytes, &path).is_ok_and(|picture| fits(&picture))
    }

    /// A row of `metadata.jsonl`, with what else the prompt's own record said.
    fn row(&self, job: &Job, prompts: &[Prompt], seed: u64) -> serde_json::Value {
        let mut row = serde_json::json!({
            "file_name": file_name(job), "text": job.prompt, "seed": seed, "index": job.index,
        });
        let prompt = &prompts[job.index as usize / self.images_per_prompt];
        for (key, value) in prompt.rest.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str())) {
            row[key] = value.clone();
        }
        row
    }
}

/// Consecutive jobs, at most `size` and all of as many parts: what belongs together depends on the list alone.
fn batches(jobs: &[Job], size: usize) -> impl Iterator<Item = &[Job]> {
    jobs.chunk_by(|a, b| a.parts == b.parts)
        .flat_map(move |same| same.chunks(size))
}

fn file_name(job: &Job) -> String {
    format!("{:05}.png", job.index)
}

fn interrupted() -> Error {
    Error::Interrupted(
        "stopped; the finished pictures are kept, and the same command with --resume draws the rest".into(),
    )
}

/// A bar with rate and time left; hidden where stderr is not a terminal.
fn progress(common: &Common, steps: usize) -> ProgressBar {
    if common.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {per_sec} {eta} left {msg}");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
