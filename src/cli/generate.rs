//! `selma generate`: pictures from prompts.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Common;
use crate::cli::interrupt::Interrupt;
use crate::cli::merge::parse_lora;
use crate::data::prompts::{self, Prompt};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::model_dir::{self, ModelDir};
use crate::formats::{atomic, image};
use crate::generate::draw::{Drawing, Job, Start};
use crate::generate::loras::{self, Strength};
use crate::generate::parameters::{self, Parameters, Sources};
use crate::generate::pictures::{Artist, PictureFolder, file_name};
use crate::generate::plan::Pictures;
use crate::generate::{Guidance, StableDiffusion};
use crate::lora;
use crate::nn::AutoencoderKl;
use crate::train::config::Prediction;

/// Draw pictures with a model and any number of LoRAs.
#[derive(clap::Args)]
pub struct Generate {
    /// shapes (the model inside this binary), a folder in the layout of diffusers, a single-file checkpoint, or an id of
    /// the Hugging Face hub (org/name).
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
    /// A file with one prompt a line, or records with `text` (.jsonl, a list in .json, .csv; of DSG's CSV each item once).
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// Folder for the pictures and `metadata.jsonl`.
    #[arg(long, alias = "output-dir")]
    out: PathBuf,
    /// Steps of the sampler.
    #[arg(long, alias = "num-inference-steps", default_value_t = 50)]
    steps: usize,
    /// Guidance scale (default 7.5; SDXL 5.0).
    #[arg(long, visible_alias = "cfg-scale", alias = "guidance-scale", allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Rescale the guided prediction towards the conditional one's deviation; 0 is off.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    guidance_rescale: f64,
    /// ddim, pndm, euler, euler-a, dpmpp-2m, dpmpp-2m-karras, unipc, lcm or ddpm (default: the model's).
    #[arg(long)]
    scheduler: Option<String>,
    /// What the UNet predicts: auto (what the model's scheduler says), epsilon or v_prediction.
    #[arg(long, alias = "prediction-type", default_value = "auto", value_parser = Prediction::parse)]
    prediction: Prediction,
    /// Pixels (default: the model's).
    #[arg(long)]
    width: Option<usize>,
    /// Pixels (default: the model's).
    #[arg(long)]
    height: Option<usize>,
    /// What the picture should not show.
    #[arg(long, alias = "negative-prompt")]
    negative: Option<String>,
    /// Pictures drawn at once.
    #[arg(long, default_value_t = 1)]
    batch_size: usize,
    /// Pictures for each prompt.
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
    /// Another VAE: its folder or file, or a model that has it.
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// Keep the pictures in --out that this command would draw again.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Generate {
    pub fn run(mut self, common: &Common) -> Result<()> {
        self.check()?;
        let prompts = self.read_prompts()?;
        self.model = common.model(&self.model)?;
        let picture = self.init_image.as_deref().map(image::read).transpose()?;
        let vae = self.vae.as_deref().map(model_dir::vae_folder).transpose()?;
        let loras = parse_loras(&self.lora)?;
        let files = ModelDir::open(&self.model)?;
        files.notes.iter().for_each(|note| common.note(note));
        let inputs = parameters::inputs_hash(self.input_files(vae.as_deref(), &loras)?);
        let dtype = common.precision()?;
        let mut model = StableDiffusion::load(&self.model, self.vocab.as_deref(), dtype)?;
        if let Some(place) = &vae {
            model.vae = AutoencoderKl::load_standing_in(place, &files.vae, dtype)?;
        }
        if let Some(name) = self.prediction.in_scheduler() {
            model.scheduler["prediction_type"] = name.into();
        }
        let mut note = |text: String| common.note(text);
        let device = common.device()?;
        if let Device::Gpu(gpu) = &device {
            let drawing = self.drawing(&model, common.seed());
            drawing.check()?;
            self.pictures(&drawing, &loras, &prompts)?.reserve(gpu, &mut note)?;
        }
        model.place(&device)?;
        loras::apply(&loras, &self.model, self.allow_unused, &mut model, &mut note)?;
        let mut drawing = self.drawing(&model, common.seed());
        drawing.check()?;
        if let Some(picture) = &picture {
            drawing.start = Some(Start::new(&model, picture, drawing.size, self.strength)?);
            drawing.check()?;
        }
        atomic::create_folder(&self.out)?;
        let sources = Sources {
            model: &self.model,
            vae: self.vae.as_deref(),
            loras: &loras,
            inputs: inputs.join().expect("hashing does not panic")?,
        };
        let parameters = Parameters::new(&drawing, &sources)?;
        let folder = PictureFolder {
            out: &self.out,
            drawing: &drawing,
            parameters: &parameters,
            prompts: &prompts,
            images_per_prompt: self.images_per_prompt,
            long_prompts: self.long_prompts,
            batch_size: self.batch_size,
        };
        let (jobs, long) = folder.jobs()?;
        self.warn(long, prompts.len(), &model, common)?;
        let mut terminal = Terminal::new(&folder, &jobs, common)?;
        folder.draw(&jobs, self.resume, &mut terminal)?;
        terminal.bar.finish_and_clear();
        if terminal.kept > 0 {
            common.note(format!("{} of {} pictures were there already", terminal.kept, jobs.len()));
        }
        common.note_memory(&device);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        const MOST: usize = 100_000;
        for (name, value) in [("batch-size", self.batch_size), ("images-per-prompt", self.images_per_prompt)] {
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

    /// What is in memory at once.
    fn pictures<'a>(
        &self,
        drawing: &'a Drawing<'a>,
        loras: &'a [Strength],
        prompts: &[Prompt],
    ) -> Result<Pictures<'a>> {
        let mut parts = 1;
        if self.long_prompts {
            let texts = prompts.iter().map(|prompt| prompt.text.as_str());
            for text in texts.chain(self.negative.as_deref()) {
                parts = parts.max(drawing.model.text.parts(text)?);
            }
        }
        Ok(Pictures {
            drawing,
            loras,
            batch: self.batch_size.min(prompts.len() * self.images_per_prompt),
            parts,
            from_picture: self.init_image.is_some(),
        })
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

    /// Says how many prompts are too long.
    fn warn(&self, long: usize, prompts: usize, model: &StableDiffusion, common: &Common) -> Result<()> {
        if long > 0 && !self.long_prompts {
            common.note(format!(
                "warning: {long} of {prompts} prompts are longer than the 75 tokens that the text encoder reads; the rest of \
                 their words is left out (--long-prompts reads them whole)"
            ));
        }
        let negative = self.negative.as_deref().map_or(Ok(1), |text| model.text.parts(text))?;
        if negative > 1 {
            common.note("warning: the negative prompt is longer than 75 tokens; the rest of its words is left out");
        }
        Ok(())
    }
}

/// Reads `FILE[:SCALE]` arguments; a folder means the LoRA in it.
fn parse_loras(arguments: &[String]) -> Result<Vec<Strength>> {
    let resolve = |argument: &String| {
        let (path, scale) = parse_lora(argument)?;
        let (path, scale) = (lora::file::resolve(&path)?, scale.unwrap_or(1.0));
        Ok(Strength { path, scale })
    };
    arguments.iter().map(resolve).collect()
}

/// A bar on stderr, names or rows on stdout, and Ctrl-C.
struct Terminal<'a> {
    folder: &'a PictureFolder<'a>,
    common: &'a Common,
    bar: ProgressBar,
    /// Steps of one picture.
    steps: usize,
    kept: usize,
    interrupt: Interrupt,
}

impl<'a> Terminal<'a> {
    fn new(folder: &'a PictureFolder<'a>, jobs: &[Job], common: &'a Common) -> Result<Self> {
        let steps = folder.drawing.calls()?;
        Ok(Self {
            folder,
            common,
            bar: progress(common, jobs.len() * steps),
            steps,
            kept: 0,
            interrupt: Interrupt::listen(common)?,
        })
    }
}

impl Artist for Terminal<'_> {
    fn stepped(&mut self, pictures: usize) -> Result<()> {
        self.bar.inc(pictures as u64);
        match self.interrupt.asked() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    fn finished(&mut self, jobs: &[Job], kept: bool) {
        if kept {
            self.kept += jobs.len();
            self.bar.inc((jobs.len() * self.steps) as u64);
        }
        let print = |job: &Job| match self.common.json {
            true => println!("{}", self.folder.row(job)),
            false => println!("{}", self.folder.out.join(file_name(job)).display()),
        };
        self.bar.suspend(|| jobs.iter().for_each(print));
    }
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
