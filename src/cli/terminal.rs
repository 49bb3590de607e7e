//! The one way to stdout and stderr, and what a training run shows there.

use std::fmt::{Arguments, Write};

use serde_json::json;

use crate::cli::Common;
use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use crate::error::Result;
use crate::prompting::reply::is_hidden;
use crate::train::watcher::{StepReport, Watcher};

/// As `println!`, without what a terminal obeys.
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::terminal::out(format_args!($($text)*)) };
}

/// As `eprintln!`, without what a terminal obeys.
macro_rules! errln {
    ($($text:tt)*) => { $crate::cli::terminal::err(format_args!($($text)*)) };
}

/// Prints a value that serde writes as a line of JSON; what a terminal obeys is escaped in it.
macro_rules! outjson {
    ($value:expr) => {
        $crate::cli::terminal::json_line(&$value)
    };
}

#[expect(clippy::print_stdout, reason = "the one place")]
pub(super) fn out(text: Arguments) {
    println!("{}", printable(&text.to_string()));
}

#[expect(clippy::print_stderr, reason = "the one place")]
pub(super) fn err(text: Arguments) {
    eprintln!("{}", printable(&text.to_string()));
}

#[expect(clippy::print_stdout, reason = "the one place")]
pub(super) fn json_line(value: &impl serde::Serialize) {
    let text = serde_json::to_string(value).expect("strings are keys, and no value fails");
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        // Such characters are inside of strings, where JSON has an escape for them.
        match is_hidden(c) {
            true => write!(line, "\\u{:04x}", u32::from(c)).expect("memory takes it"),
            false => line.push(c),
        }
    }
    println!("{line}");
}

/// `text` without what a terminal obeys: messages quote files, and files may come from anybody.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| {
        if is_hidden(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }
    };
    text.chars().map(shown).collect()
}

/// Progress and notes on stderr, steps as JSON on stdout where asked for, and Ctrl-C.
pub(super) struct Terminal<'a> {
    common: &'a Common,
    progress: Progress,
    interrupt: Interrupt,
}

impl<'a> Terminal<'a> {
    /// Listens for Ctrl-C from now on.
    ///
    /// # Errors
    /// As [`Interrupt::listen`].
    pub fn new(common: &'a Common) -> Result<Self> {
        Ok(Self { common, progress: Progress::hidden(), interrupt: Interrupt::listen(common)? })
    }

    /// Starts the bar of the steps.
    pub fn begin(&mut self, done: u64, steps: u64) {
        self.begin_count("steps", done, steps);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.progress.finish();
    }

    fn begin_count(&mut self, what: &'static str, done: u64, total: u64) {
        self.progress.finish();
        self.progress = Progress::new(self.common, what, total as usize);
        self.progress.start_at(done);
    }
}

impl Watcher for Terminal<'_> {
    fn note(&mut self, text: &str) {
        self.progress.suspend(|| self.common.note(text));
    }

    fn prepared(&mut self, what: &'static str, done: usize, total: usize) {
        match self.progress.goes_on(what, done as u64, total as u64) {
            true => self.progress.set(done as u64),
            // Of the next skill or arm: what its folder has already does not count for the rate.
            false => self.begin_count(what, done as u64, total as u64),
        }
    }

    fn step(&mut self, report: &StepReport) {
        self.progress.message(format!("loss {:.4}", report.loss));
        self.progress.set(report.step);
        if self.common.json {
            let (step, loss, lr, grad_norm) = (report.step, report.loss, report.lr, report.grad_norm);
            let mut line = json!({ "step": step, "loss": loss, "lr": lr, "grad_norm": grad_norm });
            if let Some(scale) = report.loss_scale {
                line["loss_scale"] = scale.into();
            }
            outjson!(line);
        }
    }

    fn stopped(&self) -> bool {
        self.interrupt.asked()
    }
}
