//! The method on the built-in model, with settings that take minutes on two processor cores.

use std::path::Path;

use super::RunConfig;
use super::benchmarks::Benchmarks;
use super::settings::{EvaluateSettings, ImageSettings, JudgeSettings, PromptSettings, SelectSettings};
use crate::error::Result;
use crate::generate::Settings;
use crate::lora::merge::{Method, Options};
use crate::prompting::{Skill, select};
use crate::shapes;
use crate::train::config::TrainConfig;
use crate::train::lr_schedule::Shape;

/// What the demo spends on one thing or another.
struct Effort {
    /// Images that are learnt from, before selection; of each skill.
    prompts: usize,
    /// Of each expert.
    steps: u64,
    /// Of each skill.
    held_out: usize,
    /// Beside [`EVALUATED_AT`].
    sweep: &'static [f64],
}

const SHORT: Effort = Effort { prompts: 480, steps: 250, held_out: 60, sweep: &[2.0, 4.0] };
/// A thousand prompts: where gains differ by 20 points from prompt to prompt, the interval of their mean is 1.3 to
/// either side.
const THOROUGH: Effort = Effort { prompts: 480, steps: 250, held_out: 200, sweep: &[1.0, 2.0, 4.0, 5.0] };

/// Which images are learnt from: those of which every question is answered with yes.
pub const RULE: &str = "threshold:1";
/// Guidance of the images that are learnt from. What was generated with a strong one teaches it, and sampling then
/// applies it twice: such experts gain at guidance 1, and lose at 3.
const LEARNT_AT: f64 = 1.5;
const EVALUATED_AT: f64 = 3.0;

/// Seeds of a thorough demo: of prompts and noise that no setting was chosen on.
pub fn fresh_seeds(seed: u64) -> impl Iterator<Item = u64> {
    (1..=3).map(move |i| seed + 1000 * i)
}

/// `model` is the folder of the built-in model; `rule` selects images to learn from, beside the plain method, which learns
/// from all.
///
/// # Errors
/// [`crate::Error::Usage`] for a rule that does not exist.
pub fn config(model: &Path, thorough: bool, rule: Option<&str>, seed: u64) -> Result<RunConfig> {
    let effort = if thorough { THOROUGH } else { SHORT };
    rule.map(select::Rule::parse).transpose()?;
    let at = |guidance| Settings {
        steps: 10,
        guidance: Some(guidance),
        scheduler: Some("dpmpp-2m".into()),
        batch_size: 16,
        ..Settings::default()
    };
    let model = model.to_string_lossy().into_owned();
    let skill = |skill: &shapes::Skill| Skill::resolve(skill.name());
    Ok(RunConfig {
        skills: shapes::Skill::ALL.iter().map(skill).collect::<Result<_>>()?,
        prompts: PromptSettings { count: effort.prompts, writer: Some("builtin".into()), ..PromptSettings::default() },
        images: ImageSettings { model: model.clone(), vae: None, draw: at(LEARNT_AT) },
        select: rule.map(|rule| SelectSettings { rule: rule.into() }),
        experts: TrainConfig {
            model,
            rank: 16,
            targets: vec!["all-linear".into()],
            steps: effort.steps,
            batch_size: 16,
            grad_accum: 1,
            lr: 1e-3,
            warmup: 10,
            // Its own images are rougher than those it learnt from, nearly all of it below this timestep. A rate that falls to
            // 0, an average, and prompts that are at times left out keep an expert from unlearning.
            min_timestep: 300,
            ema: 0.98,
            lr_schedule: Shape::Cosine,
            caption_dropout: 0.1,
            // Left and right are part of what is learnt.
            flip: false,
            save_every: 50,
            keep: 1,
            ..TrainConfig::default()
        },
        all_in_one: true,
        merge: Options { seed, ..Options::new(Method::Average) },
        evaluate: EvaluateSettings {
            benchmark: Benchmarks::One("shapes".into()),
            prompts: Some(effort.held_out),
            guidance_sweep: effort.sweep.to_vec(),
            draw: at(EVALUATED_AT),
            ..EvaluateSettings::default()
        },
        judge: JudgeSettings::default(),
        choose: None,
        vocab: None,
        seed,
    })
}
