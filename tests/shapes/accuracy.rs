//! How often the judge is right, on images whose content is known, as rendered and worse.

use std::fmt::Write;

use image::RgbImage;
use rayon::prelude::*;
use selma::shapes::description::Shape;
use selma::shapes::judge::{Found, View, answer, judge, questions};
use selma::shapes::scene::Scene;
use selma::shapes::{Skill, Split, render};

use super::degraded::CONDITIONS;

/// Neither the prompts nor the pixels of this seed were looked at while the judge was made.
const SEED: u64 = 240_306_953;

/// What there is to be seen.
fn truth(scene: &Scene) -> View {
    let found = scene.objects.iter().map(|object| Found {
        shape: Some(object.shape),
        colour: object.colour,
        x: object.x,
        y: object.y,
        size: object.size,
    });
    View { background: scene.background_colour, shaded: scene.shade.is_some(), found: found.collect() }
}

/// Counts of one condition.
#[derive(Default, Clone)]
struct Tally {
    things: usize,
    /// Shape and colour both right.
    right: usize,
    /// Seen where nothing is.
    invented: usize,
    /// Questions of the image's own caption, all of them true.
    own: usize,
    own_right: usize,
    /// Questions of another caption of the same skill.
    other: usize,
    other_right: usize,
    other_no: usize,
    /// Rows: drawn; columns: seen, then seen without a name, then not seen.
    confusion: [[usize; 9]; 7],
}

impl Tally {
    fn of(skill: Skill, index: u64, change: fn(RgbImage, u64) -> RgbImage) -> Tally {
        let mut tally = Tally::default();
        let (prompt, scene) = skill.scene(Split::HeldOut, SEED, index).unwrap();
        let view = View::of(&change(render(&scene), index));
        let truth = truth(&scene);
        let verdict = judge(&view, &questions(&prompt.description));
        tally.own = verdict.gated.len();
        tally.own_right = verdict.gated.iter().filter(|&&yes| yes).count();
        for question in questions(&skill.prompt(Split::HeldOut, SEED + 1, index).description) {
            let expected = answer(&truth, question.ask);
            tally.other += 1;
            tally.other_right += usize::from(answer(&view, question.ask) == expected);
            tally.other_no += usize::from(!expected);
        }
        let mut unclaimed: Vec<&Found> = view.found.iter().collect();
        for object in &truth.found {
            let off = |found: &Found| {
                let squares = (found.x - object.x).powi(2) + (found.y - object.y).powi(2);
                squares.sqrt() + (found.size - object.size).abs()
            };
            let nearest = (0..unclaimed.len()).min_by(|&a, &b| off(unclaimed[a]).total_cmp(&off(unclaimed[b])));
            let seen = nearest.filter(|&k| off(unclaimed[k]) < 6.0).map(|k| unclaimed.swap_remove(k));
            let column = seen.map_or(8, |found| found.shape.map_or(7, |shape| shape as usize));
            let right = seen.is_some_and(|found| (found.shape, found.colour) == (object.shape, object.colour));
            tally.confusion[object.shape.unwrap() as usize][column] += 1;
            tally.things += 1;
            tally.right += usize::from(right);
        }
        tally.invented = unclaimed.len();
        tally
    }

    fn plus(mut self, other: Tally) -> Tally {
        self.things += other.things;
        self.right += other.right;
        self.invented += other.invented;
        self.own += other.own;
        self.own_right += other.own_right;
        self.other += other.other;
        self.other_right += other.other_right;
        self.other_no += other.other_no;
        for (cell, more) in self.confusion.as_flattened_mut().iter_mut().zip(other.confusion.as_flattened()) {
            *cell += more;
        }
        self
    }
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.2} %", 100.0 * part as f64 / whole as f64)
}

fn report(tallies: &[Tally]) -> String {
    let mut text = String::from(
        "\n# Accuracy\n\nOn held-out images whose content is known, written by `tests/shapes/accuracy.rs`. A thing is right \
         when both its\nshape and its colour are. Questions of the image's own caption are all true; those of another \
         caption of the same\nskill are mostly not.\n\n| image | things | right | invented | own questions | right | \
         others' questions | of them \"no\" | right |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((name, ..), t) in CONDITIONS.iter().zip(tallies) {
        let (things, own, other) =
            (percent(t.right, t.things), percent(t.own_right, t.own), percent(t.other_right, t.other));
        writeln!(
            text,
            "| {name} | {} | {things} | {} | {} | {own} | {} | {} | {other} |",
            t.things, t.invented, t.own, t.other, t.other_no
        )
        .unwrap();
    }
    // The last condition is the nearest to what a small diffusion model draws.
    for k in [0, CONDITIONS.len() - 1] {
        let (name, tally) = (CONDITIONS[k].0, &tallies[k]);
        let names: Vec<_> = Shape::ALL.iter().map(|shape| shape.name()).collect();
        let columns = names.join(" | ");
        writeln!(text, "\n{name}: drawn (rows) and seen (columns).\n\n| | {columns} | no name | not seen |").unwrap();
        writeln!(text, "|---{}|", "|---".repeat(9)).unwrap();
        for (name, row) in names.iter().zip(tally.confusion) {
            let cells: Vec<_> = row.iter().map(usize::to_string).collect();
            writeln!(text, "| {name} | {} |", cells.join(" | ")).unwrap();
        }
    }
    text
}

#[test]
fn the_judge_is_right_as_often_as_its_documentation_says() {
    let tallies: Vec<Tally> = CONDITIONS
        .iter()
        .map(|&(_, count, change)| {
            let images: Vec<_> = Skill::ALL.into_iter().flat_map(|skill| (0..count).map(move |i| (skill, i))).collect();
            let tallies = images.into_par_iter().map(|(skill, index)| Tally::of(skill, index, change));
            tallies.reduce(Tally::default, Tally::plus)
        })
        .collect();
    super::documented("src/shapes/judge/accuracy.md", &report(&tallies));
    for ((name, ..), t) in CONDITIONS.iter().zip(&tallies) {
        for (right, of) in [(t.right, t.things), (t.own_right, t.own), (t.other_right, t.other)] {
            assert!(right as f64 > 0.98 * of as f64, "{name}: {right} of {of}");
        }
    }
    let rendered = &tallies[0];
    assert!(rendered.right as f64 > 0.999 * rendered.things as f64 && rendered.invented == 0);
    assert!((rendered.own_right + rendered.other_right) as f64 > 0.999 * (rendered.own + rendered.other) as f64);
}
