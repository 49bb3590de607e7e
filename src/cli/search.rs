//! `selma search`: the weights of a merge that score best on validation prompts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::generate::parse_loras;
use crate::cli::interrupt::Interrupt;
use crate::cli::{Common, existing, input};
use crate::data::prompts::{self, Prompt};
use crate::error::{Error, Result};
use crate::evaluate::folder as images;
use crate::evaluate::quality::{self, Measure};
use crate::evaluate::scores::Scores;
use crate::evaluate::{scorers, shapes};
use crate::formats::journal::Journal;
use crate::formats::{atomic, digest, jsonl};
use crate::generate::folder::{Existing, Finished, Folder};
use crate::generate::loras::Strength;
use crate::generate::webui::Syntax;
use crate::generate::{Generator, Observer, Settings, Source, parameters};
use crate::judges::cache::ValueCache;
use crate::judges::kind::Kind;
use crate::judges::scorer::{Place, Scorer};
use crate::lora::merge::{self, Method};
use crate::lora::save::Layout;
use crate::lora::{self, Expert, provenance, save};
use crate::tensor::DType;

/// Search the weights of several LoRAs by a score on validation prompts.
///
/// Each LoRA's weight in turn takes every value of --grid, and keeps the best, for --rounds rounds or until nothing changes,
/// beginning with 1/T for each of T LoRAs. --out gets the images of every trial, search.jsonl with the scores, and
/// merged.safetensors with the best weights.
#[derive(clap::Args)]
pub struct Search {
    /// The base model: shapes, a folder, a checkpoint, or an id of the Hugging Face hub.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA; repeatable.
    #[arg(long = "lora", value_name = "FILE", required = true)]
    loras: Vec<String>,
    /// Validation prompts, as of `selma generate`.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Images for each prompt.
    #[arg(long, default_value_t = 1)]
    images_per_prompt: usize,
    /// What decides: shapes, sharpness, noise, exposure, clipscore, pickscore, hpsv2, hpsv2.1, imagereward or aesthetic.
    #[arg(long, value_name = "NAME")]
    benchmark: String,
    /// The weights of a scorer [default: the published ones].
    #[arg(long, value_name = "MODEL")]
    weights: Option<String>,
    /// Weights that are tried, with commas.
    #[arg(long, value_delimiter = ',', default_value = "0,0.25,0.5,0.75,1", allow_negative_numbers = true)]
    grid: Vec<f64>,
    /// Rounds over all LoRAs.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    #[command(flatten)]
    settings: Settings,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
    /// Go on with the search in --out.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

/// A line of search.jsonl.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trial {
    weights: Vec<f64>,
    score: f64,
    interval: Option<[f64; 2]>,
}

/// Who scores a folder of images.
enum Judge {
    Shapes,
    Quality(Measure),
    Network(Box<Scorer>, ValueCache),
}

impl Search {
    pub fn run(mut self, common: &Common) -> Result<()> {
        self.check()?;
        input::check([("--prompts", Some(self.prompts.as_path())), ("--vocab", self.vocab.as_deref())])?;
        let prompts = prompts::read(&self.prompts)?;
        let files: Vec<PathBuf> = parse_loras(&self.loras)?.into_iter().map(|lora| lora.path).collect();
        input::check(files.iter().map(|file| ("--lora", Some(file.as_path()))))?;
        self.model = common.model(&self.model)?;
        self.begin(&files, common)?;
        let judge = self.judge(common)?;
        let source = Source { model: self.model.clone(), vocab: self.vocab.clone(), ..Source::default() };
        let mut generator = common.generator(source)?;
        let journal = Journal::open(&self.out.join("search.jsonl"))?;
        let mut trials: Vec<Trial> = match journal.is_new {
            true => Vec::new(),
            false => jsonl::read(&self.out.join("search.jsonl"))?.into_iter().map(|(_, trial)| trial).collect(),
        };
        let interrupt = Interrupt::listen(common)?;
        let mut best = vec![1.0 / files.len() as f64; files.len()];
        let mut score_of = |weights: &[f64]| -> Result<f64> {
            if let Some(known) = trials.iter().find(|trial| trial.weights == weights) {
                return Ok(known.score);
            }
            let folder = self.out.join("images").join(format!("{:03}", trials.len()));
            self.draw(&mut generator, &files, weights, &prompts, &folder, &interrupt, common)?;
            let scores = judge.score(&folder, common.seed())?;
            let trial =
                Trial { weights: weights.to_vec(), score: scores.overall.mean, interval: scores.overall.interval };
            journal.append(&json!(trial))?;
            if common.json {
                outjson!(json!(trial));
            } else {
                outln!("{weights:?}: {:.4}", trial.score);
            }
            trials.push(trial.clone());
            Ok(trial.score)
        };
        let mut highest = score_of(&best)?;
        for _ in 0..self.rounds {
            let before = best.clone();
            for lora in 0..files.len() {
                for &weight in &self.grid {
                    let mut weights = best.clone();
                    weights[lora] = weight;
                    let score = score_of(&weights)?;
                    if score > highest {
                        (best, highest) = (weights, score);
                    }
                }
            }
            if best == before {
                break;
            }
        }
        self.finish(&files, &best, highest, common)
    }

