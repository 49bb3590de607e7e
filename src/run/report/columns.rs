//! The scores of a run beside those of a paper: SELMA's five columns, and what else was scored.

use maud::{Markup, html};

use super::Contents;
use super::scores::{points, title};
use crate::evaluate::statistics::Estimate;
use crate::judges::kind::Kind;
use crate::run::scorers::{Column, not_measured};
use crate::run::summary::{ArmScores, Summary};

/// The columns of SELMA's main table (Li et al. 2024, arXiv:2403.06952, table 1): two benchmarks, three scorers.
const PAPER: [&str; 5] = ["dsg", "tifa", "pickscore", "imagereward", "hpsv2"];

/// What a column is called.
pub(super) fn heading(name: &str) -> &str {
    match name {
        "dsg" => "DSG",
        "tifa" => "TIFA",
        "pickscore" => "PickScore",
        "imagereward" => "ImageReward",
        "hpsv2" => "HPS v2",
        "hpsv2.1" => "HPS v2.1",
        "clipscore" => "CLIPScore",
        "aesthetic" => "aesthetic",
        other => other,
    }
}

/// The names of all columns: the paper's, the run's benchmark if it is another, further scorers.
fn names(summary: &Summary) -> Vec<&str> {
    let others = std::iter::once(&summary.benchmark).chain(summary.scorers.iter().map(|column| &column.benchmark));
    let others = others.map(String::as_str).filter(|name| !PAPER.contains(name));
    PAPER.into_iter().chain(others).collect()
}

/// One row a model, where the run has any of the columns; a dash where nothing was measured, and below why.
pub(super) fn table(c: &Contents, summary: &Summary) -> Markup {
    let benchmarks: Vec<&str> = summary.benchmarks().map(|one| one.benchmark.as_str()).collect();
    let any = !summary.scorers.is_empty() || PAPER.contains(&summary.benchmark.as_str());
    let arms: Vec<&ArmScores> = summary.arms.iter().filter(|arm| !arm.name.starts_with("expert-")).collect();
    let names = names(summary);
    let scorers = not_measured(c.run);
    html! {
        @if any {
            h3 { "Beside the paper's table" }
            table {
                thead { tr { th { "model" } @for name in &names { th { (heading(name)) } } } }
                tbody { @for arm in arms { tr {
                    td { (title(&arm.name)) }
                    @for name in &names { td { (cell(arm, name, summary)) } }
                } } }
            }
            p.soft {
                "DSG and TIFA are shares of questions in points; PickScore, ImageReward and HPS are raw scores, as SELMA prints "
                "them. Numbers compare with a paper's only for the same judge, weights, prompts and model."
                @if !summary.further.is_empty() && !summary.scorers.is_empty() {
                    " Scorers look at the images of " (heading(&summary.benchmark)) "'s prompts."
                }
                @for column in &summary.scorers { br; (heading(&column.benchmark)) ": " (column.judge) "." }
            }
        }
        @for benchmark in PAPER[..2].iter().filter(|name| !benchmarks.contains(name)) {
            p.soft { "Not measured: " (heading(benchmark)) ", because the benchmark of this run is " (summary.benchmark) "." }
        }
        @if !scorers.is_empty() {
            p.soft {
                "Not measured: " (scorers.into_iter().map(|kind| heading(kind.name())).collect::<Vec<_>>().join(", "))
                ", because [judge.scorers] names no weights for them."
            }
        }
        @if !summary.scorers.is_empty() { (differences(&summary.scorers)) }
    }
}

fn cell(arm: &ArmScores, name: &str, summary: &Summary) -> Markup {
    let of = |arms: &[ArmScores]| arms.iter().find(|other| other.name == arm.name).map(|arm| arm.overall);
    let benchmark = summary.benchmarks().find(|one| one.benchmark == name).and_then(|one| of(&one.arms));
    let column = summary.scorers.iter().find(|column| column.benchmark == name).and_then(|column| of(&column.arms));
    match (benchmark, column) {
        (Some(share), _) => shown(&share, points),
        (None, Some(score)) => shown(&score, digits(name)),
        (None, None) => html! { "–" },
    }
}

/// As many digits as papers print.
fn digits(name: &str) -> fn(f64) -> String {
    match Kind::parse(name) {
        Some(Kind::ClipScore) => |value| format!("{value:.3}"),
        _ => |value| format!("{value:.2}"),
    }
}

fn shown(estimate: &Estimate, number: fn(f64) -> String) -> Markup {
    html! {
        (number(estimate.mean))
        @if let Some([low, high]) = estimate.interval { small { (number(low)) "–" (number(high)) } }
    }
}

/// What each scorer says of two models on the same prompts.
fn differences(scorers: &[Column]) -> Markup {
    html! {
        table {
            thead { tr { th { "compared" } th { "scorer" } th { "difference" } th { "95 % interval" } th { "p" } } }
            tbody {
                @for column in scorers { @for pair in &column.comparisons {
                    @let overall = &pair.comparison.overall;
                    tr {
                        td { (title(&pair.ours)) " less " (title(&pair.theirs)) }
                        td { (heading(&column.benchmark)) }
                        td { (format!("{:+.3}", overall.estimate.mean)) }
                        td { @if let Some([low, high]) = overall.estimate.interval { (format!("{low:+.3} to {high:+.3}")) } }
                        td { @if let Some(p) = overall.p_value { (format!("{p:.4}")) } }
                    }
                } }
            }
        }
    }
}
