//! `selma run`: the whole method on models of the user's.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::Common;
use crate::cli::terminal::Terminal;
use crate::device::memory::{self, format_bytes};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::statistics;
use crate::run::{self, Estimate, RunConfig, Selection, Stage, Summary};

/// Run the whole method on your models: prompts, images, an expert for each skill, their merge, an evaluation, a report.
///
/// Given again, the same command skips what is finished and goes on with what was interrupted.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The run file; examples/pipeline.toml explains every key.
    #[arg(value_name = "PIPELINE.toml")]
    pipeline: PathBuf,
    /// Output folder [default: the file's name without its ending]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Do this stage only; the stages before it must be complete.
    #[arg(long, value_enum, value_name = "STAGE")]
    only: Option<Stage>,
    /// Do only the tasks of this skill, or of all-in-one; with --only, a single task.
    #[arg(long, value_name = "NAME")]
    skill: Option<String>,
    /// Print the tasks with rough estimates of disk and time, and stop.
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  selma run pipeline.toml --dry-run                    the tasks, and roughly their disk and time
  selma run pipeline.toml
  selma run pipeline.toml --only experts --skill counting    one task of an array job";

impl Run {
    /// Does the selected tasks of the run.
    ///
    /// # Errors
    /// As [`run::Run::go`], and [`RunConfig::read`].
    pub fn run(self, common: &Common) -> Result<()> {
        let mut config = RunConfig::read(&self.pipeline)?;
        config.seed = common.given_seed.unwrap_or(config.seed);
        config.merge.seed = config.seed;
        for model in [&mut config.images.model, &mut config.experts.model] {
            *model = common.model(Path::new(model))?.to_string_lossy().into_owned();
        }
        for weights in config.judge.scorers.values_mut().chain(&mut config.judge.blip_vqa) {
            *weights = common.judge(weights)?.to_string_lossy().into_owned();
        }
        for (key, url) in [("[prompts] llm", &config.prompts.llm), ("[judge] url", &config.judge.url)] {
            let Some(url) = url else { continue };
            common.check_offline(key, url)?;
        }
        let out = self.out.unwrap_or_else(|| self.pipeline.with_extension(""));
        let selection = Selection { stage: self.only, skill: self.skill };
        conduct(&config, &out, &selection, self.dry_run, common)
    }
}

/// Does the tasks of a run and prints the results.
///
/// # Errors
/// As [`run::Run::go`].
pub(super) fn conduct(
    config: &RunConfig,
    out: &Path,
    selection: &Selection,
    dry_run: bool,
    common: &Common,
) -> Result<()> {
    if out.is_file() {
        return Err(Error::Usage(format!("--out {}: is a file, expected a folder", out.display())));
    }
    let command = command_line();
    let run = run::Run::new(config, out, common.device()?, common.precision()?, &command);
    let mut terminal = Terminal::new(common)?;
    if dry_run {
        let estimates = run.estimates(&mut terminal)?;
        terminal.finish();
        return show_plan(&estimates, common);
    }
    let done = run.go(selection, &mut terminal)?;
    terminal.finish();
    if let Some(usage) = memory::usage() {
        common.note(format!("peak memory: {}", format_bytes(usage.peak)));
    }
    let report = run.folder.path(run::report::NAME);
    let summary = run.summary();
    if common.json {
        let done: Vec<String> = done.iter().map(ToString::to_string).collect();
        outjson!(json!({"out": out, "done": done, "report": report, "summary": summary}));
        return Ok(());
    }
    if done.is_empty() {
        outln!("everything is there already");
    }
    if selection.stage.is_none() && selection.skill.is_none() {
        summary.iter().for_each(show);
        outln!("{}", report.display());
    }
    Ok(())
}

fn show_plan(estimates: &[Estimate], common: &Common) -> Result<()> {
    let seconds: f64 = estimates.iter().map(|e| e.seconds).sum();
    let bytes: u64 = estimates.iter().map(|e| e.bytes).sum();
    if common.json {
        outjson!(json!({"pieces": estimates, "bytes": bytes, "seconds": seconds}));
        return Ok(());
    }
    let line = |task: &str, status: &str, work: &str, bytes: u64, seconds: f64| {
        outln!("{task:32} {status:9} {work:28} {:>10} {:>10}", format_bytes(bytes), duration(seconds));
    };
    for e in estimates {
        line(&e.task, e.status, &e.work, e.bytes, e.seconds);
    }
    line("all", "", "", bytes, seconds);
    common.note("times are rough, from two small images drawn now; replies of an endpoint are not counted");
    Ok(())
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "-".into(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn show(summary: &Summary) {
    for one in summary.benchmarks() {
        if !summary.further.is_empty() {
            outln!("{}:", one.benchmark);
        }
        show_one(one);
    }
}

/// By one benchmark.
fn show_one(summary: &Summary) {
    let points = |x: f64| format!("{:.1}", 100.0 * x);
    for arm in &summary.arms {
        let interval = arm
            .overall
            .interval
            .map_or(String::new(), |[low, high]| format!("  ({} to {})", points(low), points(high)));
        outln!("{:24} {:>6}{interval}", arm.name, points(arm.overall.mean));
    }
    for pair in &summary.comparisons {
        let overall = &pair.comparison.overall;
        let p = overall.p_value.map_or(String::new(), |p| format!("  p = {p:.4}"));
        let name = format!("{} less {}", pair.ours, pair.theirs);
        outln!("{name:42} {}{p}", difference(&overall.estimate));
    }
    for column in &summary.scorers {
        for arm in column.arms.iter().filter(|arm| !arm.name.starts_with("expert-")) {
            outln!("{:24} {:>8.3}  {}", arm.name, arm.overall.mean, column.benchmark);
        }
    }
    if let Some(sweep) = &summary.sweep {
        for arm in &sweep.arms {
            let at = sweep.guidances.iter().zip(&arm.overall);
            let means: Vec<String> = at.map(|(guidance, all)| format!("{guidance}: {}", points(all.mean))).collect();
            outln!("{:24} at guidance {}", arm.name, means.join(", "));
            if let Some(comparison) = &arm.against_best {
                let name = format!("{} less base, each at its best", arm.name);
                outln!("{name:42} {}", difference(&comparison.overall.estimate));
            }
        }
    }
    for pair in summary.strict.iter().flat_map(|strict| &strict.comparisons) {
        let name = format!("strict judge: {} less {}", pair.ours, pair.theirs);
        outln!("{name:54} {}", difference(&pair.comparison.overall.estimate));
    }
}

/// Points of 100, and the interval.
pub(crate) fn difference(estimate: &statistics::Estimate) -> String {
    let interval = estimate.interval.map(|[low, high]| format!("  ({:+.1} to {:+.1})", 100.0 * low, 100.0 * high));
    format!("{:+6.1}{}", 100.0 * estimate.mean, interval.unwrap_or_default())
}

/// The difference of two arms over several runs together.
pub(crate) fn show_pooled(runs: usize, ours: &str, theirs: &str, comparison: &Comparison) {
    let name = format!("{ours} less {theirs}, {runs} seeds together");
    outln!("{name:54} {}", difference(&comparison.overall.estimate));
}

/// The command as it could be typed again.
fn command_line() -> String {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_./=:,@+".contains(c));
    let quote = |text: String| match plain(&text) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    };
    let arguments = std::env::args_os().skip(1).map(|a| quote(a.to_string_lossy().into_owned()));
    std::iter::once("selma".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}
