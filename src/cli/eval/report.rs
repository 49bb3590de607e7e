//! What `selma eval` prints: a table for people, or all but the single images as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::cli::Common;
use crate::evaluate::comparison::Comparison;
use crate::evaluate::question_scores::Asked;
use crate::evaluate::scores::Scores;
use crate::evaluate::statistics::{Difference, Estimate};

/// Prints the scores, and where there is one the comparison with `against`.
pub fn print(scores: &Scores, out: &Path, against: Option<&Path>, common: &Common) {
    if common.json {
        let mut summary = json!(scores);
        if let Some(fields) = summary.as_object_mut() {
            fields.shift_remove("pictures");
        }
        outjson!(summary);
        return;
    }
    outln!("{}: {} judged by {}", out.display(), scores.benchmark, scores.judge);
    one(&format!("all {} images", scores.overall.values), &scores.overall);
    all(&scores.skills);
    all(&scores.families);
    if let Some(estimate) = &scores.questions {
        outln!("{} questions", estimate.values);
        one("all", estimate);
        all(&scores.broad_categories);
        all(&scores.categories);
    }
    if let Some(estimate) = &scores.questions_without_dependencies {
        one("all, without dependencies", estimate);
    }
    scores.asked.iter().for_each(print_asked);
    if let (Some(comparison), Some(other)) = (&scores.against, against) {
        print_comparison(comparison, other, common);
    }
}

fn print_asked(asked: &Asked) {
    if !asked.readings.is_empty() {
        outln!("dependencies (above: {})", asked.dependencies);
    }
    for (name, reading) in &asked.readings {
        one(&format!("{name}, mean over items"), &reading.item_mean);
        one(&format!("{name}, mean over questions"), &reading.question_mean);
    }
    if let Some(deviation) = asked.deviation {
        outln!("  {:28} {deviation:6.3}", "standard deviation");
    }
    for (rule, share) in &asked.matching {
        outln!("  {:28} {share:6.3}", format!("answers matched: {rule}"));
    }
    for (count, what) in [
        (asked.not_understood, "answers are neither yes nor no, and count as no"),
        (asked.unanswered, "questions have no answer (replies are empty or cut), and do not count"),
        (asked.missing_items, "items have no image or answer, and do not count"),
        (asked.other_images, "images are of no item and do not count"),
    ] {
        if count > 0 {
            outln!("  {count} {what}");
        }
    }
}

fn print_comparison(comparison: &Comparison, other: &Path, common: &Common) {
    outln!("higher than {} by", other.display());
    let pairs = comparison.overall.estimate.values;
    one_difference(&format!("all {pairs} pairs"), &comparison.overall);
    for group in [&comparison.skills, &comparison.families, &comparison.broad_categories, &comparison.categories] {
        group.iter().for_each(|(name, difference)| one_difference(name, difference));
    }
    if comparison.unpaired != [0, 0] {
        let [ours, theirs] = comparison.unpaired;
        common.note(format!("warning: {ours} images here and {theirs} there have no partner and do not count"));
    }
}

fn all(group: &BTreeMap<String, Estimate>) {
    group.iter().for_each(|(name, estimate)| one(name, estimate));
}

/// Names are those of a file of questions, which may come from anybody.
fn one(name: &str, estimate: &Estimate) {
    outln!("  {name:28} {:6.3}  {}", estimate.mean, interval(estimate));
}

fn one_difference(name: &str, difference: &Difference) {
    let p = difference.p_value.map_or(String::new(), |p| format!("  p = {p:.4}"));
    let (name, estimate) = (name, &difference.estimate);
    outln!("  {name:28} {:+6.3}  {}{p}", estimate.mean, interval(estimate));
}

fn interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some([low, high]) => format!("[{low:.3}, {high:.3}]"),
        None => "(one prompt)".into(),
    }
}
