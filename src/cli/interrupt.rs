//! Ctrl-C: the first stops at the next safe point, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::Common;
use crate::error::{Error, Result};

const MOMENT: Duration = Duration::from_millis(300);

/// Whether the person at the terminal wants the command to stop.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Error::Failed`] where the system does not allow it.
    pub fn listen(common: &Common) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let (flag, quiet) = (asked.clone(), common.quiet);
        ctrlc::set_handler(move || {
            // What was saved before is sound, so that there is no need to wait.
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            // Who stops in a moment has nothing to explain.
            std::thread::sleep(MOMENT);
            if !quiet {
                errln!("\nstopping after this step; Ctrl-C again stops at once");
            }
        })
        .map_err(|e| Error::Failed(format!("cannot listen for Ctrl-C: {e}")))?;
        Ok(Self(asked))
    }

    /// Whether Ctrl-C was pressed.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Has Ctrl-C end the command with `message` and status 130: for work of which every part is on disk when it is done.
///
/// # Errors
/// [`Error::Failed`] where the system does not allow it.
pub fn stop_at_once(message: &str) -> Result<()> {
    let message = format!("selma: {message}");
    let handler = move || {
        errln!("\n{message}");
        std::process::exit(130);
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Failed(format!("cannot listen for Ctrl-C: {e}")))
}
