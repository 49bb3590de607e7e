//! `selma demo`: the whole method on the model inside the binary, offline.

use std::path::PathBuf;

use crate::cli::Common;
use crate::cli::run::conduct;
use crate::error::Result;
use crate::run::{Selection, demo};
use crate::shapes::builtin;

/// Run the whole method on the built-in model `shapes`: five skills, an expert each, their merge, and what it changed.
///
/// Minutes on two processor cores, without any network. What is finished is skipped, and what was interrupted goes on,
/// when the same command is given again.
#[derive(clap::Args)]
pub struct Demo {
    /// Folder of the run; the page to look at is report.html in it.
    #[arg(long, default_value = "selma-demo")]
    out: PathBuf,
    /// As many prompts, steps and pictures as the statistics need.
    #[arg(long)]
    thorough: bool,
    /// best-of:K: experts of selected pictures too, beside the plain ones.
    #[arg(long, value_name = "RULE")]
    select: Option<String>,
}

impl Demo {
    pub fn run(self, common: &Common) -> Result<()> {
        let model = builtin::folder()?;
        let config = demo::config(&model, self.thorough, self.select.as_deref(), common.seed())?;
        conduct(&config, &self.out, &Selection::default(), false, common)
    }
}
