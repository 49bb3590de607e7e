//! What `--model` names: the built-in model, a folder or file, or the id of a model on the Hugging Face hub.

use std::path::{Path, PathBuf};

use super::Common;
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::formats::hub::{self, Hub, JudgeId};
use crate::generate::{Generator, Source};
use crate::shapes::builtin;

impl Common {
    /// A model on the command's device, in its precision. What is unusual about it is said.
    ///
    /// # Errors
    /// As [`Generator::load`] and [`Generator::to`].
    pub(super) fn generator(&self, source: Source) -> Result<Generator> {
        let generator = Generator::load(source, self.precision()?, &mut |text| self.note(text))?;
        generator.to(&self.device()?)?;
        Ok(generator)
    }

    /// Where the model that the user named lies; downloads it where that is needed and allowed.
    ///
    /// # Errors
    /// [`Error::File`] for what is not there; those of [`Hub::snapshot`] and [`builtin::folder`].
    pub fn model(&self, given: &Path) -> Result<PathBuf> {
        if given == Path::new(builtin::NAME) {
            return builtin::folder();
        }
        let Some(id) = given.to_str().filter(|text| hub::names_model(text)) else {
            return match given.exists() {
                true => Ok(given.into()),
                false => Err(Error::file(
                    given,
                    "no such model; expected shapes, a folder in the layout of diffusers, a .safetensors file, or the id of a \
                     model on the hub (org/name, org/name@revision, org/name:fp16)",
                )),
            };
        };
        let hub = Hub::from_environment(self.offline)?;
        let mut bar: Option<Progress> = None;
        let folder = hub.snapshot(id, &mut |progress| {
            let bar = bar.get_or_insert_with(|| self.bytes_bar(id, &hub, progress.total));
            bar.message(progress.file.to_string());
            bar.set(progress.done);
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(folder)
    }

    /// Where the LoRA of a `--lora` option lies, which may be the id of a repository on the hub: `org/name`, with `@REVISION`, and
    /// with `:FILE` where it holds several.
    ///
    /// # Errors
    /// Those of [`Hub::lora`]. A path is returned as it is: whoever opens it says what is wrong with it.
    pub fn lora(&self, given: &Path) -> Result<PathBuf> {
        // What looks like a path is one: with its ending, or in a folder that is there.
        let is_path = |id: &JudgeId| {
            let folder = id.id.split('/').next().unwrap_or_default();
            id.id.ends_with(".safetensors") || Path::new(folder).is_dir()
        };
        let Some(id) = given.to_str().and_then(JudgeId::parse).filter(|id| !is_path(id)) else {
            return Ok(given.into());
        };
        let hub = Hub::from_environment(self.offline)?;
        let mut bar: Option<Progress> = None;
        let place = hub.lora(id, &mut |progress| {
            let bar = bar.get_or_insert_with(|| self.bytes_bar(id.id, &hub, progress.total));
            bar.message(progress.file.to_string());
            bar.set(progress.done);
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(place)
    }

    /// Where the judge that the user named lies; downloads it where that is needed and allowed.
    ///
    /// # Errors
    /// Those of [`Hub::judge`]. A path is returned as it is: whoever opens it says what is wrong with it.
    pub fn judge(&self, given: &str) -> Result<PathBuf> {
        let Some(id) = JudgeId::parse(given) else {
            return Ok(given.into());
        };
        let hub = Hub::from_environment(self.offline)?;
        let mut bar: Option<Progress> = None;
        let place = hub.judge(id, &mut |progress| {
            let bar = bar.get_or_insert_with(|| self.bytes_bar(given, &hub, progress.total));
            bar.message(progress.file.to_string());
            bar.set(progress.done);
        })?;
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(place)
    }

    fn bytes_bar(&self, id: &str, hub: &Hub, total: u64) -> Progress {
        self.note(format!("downloading {id} from {} into {}", hub.endpoint, hub.cache.display()));
        Progress::of_bytes(self, total)
    }
}
