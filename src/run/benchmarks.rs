//! By what a run is evaluated: one benchmark, or DSG and TIFA together, each with its own questions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::settings::EvaluateSettings;
use crate::error::{Error, Result};

/// `benchmark`: a name, or a list of names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "benchmark: expected a name such as \"dsg\", or a list: [\"dsg\", \"tifa\"]")]
pub enum Benchmarks {
    One(String),
    Several(Vec<String>),
}

impl Benchmarks {
    pub fn names(&self) -> &[String] {
        match self {
            Benchmarks::One(name) => std::slice::from_ref(name),
            Benchmarks::Several(names) => names,
        }
    }
}

/// `questions`: the file of the only benchmark, or a table of files by benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "questions: expected a file, or one for each benchmark: { dsg = \"FILE\", tifa = \"FILE\" }"
)]
pub enum QuestionFiles {
    One(PathBuf),
    Each(BTreeMap<String, PathBuf>),
}

impl QuestionFiles {
    /// The same with every path changed.
    #[must_use]
    pub fn map(self, change: impl Fn(PathBuf) -> PathBuf) -> Self {
        match self {
            QuestionFiles::One(path) => QuestionFiles::One(change(path)),
            QuestionFiles::Each(files) => {
                QuestionFiles::Each(files.into_iter().map(|(name, path)| (name, change(path))).collect())
            }
        }
    }
}

impl EvaluateSettings {
    /// What the models are compared by; the scorers look at the images of the first.
    pub fn benchmarks(&self) -> &[String] {
        self.benchmark.names()
    }

    /// The file with the questions of a benchmark.
    pub fn file(&self, benchmark: &str) -> Option<&Path> {
        match &self.questions {
            Some(QuestionFiles::One(path)) => Some(path.as_path()),
            Some(QuestionFiles::Each(files)) => files.get(benchmark).map(PathBuf::as_path),
            None => None,
        }
    }

    /// Whether the images of each skill's held-out prompts are evaluated, because a benchmark has no file.
    pub fn by_skill(&self) -> bool {
        self.benchmarks().iter().any(|name| self.file(name).is_none())
    }

    /// Whether questions are answered about the images, by an endpoint, a file or a network.
    pub fn asks(&self) -> bool {
        self.benchmarks().iter().any(|name| matches!(name.as_str(), "dsg" | "tifa"))
    }

    /// What images are judged by whose prompts are not a file's: the run writes DSG's questions about them, or the judge of
    /// the built-in world knows what to ask.
    pub fn own_benchmark(&self) -> &str {
        match self.benchmarks() {
            [only] if !self.asks() => only,
            _ => "dsg",
        }
    }

    /// # Errors
    /// [`Error::Usage`] for names and files that do not go together.
    pub(super) fn check_benchmarks(&self, skills: &[String]) -> Result<()> {
        let wrong = |text: String| Err(Error::Usage(format!("[evaluate]: {text}")));
        let names = self.benchmarks();
        for (i, name) in names.iter().enumerate() {
            match (name.as_str(), self.file(name)) {
                ("dsg", _) | ("tifa", Some(_)) | ("none" | "shapes", None) => {}
                ("tifa", None) => {
                    let how = if names.len() > 1 { "{ tifa = \"FILE\" }" } else { "\"FILE\"" };
                    return wrong(format!("benchmark = \"tifa\": expected questions = {how}"));
                }
                ("shapes" | "none", Some(_)) => {
                    return wrong(format!("benchmark = {name:?} has no use for questions; leave them out"));
                }
                _ => {
                    return wrong(format!(
                        "benchmark = {name:?}: expected \"dsg\", \"tifa\", \"shapes\" or \"none\", or [\"dsg\", \"tifa\"]"
                    ));
                }
            }
            if names[..i].contains(name) {
                return wrong(format!("benchmark has {name:?} twice"));
            }
        }
        if names.is_empty() || (names.len() > 1 && names.iter().any(|name| matches!(name.as_str(), "shapes" | "none")))
        {
            return wrong(format!(
                "benchmark = {names:?}: a list has \"dsg\", \"tifa\" or both; \"shapes\" and \"none\" stand alone"
            ));
        }
        match &self.questions {
            Some(QuestionFiles::One(_)) if names.len() > 1 => wrong(
                "questions: two benchmarks have files of their own: { dsg = \"FILE\", tifa = \"FILE\" }; without dsg's, the \
                 writer of [prompts] makes its questions"
                    .into(),
            ),
            Some(QuestionFiles::Each(files)) => match files.keys().find(|name| !names.contains(name)) {
                Some(name) => wrong(format!("questions has a file of {name:?}, which is not a benchmark of this run")),
                None => match skills.iter().find(|skill| self.by_skill() && files.contains_key(*skill)) {
                    Some(skill) => wrong(format!("the skill {skill:?} has the name of a benchmark; give it another id")),
                    None => Ok(()),
                },
            },
            _ => Ok(()),
        }
    }
}
