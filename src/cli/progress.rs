//! How far a command is: a bar on a terminal, and elsewhere a line every so often, so that a log shows that work goes on.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Common;

/// Time between lines.
const PAUSE: Duration = Duration::from_secs(30);

/// Progress of one kind of work.
pub struct Progress {
    bar: ProgressBar,
    /// What is counted, such as "images".
    what: &'static str,
    message: String,
    /// None on a terminal, and with --quiet.
    lines: Option<Lines>,
}

/// When lines are due, and what they say.
struct Lines {
    begin: Instant,
    /// What was done before, by another command.
    before: u64,
    last: Instant,
    total: u64,
    done: u64,
}

impl Progress {
    /// Counts `total` of `what` from now on.
    pub fn new(common: &Common, what: &'static str, total: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {prefix} {per_sec} {eta} left {msg}");
        Self::with_style(common, what, total as u64, style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// As [`Progress::new`], of bytes.
    pub fn of_bytes(common: &Common, total: u64) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}");
        Self::with_style(common, "bytes", total, style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), what: "", message: String::new(), lines: None }
    }

    fn with_style(common: &Common, what: &'static str, total: u64, style: ProgressStyle) -> Self {
        if common.quiet {
            return Self { what, ..Self::hidden() };
        }
        let now = Instant::now();
        let lines = Lines { begin: now, before: 0, last: now, total, done: 0 };
        let bar = ProgressBar::new(total).with_style(style);
        bar.set_prefix(what);
        let lines = (!std::io::stderr().is_terminal()).then_some(lines);
        Self { bar, what, message: String::new(), lines }
    }

    /// Whether `done` of `total` comes after what was counted so far, of the same work.
    pub fn goes_on(&self, what: &str, done: u64, total: u64) -> bool {
        self.what == what && self.bar.length() == Some(total) && self.bar.position() <= done
    }

    /// So many are done.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        if let Some(lines) = &mut self.lines
            && let Some(line) = lines.set(done, Instant::now(), self.what)
        {
            errln!("{}", format!("{line} {}", self.message).trim_end());
        }
    }

    /// So many more are done.
    pub fn add(&mut self, more: u64) {
        let done = self.lines.as_ref().map_or(self.bar.position(), |lines| lines.done);
        self.set(done + more);
    }

    /// So many were done before this command began: they do not count for the rate.
    pub fn start_at(&mut self, done: u64) {
        self.bar.set_position(done);
        self.bar.reset_eta();
        if let Some(lines) = &mut self.lines {
            (lines.before, lines.done) = (done, done);
        }
    }

    /// What is said behind the numbers.
    pub fn message(&mut self, text: String) {
        self.bar.set_message(text.clone());
        self.message = text;
    }

    /// Prints without disturbing a bar.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Lines {
    /// The line that is due at `now`.
    fn set(&mut self, done: u64, now: Instant, what: &str) -> Option<String> {
        self.done = done;
        if now.duration_since(self.last) < PAUSE || done >= self.total {
            return None;
        }
        self.last = now;
        let seconds = now.duration_since(self.begin).as_secs_f64();
        let here = done.saturating_sub(self.before);
        let left = match here {
            0 => String::new(),
            here => format!(", {} left", time(seconds * (self.total - done) as f64 / here as f64)),
        };
        Some(format!("{done} of {} {what} in {}{left}", self.total, time(seconds)))
    }
}

fn time(seconds: f64) -> String {
    match seconds.round() as u64 {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{:.1} h", s as f64 / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Lines;

    #[test]
    fn a_line_comes_every_half_minute() {
        let begin = Instant::now();
        let mut lines = Lines { begin, before: 100, last: begin, total: 500, done: 100 };
        let mut at = |seconds, done| lines.set(done, begin + Duration::from_secs(seconds), "steps");
        assert_eq!(at(29, 110), None);
        // 50 steps in 50 seconds, 350 are left.
        assert_eq!(at(50, 150).as_deref(), Some("150 of 500 steps in 50 s, 5 min left"));
        assert_eq!(at(70, 160), None);
        assert_eq!(at(81, 100).as_deref(), Some("100 of 500 steps in 81 s"));
        // The end has a message of its own.
        assert_eq!(at(200, 500), None);
    }
}
