//! A folder of pictures, `NNNNN.png`, with `metadata.jsonl`: what belongs into it, and what is there already.

use std::path::Path;

use ::image::RgbImage;
use serde_json::Value;

use super::draw::{Drawing, Job};
use super::parameters::Parameters;
use crate::data::prompts::Prompt;
use crate::error::Result;
use crate::formats::{image, jsonl, png};

/// Keys of a prompt's record that the rows of `metadata.jsonl` set themselves.
const OWN_KEYS: [&str; 4] = ["file_name", "text", "seed", "index"];

/// What is drawn into a folder.
pub struct PictureFolder<'a> {
    pub out: &'a Path,
    pub drawing: &'a Drawing<'a>,
    pub parameters: &'a Parameters,
    pub prompts: &'a [Prompt],
    pub images_per_prompt: usize,
    /// Read prompts of more than 75 tokens whole.
    pub long_prompts: bool,
    pub batch_size: usize,
}

/// Who is told while pictures are drawn.
pub trait Artist {
    /// A step was done for so many pictures. An error stops the work; what was finished is kept.
    ///
    /// # Errors
    /// [`crate::Error::Interrupted`] to stop.
    fn stepped(&mut self, pictures: usize) -> Result<()>;

    /// These pictures are there, `kept` from before.
    fn finished(&mut self, jobs: &[Job], kept: bool);
}

impl PictureFolder<'_> {
    /// A job a picture, and how many prompts are longer than the text encoder reads at once.
    ///
    /// # Errors
    /// As [`crate::data::tokenizer::Tokenizer::tokens`].
    pub fn jobs(&self) -> Result<(Vec<Job>, usize)> {
        let mut jobs = Vec::new();
        let mut long = 0;
        for prompt in self.prompts {
            let parts = self.drawing.model.text.parts(&prompt.text)?;
            long += usize::from(parts > 1);
            for _ in 0..self.images_per_prompt {
                jobs.push(Job {
                    index: jobs.len() as u64,
                    prompt: prompt.text.clone(),
                    parts: if self.long_prompts { parts } else { 1 },
                });
            }
        }
        Ok((jobs, long))
    }

    /// Draws `jobs`; with `resume`, what is not there yet. A batch with a picture missing is drawn whole, so that a resumed
    /// run gives the bytes of an unbroken one. `metadata.jsonl` is written last.
    ///
    /// # Errors
    /// As [`Drawing::draw`]; [`crate::Error::Io`].
    pub fn draw(&self, jobs: &[Job], resume: bool, artist: &mut dyn Artist) -> Result<()> {
        for batch in batches(jobs, self.batch_size) {
            let kept = resume && batch.iter().all(|job| self.is_drawn(job));
            if !kept {
                let pictures = self.drawing.draw(batch, || artist.stepped(batch.len()))?;
                for (job, picture) in batch.iter().zip(&pictures) {
                    png::save(&self.out.join(file_name(job)), picture, Some(&self.parameters.text(job)))?;
                }
            }
            artist.finished(batch, kept);
        }
        let rows: Vec<Value> = jobs.iter().map(|job| self.row(job)).collect();
        jsonl::write(&self.out.join("metadata.jsonl"), &rows)
    }

    /// Whether the picture on disk decodes and was made with these very settings.
    fn is_drawn(&self, job: &Job) -> bool {
        let path = self.out.join(file_name(job));
        let Ok(bytes) = std::fs::read(&path) else {
            return false;
        };
        let fits = |picture: &RgbImage| (picture.height() as usize, picture.width() as usize) == self.drawing.size;
        png::parameters(&bytes).is_some_and(|text| text == self.parameters.text(job))
            && image::decode(&bytes, &path).is_ok_and(|picture| fits(&picture))
    }

    /// A row of `metadata.jsonl`, with what else the prompt's own record said.
    pub fn row(&self, job: &Job) -> Value {
        let seed = self.drawing.seed;
        let mut row = serde_json::json!({
            "file_name": file_name(job), "text": job.prompt, "seed": seed, "index": job.index,
        });
        let prompt = &self.prompts[job.index as usize / self.images_per_prompt];
        for (key, value) in prompt.rest.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str())) {
            row[key] = value.clone();
        }
        row
    }
}

/// Consecutive jobs, at most `size` and all of as many parts: what belongs together depends on the list alone.
fn batches(jobs: &[Job], size: usize) -> impl Iterator<Item = &[Job]> {
    jobs.chunk_by(|a, b| a.parts == b.parts).flat_map(move |same| same.chunks(size))
}

/// Where a job's picture is.
pub fn file_name(job: &Job) -> String {
    format!("{:05}.png", job.index)
}
