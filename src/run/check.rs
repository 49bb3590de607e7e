//! What the tables of a pipeline must agree on.

use std::path::Path;

use super::RunConfig;
use super::config::ALL_IN_ONE;
use super::scorers::AESTHETIC_CLIP;
use crate::error::{Error, Result};
use crate::evaluate::visual_qa::Form;
use crate::formats::hub::JudgeId;
use crate::judges::kind::Kind;
use crate::shapes;

impl RunConfig {
    /// # Errors
    /// [`Error::Usage`] naming the table and key that is missing or wrong.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |text: &str| Err(Error::Usage(text.into()));
        if self.skills.is_empty() {
            return wrong("skills: expected at least one name or file, such as skills = [\"counting\"]");
        }
        for (i, skill) in self.skills.iter().enumerate() {
            if skill.id == ALL_IN_ONE || self.skills[..i].iter().any(|other| other.id == skill.id) {
                return Err(Error::Usage(format!("skills: `{}` is there twice, or reserved", skill.id)));
            }
        }
        if self.experts.model.is_empty() {
            return wrong("[experts]: model is missing");
        }
        let p = &self.prompts;
        let writers = [p.writer.is_some(), p.llm.is_some(), p.replay.is_some()];
        if writers.iter().filter(|&&given| given).count() != 1 {
            return wrong("[prompts]: expected one of llm = \"URL\", replay = \"FOLDER\" and writer = \"builtin\"");
        }
        if p.writer.as_ref().is_some_and(|writer| writer != "builtin") {
            return wrong("[prompts]: writer: expected \"builtin\"");
        }
        let e = &self.evaluate;
        if !e.guidance_sweep.is_empty() && e.draw.guidance.is_none() {
            return wrong("[evaluate]: guidance-sweep needs guidance too: the one that the other scores are of");
        }
        if let Some(guidance) = e.guidance_sweep.iter().find(|guidance| !(guidance.is_finite() && **guidance >= 0.0)) {
            return Err(Error::Usage(format!("[evaluate]: guidance-sweep has {guidance}: expected numbers from 0")));
        }
        if p.llm.is_some() && p.llm_model.is_none() {
            return wrong("[prompts]: llm-model is missing");
        }
        let counts = [
            ("[prompts]: count", p.count),
            ("[prompts]: max-stalled", p.max_stalled),
            ("[images]: batch-size", self.images.draw.batch_size),
            ("[evaluate]: batch-size", self.evaluate.draw.batch_size),
            ("[evaluate]: prompts", self.evaluate.prompts_a_skill()),
            ("[evaluate]: seeds", self.evaluate.seeds as usize),
            ("[choose]: every", self.choose.as_ref().map_or(1, |c| c.every as usize)),
            ("[choose]: prompts", self.choose.as_ref().map_or(1, |c| c.prompts)),
        ];
        if let Some((key, value)) = counts.iter().find(|(_, value)| !(1..=1_000_000).contains(value)) {
            return Err(Error::Usage(format!("{key} = {value}: expected 1 to 1000000")));
        }
        if !(p.max_similarity > 0.0 && p.max_similarity <= 1.0) {
            return wrong("[prompts]: max-similarity: expected a number above 0, at most 1");
        }
        p.endpoint.check("[prompts]: ")?;
        self.judge.endpoint.check("[judge]: ")?;
        self.check_judge()
    }

    fn check_judge(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Usage(text));
        let (e, j) = (&self.evaluate, &self.judge);
        let skills: Vec<String> = self.skills.iter().map(|skill| skill.id.clone()).collect();
        e.check_benchmarks(&skills)?;
        let names = e.benchmarks();
        let name = names.join(", ");
        if names == ["shapes"] {
            let foreign = self.skills.iter().find(|skill| shapes::Skill::from_name(&skill.id).is_err());
            if let Some(skill) = foreign {
                return wrong(format!(
                    "[evaluate]: benchmark = \"shapes\" has no held-out captions of {}; take \"dsg\" with a [judge], or \"none\"",
                    skill.id
                ));
            }
        }
        if let Some(select) = &self.select {
            select.rule().map_err(|why| Error::Usage(format!("[select]: {why}")))?;
            if name == "none" {
                return wrong("[select]: needs a benchmark in [evaluate] that judges the images".into());
            }
        }
        if name == "none" && self.choose.is_some() {
            return wrong("[choose]: needs a benchmark in [evaluate] that scores the checkpoints".into());
        }
        let answerers = [j.url.is_some(), j.answers.is_some(), j.blip_vqa.is_some()];
        match (e.asks(), answerers.iter().filter(|&&given| given).count()) {
            (true, 1) | (false, 0) => {}
            (true, _) => {
                return wrong(format!(
                    "[judge]: benchmark = {name:?} expects one of url = \"URL\", answers = \"FILE\" and blip-vqa = \"MODEL\""
                ));
            }
            (false, ..) => {
                return wrong(format!("[judge]: benchmark = {name:?} has its own judge, or none; leave it out"));
            }
        }
        self.check_scorers()?;
        if j.url.is_some() && j.model.is_none() {
            return wrong("[judge]: model is missing".into());
        }
        Ok(())
    }
}

impl RunConfig {
    fn check_scorers(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Usage(text));
        let j = &self.judge;
        if let Some(name) = j.scorers.keys().find(|name| Kind::parse(name).is_none() && *name != AESTHETIC_CLIP) {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            return wrong(format!("[judge.scorers]: `{name}`: expected {} or {AESTHETIC_CLIP}", all.join(", ")));
        }
        let blip = j.blip_vqa.iter().map(|given| ("[judge]: blip-vqa", given));
        let scorers = j.scorers.iter().map(|(name, given)| (name.as_str(), given));
        let absent = |given: &str| !Path::new(given).exists() && JudgeId::parse(given).is_none();
        if let Some((name, given)) = blip.chain(scorers).find(|(_, given)| absent(given)) {
            return wrong(format!("{name}: {given}: no such folder or file, and not an id on the hub (ORG/NAME)"));
        }
        if !j.scorers.is_empty() && !self.evaluates() {
            return wrong("[judge.scorers]: needs a benchmark in [evaluate], whose images are scored".into());
        }
        if let Some(by) = j.by.as_ref().filter(|by| Kind::parse(by).is_none() || !j.scorers.contains_key(*by)) {
            return wrong(format!("[judge]: by = {by:?}: expected a name of [judge.scorers]"));
        }
        match j.answer_form.as_deref().map(Form::parse) {
            Some(None) => wrong("[judge]: answer-form: expected \"greedy\", \"yes-no\" or \"rank\"".into()),
            Some(_) if j.blip_vqa.is_none() => wrong("[judge]: answer-form: is for blip-vqa".into()),
            _ => Ok(()),
        }
    }
}
