//! A folder of generated images, `NNNNN.png`, with `metadata.jsonl`: what belongs into it, and what is there already.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use serde_json::Value;

use super::loras::Strength;
use super::parameters::Parameters;
use super::request::Request;
use super::webui::Syntax;
use super::{Observer, Settings};
use crate::data::image_latents::ImageLatents;
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};
use crate::formats::{image, jsonl, png};

/// A folder of images to generate.
pub struct Folder<'a> {
    pub out: &'a Path,
    pub prompts: &'a [Prompt],
    pub settings: &'a Settings,
    pub images_per_prompt: usize,
    pub seed: u64,
    /// LoRAs of each prompt beside those of all; empty where there are none at all.
    pub named: &'a [Vec<Strength>],
    /// How the prompts are read.
    pub syntax: &'a Syntax,
    /// The hash of all files that the images are made from, such as [`super::parameters::inputs_hash`] finds.
    pub inputs: String,
    pub existing: Existing,
    /// Each image's latents are kept beside it; what tells the VAE from others.
    pub latents: Option<String>,
}

/// What happens to images that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Any that is there is an error.
    Refuse,
    /// Those that would be generated again are kept, damaged ones are replaced; one of other settings is an error.
    Resume,
    /// All are replaced.
    Overwrite,
    /// Those that would be generated again are kept, all others are replaced.
    Repair,
}

/// What a file is for the image that belongs there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    /// The image that would be generated.
    Same,
    /// Cut off, as a full disk or a broken copy leaves it.
    Damaged,
    Other,
}

/// An image that is there.
pub struct Finished<'a> {
    pub path: PathBuf,
    /// Its row of `metadata.jsonl`.
    pub row: &'a Value,
    /// Sampler steps that it took, or would have.
    pub steps: usize,
    /// It was there before.
    pub kept: bool,
}

impl Folder<'_> {
    pub(super) fn path(&self, request: &Request) -> PathBuf {
        self.out.join(file_name(request.number))
    }

    /// With [`Existing::Refuse`], finds out before anything is loaded whether a result is there.
    ///
    /// # Errors
    /// [`Error::File`] naming the first file in the way.
    pub fn check_unused(&self) -> Result<()> {
        let images = (0..self.prompts.len() * self.images_per_prompt).map(|number| file_name(number as u64));
        let names = std::iter::once("metadata.jsonl".to_owned()).chain(images);
        match names.map(|name| self.out.join(name)).find(|path| self.existing == Existing::Refuse && path.exists()) {
            None => Ok(()),
            Some(path) => Err(Error::file(
                path,
                "is there already; --resume keeps what this command would generate again and adds the rest, --overwrite \
                 replaces it, or choose another --out",
            )),
        }
    }

    /// Refuses what [`Existing`] refuses, before anything is generated.
    ///
    /// # Errors
    /// [`Error::File`] naming the first file in the way.
    pub(super) fn check(&self, requests: &[Request], parameters: &Parameters) -> Result<()> {
        self.check_unused()?;
        let other = |request: &&Request| self.state(request, parameters) == State::Other;
        match requests.iter().find(|request| self.existing == Existing::Resume && other(request)) {
            None => Ok(()),
            Some(request) => Err(Error::file(
                self.path(request),
                "was not made by this command: prompt, settings, model or LoRA differ; add --overwrite to replace such \
                 images, or choose another --out",
            )),
        }
    }

    /// Whether the image on disk stays.
    pub(super) fn keeps(&self, request: &Request, parameters: &Parameters) -> bool {
        let resumes = matches!(self.existing, Existing::Resume | Existing::Repair);
        let whole = || self.latents.is_none() || ImageLatents::is_current(&self.path(request));
        resumes && self.state(request, parameters) == State::Same && whole()
    }

    fn state(&self, request: &Request, parameters: &Parameters) -> State {
        let path = self.path(request);
        let Ok(bytes) = std::fs::read(&path) else {
            return State::Missing;
        };
        let size = |image: &RgbImage| (image.height() as usize, image.width() as usize);
        let Ok(size) = image::decode(&bytes, &path).map(|image| size(&image)) else {
            return State::Damaged;
        };
        let text = png::parameters(&bytes);
        match text.is_some_and(|text| text == parameters.text(request)) && size == request.generation.size {
            true => State::Same,
            false => State::Other,
        }
    }

    /// A row of `metadata.jsonl`.
    pub(super) fn row(&self, request: &Request, parameters: &Parameters) -> Value {
        let prompt = &self.prompts[request.number as usize / self.images_per_prompt];
        parameters.row(file_name(request.number), request, &prompt.rest)
    }

    /// Writes `metadata.jsonl`: rows of other images that are still there stay, after the new ones.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] where the old file is damaged.
    pub(super) fn write_rows(&self, rows: &[Value]) -> Result<()> {
        let path = self.out.join("metadata.jsonl");
        let name = |row: &Value| row["file_name"].as_str().unwrap_or_default().to_owned();
        let new: BTreeSet<String> = rows.iter().map(name).collect();
        let mut all = rows.to_vec();
        if path.exists() {
            let old = jsonl::read::<Value>(&path)?.into_iter().map(|(_, row)| row);
            all.extend(old.filter(|row| !new.contains(&name(row)) && self.out.join(name(row)).is_file()));
        }
        jsonl::write(&path, &all)
    }

    /// Tells `observer` that an image is there.
    pub(super) fn report(&self, request: &Request, row: &Value, steps: usize, kept: bool, observer: &mut dyn Observer) {
        observer.finished(&Finished { path: self.path(request), row, steps, kept });
    }
}

/// The name of an image by its number.
pub fn file_name(number: u64) -> String {
    format!("{number:05}.png")
}
