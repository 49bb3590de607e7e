//! The page of a training run.

use maud::{Markup, html};
use serde_json::Value;

use super::{CURVES, Drawn, PROMPTS, Report, TITLE};
use crate::page::chart;

/// The whole page of a run that is at `step`.
pub(super) fn page(report: &Report, drawn: &[Drawn], step: u64) -> Markup {
    let (values, modules) = report.trained;
    let body = html! {
        h1 { "Training of " (report.name) }
        p.lead {
            "Step " (step) " of " (report.steps) ": " (report.images) " images, " (values) " trained values in " (modules)
            " modules of " (report.model) "."
        }
        (curves(report, step))
        (samples(report, drawn))
        (settings(report))
    };
    crate::page::page(&format!("{TITLE}{}", report.name), &body)
}

fn curves(report: &Report, step: u64) -> Markup {
    let of = |name: &str| report.curves.get(name).filter(|points| !points.is_empty());
    let lowest = report.validation.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    html! {
        h2 { "Curves" }
        div.curves {
            @if let Some(points) = of("loss") { (chart::curve_to("loss", "loss", points, step)) }
            @if !report.validation.is_empty() {
                (chart::curve_to("validation loss", "validation loss", &report.validation, step))
            }
            @for (name, title) in CURVES.into_iter().skip(1) {
                @if let Some(points) = of(name) { (chart::curve_to(title, title, points, step)) }
            }
        }
        @if let Some((at, loss)) = lowest {
            p {
                "The validation loss is lowest after step " (at) ": " (chart::number(*loss))
                ". Where it rises while the loss falls, the run learns its images by heart."
            }
        }
    }
}

fn samples(report: &Report, drawn: &[Drawn]) -> Markup {
    html! {
        @if !drawn.is_empty() {
            h2 { "Sample images" }
            p.soft { "Each row begins with the same noise." }
            @for one in drawn {
                p {
                    (one.prompt["text"].as_str().unwrap_or_default())
                    br;
                    small { (own_settings(&one.prompt)) }
                }
                div.strip { @for (step, name) in &one.images {
                    @if let Some(uri) = report.shown.get(name) {
                        figure { img src=(uri) alt=(format!("after step {step}")); figcaption { "step " (step) } }
                    }
                } }
            }
            @if drawn.len() == PROMPTS { p.soft { "samples/ has all images." } }
        }
    }
}

/// What a prompt's images were drawn with, in words.
fn own_settings(row: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(negative) = row["negative"].as_str() {
        parts.push(format!("negative: {negative}"));
    }
    parts.push(format!("{}x{}", row["width"], row["height"]));
    for key in ["seed", "steps", "guidance", "scheduler"] {
        match &row[key] {
            Value::Null => {}
            Value::String(text) => parts.push(format!("{key} {text}")),
            value => parts.push(format!("{key} {value}")),
        }
    }
    parts.join(", ")
}

fn settings(report: &Report) -> Markup {
    html! {
        h2 { "Settings" }
        p.soft { "Those that are not the default." }
        table.settings { tbody { @for (key, value) in &report.chosen { tr { td { (key) } td { (value) } } } } }
        details {
            summary { "All settings" }
            pre { (report.settings) }
        }
        p.soft { "selma " (env!("CARGO_PKG_VERSION")) }
    }
}
