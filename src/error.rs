//! One error type. Its message is the last thing a user sees, so it names the file, key or value, says what was
//! expected, and where it helps, what to do.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor of the wrong shape or dtype reached an op: a programming error, or a weight file that lies.
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },

    /// A tracked tensor entered an op that has no backward pass.
    #[error("{op} has no gradient, but a tensor that needs one was passed to it")]
    NoGradient { op: &'static str },

    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    /// A file's content is not what it should be.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },

    /// The command line or a configuration is wrong (exit status 2).
    #[error("{0}")]
    Usage(String),

    /// A part of the documented contract that this version does not have (exit status 2).
    #[error("{0}: not available in this version")]
    Unavailable(String),

    /// A device has no more memory (exit status 1).
    #[error("{0}")]
    OutOfMemory(String),

    /// A device or its driver failed (exit status 1).
    #[error("{0}")]
    Device(String),

    /// Everything else that stops the work (exit status 1).
    #[error("{0}")]
    Failed(String),

    /// Ctrl-C: what was done is saved, and the message says how to go on.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }

    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().into(), message: message.into() }
    }

    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().into(), source }
    }

    /// 2 where the command line or a configuration is at fault, 130 after Ctrl-C (128 + SIGINT, as shells have it), else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted(_) => 130,
            Error::Usage(_) | Error::Unavailable(_) => 2,
            _ => 1,
        }
    }
}