    fn check(&self) -> Result<()> {
        if self.grid.is_empty() || self.grid.iter().any(|weight| !weight.is_finite()) {
            return Err(Error::Usage("--grid: expected numbers with commas between".into()));
        }
        for (option, value) in [("rounds", self.rounds), ("images-per-prompt", self.images_per_prompt)] {
            if value == 0 || value > 1000 {
                return Err(Error::Usage(format!("--{option} {value}: expected 1 to 1000")));
            }
        }
        if let Some(lora) =
            self.loras.iter().find(|lora| super::merge::parse_lora(lora).is_ok_and(|(_, w)| w.is_some()))
        {
            return Err(Error::Usage(format!("--lora {lora}: the weights are searched; give none")));
        }
        let known = self.benchmark == "shapes"
            || Measure::parse(&self.benchmark).is_some()
            || Kind::parse(&self.benchmark).is_some();
        match known {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "--benchmark {}: expected shapes, sharpness, noise, exposure, clipscore, pickscore, hpsv2, hpsv2.1, imagereward \
                 or aesthetic",
                self.benchmark
            ))),
        }
    }

    /// Makes the folder, and refuses one that was begun with other settings.
    fn begin(&self, files: &[PathBuf], common: &Common) -> Result<()> {
        let hashes = files.iter().map(|file| digest::file(file)).collect::<Result<Vec<_>>>()?;
        let settings = json!({
            "model": self.model, "loras": hashes, "prompts": digest::file(&self.prompts)?, "grid": self.grid,
            "images_per_prompt": self.images_per_prompt, "benchmark": self.benchmark, "weights": self.weights,
            "settings": self.settings, "seed": common.seed(), "precision": common.precision()?.name(),
        });
        existing::begin(&self.out, "settings.json", &settings, self.resume, "LoRA or prompt file")
    }

    fn judge(&self, common: &Common) -> Result<Judge> {
        if self.benchmark == "shapes" {
            return Ok(Judge::Shapes);
        }
        if let Some(measure) = Measure::parse(&self.benchmark) {
            return Ok(Judge::Quality(measure));
        }
        let kind = Kind::parse(&self.benchmark).expect("checked");
        let dtype = if common.precision == "auto" { DType::F32 } else { common.precision()? };
        let weights = common.judge(self.weights.as_deref().unwrap_or(kind.published()))?;
        let scorer = Scorer::load(kind, &Place { weights, clip: None }, &common.device()?, dtype)?;
        Ok(Judge::Network(Box::new(scorer), ValueCache::open(&self.out.join("values.jsonl"))?))
    }

    #[allow(clippy::too_many_arguments)]
    fn draw(
        &self,
        generator: &mut Generator,
        files: &[PathBuf],
        weights: &[f64],
        prompts: &[Prompt],
        out: &Path,
        interrupt: &Interrupt,
        common: &Common,
    ) -> Result<()> {
        let used = files.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
        let loras = used.map(|(path, &scale)| Strength { path: path.clone(), scale }).collect();
        generator.with_loras(loras, false, &mut |_| ())?;
        let mut inputs = parameters::model_files(&self.model, None, self.vocab.as_deref())?;
        inputs.extend(files.iter().cloned());
        let folder = Folder {
            out,
            prompts,
            settings: &self.settings,
            images_per_prompt: self.images_per_prompt,
            seed: common.seed(),
            named: &[],
            syntax: &Syntax::Plain,
            inputs: parameters::inputs_hash(inputs).join().expect("hashing does not panic")?,
            // A trial that was ended has no line yet: what is there of it stays.
            existing: Existing::Repair,
            latents: None,
        };
        if let Some(parent) = out.parent() {
            atomic::create_folder(parent)?;
        }
        generator.generate(&folder, &mut Quiet { interrupt, common })
    }

    fn finish(&self, files: &[PathBuf], weights: &[f64], score: f64, common: &Common) -> Result<()> {
        let base = lora::base::modules(&self.model)?;
        let loaded = files.iter().map(|file| lora::load(file, Some(&base), false)).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<(&Expert, f64)> = loaded.iter().map(|l| &l.expert).zip(weights.iter().copied()).collect();
        let options = merge::Options::new(Method::Concat);
        let merged = merge::merge(&pairs, &options)?;
        let mut metadata = provenance::of_merge(&loaded, weights, &options)?;
        metadata.insert("selma.validation".into(), format!("{} {score}", self.benchmark));
        let out = self.out.join("merged.safetensors");
        save::write(Layout::Diffusers, &out, &merged.expert, Some(&base), &metadata)?;
        let shown: Vec<String> = weights.iter().map(ToString::to_string).collect();
        match common.json {
            true => outjson!(json!({"out": out, "weights": weights, "score": score})),
            false => outln!("{}: weights {}, {} {score:.4}", out.display(), shown.join(", "), self.benchmark),
        }
        Ok(())
    }
}

impl Judge {
    fn score(&self, folder: &Path, seed: u64) -> Result<Scores> {
        let (entries, _) = images::list(folder)?;
        match self {
            Judge::Shapes => shapes::evaluate(&entries, seed),
            Judge::Quality(measure) => quality::evaluate(*measure, &entries, seed),
            Judge::Network(scorer, cache) => scorers::evaluate(scorer, &entries, cache, seed, &mut |_| Ok(())),
        }
    }
}

/// Notes, and Ctrl-C.
struct Quiet<'a> {
    interrupt: &'a Interrupt,
    common: &'a Common,
}

impl Observer for Quiet<'_> {
    fn note(&mut self, text: &str) {
        self.common.note(text);
    }

    fn stepped(&mut self, _: usize) -> Result<()> {
        match self.interrupt.asked() {
            true => Err(Error::Interrupted("stopped; the same command with --resume goes on".into())),
            false => Ok(()),
        }
    }

    fn finished(&mut self, _: &Finished) {}
}
