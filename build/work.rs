//! Runs compilers side by side, and only for what has changed.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One run of a compiler, which is told source and output last.
pub struct Job {
    pub command: Command,
    /// What the compiler says that it is: another version is another job, another folder is not.
    pub compiler: String,
    /// What is compiled, then what else it includes besides headers.
    pub sources: Vec<PathBuf>,
    pub output: PathBuf,
}

/// Runs the jobs, except those that an earlier build has done with the same command, sources and `headers`; gives what
/// each wrote to stderr. Results are kept in `cache`.
///
/// # Errors
/// Command and stderr of the first one that failed.
pub fn run(jobs: Vec<Job>, headers: &[PathBuf], cache: &Path) -> Result<Vec<String>, String> {
    fs::create_dir_all(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let mut hasher = DefaultHasher::new();
    for header in headers {
        bytes(header)?.hash(&mut hasher);
    }
    let headers = hasher.finish();
    let threads = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut results: Vec<Result<String, String>> = jobs.iter().map(|_| Ok(String::new())).collect();
    let queue = Mutex::new(jobs.into_iter().zip(&mut results));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no job panics").next();
                    let Some((job, result)) = next else { break };
                    *result = run_one(job, headers, cache);
                }
            });
        }
    });
    results.into_iter().collect()
}

fn run_one(mut job: Job, headers: u64, cache: &Path) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    // Not the command's environment, which says where this build is.
    (headers, &job.compiler).hash(&mut hasher);
    job.command.get_args().for_each(|argument| argument.hash(&mut hasher));
    for source in &job.sources {
        bytes(source)?.hash(&mut hasher);
    }
    let name = job.output.file_name().unwrap_or_default().to_string_lossy();
    let kept = cache.join(format!("{:016x}-{name}", hasher.finish()));
    // What the compiler said is written last, so it stands for both.
    let kept_text = kept.with_extension("said");
    let trouble = |e: std::io::Error| format!("{}: {e}", kept.display());
    if let Ok(said) = fs::read_to_string(&kept_text) {
        fs::copy(&kept, &job.output).map_err(trouble)?;
        return Ok(said);
    }
    job.command.arg(&job.sources[0]).arg("-o").arg(&job.output);
    let done = job.command.output().map_err(|e| format!("{:?}: {e}", job.command))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if !done.status.success() {
        return Err(format!("{:?}\n{said}{}", job.command, String::from_utf8_lossy(&done.stdout)));
    }
    fs::copy(&job.output, &kept).map_err(trouble)?;
    fs::write(&kept_text, &said).map_err(trouble)?;
    Ok(said)
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Where results of all builds with one profile are kept: beside the folders that cargo makes for each (one for clippy,
/// one for tests, ...).
pub fn cache(out: &Path) -> PathBuf {
    let profile = out.ancestors().nth(3).unwrap_or(out);
    profile.join("kernels")
}

/// All files below `folder` with one of these extensions, in a fixed order.
pub fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files.extend(files_below(&path, extensions));
        } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            files.push(path);
        }
    }
    files.sort();
    files
}
