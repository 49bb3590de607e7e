//! `selma survey`: one report over all that was measured of a set of images.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::existing::Overwrite;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::evaluate::scores::Scores;
use crate::formats::atomic;
use crate::metrics::page;
use crate::metrics::report::{self, Metric};

/// Bring scores of `selma eval` and metrics of `selma metrics` together, as one table.
///
/// Means of scores stand with their 95 % intervals over prompts. --out is a metrics file again; --html is a page for people.
#[derive(clap::Args)]
pub struct Survey {
    /// Files of `selma eval`; repeatable.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "metrics")]
    scores: Vec<PathBuf>,
    /// Files of `selma metrics`; repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    metrics: Vec<PathBuf>,
    /// The table, as JSON.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The table, as an HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Survey {
    /// Writes the report.
    ///
    /// # Errors
    /// For files that are no scores or metrics, and a report that is there already.
    pub fn run(self, common: &Common) -> Result<()> {
        input::check(self.scores.iter().map(|path| ("--scores", Some(path.as_path()))))?;
        input::check(self.metrics.iter().map(|path| ("--metrics", Some(path.as_path()))))?;
        [Some(&self.out), self.html.as_ref()].into_iter().flatten().try_for_each(|out| self.overwrite.check(out))?;
        let mut metrics: Vec<Metric> = Vec::new();
        for path in &self.scores {
            metrics.extend(of_scores(&Scores::read(path)?));
        }
        for path in &self.metrics {
            metrics.extend(report::read(path)?);
        }
        for (i, metric) in metrics.iter().enumerate() {
            if metrics[..i].iter().any(|other| (&other.name, &other.rule) == (&metric.name, &metric.rule)) {
                let message = format!("`{}` was measured twice by the same rule; give one set of images", metric.name);
                return Err(Error::Failed(message));
            }
        }
        report::write(&self.out, &metrics)?;
        if let Some(html) = &self.html {
            atomic::write_bytes(html, page::page(&metrics, &[]).into_string().as_bytes())?;
        }
        if common.json {
            outjson!(json!(metrics));
            return Ok(());
        }
        for metric in &metrics {
            let notes =
                if metric.notes.is_empty() { String::new() } else { format!("  ({})", metric.notes.join("; ")) };
            let (value, n) = (page::number(metric.value), page::counts(metric));
            outln!("{:<36} {value:>12}  n {n}{notes}", metric.name);
        }
        Ok(())
    }
}

/// The mean over images; of scores with questions, that over questions too.
fn of_scores(scores: &Scores) -> Vec<Metric> {
    let images = scores.images.len();
    let of = |name: String, estimate: &crate::evaluate::statistics::Estimate| {
        let mut metric = Metric::new(&name, Some(estimate.mean), [Some(images), None]);
        metric.rule = Some(scores.judge.clone());
        if let Some([low, high]) = estimate.interval {
            metric.notes.push(format!("95 % interval {} to {}", page::number(Some(low)), page::number(Some(high))));
        }
        metric.notes.push(format!("{} prompts", estimate.prompts));
        metric
    };
    let mut metrics = vec![of(scores.benchmark.clone(), &scores.overall)];
    metrics.extend(scores.questions.iter().map(|estimate| of(format!("{} questions", scores.benchmark), estimate)));
    metrics
}
