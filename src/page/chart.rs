//! The course of a number over the steps of a run, as a drawing inside the page.

use maud::{Markup, html};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 130.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 20.0;
const TOP: f64 = 8.0;
const RIGHT: f64 = 6.0;
/// Points of the line; each is the mean of the steps that it stands for.
const POINTS: usize = 80;
/// So few points are marked each.
const MARKED: usize = 24;

/// A curve of (step, value), `what` says of what, up to the last of these steps.
pub fn curve(title: &str, what: &str, points: &[(u64, f64)]) -> Markup {
    curve_to(title, what, points, points.last().map_or(1, |p| p.0))
}

/// The same on an axis up to the step `last`. Values that are no numbers, and those of later steps, are left out.
pub fn curve_to(title: &str, what: &str, points: &[(u64, f64)], last: u64) -> Markup {
    let means = means(points, last);
    let lowest = means.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let highest = means.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let last = last.max(1);
    let x = |step: f64| LEFT + step / last as f64 * (WIDTH - LEFT - RIGHT);
    // What does not change is drawn in the middle.
    let down = |value: f64| if highest > lowest { (highest - value) / (highest - lowest) } else { 0.5 };
    let y = |value: f64| TOP + down(value) * (HEIGHT - TOP - BOTTOM);
    let places: Vec<(f64, f64)> = means.iter().map(|&(step, value)| (x(step), y(value))).collect();
    let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let label = format!("{what} over {last} steps");
    html! {
        figure.curve {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
                line.axis x1=(LEFT) y1=(TOP) x2=(LEFT) y2=(HEIGHT - BOTTOM) {}
                line.axis x1=(LEFT) y1=(HEIGHT - BOTTOM) x2=(WIDTH - RIGHT) y2=(HEIGHT - BOTTOM) {}
                @if highest > lowest {
                    text x=(LEFT - 4.0) y=(TOP + 8.0) text-anchor="end" { (number(highest)) }
                    text x=(LEFT - 4.0) y=(HEIGHT - BOTTOM) text-anchor="end" { (number(lowest)) }
                } @else if !means.is_empty() {
                    text x=(LEFT - 4.0) y=(y(highest) + 4.0) text-anchor="end" { (number(highest)) }
                }
                text x=(LEFT) y=(HEIGHT - 5.0) { "0" }
                text x=(WIDTH - RIGHT) y=(HEIGHT - 5.0) text-anchor="end" { (last) " steps" }
                polyline points=(line.join(" ")) {}
                @if places.len() <= MARKED {
                    @for (x, y) in &places { circle cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="2" {} }
                }
            }
            figcaption { (title) }
        }
    }
}

/// Three digits behind the point, or what is small or large in powers of ten.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        0.01..1e5 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// The mean step and the mean value of each of at most [`POINTS`] groups of steps up to `last`.
fn means(points: &[(u64, f64)], last: u64) -> Vec<(f64, f64)> {
    let finite: Vec<(u64, f64)> = points.iter().copied().filter(|p| p.0 <= last && p.1.is_finite()).collect();
    let size = finite.len().div_ceil(POINTS).max(1);
    let mean = |group: &[(u64, f64)]| {
        let n = group.len() as f64;
        let steps: u64 = group.iter().map(|p| p.0).sum();
        // A mean of equal numbers is that number, to the last digit.
        let equal = group.iter().all(|p| p.1 == group[0].1);
        let value = if equal { group[0].1 } else { group.iter().map(|p| p.1).sum::<f64>() / n };
        (steps as f64 / n, value)
    };
    finite.chunks(size).map(mean).collect()
}
