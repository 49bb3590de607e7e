//! `selma generate`: images from prompts.

mod loras;
mod terminal;

use std::path::PathBuf;

use crate::cli::merge::parse_lora;
use crate::cli::{Common, input};
use crate::data::prompts::{self, Prompt};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::{image, model_dir, png};
use crate::generate::folder::{self, Existing, Folder};
use crate::generate::grid::{self, Grid};
use crate::generate::loras::Strength;
use crate::generate::webui::Syntax;
use crate::generate::{Generator, Settings, Source, parameters};
use crate::train::config::Prediction;

pub(super) use loras::{gated_loras, parse_loras, put_on};
use terminal::Terminal;

/// Generate images from prompts, with a model and any number of LoRAs
///
/// --out gets NNNNN.png and metadata.jsonl, which has the prompt and the settings of each image, and can be training data, or
/// --prompts of another command. The PNG files have the settings too, as webui writes them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub struct Generate {
    /// shapes (the built-in model), a folder in the layout of diffusers, a single-file checkpoint, or a hub id
    /// (org/name[@REVISION][:VARIANT])
    #[arg(long, visible_alias = "pretrained-model-name-or-path")]
    model: PathBuf,
    /// Output folder
    #[arg(long, visible_alias = "output-dir")]
    out: PathBuf,
    /// Keep the images in --out that this command would generate again, and add the missing ones
    #[arg(long)]
    resume: bool,
    /// Replace images in --out; with --resume, only those that this command would generate otherwise
    #[arg(long)]
    overwrite: bool,
    /// The prompt
    #[arg(long, required_unless_present = "prompts", conflicts_with = "prompts", help_heading = "Prompts")]
    prompt: Option<String>,
    /// A file of prompts: one a line (kohya's --n --d --s --l --w --h are read, # begins a comment), or records with `text` as
    /// .jsonl, .json or .csv. A record's negative, seed, steps, guidance, width, height and scheduler replace the options
    #[arg(long, help_heading = "Prompts", value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// plain: every character is text. webui: (word:1.3), [word], BREAK, <lora:NAME:SCALE>, and {a|b}, of which each image gets
    /// one by its seed
    #[arg(long, value_enum, default_value = "plain", help_heading = "Prompts")]
    prompt_syntax: PromptSyntax,
    /// A folder with the LoRAs that prompts name by <lora:NAME:SCALE>; repeatable
    #[arg(long, value_name = "DIR", help_heading = "Prompts")]
    lora_dir: Vec<PathBuf>,
    /// Images for each value of an axis, beside the same noise, and grid.png of all with labels: AXIS=VALUE,VALUE,... of lora
    /// (FILE[:SCALE] or none), scale, seed, steps, guidance or scheduler; given twice, columns and rows
    #[arg(long, help_heading = "Prompts", value_name = "AXIS=VALUES", conflicts_with_all = ["images_per_prompt", "gate"])]
    grid: Vec<String>,
    /// Images for each prompt
    #[arg(long, default_value_t = 1, help_heading = "Prompts")]
    images_per_prompt: usize,
    #[command(flatten)]
    settings: Settings,
    /// What the UNet predicts: auto (what the model's scheduler says), epsilon or v_prediction
    #[arg(long, visible_alias = "prediction-type", default_value = "auto", value_parser = Prediction::parse)]
    #[arg(help_heading = "Sampling")]
    prediction: Prediction,
    /// Start from this image instead of noise
    #[arg(long, help_heading = "Sampling", value_name = "FILE")]
    init_image: Option<PathBuf>,
    /// Share of the schedule that runs on the initial image, 0 to 1
    #[arg(long, default_value_t = 0.8, requires = "init_image", allow_negative_numbers = true)]
    #[arg(help_heading = "Sampling")]
    strength: f64,
    /// A LoRA (a file, a folder, or org/name[@REVISION][:FILE] on the hub) and its strength [default: 1]; repeatable
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = "Model and LoRAs")]
    lora: Vec<String>,
    /// Weigh the LoRAs for each prompt by a gate of `selma merge --gate`; without --lora, its experts are looked for beside it
    #[arg(long, value_name = "FILE", help_heading = "Model and LoRAs")]
    gate: Option<PathBuf>,
    /// A file of learned embeddings (textual inversion), whose tokens the prompts can use; repeatable
    #[arg(long, value_name = "FILE", help_heading = "Model and LoRAs")]
    embedding: Vec<PathBuf>,
    /// Warn of LoRA tensors that fit nothing, instead of refusing the file
    #[arg(long, help_heading = "Model and LoRAs")]
    allow_unused: bool,
    /// Another VAE: its folder or file, or a model that has it
    #[arg(long, value_name = "PATH", help_heading = "Model and LoRAs")]
    vae: Option<PathBuf>,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own
    #[arg(long, value_name = "DIR", help_heading = "Model and LoRAs")]
    vocab: Option<PathBuf>,
}

