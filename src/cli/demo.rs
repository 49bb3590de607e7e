//! `selma demo`: the whole method on the model inside the binary, offline.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Common;
use crate::cli::run::{conduct, show_pooled};
use crate::error::Result;
use crate::run::sweep::pooled;
use crate::run::{RunFolder, Selection, demo};
use crate::shapes::builtin;

/// Run the whole method on the built-in model `shapes`: an expert for each of five skills, their merge, and its scores.
///
/// It takes minutes on two CPU cores and no network. Given again, the same command skips what is finished and goes on with what
/// was interrupted.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Demo {
    /// Output folder; open report.html in it
    #[arg(long, default_value = "selma-demo")]
    out: PathBuf,
    /// Use as many prompts, steps and images as the statistics need, at three seeds, none of them --seed itself
    #[arg(long)]
    thorough: bool,
    /// Images that experts learn from, beside experts that learn from all: threshold:X, top:Q, best-of:K, or none
    #[arg(long, value_name = "RULE", default_value = demo::RULE)]
    select: String,
}

const EXAMPLES: &str = "\
Examples:
  selma demo --out demo
  selma demo --thorough --select best-of:4 --out thorough";

impl Demo {
    /// Runs the demo, or what is left of it.
    ///
    /// # Errors
    /// As [`crate::run::Run::go`].
    pub fn run(self, common: &Common) -> Result<()> {
        let model = builtin::folder()?;
        let rule = Some(self.select.as_str()).filter(|rule| *rule != "none");
        if !self.thorough {
            let config = demo::config(&model, false, rule, common.seed())?;
            return conduct(&config, &self.out, &Selection::default(), false, common);
        }
        let mut runs = Vec::new();
        for seed in demo::fresh_seeds(common.seed()) {
            let out = self.out.join(format!("seed-{seed}"));
            let config = demo::config(&model, true, rule, seed)?;
            conduct(&config, &out, &Selection::default(), false, common)?;
            runs.push(RunFolder::new(&out));
        }
        let arms: &[&str] = if rule.is_some() { &["merged-selected", "merged"] } else { &["merged"] };
        for ours in arms {
            let comparison = pooled(&runs, ours, "base")?;
            match common.json {
                true => {
                    outln!("{}", json!({"seeds": runs.len(), "ours": ours, "theirs": "base", "comparison": comparison}))
                }
                false => show_pooled(runs.len(), ours, "base", &comparison),
            }
        }
        Ok(())
    }
}
