//! The tables of a pipeline file, with the paper's settings where they leave something out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::benchmarks::{Benchmarks, QuestionFiles};
use crate::error::Result;
use crate::evaluate::questions::Dependencies;
use crate::generate::Settings;
use crate::prompting::llm::EndpointOptions;
use crate::prompting::select::Rule;

/// `[prompts]`: who writes how many. One of `llm`, `replay` and `writer` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PromptSettings {
    /// Prompts of each skill.
    pub count: usize,
    /// `builtin`: captions for the model `shapes`.
    pub writer: Option<String>,
    /// An OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY.
    pub llm: Option<String>,
    pub llm_model: Option<String>,
    /// A folder with recorded replies, `SKILL.replies.jsonl`.
    pub replay: Option<PathBuf>,
    pub max_similarity: f64,
    pub strict_words: bool,
    pub max_stalled: usize,
    #[serde(flatten)]
    pub endpoint: EndpointOptions,
}

impl Default for PromptSettings {
    fn default() -> Self {
        Self {
            count: 1000,
            writer: None,
            llm: None,
            llm_model: None,
            replay: None,
            max_similarity: 0.8,
            strict_words: false,
            max_stalled: 25,
            endpoint: EndpointOptions::default(),
        }
    }
}

/// `[images]`: the images that are learnt from, by a model that may be another than the one that learns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ImageSettings {
    /// That of the experts where left out.
    pub model: String,
    pub vae: Option<PathBuf>,
    #[serde(flatten)]
    pub draw: Settings,
}

/// `[select]`: experts that learn from the better images, beside those that learn from all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SelectSettings {
    /// `best-of:K`, `threshold:X` or `top:Q`, as for `selma select`.
    pub rule: String,
}

impl SelectSettings {
    /// # Errors
    /// As [`Rule::parse`].
    pub fn rule(&self) -> Result<Rule> {
        Rule::parse(&self.rule)
    }

    /// Images of each prompt, of which the best is looked for.
    pub fn images_a_prompt(&self) -> u64 {
        match self.rule() {
            Ok(Rule { best_of: Some(k), .. }) => k as u64,
            _ => 1,
        }
    }
}

/// `[evaluate]`: what the models are compared by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct EvaluateSettings {
    /// `shapes`: held-out captions of the built-in world, and its judge; `dsg` and `tifa`: questions that `[judge]` answers;
    /// `none`: no evaluation. A list has dsg and tifa in one report.
    pub benchmark: Benchmarks,
    /// The questions of dsg or tifa, and with them the prompts, all of which are evaluated; where left out, dsg's are written
    /// for held-out prompts of each skill.
    pub questions: Option<QuestionFiles>,
    /// Which answers a question depends on: `direct`, `cascading` or `none`.
    pub dependencies: Dependencies,
    /// With `questions`: each expert draws all prompts too.
    pub with_experts: bool,
    /// Prompts of each skill, 100 where left out; of a file with questions, all where left out.
    pub prompts: Option<usize>,
    /// Images of each prompt, each from a seed of its own.
    pub seeds: u64,
    /// Other guidances that every model which draws all prompts is evaluated at too: at which one a model draws best
    /// differs from model to model.
    pub guidance_sweep: Vec<f64>,
    #[serde(flatten)]
    pub draw: Settings,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self {
            benchmark: Benchmarks::One("shapes".into()),
            questions: None,
            dependencies: Dependencies::Direct,
            with_experts: false,
            prompts: None,
            seeds: 1,
            guidance_sweep: Vec::new(),
            draw: Settings::default(),
        }
    }
}

impl EvaluateSettings {
    /// Prompts of each skill.
    pub fn prompts_a_skill(&self) -> usize {
        self.prompts.unwrap_or(100)
    }
}

/// `[judge]`: who answers the questions of dsg and tifa. One of `url` and `answers` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct JudgeSettings {
    /// An OpenAI-compatible chat endpoint of a model that sees; the key comes from OPENAI_API_KEY.
    pub url: Option<String>,
    pub model: Option<String>,
    /// Answers that were given elsewhere, as for `selma eval --answers`.
    pub answers: Option<PathBuf>,
    /// BLIP-VQA in this process: a folder, a file, or an id on the Hugging Face hub.
    pub blip_vqa: Option<String>,
    /// Of BLIP-VQA: `greedy`, `yes-no` or `rank`.
    pub answer_form: Option<String>,
    /// Scorers of one number an image, further columns of the evaluation: `clipscore`, `pickscore`, `hpsv2`, `hpsv2.1`,
    /// `imagereward`, `aesthetic` -> weights as of [`JudgeSettings::blip_vqa`].
    pub scorers: BTreeMap<String, String>,
    /// The scorer that `[select]` and `[choose]` go by; where left out, they go by the benchmark.
    pub by: Option<String>,
    #[serde(flatten)]
    pub endpoint: EndpointOptions,
}

/// `[choose]`: of each expert the checkpoint that scores best on held-out prompts, by the benchmark of `[evaluate]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ChooseSettings {
    /// Steps from one candidate to the next; the last step is one too.
    pub every: u64,
    /// Held-out prompts of each skill; none of them is evaluated later.
    pub prompts: usize,
}

/// Every 1000 steps, as in the paper.
impl Default for ChooseSettings {
    fn default() -> Self {
        Self { every: 1000, prompts: 50 }
    }
}
