//! `selma mix generate`: training images between classes, with soft labels.

use std::path::PathBuf;

use ::image::RgbImage;
use ::image::imageops::{self, FilterType};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::generate::{gated_loras, put_on};
use crate::cli::interrupt::Interrupt;
use crate::cli::{Common, existing, input};
use crate::error::{Error, Result};
use crate::formats::embeddings::Embeddings;
use crate::formats::{atomic, image, jsonl, png};
use crate::generate::generation::{Generation, Start};
use crate::generate::loras::Strength;
use crate::generate::request::Request;
use crate::generate::{Generator, Settings, Source};
use crate::mix::labels::{evaluations, shares};
use crate::mix::meta::{self, Row};
use crate::mix::plan::{self, Class, Mode, Task};

/// Draw images on their way from one class to another, with soft labels.
///
/// Writes data/SOURCE/TARGET-NUMBER-STRENGTH.png, meta.csv as Diff-Mix does, and labels.jsonl with class indices. An image
/// drawn with strength s counts 1 - s^gamma for its source and s^gamma for its target.
#[derive(clap::Args)]
pub(super) struct Generate {
    /// What draws: shapes, a folder, a checkpoint, or an id of the Hugging Face hub.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA file, and its strength (1 if left out). Repeatable.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Weigh the LoRAs for each prompt by a gate of `selma merge --gate`; without --lora, its experts are looked for beside it.
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// Tokens of the classes, as `selma mix train` learns them (learned_embeds.safetensors).
    #[arg(long, value_name = "FILE")]
    embedding: Option<PathBuf>,
    /// A folder of images for each class.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The prompt of a class; {} stands for its name, or for its token with --embedding.
    #[arg(long, default_value = "a photo of a {}")]
    prompt: String,
    /// mix: from an image of any class towards any class; aug: towards its own; gen: from noise.
    #[arg(long, value_enum, default_value = "mix")]
    mode: Mode,
    /// Strengths that are drawn from, with commas.
    #[arg(long, value_delimiter = ',', default_value = "0.5,0.7,0.9")]
    strengths: Vec<f64>,
    /// How fast the label follows the strength.
    #[arg(long, default_value_t = 0.8)]
    gamma: f64,
    /// Images drawn for each one of the data set.
    #[arg(long, default_value_t = 1)]
    multiplier: usize,
    #[command(flatten)]
    settings: Settings,
    /// Folder for data/, meta.csv and labels.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Keep the images that are there, and draw the missing ones.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Generate {
    pub fn run(mut self, common: &Common) -> Result<()> {
        self.check()?;
        input::check([
            ("--data", Some(self.data.as_path())),
            ("--embedding", self.embedding.as_deref()),
            ("--gate", self.gate.as_deref()),
            ("--vocab", self.vocab.as_deref()),
        ])?;
        let loras = gated_loras(self.gate.as_deref(), &self.lora)?;
        input::check(loras.iter().map(|lora| ("--lora", Some(lora.path.as_path()))))?;
        let classes = plan::classes(&self.data)?;
        let words = self.words(&classes)?;
        let tasks = plan::tasks(&classes, self.mode, self.multiplier, &self.strengths, common.seed());
        self.begin(&classes, &loras, common)?;
        self.model = common.model(&self.model)?;
        let embeddings: Vec<PathBuf> = self.embedding.iter().cloned().collect();
        let source = Source { model: self.model.clone(), vocab: self.vocab.clone(), embeddings, ..Source::default() };
        let mut generator = common.generator(source)?;
        put_on(&mut generator, self.gate.as_deref(), loras, false, &mut |text| common.note(text))?;
        let interrupt = Interrupt::listen(common)?;
        let bar = if common.quiet { ProgressBar::hidden() } else { ProgressBar::new(tasks.len() as u64) };
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} images {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let (mut rows, mut labels, mut kept) = (Vec::new(), Vec::new(), 0);
        for task in &tasks {
            let (source, target) = (&classes[task.source].name, &classes[task.target].name);
            let relative = meta::path(source, target, task.number, task.strength);
            let path = self.out.join("data").join(&relative);
            if path.is_file() {
                kept += 1;
            } else {
                if interrupt.asked() {
                    return Err(Error::Interrupted("stopped; the same command with --resume goes on".into()));
                }
                let drawn = self.draw(&generator, &classes, &words, task, common)?;
                let folder = atomic::folder(&path);
                std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
                png::save(&path, &drawn, None)?;
            }
            bar.inc(1);
            labels.push(meta::label(&relative, task.source, task.target, task.strength, self.gamma)?);
            rows.push(Row {
                source: source.clone(),
                target: target.clone(),
                number: task.number,
                strength: task.strength,
                path: relative,
            });
        }
        bar.finish_and_clear();
        meta::write(&self.out.join("meta.csv"), &rows)?;
        jsonl::write(&self.out.join("labels.jsonl"), &labels)?;
        match common.json {
            true => {
                outjson!(json!({"out": self.out, "pictures": rows.len(), "kept": kept, "classes": classes.len()}))
            }
            false => outln!("{}: {} images of {} classes", self.out.display(), rows.len(), classes.len()),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.multiplier == 0 || self.multiplier > 10_000 {
            return Err(Error::Usage(format!("--multiplier {}: expected 1 to 10000", self.multiplier)));
        }
        if !self.prompt.contains("{}") {
            return Err(Error::Usage("--prompt: expected {} where the name of the class goes".into()));
        }
        let too_small = |&s: &f64| shares(s, self.gamma).and_then(|_| evaluations(self.settings.steps, s)).err();
        match self.strengths.iter().find_map(too_small) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Makes the folder, and refuses one that was begun with other settings.
    fn begin(&self, classes: &[Class], loras: &[Strength], common: &Common) -> Result<()> {
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        let counts: Vec<usize> = classes.iter().map(|class| class.images.len()).collect();
        let mut settings: Value = json!({
            "model": self.model, "lora": self.lora, "embedding": self.embedding, "prompt": self.prompt, "mode": format!("{:?}", self.mode),
            "strengths": self.strengths, "gamma": self.gamma, "multiplier": self.multiplier, "settings": self.settings,
            "seed": common.seed(), "classes": names, "pictures": counts,
        });
        if let Some(gate) = &self.gate {
            settings["gate"] = json!(gate);
        }
        let files = loras.iter().map(|lora| lora.path.as_path());
        let files = files.chain([self.gate.as_deref(), self.embedding.as_deref()].into_iter().flatten());
        if let Some(hashes) = existing::hashes(files)? {
            settings["sha256"] = hashes;
        }
        if self.out.join("data").exists() && !self.out.join("mix.json").exists() {
            return Err(Error::file(&self.out, "holds data/ of something else; name another folder"));
        }
        existing::begin(&self.out, "mix.json", &settings, self.resume, "image, LoRA, gate or embedding")
    }

    /// What stands for each class in prompts: its token, or its name.
    fn words(&self, classes: &[Class]) -> Result<Vec<String>> {
        let Some(file) = &self.embedding else {
            return Ok(classes.iter().map(|class| class.name.clone()).collect());
        };
        let embeddings = Embeddings::read(file)?;
        let token = |class: &Class| {
            let known = || embeddings.classes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            embeddings.of_class(&class.name).map(str::to_owned).ok_or_else(|| {
                Error::file(file, format!("has no token of the class `{}`; its classes: {}", class.name, known()))
            })
        };
        classes.iter().map(token).collect()
    }

    fn draw(
        &self,
        generator: &Generator,
        classes: &[Class],
        words: &[String],
        task: &Task,
        common: &Common,
    ) -> Result<RgbImage> {
        let model = &generator.model;
        let prompt = self.prompt.replace("{}", &words[task.target]);
        let generation = Generation::new(&self.settings, common.seed(), model);
        let (height, width) = generation.size;
        let starts = self.mode != Mode::Gen;
        generation.check(model, starts.then_some(task.strength))?;
        let request = Request { index: task.number as u64, ..Request::plain(prompt, generation) };
        let original = starts.then(|| image::read(&classes[task.source].images[task.image])).transpose()?;
        let start = original.as_ref().map(|original| {
            // Diff-Mix does not keep the aspect, and gives the image back in its own size.
            let resized = imageops::resize(original, width as u32, height as u32, FilterType::Triangle);
            Start::new(model, &resized, (height, width), task.strength)
        });
        let mut images = model.images(&[request], start.transpose()?.as_ref(), || Ok(()))?;
        let drawn = images.1.pop().ok_or_else(|| Error::Failed("no image was drawn".into()))?;
        Ok(match original {
            Some(original) if original.dimensions() != drawn.dimensions() => {
                imageops::resize(&drawn, original.width(), original.height(), FilterType::Triangle)
            }
            _ => drawn,
        })
    }
}
