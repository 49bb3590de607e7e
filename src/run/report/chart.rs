//! The course of a loss as a drawing inside the page.

use maud::{Markup, html};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 130.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 42.0;
const BOTTOM: f64 = 20.0;
const TOP: f64 = 8.0;
/// Points of the line; each is the mean of the steps that it stands for.
const POINTS: usize = 80;

/// A curve of (step, loss). Values that are no numbers are left out.
pub fn curve(title: &str, points: &[(u64, f64)]) -> Markup {
    let means = means(points);
    let lowest = means.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let highest = means.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let last = points.last().map_or(1, |p| p.0.max(1));
    let span = (highest - lowest).max(1e-9);
    let x = |step: f64| LEFT + step / last as f64 * (WIDTH - LEFT - 6.0);
    let y = |loss: f64| TOP + (highest - loss) / span * (HEIGHT - TOP - BOTTOM);
    let line: Vec<String> = means.iter().map(|&(s, l)| format!("{:.1},{:.1}", x(s), y(l))).collect();
    let label = format!("loss of {title} over {last} steps");
    html! {
        figure.curve {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
                line.axis x1=(LEFT) y1=(TOP) x2=(LEFT) y2=(HEIGHT - BOTTOM) {}
                line.axis x1=(LEFT) y1=(HEIGHT - BOTTOM) x2=(WIDTH - 6.0) y2=(HEIGHT - BOTTOM) {}
                @if !means.is_empty() {
                    text x=(LEFT - 4.0) y=(TOP + 8.0) text-anchor="end" { (format!("{highest:.3}")) }
                    text x=(LEFT - 4.0) y=(HEIGHT - BOTTOM) text-anchor="end" { (format!("{lowest:.3}")) }
                }
                text x=(LEFT) y=(HEIGHT - 5.0) { "0" }
                text x=(WIDTH - 6.0) y=(HEIGHT - 5.0) text-anchor="end" { (last) " steps" }
                polyline points=(line.join(" ")) {}
            }
            figcaption { (title) }
        }
    }
}

/// The mean step and the mean loss of each of at most [`POINTS`] groups.
fn means(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(u64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let size = finite.len().div_ceil(POINTS).max(1);
    let mean = |group: &[(u64, f64)]| {
        let n = group.len() as f64;
        let steps: u64 = group.iter().map(|p| p.0).sum();
        (steps as f64 / n, group.iter().map(|p| p.1).sum::<f64>() / n)
    };
    finite.chunks(size).map(mean).collect()
}
