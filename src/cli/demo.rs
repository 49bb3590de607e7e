//! `selma demo`: the whole method on the model inside the binary, offline.

use std::path::PathBuf;

use crate::cli::Common;
use crate::cli::run::conduct;
use crate::error::Result;
use crate::run::{Selection, demo};
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
    /// Use as many prompts, steps and images as the statistics need
    #[arg(long)]
    thorough: bool,
    /// Also train experts on selected images, such as best-of:4
    #[arg(long, value_name = "RULE")]
    select: Option<String>,
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
        let config = demo::config(&model, self.thorough, self.select.as_deref(), common.seed())?;
        conduct(&config, &self.out, &Selection::default(), false, common)
    }
}
