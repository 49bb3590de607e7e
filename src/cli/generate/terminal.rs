//! What a command that draws a folder of images shows.

use crate::cli::Common;
use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use crate::error::{Error, Result};
use crate::generate::Observer;
use crate::generate::folder::Finished;

/// Progress on stderr, names or rows on stdout, and Ctrl-C.
pub(super) struct Terminal<'a> {
    common: &'a Common,
    progress: Progress,
    images: usize,
    kept: usize,
    interrupt: Interrupt,
}

impl<'a> Terminal<'a> {
    pub fn new(common: &'a Common) -> Result<Self> {
        let interrupt = Interrupt::listen(common)?;
        Ok(Self { common, progress: Progress::hidden(), images: 0, kept: 0, interrupt })
    }

    pub fn finish(&self) {
        self.progress.finish();
        if self.kept > 0 {
            self.common.note(format!("{} of {} images were there already", self.kept, self.images));
        }
    }
}

impl Observer for Terminal<'_> {
    fn note(&mut self, text: &str) {
        self.progress.suspend(|| self.common.note(text));
    }

    fn begin(&mut self, images: usize, steps: usize) {
        self.images = images;
        self.progress = Progress::new(self.common, "steps", steps);
    }

    fn stepped(&mut self, images: usize) -> Result<()> {
        self.progress.add(images as u64);
        match self.interrupt.asked() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    fn finished(&mut self, image: &Finished) {
        if image.kept {
            self.kept += 1;
            self.progress.add(image.steps as u64);
        }
        self.progress.suspend(|| match self.common.json {
            true => outjson!(image.row),
            false => outln!("{}", image.path.display()),
        });
    }
}

fn interrupted() -> Error {
    Error::Interrupted(
        "stopped; the finished images are kept, and the same command with --resume generates the rest".into(),
    )
}
