//! `selma bench`: whole training steps on a device.

use std::time::Instant;

use crate::bench::{CASES, TrainStep};
use crate::cli::Common;
use crate::error::{Error, Result};

/// Time whole training steps with random weights.
#[derive(clap::Args)]
pub struct Bench {
    /// What to time: every name that contains this.
    filter: Option<String>,
    /// Steps that are timed, after one that is not.
    #[arg(long, default_value_t = 9)]
    runs: usize,
}

impl Bench {
    pub fn run(self, common: &Common) -> Result<()> {
        let filter = self.filter.as_deref().unwrap_or("");
        let cases: Vec<&str> = CASES.into_iter().filter(|case| case.contains(filter)).collect();
        if cases.is_empty() || self.runs == 0 {
            let message = format!(
                "nothing to time; the cases are {}, and --runs is at least 1",
                CASES.join(", ")
            );
            return Err(Error::Usage(message));
        }
        for case in cases {
            let mut step = TrainStep::new(case, &common.device()?, common.precision()?)?;
            let mut times_ms = Vec::new();
            for run in 0..=self.runs {
                let begin = Instant::now();
                let loss = step.run()?;
                if !loss.is_finite() {
                    return Err(Error::Failed(format!(
                        "{case}: the loss is {loss}: the time would mean nothing"
                    )));
                }
                if run > 0 {
                    times_ms.push(begin.elapsed().as_secs_f64() * 1e3);
                }
            }
            times_ms.sort_by(f64::total_cmp);
            let (median, min) = (times_ms[times_ms.len() / 2], times_ms[0]);
            if common.json {
                let row = serde_json::json!({ "case": case, "median_ms": median, "min_ms": min, "runs": self.runs });
                println!("{row}");
            } else {
                println!(
                    "{case:<8} median {median:>9.2} ms  min {min:>9.2} ms  {} runs",
                    self.runs
                );
            }
        }
        Ok(())
    }
}
