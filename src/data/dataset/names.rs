//! Names of files: those that records give, and those that differ in the spelling of accents alone.

use std::path::{Component, Path, PathBuf};

/// A name in Unicode's composed form: macOS writes é as e and an accent.
pub fn composed(name: &str) -> String {
    let mut name = tokenizers::NormalizedString::from(name);
    name.nfc();
    name.get().to_owned()
}

/// The path without its ending, in composed form: what an image and its caption share.
pub fn stem(path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(composed(&name))
}

/// The path of a file that a record of `dir` names; `None` if it does not exist. The record may come from anyone: nothing
/// outside the folder is read, except where a snapshot of the hub's cache links to the files of its own repository.
///
/// # Errors
/// What is wrong with the name.
pub fn within(dir: &Path, name: &str) -> Result<Option<PathBuf>, &'static str> {
    let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !Path::new(name).components().all(inside) {
        return Err("leaves the folder; names must be relative and without `..`");
    }
    let Some(path) = spelled(dir, name) else {
        return Ok(None);
    };
    let (Ok(real), Ok(root)) = (path.canonicalize(), dir.canonicalize()) else {
        return Ok(None);
    };
    let blobs = blobs(&root);
    if !real.starts_with(&root) && !blobs.is_some_and(|blobs| real.starts_with(blobs)) {
        return Err("is a link that leaves the folder");
    }
    if !real.is_file() {
        return Err("is not a file");
    }
    Ok(Some(path))
}

/// `name` in `dir`, or the file whose name is the same in composed form.
fn spelled(dir: &Path, name: &str) -> Option<PathBuf> {
    let path = dir.join(name);
    if path.exists() || name.is_ascii() {
        return Some(path);
    }
    let mut found = dir.to_path_buf();
    for part in Path::new(name).components() {
        let part = part.as_os_str().to_string_lossy();
        let wanted = composed(&part);
        let same = |entry: std::fs::DirEntry| {
            let there = entry.file_name();
            (composed(&there.to_string_lossy()) == wanted).then_some(there)
        };
        let there = std::fs::read_dir(&found).ok()?.flatten().find_map(same)?;
        found.push(there);
    }
    Some(found)
}

/// Where the files of a snapshot in the hub's cache lie: `.../blobs` for a folder in `.../snapshots/REVISION`.
fn blobs(root: &Path) -> Option<PathBuf> {
    let snapshots = root.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))?;
    Some(snapshots.parent()?.join("blobs")).filter(|blobs| blobs.is_dir())
}