/// The options of [`Syntax`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PromptSyntax {
    Plain,
    Webui,
}

const USAGE: &str = "selma generate --model <MODEL> (--prompt <PROMPT> | --prompts <FILE>) --out <OUT> [OPTIONS]";

const EXAMPLES: &str = "\
Examples:
  selma generate --model ./sd15 --prompt 'a fox' --grid scale=0,0.5,1 --grid seed=1,2,3 --lora style.safetensors --out grid
  selma generate --model shapes --prompt 'a red circle' --out images
  selma generate --model ./sd15 --prompts prompts.txt --lora style.safetensors:0.8 --steps 30 --out images
  selma generate --model ./sdxl --prompt 'a lighthouse' --negative 'blurry' --images-per-prompt 4 --seed -1 --out images";

impl Generate {
    /// Generates the images.
    ///
    /// # Errors
    /// For options out of range, and files that are missing, damaged or in the way; [`Error::Interrupted`] after Ctrl-C.
    pub fn run(mut self, common: &Common) -> Result<()> {
        self.check()?;
        self.check_files()?;
        let mut prompts = self.read_prompts()?;
        let grid = Grid::new(&self.grid)?;
        self.model = common.model(&self.model)?;
        let image = self.init_image.as_deref().map(image::read).transpose()?;
        self.download_loras(common)?;
        let mut loras = gated_loras(self.gate.as_deref(), &self.lora)?;
        let mut named = Vec::new();
        let texts: Vec<String> = prompts.iter().map(|prompt| prompt.text.clone()).collect();
        if let Some(grid) = &grid {
            let read = |text: &str| Ok(parse_loras(&[text.to_owned()])?.swap_remove(0));
            let cells = grid.cells(&prompts, common.seed(), &loras, &read)?;
            if grid.scales_given() {
                loras.clear();
            }
            (prompts, named) = cells.into_iter().map(|cell| (cell.prompt, cell.loras)).unzip();
            self.check_sheets(texts.len())?;
        }
        input::check(named.iter().flatten().map(|lora: &Strength| ("--grid", Some(lora.path.as_path()))))?;
        input::check(loras.iter().map(|lora| ("--lora", Some(lora.path.as_path()))))?;
        let syntax = self.syntax()?;
        let mut folder = Folder {
            out: &self.out,
            prompts: &prompts,
            settings: &self.settings,
            images_per_prompt: self.images_per_prompt,
            seed: common.seed(),
            named: &named,
            syntax: &syntax,
            inputs: String::new(),
            existing: self.existing(),
            latents: None,
        };
        folder.check_unused()?;
        let inputs = parameters::inputs_hash(self.input_files(&loras)?);
        let source = Source {
            model: self.model.clone(),
            vae: self.vae.clone(),
            vocab: self.vocab.clone(),
            prediction: self.prediction.in_scheduler(),
            embeddings: self.embedding.clone(),
        };
        let mut generator = Generator::load(source, common.precision()?, &mut |text| common.note(text))?;
        let from_image = image.is_some();
        if let Some(image) = image {
            generator.starting_from(image, self.strength);
        }
        generator.requests(&folder)?;
        let mut note = |text: String| common.note(text);
        let device = common.device()?;
        if let Device::Gpu(gpu) = &device {
            generator.reserve(&folder, &loras, from_image, gpu, &mut note)?;
        }
        generator.to(&device)?;
        put_on(&mut generator, self.gate.as_deref(), loras, self.allow_unused, &mut note)?;
        folder.inputs = inputs.join().expect("hashing does not panic")?;
        let mut terminal = Terminal::new(common)?;
        generator.generate(&folder, &mut terminal)?;
        terminal.finish();
        if let Some(grid) = &grid {
            self.write_sheets(grid, &texts, common)?;
        }
        common.note_memory(&device);
        Ok(())
    }

