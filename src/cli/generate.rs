//! `selma generate`: pictures from prompts.

use std::path::{Path, PathBuf};

use ::image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};

use crate::autograd::Tape;
use crate::cli::Common;
use crate::cli::merge::parse_lora;
use crate::data::preprocess::{Crop, Preprocess};
use crate::diffusion::{Sampler, sampler};
use crate::error::{Error, Result};
use crate::formats::{image, jsonl};
use crate::lora;
use crate::ops;
use crate::pipeline::{Denoising, Guidance, StableDiffusion, pipeline_config};
use crate::tensor::Tensor;
use crate::tensor::random::{self, Stream};

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
    /// A text file with one prompt a line.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Folder for the pictures and `metadata.jsonl`.
    #[arg(long, alias = "output-dir")]
    out: PathBuf,
    #[arg(long, alias = "num-inference-steps", default_value_t = 50)]
    steps: usize,
    /// Guidance scale (default 7.5; SDXL 5.0).
    #[arg(long, visible_alias = "cfg-scale", alias = "guidance-scale")]
    guidance: Option<f64>,
    /// Rescale the guided prediction towards the conditional one's deviation; 0 is off.
    #[arg(long, default_value_t = 0.0)]
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
    #[arg(long, default_value_t = 0.8, requires = "init_image")]
    strength: f64,
    /// Text-encoder layers to skip from the end.
    #[arg(long, default_value_t = 0)]
    clip_skip: usize,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

/// One picture to draw; `index` decides its noise, whatever the batch size.
struct Job {
    index: usize,
    prompt: String,
}

impl Generate {
    pub fn run(self, common: &Common) -> Result<()> {
        let jobs = self.jobs()?;
        if self.batch_size == 0 || self.steps == 0 {
            return Err(Error::Usage("--batch-size and --steps must be at least 1".into()));
        }
        if !(0.0..=1.0).contains(&self.strength) {
            return Err(Error::Usage(format!("--strength {}: expected 0 to 1", self.strength)));
        }
        let mut model = StableDiffusion::load(&self.model, self.vocab.as_deref(), common.precision()?)?;
        self.apply_loras(&mut model, common)?;
        let (height, width) = self.size(&model)?;
        // What is wrong with the scheduler is said before anything is written.
        self.sampler(&model)?;
        std::fs::create_dir_all(&self.out).map_err(|e| Error::io(&self.out, e))?;
        let bar = progress(common, jobs.len() * self.steps);
        let mut rows = Vec::new();
        for batch in jobs.chunks(self.batch_size) {
            let pictures = self.draw(&model, batch, (height, width), common.seed, &bar)?;
            for (job, pixels) in batch.iter().zip(pictures) {
                let name = format!("{:05}.png", job.index);
                image::write_png(&self.out.join(&name), &pixels)?;
                let row = serde_json::json!({
                    "file_name": name, "text": job.prompt, "seed": common.seed, "index": job.index,
                });
                if common.json {
                    println!("{row}");
                } else {
                    println!("{}", self.out.join(&name).display());
                }
                rows.push(row);
            }
        }
        bar.finish_and_clear();
        jsonl::write(&self.out.join("metadata.jsonl"), &rows)
    }

