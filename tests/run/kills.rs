//! Processes that are killed at random moments, and what they leave for the next one.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use selma::tensor::random::{Stream, uniform};

/// Kills that land while a process is at work, in any number of runs.
pub struct Kills {
    wanted: usize,
    /// No process lives longer than this, as long as kills are wanted.
    longest: Duration,
    seed: u64,
    pub landed: usize,
    /// How many pieces were complete when a kill landed.
    pub places: BTreeSet<usize>,
    tries: u64,
}

impl Kills {
    pub fn new(wanted: usize, longest: Duration, seed: u64) -> Self {
        Self { wanted, longest, seed, landed: 0, places: BTreeSet::new(), tries: 0 }
    }

    pub fn are_left(&self) -> bool {
        self.landed < self.wanted
    }

    fn moment(&mut self) -> Duration {
        self.tries += 1;
        let share = uniform(self.seed, Stream::Choice, self.tries, 0, 1)[0];
        self.longest.mul_f64(f64::from(share))
    }

    /// Starts the command again and again until one of its processes lives to the end, which must be a good one.
    pub fn through(&mut self, command: &assert_cmd::Command, out: &Path) {
        loop {
            let moment = self.are_left().then(|| self.moment());
            let mut child = Command::new(command.get_program());
            child.args(command.get_args()).stdout(Stdio::null()).stderr(Stdio::null());
            command.get_envs().for_each(|(key, value)| match value {
                Some(value) => drop(child.env(key, value)),
                None => drop(child.env_remove(key)),
            });
            let mut child = child.spawn().unwrap();
            let begin = Instant::now();
            while moment.is_none_or(|moment| begin.elapsed() < moment) && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if status.code().is_some() {
                assert!(status.success(), "{status}");
                return;
            }
            self.landed += 1;
            self.places.insert(complete(out));
        }
    }
}

/// Pieces whose record tells of results.
fn complete(out: &Path) -> usize {
    let records = std::fs::read_dir(out.join("stages")).into_iter().flatten();
    let text = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("record.json")).ok();
    let done = |text: &String| serde_json::from_str::<serde_json::Value>(text).is_ok_and(|r| r["outputs"].is_object());
    records.flatten().filter_map(text).filter(done).count()
}
