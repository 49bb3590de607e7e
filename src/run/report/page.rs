//! The page. Every text goes through the template's escaping: prompts come from strangers.

use maud::{Markup, html};

use super::columns::heading;
use super::examples::{Pair, extremes};
use super::scores::{points, title};
use super::{Contents, scores};
use crate::error::Result;
use crate::page::chart;
use crate::page::image::data_uri;
use crate::run::evaluate::{BASE, MERGED, expert, images};
use crate::run::held_out::{self, Purpose};

/// Prompts of each skill whose images are shown.
const GRID: usize = 3;
/// Pairs that got better, and as many that got worse.
const EXTREMES: usize = 4;
/// Prompts of each skill that are listed.
const LISTED: usize = 3;

/// The whole page.
///
/// # Errors
/// For an image that cannot be read.
pub(super) fn page(c: &Contents) -> Result<Markup> {
    let body = html! {
        h1 { "One LoRA of many experts: what it changed" }
        @if let Some(summary) = &c.summary { (scores::in_short(c, summary)) }
        (asked(c))
        @if let Some(summary) = &c.summary {
            (scores::tables(c, summary))
            (grids(c)?)
            (changed(c)?)
        }
        (losses(c))
        (how(c))
    };
    Ok(crate::page::page("selma: report", &body))
}

fn asked(c: &Contents) -> Markup {
    let p = c.run.config;
    html! {
        h2 { "What was asked" }
        p {
            (p.prompts.count) " prompts for each of " (p.skills.len()) " skills; an image of each; an expert of rank "
            (p.experts.rank) " for each skill, " (p.experts.steps) " steps."
            @if p.all_in_one { " For comparison one LoRA on all images, with as many steps as all experts together." }
        }
        @for skill in &p.skills {
            h3 { (if skill.title.is_empty() { &skill.id } else { &skill.title }) }
            @if let Some(prompts) = c.prompts.get(&skill.id) {
                ul { @for prompt in prompts.iter().take(LISTED) { li { (prompt) } } }
                @if prompts.len() > LISTED { p.soft { "and " (prompts.len() - LISTED) " more" } }
            }
        }
    }
}

fn grids(c: &Contents) -> Result<Markup> {
    let p = c.run.config;
    let mut shown = Vec::new();
    for set in held_out::names(c.run, Purpose::Evaluation) {
        let mut arms = vec![BASE.to_string()];
        arms.extend(Some(expert(&set)).filter(|arm| c.scores.contains_key(arm)));
        arms.extend(p.all_in_one.then(|| p.all_in_one_part()));
        arms.push(MERGED.into());
        arms.extend(c.summary.as_ref().map(scores::headline).filter(|arm| arm != MERGED));
        let mut rows = Vec::new();
        let first = format!("{set}/seed-{}/", p.seed);
        for image in c.images(BASE).filter(|image| image.file_name.starts_with(&first)).take(GRID) {
            rows.push((image.prompt.clone(), row(c, &arms, &set, &image.file_name)?));
        }
        shown.push((set, rows));
    }
    Ok(html! {
        h2 { "Images" }
        p.soft { "The first held-out prompts of each kind; the images of a row begin with the same noise." }
        @for (set, rows) in &shown {
            h3 { (set) }
            @for (prompt, images) in rows { p { (prompt) } (images) }
        }
    })
}

fn row(c: &Contents, arms: &[String], set: &str, file: &str) -> Result<Markup> {
    let name = file.rsplit('/').next().unwrap_or_default();
    let mut cells = Vec::new();
    for arm in arms {
        let path = c.run.folder.path(images(arm, set, c.run.config.seed)).join(name);
        let scored = c.images(arm).find(|image| image.file_name == file);
        let score = scored.map_or(String::new(), |image| points(image.score));
        let label = if *arm == expert(set) { "expert".into() } else { title(arm) };
        cells.push((data_uri(&path)?, label, score));
    }
    Ok(html! {
        div class="row small" style=(format!("--columns: {}", arms.len())) {
            @for (uri, label, score) in &cells {
                figure { img src=(uri) alt=(label); figcaption { (label) ": " (score) } }
            }
        }
    })
}