    fn jobs(&self) -> Result<Vec<Job>> {
        let prompts = match (&self.prompt, &self.prompts) {
            (Some(prompt), _) => vec![prompt.clone()],
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
                text.lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned)
                    .collect()
            }
            (None, None) => Vec::new(),
        };
        if prompts.is_empty() {
            return Err(Error::Usage("no prompt to draw".into()));
        }
        let repeated = prompts
            .iter()
            .flat_map(|p| std::iter::repeat_n(p, self.images_per_prompt));
        Ok(repeated
            .enumerate()
            .map(|(index, prompt)| Job {
                index,
                prompt: prompt.clone(),
            })
            .collect())
    }

    fn apply_loras(&self, model: &mut StableDiffusion, common: &Common) -> Result<()> {
        if self.lora.is_empty() {
            return Ok(());
        }
        let base = lora::base::modules(&self.model)?;
        let mut experts = Vec::new();
        for argument in &self.lora {
            let (path, scale) = parse_lora(argument)?;
            let scale = scale.unwrap_or(1.0);
            let loaded = lora::load(&path, Some(&base), self.allow_unused)?;
            loaded.warnings().for_each(|warning| common.note(warning));
            common.note(format!(
                "{}: {} modules applied at {scale}",
                path.display(),
                loaded.expert.len()
            ));
            experts.push(loaded.expert.scaled(scale));
        }
        model.apply(&experts)
    }

    /// Height and width in pixels; both must be whole numbers of latents.
    fn size(&self, model: &StableDiffusion) -> Result<(usize, usize)> {
        let factor = model.vae.config.downscale();
        let default = model.unet.config.sample_size * factor;
        let size = (self.height.unwrap_or(default), self.width.unwrap_or(default));
        if size.0 == 0 || size.1 == 0 || !size.0.is_multiple_of(factor) || !size.1.is_multiple_of(factor) {
            return Err(Error::Usage(format!(
                "--height {} --width {}: expected multiples of {factor}",
                size.0, size.1
            )));
        }
        Ok(size)
    }

    /// The sampler that was asked for, or the model's own, at its first step.
    fn sampler(&self, model: &StableDiffusion) -> Result<Box<dyn Sampler>> {
        let name = match &self.scheduler {
            Some(name) => name,
            None => (model.scheduler["_class_name"].as_str()).ok_or_else(|| {
                Error::Usage("the model's scheduler_config.json has no _class_name; name one by --scheduler".into())
            })?,
        };
        let config = pipeline_config(&model.scheduler, model.is_xl());
        sampler::from_config(name, &config, self.steps)
    }

    /// One picture a job.
    fn draw(
        &self,
        model: &StableDiffusion,
        batch: &[Job],
        size: (usize, usize),
        seed: u64,
        bar: &ProgressBar,
    ) -> Result<Vec<RgbImage>> {
        let prompts: Vec<String> = batch.iter().map(|job| job.prompt.clone()).collect();
        let positive = model.encode(&prompts, None, self.clip_skip)?;
        let negative = self.negative.as_ref().map(|text| vec![text.clone(); batch.len()]);
        let negative = model.encode_negative(negative.as_deref(), None, &positive)?;
        let sampler = self.sampler(model)?;
        let factor = model.vae.config.downscale();
        let shape = [
            batch.len(),
            size.0 / factor,
            size.1 / factor,
            model.vae.config.latent_channels,
        ];
        let noise = |stream: Stream, step: usize| {
            let len = shape[1..].iter().product();
            let values = batch
                .iter()
                .flat_map(|job| random::normals(seed, stream, job.index as u64, step as u64, len));
            Tensor::new(values.collect(), &shape)
        };
        let (start, latents) = match &self.init_image {
            None => (
                0,
                ops::combine(&[(sampler.init_noise_sigma(), &noise(Stream::Latents, 0))])?,
            ),
            Some(path) => {
                let kept = ((self.steps as f64 * self.strength) as usize).min(self.steps);
                let x0 = encode_image(model, path, size, batch.len(), &noise(Stream::Posterior, 0))?;
                let start = self.steps - kept;
                (start, sampler.add_noise_at(start, &x0, &noise(Stream::Latents, 0))?)
            }
        };
        let default = if model.is_xl() { 5.0 } else { 7.5 };
        let guidance = Guidance {
            scale: self.guidance.unwrap_or(default),
            rescale: self.guidance_rescale,
        };
        let mut denoising = Denoising {
            unet: &model.unet,
            sampler,
            guidance,
            positive,
            negative,
            size,
        };
        let latents = denoising.run(
            start,
            latents,
            |i, _| Ok(noise(Stream::Sampler, i)),
            |_, _| {
                bar.inc(batch.len() as u64);
                Ok(())
            },
        )?;
        image::from_tensor(&model.decode(&latents)?)
    }
}

fn encode_image(
    model: &StableDiffusion,
    path: &Path,
    size: (usize, usize),
    n: usize,
    noise: &Tensor,
) -> Result<Tensor> {
    // Resized to cover the wanted size, and cut in the middle.
    let picture = image::read(path)?;
    let cover = Preprocess {
        width: size.1 as u32,
        height: size.0 as u32,
        crop: Crop::Center,
        flip: false,
    };
    let pixels = cover
        .place((picture.height(), picture.width()), 0, 0, 0)?
        .apply(&picture);
    let repeated = Tensor::new(pixels.reals::<f32>().repeat(n), &[n, size.0, size.1, 3]);
    let (mean, logvar) = model.vae.encode(&Tape::off(), &repeated.cast(model.dtype))?;
    model.latents(&mean, &logvar, noise)
}

/// A bar with rate and time left; hidden where stderr is not a terminal.
fn progress(common: &Common, steps: usize) -> ProgressBar {
    if common.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {per_sec} {eta} left {msg}");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
