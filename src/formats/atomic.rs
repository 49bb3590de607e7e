//! Files are written whole: to a temporary name in the same folder, flushed to disk, then renamed. A killed command
//! never leaves a half-written file under a final name.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Writes `path` through `fill`. The folder must exist.
///
/// # Errors
/// [`Error::Io`] with the final path's name; the final path is then as it was before.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let folder = folder(path);
    let io = |source| refused(path, source);
    let file = tempfile::Builder::new().prefix(&prefix(path)).suffix(".part").tempfile_in(folder).map_err(io)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    fill(&mut writer).map_err(io)?;
    let file = writer.into_inner().map_err(|e| io(e.into_error()))?;
    set_default_permissions(file.as_file()).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    // The rename itself must survive a power cut too; some file systems do not let a folder be opened for that.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Finds out whether [`fn@write`] can succeed, before hours of work are spent on what goes there.
///
/// # Errors
/// [`Error::File`] if `path` is a folder, or its folder does not exist; [`Error::Io`] if the folder cannot be written.
pub fn check(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "is a folder; give the name of a file to write"));
    }
    let folder = folder(path);
    if !folder.is_dir() {
        let message = format!("cannot be written: {} is not a folder", folder.display());
        return Err(Error::file(path, message));
    }
    probe(folder).map_err(|e| refused(path, e))
}

/// Whether a file can be made in `folder`.
fn probe(folder: &Path) -> io::Result<()> {
    let file = tempfile::Builder::new().prefix(".selma-").suffix(".part").tempfile_in(folder);
    file.map(drop)
}

/// What the system said, under the name that the file was to have instead of its temporary one.
fn refused(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let message = "the disk is full; what was written before is whole: make room, and run the command again, \
                           with --resume where it has that";
            Error::file(path, message)
        }
        io::ErrorKind::Other => Error::io(path, source),
        kind => Error::io(path, kind.into()),
    }
}

/// Creates the folder that a command writes into, and those above it.
///
/// # Errors
/// [`Error::File`] where there is a file of this name; [`Error::Io`] if it cannot be created, or not be written into.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_file() {
        return Err(Error::file(path, "is a file; --out names a folder to write into"));
    }
    std::fs::create_dir_all(path).map_err(|e| Error::io(path, e))?;
    probe(path).map_err(|e| refused(path, e))
}

/// Removes what killed processes left unfinished in `folder`, which need not exist and which nobody else may be writing
/// into.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(b".selma-") && name.ends_with(b".part") {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// [`remove_leftovers`] in `folder` and all folders below it.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_all_leftovers(folder: &Path) -> Result<()> {
    remove_leftovers(folder)?;
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all_leftovers(&entry.path())?;
        }
    }
    Ok(())
}

/// As [`remove_leftovers`], of what was to become `path`: others may be writing other files into its folder.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_leftovers_of(path: &Path) -> Result<()> {
    let folder = folder(path);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    let prefix = prefix(path);
    for entry in entries {
        let other = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".part"));
        if random.is_some_and(|random| random.chars().all(char::is_alphanumeric)) {
            std::fs::remove_file(&other).map_err(|e| Error::io(&other, e))?;
        }
    }
    Ok(())
}

/// What the temporary name of `path` begins with. The name of a file may be as long as the system allows, and this longer.
fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".selma-{}-", name.chars().take(40).collect::<String>())
}

/// The folder that `path` is in.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// [`fn@write`] of bytes that are already there.
///
/// # Errors
/// As [`fn@write`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |w| w.write_all(bytes))
}

/// Temporary files are private to the user; results have the permissions of any new file (0666 less the umask).
fn set_default_permissions(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // The umask can be read without changing it from the status file only.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = field.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022);
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !umask))
}
