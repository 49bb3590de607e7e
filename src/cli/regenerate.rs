//! `selma regenerate`: how well a model draws a reference image anew from words.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Value, json};

use crate::cli::generate::parse_loras;
use crate::cli::interrupt::Interrupt;
use crate::cli::metrics::sets;
use crate::cli::{Common, existing, input};
use crate::error::{Error, Result};
use crate::evaluate::replies::Replies;
use crate::formats::{self, atomic, digest, png};
use crate::generate::generation::Generation;
use crate::generate::loras::Strength;
use crate::generate::request::Request;
use crate::generate::{Generator, Settings, Source};
use crate::judges::clip::Clip;
use crate::prompting::llm::{EndpointOptions, Role};
use crate::regenerate::compare::{Comparison, Objective, load_clip};
use crate::regenerate::sheet;
use crate::regenerate::trace::{self, Limits, Painter, Trace};
use crate::tensor::DType;

/// The CLIP whose image embeddings are compared, where none is named.
const CLIP: &str = "openai/clip-vit-large-patch14";

/// Draw an image anew from words alone: describe, draw, compare, revise (ImageRepainter).
///
/// A model that sees describes the reference; its description is drawn, and revised by what the best candidate has otherwise,
/// until --rounds are done or nothing is gained. Each reference gets a folder in --out with its images, trace.json and
/// sheet.png; scores.json has the best score of each, and their mean. The key is read from OPENAI_API_KEY.
#[derive(clap::Args)]
pub struct Regenerate {
    /// What draws: shapes, a folder, a checkpoint, or an id of the Hugging Face hub.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA file, and its strength (1 if left out). Repeatable.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// The image to draw anew, or a folder of images.
    #[arg(long, value_name = "IMAGE|DIR")]
    reference: PathBuf,
    /// Rounds at most.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Images of a round.
    #[arg(long, default_value_t = 4)]
    candidates: usize,
    /// Stop after so many rounds in a row without a gain.
    #[arg(long, default_value_t = 2)]
    patience: usize,
    /// What decides which candidate is the best.
    #[arg(long, value_enum, default_value = "clip-i")]
    objective: Objective,
    /// The CLIP that compares images: a folder, a file, or an id of the hub [default: openai/clip-vit-large-patch14, where the
    /// objective is clip-i].
    #[arg(long, value_name = "MODEL")]
    clip: Option<String>,
    /// An OpenAI-compatible endpoint of a model that sees, such as http://localhost:8000 or https://host/v1.
    #[arg(
        long,
        value_name = "URL",
        requires = "llm_model",
        conflicts_with = "replay",
        required_unless_present = "replay"
    )]
    llm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// Recorded replies instead (replies.jsonl of an earlier run).
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    #[command(flatten)]
    endpoint: EndpointOptions,
    #[command(flatten)]
    settings: Settings,
    /// Output folder.
    #[arg(long)]
    out: PathBuf,
    /// Go on with what is in --out.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Regenerate {
    pub fn run(mut self, common: &Common) -> Result<()> {
        for (option, value) in [("rounds", self.rounds), ("candidates", self.candidates), ("patience", self.patience)] {
            if value == 0 || value > 1000 {
                return Err(Error::Usage(format!("--{option} {value}: expected 1 to 1000")));
            }
        }
        self.endpoint.check("--")?;
        input::check([
            ("--reference", Some(self.reference.as_path())),
            ("--replay", self.replay.as_deref()),
            ("--vocab", self.vocab.as_deref()),
        ])?;
        let loras = parse_loras(&self.lora)?;
        input::check(loras.iter().map(|lora| ("--lora", Some(lora.path.as_path()))))?;
        let references: Vec<(String, PathBuf)> = match self.reference.is_dir() {
            true => sets::images(&self.reference)?.into_iter().collect(),
            false => vec![(file_name(&self.reference), self.reference.clone())],
        };
        let hashes: Vec<String> = references.iter().map(|(_, path)| digest::file(path)).collect::<Result<_>>()?;
        self.model = common.model(&self.model)?;
        self.begin(&references, &hashes, &loras, common)?;
        let mut replies = self.replies(common)?;
        let clip = self.load_clip(common)?;
        let source = Source { model: self.model.clone(), vocab: self.vocab.clone(), ..Source::default() };
        let mut generator = common.generator(source)?;
        generator.with_loras(loras, false, &mut |text| common.note(text))?;
        let generation = Generation::new(&self.settings, common.seed(), &generator.model);
        generation.check(&generator.model, None)?;
        let interrupt = Interrupt::listen(common)?;
        let mut rows = Vec::new();
        for (number, ((name, path), hash)) in references.iter().zip(&hashes).enumerate() {
            let folder = self.out.join(folder_name(name, hash));
            atomic::create_folder(&folder)?;
            let mut painter = Own {
                generator: &generator,
                generation: &generation,
                long_prompts: self.settings.long_prompts,
                folder: &folder,
                interrupt: &interrupt,
            };
            let comparison = Comparison::with(path, clip.as_ref())?;
            let limits = Limits { rounds: self.rounds, candidates: self.candidates, patience: self.patience };
            let first = (number * (self.rounds + 1)) as u64;
            let mut told = |round: usize, prompt: &str, best: f64| {
                common.note(format!("{name}, round {}: best {best:.4} ({prompt})", round + 1));
                Ok(())
            };
            let (seed, judge) = (common.seed(), self.judge(clip.as_ref()));
            let trace = trace::run(
                &comparison,
                hash.clone(),
                self.objective,
                judge,
                seed,
                &limits,
                &mut replies,
                first,
                &mut painter,
                &mut told,
            )?;
            self.finish(&trace, path, &folder)?;
            let (round, candidate, score) = trace.best;
            let file = folder.join(&trace.rounds[round].candidates[candidate].file);
            if !common.json {
                outln!(
                    "{name}: {} {score:.4} in {} rounds: {}",
                    self.objective.name(),
                    trace.rounds.len(),
                    file.display()
                );
            }
            rows.push(
                json!({"reference": name, "sha256": hash, "score": score, "rounds": trace.rounds.len(), "best": file,
                             "unusable_replies": trace.unusable_replies}),
            );
        }
        self.report(rows, common)
    }

    /// Makes the folder, and refuses one that was begun with other settings.
    fn begin(
        &self,
        references: &[(String, PathBuf)],
        hashes: &[String],
        loras: &[Strength],
        common: &Common,
    ) -> Result<()> {
        let names: Vec<&String> = references.iter().map(|(name, _)| name).collect();
        let mut settings = json!({
            "model": self.model, "lora": self.lora, "references": names, "sha256": hashes, "rounds": self.rounds,
            "candidates": self.candidates, "patience": self.patience, "objective": self.objective, "clip": self.clip,
            "settings": self.settings, "seed": common.seed(), "precision": common.precision()?.name(),
        });
        if let Some(hashes) = existing::hashes(loras.iter().map(|lora| lora.path.as_path()))? {
            settings["lora_sha256"] = hashes;
        }
        existing::begin(&self.out, "regenerate.json", &settings, self.resume, "reference or LoRA")
    }

    fn replies(&self, common: &Common) -> Result<Replies> {
        if let Some(file) = &self.replay {
            return Replies::replay(file);
        }
        let url = self.llm.as_deref().unwrap_or_default();
        let model = self.llm_model.as_deref().unwrap_or_default();
        let client = common.client(&self.endpoint, Role::Questioner, ("--llm", url), model, None)?;
        Replies::endpoint(client, &self.out.join("replies.jsonl"))
    }

    /// CLIP, where it is asked for or decides.
    fn load_clip(&self, common: &Common) -> Result<Option<Clip>> {
        let needed = (self.objective == Objective::ClipI).then_some(CLIP);
        let Some(name) = self.clip.as_deref().or(needed) else { return Ok(None) };
        // As other scores, in f32 where it is not asked for otherwise.
        let dtype = if common.precision == "auto" { DType::F32 } else { common.precision()? };
        load_clip(&common.judge(name)?, &common.device()?, dtype).map(Some)
    }

    fn judge(&self, clip: Option<&Clip>) -> String {
        match (self.objective, clip) {
            (Objective::ClipI, Some(clip)) => format!("CLIP image cosine; weights {}", clip.hash),
            (objective, _) => objective.name().into(),
        }
    }

    /// Trace and contact sheet of a reference.
    fn finish(&self, trace: &Trace, reference: &Path, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(trace).map_err(|e| Error::Failed(e.to_string()))?;
        atomic::write_bytes(&folder.join("trace.json"), format!("{text}\n").as_bytes())?;
        let read = |round: &trace::Round| {
            let images = round.candidates.iter().map(|c| formats::image::read(&folder.join(&c.file)));
            images.collect::<Result<Vec<RgbImage>>>()
        };
        let rounds: Vec<Vec<RgbImage>> = trace.rounds.iter().map(read).collect::<Result<_>>()?;
        let sheet = sheet::sheet(&formats::image::read(reference)?, &rounds, (trace.best.0, trace.best.1));
        png::save(&folder.join("sheet.png"), &sheet, None)
    }

    fn report(&self, rows: Vec<Value>, common: &Common) -> Result<()> {
        let scores = rows.iter().filter_map(|row| row["score"].as_f64());
        let mean = scores.sum::<f64>() / rows.len() as f64;
        let report = json!({"objective": self.objective, "mean": mean, "n": rows.len(), "references": rows});
        atomic::write_bytes(&self.out.join("scores.json"), format!("{report:#}\n").as_bytes())?;
        match common.json {
            true => outjson!(report),
            false => outln!("mean of {}: {mean:.4}", rows.len()),
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The folder of a reference: its name, and what tells it from others of that name.
fn folder_name(name: &str, hash: &str) -> String {
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    format!("{}-{}", stem.chars().take(40).map(plain).collect::<String>(), &hash[..8])
}

/// The user's model.
struct Own<'a> {
    generator: &'a Generator,
    generation: &'a Generation,
    long_prompts: bool,
    folder: &'a Path,
    interrupt: &'a Interrupt,
}

impl Painter for Own<'_> {
    fn paint(&mut self, prompt: &str, round: usize, candidate: usize, index: u64) -> Result<PathBuf> {
        let path = self.folder.join(format!("{round:02}-{candidate:02}.png"));
        if path.is_file() {
            return Ok(path);
        }
        if self.interrupt.asked() {
            return Err(Error::Interrupted("stopped; the same command with --resume goes on".into()));
        }
        let model = &self.generator.model;
        let parts = if self.long_prompts { model.text.parts(prompt)? } else { 1 };
        let generation = self.generation.clone();
        let request = Request { index, parts, ..Request::plain(prompt.into(), generation) };
        let (_, mut images) = model.images(&[request], None, || Ok(()))?;
        let image = images.pop().ok_or_else(|| Error::Failed("no image was drawn".into()))?;
        png::save(&path, &image, None)?;
        Ok(path)
    }
}
