//! What stands beside the gain: what made it, the models at other guidances, and a stricter judge.

use std::path::Path;

use maud::{Markup, html};

use super::Contents;
use super::scores::{cell, difference, interval, title};
use crate::run::evaluate::BASE;
use crate::run::summary::Summary;
use crate::shapes::builtin;

/// Said in one breath with the gain.
pub(super) fn what_made_it(c: &Contents) -> Markup {
    let p = c.run.config;
    let built_in = builtin::folder().is_ok_and(|folder| folder == Path::new(&p.experts.model));
    html! {
        @if let Some(select) = &p.select {
            p {
                strong { "What made it: " }
                "the experts learnt from the base model's own images that the judge had selected (" (select.rule) "), drawn at "
                @if let Some(guidance) = p.images.draw.guidance { "guidance " (guidance) } @else { "the model's guidance" }
                ". The judge that selected also scores."
                @if built_in {
                    " The built-in base model was taught careless captions on purpose, as models are that learn from the web; a
                    base model of exact captions gains nothing significant this way."
                }
            }
        }
    }
}

/// The gain of `ours` by other measures.
pub(super) fn in_short(summary: &Summary, ours: &str) -> Markup {
    let swept = summary.sweep.as_ref().and_then(|sweep| {
        let find = |name: &str| sweep.arms.iter().find(|arm| arm.name == name);
        let (arm, base) = (find(ours)?, find(BASE)?);
        Some((arm, base, arm.against_best.as_ref()?))
    });
    let strict = summary.strict.as_ref().and_then(|strict| strict.compared(ours, BASE));
    html! {
        @if let Some((arm, base, comparison)) = swept {
            p {
                "Each model at its best guidance (" (arm.best) " and " (base.best) "): " (interval(&comparison.overall)) "."
            }
        }
        @if let Some(comparison) = strict {
            p { "A stricter judge, which gives no name to roughly drawn things: " (interval(&comparison.overall)) "." }
        }
    }
}

/// Scores by guidance, and those of the stricter judge.
pub(super) fn tables(summary: &Summary) -> Markup {
    html! {
        @if let Some(sweep) = &summary.sweep {
            h3 { "At other guidances" }
            table {
                thead { tr { th { "guidance" } @for arm in &sweep.arms { th { (title(&arm.name)) } } } }
                tbody {
                    @for (i, guidance) in sweep.guidances.iter().enumerate() { tr {
                        td { (guidance) }
                        @for arm in &sweep.arms { (cell(arm.overall.get(i))) }
                    } }
                    tr.all {
                        td { "best less base's best" }
                        @for arm in &sweep.arms { td {
                            @match &arm.against_best {
                                Some(comparison) => {
                                    (format!("{:+.1}", 100.0 * comparison.overall.estimate.mean))
                                    @if let Some([low, high]) = comparison.overall.estimate.interval {
                                        small { (format!("{:+.1} to {:+.1}", 100.0 * low, 100.0 * high)) }
                                    }
                                }
                                None => "–",
                            }
                        } }
                    }
                }
            }
        }
        @if let Some(strict) = &summary.strict {
            h3 { "By a stricter judge" }
            p.soft {
                "The same images. This judge gives no name to things that are drawn less well than rendered ones; the usual one
                names what people name."
            }
            table {
                thead { tr { th { "model" } th { "points" } } }
                tbody { @for arm in strict.arms.iter().filter(|arm| !arm.name.starts_with("expert-")) { tr {
                    td { (title(&arm.name)) }
                    (cell(Some(&arm.overall)))
                } } }
            }
            table {
                thead { tr { th { "compared" } th { "points" } th { "95 % interval" } th { "p" } } }
                tbody { @for pair in strict.comparisons.iter().filter(|pair| !pair.ours.starts_with("expert-")) {
                    (difference(&title(&pair.ours), &title(&pair.theirs), &pair.comparison))
                } }
            }
        }
    }
}
