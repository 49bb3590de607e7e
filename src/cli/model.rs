//! What `--model` names: the built-in model, a folder or file, or the id of a model on the Hugging Face hub.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::Common;
use crate::error::Result;
use crate::formats::hub::{self, Hub};
use crate::shapes::builtin;

impl Common {
    /// Where the model that the user named lies; downloads it where that is needed and allowed.
    ///
    /// # Errors
    /// Those of [`Hub::snapshot`] and [`builtin::folder`]. A path is returned as it is: whoever opens it says what is wrong with it.
    pub fn model(&self, given: &Path) -> Result<PathBuf> {
        if given == Path::new(builtin::NAME) {
            return builtin::folder();
        }
        let Some(id) = given.to_str().filter(|text| hub::is_id(text)) else {
            return Ok(given.into());
        };
        let hub = Hub::from_environment(self.offline)?;
        let mut bar: Option<ProgressBar> = None;
        let folder = hub.snapshot(id, &mut |progress| {
            let bar = bar.get_or_insert_with(|| self.bytes_bar(id, &hub, progress.total));
            bar.set_message(progress.file.to_string());
            bar.set_position(progress.done);
        })?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(folder)
    }

    fn bytes_bar(&self, id: &str, hub: &Hub, total: u64) -> ProgressBar {
        self.note(format!("downloading {id} from {} into {}", hub.endpoint, hub.cache.display()));
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}");
        ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }
}
