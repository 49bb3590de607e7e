//! Runs compilers side by side, and only for what has changed.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One run of a compiler.
pub struct Job {
    pub command: Command,
    pub output: PathBuf,
}

/// Runs the jobs whose output is not there yet from the same command and `inputs`, and gives what each wrote to stderr.
///
/// # Errors
/// Command and stderr of the first one that failed.
pub fn run(jobs: Vec<Job>, inputs: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        fs::read(input)
            .map_err(|e| format!("{}: {e}", input.display()))?
            .hash(&mut hasher);
    }
    let inputs = hasher.finish();
    let threads = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut results: Vec<Result<String, String>> = jobs.iter().map(|_| Ok(String::new())).collect();
    let queue = Mutex::new(jobs.into_iter().zip(&mut results));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no job panics").next();
                    let Some((job, result)) = next else { break };
                    *result = run_one(job, inputs);
                }
            });
        }
    });
    results.into_iter().collect()
}

fn run_one(mut job: Job, inputs: u64) -> Result<String, String> {
    // Beside the output lies what made it, then what the compiler said.
    let key = format!("{inputs:x} {:?}\n", job.command);
    let record = job.output.with_extension("made");
    if let Ok(made) = fs::read_to_string(&record)
        && let Some(said) = made.strip_prefix(&key)
        && job.output.exists()
    {
        return Ok(said.into());
    }
    let done = job.command.output().map_err(|e| format!("{:?}: {e}", job.command))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if !done.status.success() {
        return Err(format!(
            "{:?}\n{said}{}",
            job.command,
            String::from_utf8_lossy(&done.stdout)
        ));
    }
    let mut made = key;
    let _ = write!(made, "{said}");
    fs::write(&record, made).map_err(|e| format!("{}: {e}", record.display()))?;
    Ok(said)
}

/// All files below `folder`, in a fixed order: what a compilation may read.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