fn changed(c: &Contents) -> Result<Markup> {
    let arm = c.summary.as_ref().map_or(MERGED.into(), scores::headline);
    let [better, worse] = extremes(c, &arm, EXTREMES);
    Ok(html! {
        h2 { "What got better, and what got worse" }
        p.soft { (title(&arm)) " against the base model, from the same noise; the largest changes."
            @if let Some(summary) = c.summary.as_ref().filter(|summary| !summary.further.is_empty()) {
                " By " (heading(&summary.benchmark)) "."
            }
        }
        h3 { "Better" }
        (pairs(c, &arm, &better)?)
        h3 { "Worse" }
        (pairs(c, &arm, &worse)?)
    })
}

fn pairs(c: &Contents, arm: &str, pairs: &[Pair]) -> Result<Markup> {
    let uri = |arm: &str, file: &str| data_uri(&c.run.folder.path(format!("evaluate/{arm}/{file}")));
    let mut shown = Vec::new();
    for pair in pairs {
        let file = &pair.after.file_name;
        shown.push((pair, uri(BASE, file)?, uri(arm, file)?));
    }
    Ok(html! {
        @if shown.is_empty() { p { "None." } }
        div.pairs { @for (pair, before, after) in &shown {
            div.pair {
                div class="row small" style="--columns: 2" {
                    figure { img src=(before) alt="base model"; figcaption { "base model: " (points(pair.before.score)) } }
                    figure { img src=(after) alt="merged experts"; figcaption { "merged: " (points(pair.after.score)) } }
                }
                p { (pair.after.prompt) }
                ul { @for (question, yes) in pair.changed() {
                    li { (question) " " @if yes { span.good { "yes now" } } @else { span.bad { "no longer" } } }
                } }
            }
        } }
    })
}

fn losses(c: &Contents) -> Markup {
    html! {
        h2 { "Training" }
        div.curves { @for (part, points) in &c.losses { (chart::curve(part, &format!("loss of {part}"), points)) } }
        (chosen(c))
    }
}

/// Which checkpoint each expert is, and the scores of the others.
fn chosen(c: &Contents) -> Markup {
    let mut steps: Vec<u64> = c.choices.iter().flat_map(|(_, choice)| &choice.candidates).map(|c| c.step).collect();
    steps.sort_unstable();
    steps.dedup();
    html! {
        @if let Some((_, first)) = c.choices.first() {
            h3 { "Chosen checkpoints" }
            p.soft {
                "Each expert is its checkpoint with the highest score on held-out prompts that are not among those above; of
                equal ones the first. Benchmark " (first.benchmark) ", judge " (first.judge) "."
            }
            table {
                thead { tr { th { "expert" } th { "step" } @for step in &steps { th { (step) } } } }
                tbody { @for (part, choice) in &c.choices { tr {
                    td { (part) }
                    td { strong { (choice.step) } }
                    @for step in &steps {
                        (scores::cell(choice.candidates.iter().find(|c| c.step == *step).map(|c| &c.score)))
                    }
                } } }
            }
        }
    }
}

fn how(c: &Contents) -> Markup {
    let p = c.run.config;
    let total: f64 = c.times.iter().map(|(_, seconds)| seconds).sum();
    html! {
        h2 { "How to do it again" }
        pre { (c.run.command) }
        ul {
            li { "selma " (env!("CARGO_PKG_VERSION")) ", seed " (p.seed) ", " (c.run.dtype.name()) }
            li { "drawn by " (name(&p.images.model)) ", learnt by " (name(&p.experts.model)) }
            li { "drawn for training: " (settings(&p.images.draw)) }
            li { "evaluated: " (settings(&p.evaluate.draw)) }
            li { "learning rate " (p.experts.lr) ", batch " (p.experts.batch_size * p.experts.grad_accum) ", alpha "
                (p.experts.alpha()) ", modules " (p.experts.targets.join(", ")) }
        }
        h3 { "Time" }
        table {
            thead { tr { th { "piece" } th { "seconds" } } }
            tbody {
                @for (piece, seconds) in &c.times { tr { td { (piece) } td { (format!("{seconds:.1}")) } } }
                tr.all { td { "all" } td { (format!("{total:.1}")) } }
            }
        }
    }
}

/// The last part of a model's path.
fn name(model: &str) -> String {
    let path = std::path::Path::new(model);
    path.file_name().map_or_else(|| model.into(), |name| name.to_string_lossy().into_owned())
}

fn settings(draw: &crate::generate::Settings) -> String {
    let guidance = draw.guidance.map_or("the model's guidance".into(), |g| format!("guidance {g}"));
    let scheduler = draw.scheduler.as_deref().unwrap_or("the model's scheduler");
    format!("{} steps, {guidance}, {scheduler}", draw.steps)
}
