//! What each piece is made from, what it needs before it, and what it leaves.

use std::path::PathBuf;

use serde_json::json;

use super::folder::{Inputs, Paths};
use super::held_out::Purpose;
use super::pipeline::ALL_IN_ONE;
use super::questions::About;
use super::{Piece, Run, Stage, choose, evaluate, experts, questions, select};
use crate::error::Result;
use crate::formats::digest;
use crate::generate::Settings;
use crate::train::identity;

/// A piece's inputs and outputs.
pub(super) struct Plan {
    pub inputs: Inputs,
    pub paths: Paths,
}

/// The experts that learn from selected pictures, and their merge, carry this ending.
pub(super) const SELECTED: &str = "-selected";

impl Run<'_> {
    pub(super) fn pieces_of(&self, stage: Stage) -> Vec<Piece> {
        let skills = || self.pipeline.skills.iter().map(|skill| skill.id.as_str());
        let each = |stage| skills().map(|skill| Piece::new(stage, skill)).collect();
        let selects = self.pipeline.select.is_some();
        match stage {
            Stage::Select if !selects => Vec::new(),
            Stage::Evaluate if !self.pipeline.evaluates() => Vec::new(),
            Stage::Questions if questions::all(self).is_empty() => Vec::new(),
            Stage::Questions => each(stage),
            Stage::Prompts | Stage::Images | Stage::Select => each(stage),
            Stage::Experts => {
                let mut parts = self.pipeline.trained();
                if selects {
                    parts.extend(skills().map(|skill| format!("{skill}{SELECTED}")));
                }
                parts.iter().map(|part| Piece::new(stage, part)).collect()
            }
            Stage::Merge if selects => vec![Piece::whole(stage), Piece::new(stage, &SELECTED[1..])],
            _ => vec![Piece::whole(stage)],
        }
    }

    /// What must be complete before `piece`.
    pub(super) fn needs(&self, piece: &Piece) -> Vec<Piece> {
        let part = piece.part.as_deref().unwrap_or_default();
        let skills = || self.pipeline.skills.iter().map(|skill| skill.id.as_str());
        match piece.stage {
            Stage::Prompts => Vec::new(),
            Stage::Images | Stage::Questions => vec![Piece::new(Stage::Prompts, part)],
            Stage::Select => [vec![Piece::new(Stage::Images, part)], self.asked_first(part)].concat(),
            Stage::Experts => {
                let mut needed = match part.strip_suffix(SELECTED) {
                    _ if part == ALL_IN_ONE => self.pieces_of(Stage::Images),
                    Some(skill) => vec![Piece::new(Stage::Select, skill)],
                    None => vec![Piece::new(Stage::Images, part)],
                };
                if self.pipeline.choose.is_some() {
                    needed.extend(self.asked_first(part));
                }
                needed
            }
            Stage::Merge => {
                let ending = if part.is_empty() { "" } else { SELECTED };
                let expert = |skill| Piece::new(Stage::Experts, &format!("{skill}{ending}"));
                skills().map(expert).collect()
            }
            Stage::Evaluate => {
                [Stage::Questions, Stage::Experts, Stage::Merge].map(|stage| self.pieces_of(stage)).concat()
            }
            Stage::Report => {
                let mut all = self.pieces();
                all.retain(|piece| piece.stage != Stage::Report);
                all
            }
        }
    }

    /// # Errors
    /// [`crate::Error::Failed`] where what `piece` needs is not complete; those of the models and files that it reads.
    pub(super) fn plan(&self, piece: &Piece) -> Result<Plan> {
        let part = piece.part.as_deref().unwrap_or_default();
        let p = self.pipeline;
        let mut inputs = Inputs::from([("seed".to_string(), p.seed.to_string())]);
        for needed in self.needs(piece) {
            let hash = self.made(&needed)?;
            match (needed.stage, asks_about(piece.stage)) {
                // Of the questions only some are for this piece: other numbers of the rest do not make it anew.
                (Stage::Questions, Some(about)) => {
                    let skill = needed.part.as_deref().unwrap_or_default();
                    let own = piece.part.is_none() || self.learns(part, skill);
                    if own && about.prompts(self) > 0 {
                        let file = self.folder.path(questions::file(skill, about));
                        inputs.insert(needed.name(), digest::file(&file)?);
                    }
                }
                _ => drop(inputs.insert(needed.name(), hash)),
            }
        }
        let mut put = |key: &str, value: String| inputs.insert(key.into(), value);
        let paths = match piece.stage {
            Stage::Prompts => {
                let skill = p.skills.iter().find(|skill| skill.id == part);
                put("skill", identity::of_bytes(format!("{skill:?}").as_bytes()));
                let s = &p.prompts;
                let decides = json!([s.count, s.writer, s.llm_model, s.max_similarity, s.strict_words]);
                put("settings", decides.to_string());
                if let Some(folder) = &s.replay {
                    put("replay", digest::file(&folder.join(format!("{part}.replies.jsonl")))?);
                }
                // The recording of an endpoint's replies is no output: it was paid for, and is never removed.
                same(&format!("prompts/{part}.json"))
            }
            Stage::Questions => {
                if let Some(replies) = questions::replayed(self, part)? {
                    put("replay", replies);
                }
                let about = questions::all(self);
                let counts: Vec<usize> = about.iter().map(|about| about.prompts(self)).collect();
                put("settings", format!("{about:?} {counts:?}"));
                let files: Vec<PathBuf> = about.iter().map(|about| questions::file(part, *about).into()).collect();
                Paths { outputs: files.clone(), own: files, ..Paths::default() }
            }
            Stage::Images => {
                put("model", self.model(&p.images.model, p.images.vae.as_deref())?);
                put("settings", self.draws(&p.images.draw));
                let path = format!("images/{part}");
                same(&path)
            }
            Stage::Select => {
                put("model", self.model(&p.images.model, p.images.vae.as_deref())?);
                put("settings", self.draws(&p.images.draw));
                put("rule", p.select.as_ref().map(|s| s.rule.clone()).unwrap_or_default());
                put("judge", select::decides(self));
                same(&format!("select/{part}"))
            }
            Stage::Experts => {
                put("model", self.model(&p.experts.model, p.experts.vae.as_deref())?);
                let config = experts::config(self, part);
                put("settings", experts::decides(&config)?);
                let own = format!("experts/{part}");
                let mut outputs = vec!["lora.safetensors", "metrics.jsonl"];
                if p.choose.is_some() {
                    put("choose", choose::decides(self));
                    outputs.push(choose::NAME);
                }
                Paths {
                    outputs: outputs.iter().map(|file| format!("{own}/{file}").into()).collect(),
                    own: vec![own.into()],
                    ..Paths::default()
                }
            }
            Stage::Merge => {
                put("settings", format!("{:?}", p.merge));
                same(&super::merge::folder(part))
            }
            Stage::Evaluate => {
                put("model", self.model(&p.experts.model, None)?);
                put("settings", evaluate::decides(self)?);
                if let Some(answers) = p.judge.answers.as_ref().filter(|answers| answers.exists()) {
                    put("answers", digest::file(answers)?);
                }
                Paths { corrected: vec!["answers"], ..same("evaluate") }
            }
            Stage::Report => same(super::report::NAME),
        };
        Ok(Plan { inputs, paths })
    }

    /// The questions that the judge of `part` reads: of the skills that it learns, and where answers come from a file, of all
    /// that such a file may speak of.
    fn asked_first(&self, part: &str) -> Vec<Piece> {
        let mut asked = self.pieces_of(Stage::Questions);
        let all = self.pipeline.judge.answers.is_some();
        asked.retain(|piece| all || self.learns(part, piece.part.as_deref().unwrap_or_default()));
        asked
    }

    /// Whether the expert `part` learns `skill`.
    pub(super) fn learns(&self, part: &str, skill: &str) -> bool {
        part == ALL_IN_ONE || part.strip_suffix(SELECTED).unwrap_or(part) == skill
    }

    pub(super) fn draws(&self, draw: &Settings) -> String {
        format!("{} {}", serde_json::json!(draw), self.dtype.name())
    }
}

/// The questions that the pieces of a stage are judged by.
fn asks_about(stage: Stage) -> Option<About> {
    match stage {
        Stage::Select => Some(About::Learnt),
        Stage::Experts => Some(About::HeldOut(Purpose::Choice)),
        Stage::Evaluate => Some(About::HeldOut(Purpose::Evaluation)),
        _ => None,
    }
}

/// One file or folder that is all of a piece.
fn same(path: &str) -> Paths {
    Paths { outputs: vec![path.into()], own: vec![path.into()], ..Paths::default() }
}
