//! Metrics as a table of an HTML page.

use maud::{DOCTYPE, Markup, html};

use super::report::Metric;

/// A page of its own, with notes below the table.
pub fn page(metrics: &[Metric], notes: &[String]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "selma: metrics" }
                style { "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
                        "table{border-collapse:collapse}td,th{padding:.3rem .8rem;text-align:left;border-bottom:1px solid #ccc}" }
            }
            body {
                h1 { "Metrics" }
                (table(metrics))
                @for note in notes { p { (note) } }
            }
        }
    }
}

/// The table alone.
pub fn table(metrics: &[Metric]) -> Markup {
    html! {
        table {
            thead { tr { th { "metric" } th { "rule" } th { "value" } th { "± std" } th { "95 % interval" } th { "images" } th { "notes" } } }
            tbody {
                @for metric in metrics {
                    tr {
                        td { (metric.name) }
                        td { (metric.rule.as_deref().unwrap_or_default()) }
                        td { (number(metric.value)) }
                        td { @if metric.std.is_some() { (number(metric.std)) } }
                        td { @if let Some([low, high]) = metric.interval { (number(Some(low))) " to " (number(Some(high))) } }
                        td { (counts(metric)) }
                        td { (metric.notes.join("; ")) }
                    }
                }
            }
        }
    }
}

/// Five digits, or what stands for an undefined value.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => "undefined".into(),
        Some(x) if x != 0.0 && x.abs() < 1e-3 => format!("{x:.3e}"),
        Some(x) => format!("{x:.4}"),
    }
}

/// How many images of each set.
pub fn counts(metric: &Metric) -> String {
    let [first, second] = metric.n.map(|n| n.map(|n| n.to_string()));
    [first, second].into_iter().flatten().collect::<Vec<_>>().join(" / ")
}
