//! The scores on the page: in short, and as tables.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::{Contents, beside, columns};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::statistics::{Difference, Estimate};
use crate::run::config::ALL_IN_ONE;
use crate::run::evaluate::{BASE, MERGED, expert};
use crate::run::plan::SELECTED;
use crate::run::summary::Summary;

/// A share in points of 100.
pub fn points(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

fn signed(value: f64) -> String {
    format!("{:+.1}", 100.0 * value)
}

fn verdict(difference: &Difference) -> (&'static str, &'static str) {
    match difference.estimate.interval {
        Some([low, _]) if low > 0.0 => ("better", "good"),
        Some([_, high]) if high < 0.0 => ("worse", "bad"),
        _ => ("no different, as far as this evaluation can tell", "soft"),
    }
}

/// What an arm is called on the page.
pub fn title(arm: &str) -> String {
    match arm {
        BASE => "base model".into(),
        ALL_IN_ONE => "one LoRA on all data".into(),
        MERGED => "merged experts".into(),
        _ if arm == format!("{MERGED}{SELECTED}") => "merged experts, from selected images".into(),
        _ if arm == format!("{ALL_IN_ONE}{SELECTED}") => "one LoRA on all selected images".into(),
        other => other.replacen("expert-", "expert: ", 1),
    }
}

/// The arm that the page is about: the merge of experts, from selected images where the run selects.
pub fn headline(summary: &Summary) -> String {
    let selected = format!("{MERGED}{SELECTED}");
    let there = summary.arms.iter().any(|arm| arm.name == selected);
    if there { selected } else { MERGED.into() }
}

/// What came out, in sentences: the gain first, and at once what made it.
pub fn in_short(c: &Contents, summary: &Summary) -> Markup {
    let mean = |arm: &str| summary.arms.iter().find(|a| a.name == arm).map(|a| points(a.overall.mean));
    let sentence = |ours: &str, theirs: &str| {
        let comparison = summary.compared(ours, theirs)?;
        let (word, class) = verdict(&comparison.overall);
        Some(html! {
            p.lead {
                (capital(&title(ours))) ": " (mean(ours)?) " points; " (title(theirs)) ": " (mean(theirs)?)
                ". The first is " strong class=(class) { (word) } " (" (interval(&comparison.overall)) ")."
            }
        })
    };
    let all = c.run.config.all_in_one_part();
    let (ours, guidance) = (headline(summary), c.run.config.evaluate.draw.guidance);
    let others = match ours == MERGED {
        true => vec![(MERGED, ALL_IN_ONE)],
        false => vec![(MERGED, BASE), (ours.as_str(), all.as_str())],
    };
    html! {
        @if let Some(text) = sentence(&ours, BASE) { (text) }
        @if let Some(guidance) = guidance { p { "All images at guidance " (guidance) "." } }
        (beside::what_made_it(c))
        @for (ours, theirs) in others { @if let Some(text) = sentence(ours, theirs) { (text) } }
        (beside::in_short(summary, &ours))
        @for other in &summary.further {
            @if let Some(comparison) = other.compared(&ours, BASE) {
                p { "By " (columns::heading(&other.benchmark)) ", on prompts of its own: " (interval(&comparison.overall)) "." }
            }
        }
        p.soft {
            "An image's score is the share of the questions about its prompt that the judge answers "
            (answered(summary))
            ", 100 points at most. Prompts were not seen in training; every model drew them from the same noise."
        }
    }
}

/// How an answer counts.
fn answered(summary: &Summary) -> String {
    let how = |benchmark: &str| if benchmark == "tifa" { "rightly" } else { "with yes" };
    match summary.further.is_empty() {
        true => how(&summary.benchmark).into(),
        false => {
            let of = |one: &Summary| format!("{} ({})", how(&one.benchmark), columns::heading(&one.benchmark));
            summary.benchmarks().map(of).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

pub(super) fn interval(difference: &Difference) -> String {
    let mut text = format!("difference {}", signed(difference.estimate.mean));
    if let Some([low, high]) = difference.estimate.interval {
        text += &format!(", 95 % interval {} to {}", signed(low), signed(high));
    }
    if let Some(p) = difference.p_value {
        text += &format!(", p = {p:.4}");
    }
    text
}

pub(super) fn cell(estimate: Option<&Estimate>) -> Markup {
    html! {
        td {
            @if let Some(estimate) = estimate {
                (points(estimate.mean))
                @if let Some([low, high]) = estimate.interval { small { (points(low)) "–" (points(high)) } }
            } @else { "–" }
        }
    }
}

/// Means by skill or kind of prompt, and the differences.
pub(super) fn tables(c: &Contents, summary: &Summary) -> Markup {
    html! {
        h2 { "Scores" }
        @for one in summary.benchmarks() {
            @if !summary.further.is_empty() { h3 { (columns::heading(&one.benchmark)) } }
            (means(c, one))
            (beside::tables(one))
        }
        (columns::table(c, summary))
        @for one in summary.benchmarks() {
            h3 { "Differences" @if !summary.further.is_empty() { ", " (columns::heading(&one.benchmark)) } }
            table {
                thead { tr { th { "compared" } th { "points" } th { "95 % interval" } th { "p" } } }
                tbody { @for pair in &one.comparisons {
                    (difference(&title(&pair.ours), &title(&pair.theirs), &pair.comparison))
                } }
            }
        }
    }
}

/// Of one benchmark.
fn means(c: &Contents, summary: &Summary) -> Markup {
    let arms: Vec<_> = summary.arms.iter().filter(|arm| !arm.name.starts_with("expert-")).collect();
    let experts: Vec<_> = summary.arms.iter().filter(|arm| arm.name.starts_with("expert-")).collect();
    let own = |skill: &str| experts.iter().find(|arm| arm.name == expert(skill));
    let of_file = c.run.config.evaluate.file(&summary.benchmark).is_some();
    html! {
        @if of_file {
            table {
                thead { tr { th { "prompts" } @for arm in arms.iter().chain(&experts) { th { (title(&arm.name)) } } } }
                tbody {
                    @for family in arms.iter().flat_map(|arm| arm.families.keys()).collect::<BTreeSet<_>>() { tr {
                        td { (family) }
                        @for arm in arms.iter().chain(&experts) { (cell(arm.families.get(family))) }
                    } }
                    tr.all { td { "all" } @for arm in arms.iter().chain(&experts) { (cell(Some(&arm.overall))) } }
                }
            }
        } @else {
            table {
                thead { tr {
                    th { "skill" }
                    @for arm in &arms { th { (title(&arm.name)) } }
                    th { "its own expert" }
                } }
                tbody {
                    @for skill in &c.run.config.skills { tr {
                        td { (skill.id) }
                        @for arm in &arms { (cell(arm.skills.get(&skill.id))) }
                        (cell(own(&skill.id).map(|arm| &arm.overall)))
                    } }
                    tr.all {
                        td { "all" }
                        @for arm in &arms { (cell(Some(&arm.overall))) }
                        (cell(None))
                    }
                }
            }
        }
        p.soft {
            "Means over images, and 95 % intervals by resampling prompts. Benchmark " (summary.benchmark) ", judge "
            (summary.judge) ", " (summary.prompts) " prompts" @if !of_file { " a skill" } ", " (summary.seeds)
            " images a prompt."
            @if summary.prompts_left_out > 0 {
                " Not the whole benchmark: " (summary.prompts_left_out) " of its prompts were left out, as the pipeline asks for."
            }
            @if let Some(asked) = c.asked(&summary.benchmark) {
                " Dependencies of questions: " (asked.dependencies) "."
            }
        }
    }
}

pub(super) fn difference(ours: &str, theirs: &str, comparison: &Comparison) -> Markup {
    let overall = &comparison.overall;
    html! { tr {
        td { (ours) " less " (theirs) }
        td class=(verdict(overall).1) { (signed(overall.estimate.mean)) }
        td { @if let Some([low, high]) = overall.estimate.interval { (signed(low)) " to " (signed(high)) } }
        td { @if let Some(p) = overall.p_value { (format!("{p:.4}")) } }
    } }
}