    fn check_files(&self) -> Result<()> {
        input::check([
            ("--prompts", self.prompts.as_deref()),
            ("--init-image", self.init_image.as_deref()),
            ("--vae", self.vae.as_deref()),
            ("--vocab", self.vocab.as_deref()),
            ("--gate", self.gate.as_deref()),
        ])?;
        input::check(self.lora_dir.iter().map(|path| ("--lora-dir", Some(path.as_path()))))?;
        input::check(self.embedding.iter().map(|path| ("--embedding", Some(path.as_path()))))
    }

    /// Puts the files of LoRAs of the hub in the place of their ids.
    fn download_loras(&mut self, common: &Common) -> Result<()> {
        for lora in &mut self.lora {
            let (path, scale) = parse_lora(lora)?;
            let path = common.lora(&path)?;
            *lora = scale.map_or(path.display().to_string(), |scale| format!("{}:{scale}", path.display()));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        const MOST: usize = 100_000;
        for (name, value) in [("batch-size", self.settings.batch_size), ("images-per-prompt", self.images_per_prompt)] {
            if value == 0 || value > MOST {
                return Err(Error::Usage(format!("--{name} {value}: expected 1 to {MOST}")));
            }
        }
        Ok(())
    }

    /// The sheet of prompt number `number` of `prompts`.
    fn sheet_path(&self, number: usize, prompts: usize) -> PathBuf {
        self.out.join(if prompts == 1 { "grid.png".into() } else { format!("grid-{number:05}.png") })
    }

    fn check_sheets(&self, prompts: usize) -> Result<()> {
        let paths = (0..prompts).map(|number| self.sheet_path(number, prompts));
        match paths.into_iter().find(|path| self.existing() == Existing::Refuse && path.exists()) {
            None => Ok(()),
            Some(path) => Err(Error::file(path, "is there already; --overwrite replaces it, or choose another --out")),
        }
    }

    /// One sheet a prompt, of the images that were generated.
    fn write_sheets(&self, grid: &Grid, texts: &[String], common: &Common) -> Result<()> {
        let (columns, rows) = grid.labels();
        for (number, text) in texts.iter().enumerate() {
            let first = number * grid.cells_of_prompt();
            let names = (first..first + grid.cells_of_prompt()).map(|number| folder::file_name(number as u64));
            let images: Vec<_> = names.map(|name| image::read(&self.out.join(name))).collect::<Result<_>>()?;
            let path = self.sheet_path(number, texts.len());
            let said = format!("{text}\nColumns: {}\nRows: {}", columns.join(", "), rows.join(", "));
            png::save(&path, &grid::sheet(text, &columns, &rows, &images), Some(&said))?;
            match common.json {
                true => outjson!(serde_json::json!({ "grid": path, "columns": columns, "rows": rows })),
                false => outln!("{}", path.display()),
            }
        }
        Ok(())
    }

    fn syntax(&self) -> Result<Syntax> {
        match self.prompt_syntax {
            PromptSyntax::Webui => Ok(Syntax::Webui { lora_folders: self.lora_dir.clone() }),
            PromptSyntax::Plain if !self.lora_dir.is_empty() => Err(Error::Usage(
                "--lora-dir is for --prompt-syntax webui; give LoRAs of plain prompts by --lora".into(),
            )),
            PromptSyntax::Plain => Ok(Syntax::Plain),
        }
    }

    fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (false, false) => Existing::Refuse,
            (true, false) => Existing::Resume,
            (false, true) => Existing::Overwrite,
            (true, true) => Existing::Repair,
        }
    }

    fn read_prompts(&self) -> Result<Vec<Prompt>> {
        match (&self.prompt, &self.prompts) {
            (Some(prompt), _) => Ok(vec![Prompt::new(prompt)]),
            (None, Some(path)) => prompts::read(path),
            (None, None) => Err(Error::Usage("no prompt: give --prompt or --prompts".into())),
        }
    }

    /// All files that decide the images.
    fn input_files(&self, loras: &[Strength]) -> Result<Vec<PathBuf>> {
        let vae = self.vae.as_deref().map(model_dir::vae_folder).transpose()?;
        let mut files = parameters::model_files(&self.model, vae.as_deref(), self.vocab.as_deref())?;
        for lora in loras {
            files.push(lora.path.clone());
            // peft keeps the strength that was trained beside the file.
            files.extend(Some(lora.path.with_file_name("adapter_config.json")).filter(|beside| beside.is_file()));
        }
        files.extend(self.init_image.iter().chain(&self.gate).chain(&self.embedding).cloned());
        Ok(files)
    }
}
