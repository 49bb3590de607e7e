//! `selma verify`: holds this engine against recorded numbers.

use std::path::PathBuf;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::verify;

/// Hold this engine against numbers computed elsewhere.
///
/// With --precision bf16 or f16 a quantity may be off by twice what the CPU path in that format is off by. How a single one
/// of many was rounded there is luck, so a loss shares the bound of the prediction that it is computed from, one matrix's
/// gradient the largest of all, and one matrix's update ten times that of all together. A judge's score may be off by six
/// standard deviations, as the errors of the embeddings or logits give it. Ids and ranks are compared where candidates are
/// further apart than that; -v says how many are.
#[derive(clap::Args)]
pub struct Verify {
    /// Folders with `case.json` and `tensors.safetensors`.
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<PathBuf>,
    /// What the paths in a case are relative to [default: CASE/../..].
    #[arg(long)]
    root: Option<PathBuf>,
}

impl Verify {
    /// Verifies the cases, and prints a row for each.
    ///
    /// # Errors
    /// [`Error::Failed`] where one is out of its bound.
    pub fn run(self, common: &Common) -> Result<()> {
        let (device, precision) = (common.device()?, common.precision()?);
        let mut failed = 0;
        for dir in &self.cases {
            let name = dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
            let outcome = match verify::run(dir, self.root.as_deref(), &device, precision) {
                Ok(outcome) => outcome,
                Err(error) => {
                    // One unreadable case must not hide the others.
                    errln!("selma: {name}: {error}");
                    failed += 1;
                    continue;
                }
            };
            let (kind, worst) = (&outcome.kind, outcome.worst());
            if common.verbose {
                for check in &outcome.checks {
                    let decided = check.decided().map(|[decided, all]| format!(" ({decided} of {all} decided)"));
                    let decided = decided.unwrap_or_default();
                    errln!("  {:>9.2e} {:>9.0e}  {}{decided}", check.error, check.tolerance, check.quantity);
                }
            }
            let verdict = if worst.ok() { "ok" } else { "FAIL" };
            failed += usize::from(!worst.ok());
            if common.json {
                let row = serde_json::json!({
                    "case": name, "kind": kind, "quantity": worst.quantity,
                    "error": worst.error, "tolerance": worst.tolerance, "ok": worst.ok(),
                });
                outjson!(row);
            } else {
                outln!(
                    "{name:<36} {kind:<13} {:>9.2e} {:>9.0e}  {verdict:<4} {}",
                    worst.error,
                    worst.tolerance,
                    worst.quantity
                );
            }
        }
        match failed {
            0 => Ok(()),
            n => Err(Error::Failed(format!("{n} of {} cases failed", self.cases.len()))),
        }
    }
}
