//! What a run is to do, and the file that says it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keys;
use super::settings::{ChooseSettings, EvaluateSettings, ImageSettings, JudgeSettings, PromptSettings, SelectSettings};
use crate::error::{Error, Result};
use crate::lora::merge::{Method, Options};
use crate::lora::prune::MajoritySign;
use crate::prompting::Skill;
use crate::train::config::TrainConfig;

/// All settings of a run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    pub skills: Vec<Skill>,
    pub prompts: PromptSettings,
    pub images: ImageSettings,
    pub select: Option<SelectSettings>,
    /// Model, rank, steps and so on of every expert; data and output folder are the run's.
    pub experts: TrainConfig,
    /// Train one LoRA on the data of all skills too, with as many steps as all experts have together: what the paper
    /// compares with. Where images are selected, it learns from the selected ones.
    pub all_in_one: bool,
    /// None: the last checkpoint of each expert.
    pub choose: Option<ChooseSettings>,
    pub merge: Options,
    pub evaluate: EvaluateSettings,
    pub judge: JudgeSettings,
    /// Folder with `vocab.json` and `merges.txt`, for model folders without their own.
    pub vocab: Option<PathBuf>,
    pub seed: u64,
}

/// What stands beside the skills among the experts.
pub const ALL_IN_ONE: &str = "all-in-one";

/// The experts that learn from selected images, and their merge, carry this ending.
pub const SELECTED: &str = "-selected";

/// Whether an expert learns all skills.
pub(super) fn is_all_in_one(part: &str) -> bool {
    part.strip_suffix(SELECTED).unwrap_or(part) == ALL_IN_ONE
}

impl RunConfig {
    /// Reads a run file; `examples/pipeline.toml` explains every key. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] naming the file and the key that is unknown, missing or wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).map_err(|e| match e {
            Error::Usage(message) => Error::Usage(format!("{}: {message}", path.display())),
            other => other,
        })
    }

    /// As [`RunConfig::read`], of a text whose paths are relative to `folder`.
    ///
    /// # Errors
    /// [`Error::Usage`]; those of [`Skill::resolve`] for a skill that is a file.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Usage(e.to_string()))?;
        keys::check(&table)?;
        let within = |path: PathBuf| folder.join(path);
        let model = |name: String| match folder.join(&name) {
            path if path.exists() => path.to_string_lossy().into_owned(),
            _ => name,
        };
        let skills: Vec<String> = keys::take(&mut table, "skills")?.unwrap_or_default();
        let resolve = |name: &String| match folder.join(name) {
            path if name.contains(['/', '.']) => Skill::load(&path),
            _ => Skill::resolve(name),
        };
        let skills = skills.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let mut prompts: PromptSettings = keys::take(&mut table, "prompts")?.unwrap_or_default();
        prompts.replay = prompts.replay.map(within);
        let (mut experts, all_in_one) = keys::experts(&mut table)?;
        (experts.model, experts.vae) = (model(experts.model), experts.vae.map(within));
        let mut images: ImageSettings = keys::take(&mut table, "images")?.unwrap_or_default();
        images.vae = images.vae.map(within);
        images.model = match images.model.is_empty() {
            true => experts.model.clone(),
            false => model(images.model),
        };
        let mut evaluate: EvaluateSettings = keys::take(&mut table, "evaluate")?.unwrap_or_default();
        evaluate.questions = evaluate.questions.map(|files| files.map(within));
        let mut judge: JudgeSettings = keys::take(&mut table, "judge")?.unwrap_or_default();
        judge.answers = judge.answers.map(within);
        judge.blip_vqa = judge.blip_vqa.map(model);
        judge.scorers.values_mut().for_each(|given| *given = model(given.clone()));
        let config = Self {
            skills,
            prompts,
            images,
            select: keys::take(&mut table, "select")?,
            experts,
            all_in_one,
            merge: keys::take::<MergeSettings>(&mut table, "merge")?.unwrap_or_default().options()?,
            choose: keys::take(&mut table, "choose")?,
            evaluate,
            judge,
            vocab: keys::take::<PathBuf>(&mut table, "vocab")?.map(within),
            seed: keys::take(&mut table, "seed")?.unwrap_or(TrainConfig::default().seed),
        };
        config.check()?;
        Ok(config)
    }

    /// The parts of the stage `experts`.
    pub fn trained(&self) -> Vec<String> {
        let skills = || self.skills.iter().map(|skill| skill.id.clone());
        let selected = skills().filter(|_| self.select.is_some()).map(|skill| format!("{skill}{SELECTED}"));
        skills().chain(selected).chain(self.all_in_one.then(|| self.all_in_one_part())).collect()
    }

    /// What the LoRA of all skills is called.
    pub fn all_in_one_part(&self) -> String {
        let ending = if self.select.is_some() { SELECTED } else { "" };
        format!("{ALL_IN_ONE}{ending}")
    }

    /// Whether there is an evaluation.
    pub fn evaluates(&self) -> bool {
        self.evaluate.benchmarks() != ["none"]
    }

    /// Optimizer steps of an expert.
    pub fn steps(&self, part: &str) -> u64 {
        match is_all_in_one(part) {
            true => self.experts.steps * self.skills.len() as u64,
            false => self.experts.steps,
        }
    }
}

/// `[merge]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct MergeSettings {
    method: Option<String>,
    rank: Option<usize>,
    max_error: Option<f64>,
    density: Option<f64>,
    majority_sign: Option<String>,
}

impl MergeSettings {
    fn options(self) -> Result<Options> {
        fn named<T: clap::ValueEnum>(key: &str, name: &str) -> Result<T> {
            T::from_str(name, false).map_err(|_| {
                let all: Vec<_> = T::value_variants().iter().filter_map(|v| v.to_possible_value()).collect();
                let names: Vec<&str> = all.iter().map(|v| v.get_name()).collect();
                Error::Usage(format!("[merge]: {key} = {name:?}: expected one of {}", names.join(", ")))
            })
        }
        let method = named::<Method>("method", self.method.as_deref().unwrap_or("average"))?;
        let sign = self.majority_sign.as_deref().unwrap_or("total");
        Ok(Options {
            rank: self.rank,
            max_error: self.max_error,
            density: self.density,
            majority_sign: named::<MajoritySign>("majority-sign", sign)?,
            ..Options::new(method)
        })
    }
}
