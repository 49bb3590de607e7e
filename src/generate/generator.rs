//! The one way from prompts to a folder of images: a model is loaded once, takes LoRAs on and off, and fills folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use serde_json::Value;

use super::StableDiffusion;
use super::folder::{Existing, Finished, Folder};
use super::generation::{Generation, Start};
use super::loras::{self, Strength};
use super::parameters::{Parameters, Sources};
use super::plan::Workload;
use super::request::Request;
use super::webui::{Syntax, Weighted, has_marks};
use crate::data::image_latents::ImageLatents;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::formats::content_hash;
use crate::formats::embeddings::Embeddings;
use crate::formats::model_dir::{self, ModelDir};
use crate::formats::{atomic, png};
use crate::lora;
use crate::lora::gate::GateFile;
use crate::tensor::DType;

/// Where a generator's networks come from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub model: PathBuf,
    /// Another VAE: its folder or file, or a model that has it.
    pub vae: Option<PathBuf>,
    /// Folder with `vocab.json` and `merges.txt`, for a model without its own.
    pub vocab: Option<PathBuf>,
    /// What the UNet predicts, where the model's scheduler says something else.
    pub prediction: Option<String>,
    /// Files of learned embeddings, whose tokens prompts can use.
    pub embeddings: Vec<PathBuf>,
}

/// A model with its LoRAs.
pub struct Generator {
    pub model: StableDiffusion,
    source: Source,
    loras: Vec<Strength>,
    /// Those that the latest images' prompt named beside them.
    named: Vec<Strength>,
    allow_unused: bool,
    /// The file of the gate that weighs them.
    gate: Option<PathBuf>,
    /// The image that all images start from, and the share of the schedule that runs on it.
    start: Option<(RgbImage, f64)>,
}

/// Who is told while images are generated.
pub trait Observer {
    /// A sentence to read.
    fn note(&mut self, text: &str);

    /// So many images belong to the folder, of so many sampler steps in all.
    fn begin(&mut self, _images: usize, _steps: usize) {}

    /// A step was done for so many images. An error stops the work; what was finished is kept.
    ///
    /// # Errors
    /// [`Error::Interrupted`] to stop.
    fn stepped(&mut self, images: usize) -> Result<()>;

    /// An image is there.
    fn finished(&mut self, image: &Finished);
}

impl Generator {
    /// Loads the networks on the CPU. `note` is told what is unusual about the model.
    ///
    /// # Errors
    /// As [`StableDiffusion::load`]; [`Error::File`] for a VAE that does not fit.
    pub fn load(source: Source, dtype: DType, note: &mut dyn FnMut(&str)) -> Result<Self> {
        let files = ModelDir::open(&source.model)?;
        files.notes.iter().for_each(|text| note(text));
        let (vae, vocab) = (source.vae.as_deref(), source.vocab.as_deref());
        let mut model = StableDiffusion::load_with(&source.model, vae, vocab, dtype)?;
        if let Some(name) = &source.prediction {
            model.scheduler["prediction_type"] = name.as_str().into();
        }
        for path in &source.embeddings {
            let embeddings = Embeddings::read(path)?;
            model.text.add(&embeddings.all, dtype).map_err(|e| Error::file(path, e.to_string()))?;
        }
        Ok(Self { model, source, loras: Vec::new(), named: Vec::new(), allow_unused: false, gate: None, start: None })
    }

    /// Moves every network to `device`. LoRAs that are applied later go there too.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        self.model.to(device)
    }

    /// Takes these LoRAs on, and all others off. `note` is told what was applied.
    ///
    /// # Errors
    /// As [`crate::lora::load`] and [`StableDiffusion::apply`].
    pub fn with_loras(
        &mut self,
        loras: Vec<Strength>,
        allow_unused: bool,
        note: &mut dyn FnMut(String),
    ) -> Result<&mut Self> {
        self.model.take_off();
        loras::apply(&loras, &self.source.model, allow_unused, &mut self.model, note)?;
        (self.loras, self.gate) = (loras, None);
        (self.named, self.allow_unused) = (Vec::new(), allow_unused);
        Ok(self)
    }

    /// Takes the LoRAs that a prompt names on, beside those of all images, and those of the prompt before it off.
    fn put_on(&mut self, named: &[Strength], observer: &mut dyn Observer) -> Result<()> {
        if self.named == named {
            return Ok(());
        }
        let all: Vec<Strength> = self.loras.iter().chain(named).cloned().collect();
        self.model.take_off();
        // What was said of them once need not be said for each prompt.
        let mut note = |text: String| {
            if text.starts_with("warning") {
                observer.note(&text)
            }
        };
        loras::apply(&all, &self.source.model, self.allow_unused, &mut self.model, &mut note)?;
        self.named = named.to_vec();
        Ok(())
    }

    /// Takes the experts of a gate on, weighed by it for each prompt, and all other LoRAs off.
    ///
    /// # Errors
    /// [`Error::File`] where `loras` are not the gate's experts; [`Error::Usage`] for strengths; as
    /// [`StableDiffusion::apply_gated`].
    pub fn with_gate(&mut self, gate: &Path, loras: Vec<Strength>, allow_unused: bool) -> Result<&mut Self> {
        let file = GateFile::read(gate)?;
        let paths: Vec<PathBuf> = loras.iter().map(|lora| lora.path.clone()).collect();
        file.check(gate, &paths)?;
        if let Some(lora) = loras.iter().find(|lora| lora.scale != 1.0) {
            let message = format!("{}: a gate weighs its experts itself; give no strength", lora.path.display());
            return Err(Error::Usage(message));
        }
        self.model.take_off();
        let base = lora::base::modules(&self.source.model)?;
        let experts = paths.iter().map(|path| lora::load(path, Some(&base), allow_unused));
        let experts: Vec<lora::Loaded> = experts.collect::<Result<_>>()?;
        let experts: Vec<&lora::Expert> = experts.iter().map(|loaded| &loaded.expert).collect();
        self.model.apply_gated(&experts, file.gates).map_err(|e| Error::file(gate, e.to_string()))?;
        (self.loras, self.gate) = (loras, Some(gate.into()));
        Ok(self)
    }

    /// All images start from this one, with `strength` of the schedule still to run.
    pub fn starting_from(&mut self, image: RgbImage, strength: f64) -> &mut Self {
        self.start = Some((image, strength));
        self
    }

    /// What tells the VAE from others, as [`ImageLatents`] keeps it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn vae_identity(&self) -> Result<String> {
        let folder = match &self.source.vae {
            Some(vae) => model_dir::vae_folder(vae)?,
            None => ModelDir::open(&self.source.model)?.vae,
        };
        content_hash::of_folders(&[folder])
    }

    /// The files of the LoRAs that are on.
    pub fn loras(&self) -> impl Iterator<Item = &Path> {
        self.loras.iter().map(|lora| lora.path.as_path())
    }

    /// The images that belong into a folder, every setting checked, and how many prompts are cut at 75 tokens.
    ///
    /// # Errors
    /// As [`Request::new`] and [`Generation::check`]; [`Error::Failed`] for a text that cannot be read as tokens.
    pub fn requests(&self, folder: &Folder) -> Result<(Vec<Request>, usize)> {
        let settings = folder.settings;
        let shared = Generation::new(settings, folder.seed, &self.model);
        let strength = self.strength();
        shared.check(&self.model, strength)?;
        let copies = folder.images_per_prompt;
        let mut requests: Vec<Request> = Vec::new();
        let mut cut = 0;
        for (place, prompt) in folder.prompts.iter().enumerate() {
            let parts = self.model.text.parts(&prompt.text)?;
            cut += usize::from(parts > 1 && !settings.long_prompts && *folder.syntax == Syntax::Plain);
            for copy in 0..copies {
                let mut request = Request::new(prompt, [place, copy, copies], &shared)?;
                request.loras = folder.named.get(place).cloned().unwrap_or_default();
                let read = folder.syntax.read(&mut request);
                read.map_err(|error| Error::Usage(format!("prompt {}: {error}", place + 1)))?;
                if let Some(Weighted { positive, negative }) = &request.weighted {
                    request.parts = self.model.text.weighted_parts(positive)?;
                    if let Some(negative) = negative {
                        request.parts = request.parts.max(self.model.text.weighted_parts(negative)?);
                    }
                } else if settings.long_prompts {
                    let negative = request.generation.negative.as_deref().map(|text| self.model.text.parts(text));
                    request.parts = parts.max(negative.transpose()?.unwrap_or(1));
                }
                if copy == 0 && request.generation != shared {
                    let checked = request.generation.check(&self.model, strength);
                    checked.map_err(|error| Error::Usage(format!("prompt {}: {error}", place + 1)))?;
                }
                requests.push(request);
            }
        }
        Ok((requests, cut))
    }

    /// Says what memory the images of `folder` will take on `gpu`, with `loras` that are not on yet, and reserves it.
    ///
    /// # Errors
    /// As [`Generator::requests`] and [`Workload::reserve`].
    pub fn reserve(
        &self,
        folder: &Folder,
        loras: &[Strength],
        from_image: bool,
        gpu: &Gpu,
        note: &mut dyn FnMut(String),
    ) -> Result<()> {
        let (requests, _) = self.requests(folder)?;
        let worn = |request: &Request| loras.iter().chain(&request.loras).cloned().collect::<Vec<_>>();
        let groups: Vec<(&[Request], Vec<Strength>)> =
            requests.chunk_by(Request::fits).map(|some| (some, worn(&some[0]))).collect();
        let mut largest: Option<(u64, Workload)> = None;
        for (some, loras) in &groups {
            let batch = some.len().min(folder.settings.batch_size);
            let generation = some[0].generation.clone();
            let parts = some[0].parts;
            let workload = Workload { model: &self.model, generation, loras, batch, parts, from_image };
            let peak = workload.plan()?.peak();
            if largest.as_ref().is_none_or(|(most, _)| peak > *most) {
                largest = Some((peak, workload));
            }
        }
        largest.map_or(Ok(()), |(_, workload)| workload.reserve(gpu, note))
    }

    /// Fills a folder. A batch with an image missing is generated whole, so that a resumed run gives the bytes of an unbroken
    /// one. `metadata.jsonl` is written last.
    ///
    /// # Errors
    /// [`Error::File`] for what is in the way; those of [`Generator::requests`] and of the networks; [`Error::Io`]; what
    /// `observer` stops the work by.
    pub fn generate(&mut self, folder: &Folder, observer: &mut dyn Observer) -> Result<()> {
        let (requests, cut) = self.requests(folder)?;
        if self.gate.is_some() && requests.iter().any(|request| request.weighted.is_some()) {
            let message = "--gate reads the words of a plain prompt; it does not go with --prompt-syntax webui";
            return Err(Error::Usage(message.into()));
        }
        let sources = Sources {
            model: Some(&self.source.model),
            vae: self.source.vae.as_deref(),
            loras: &self.loras,
            gate: self.gate.as_deref(),
            inputs: &folder.inputs,
            strength: self.strength(),
            training: "",
        };
        let parameters = Parameters::new(&self.model.scheduler, self.model.dtype, &sources, &requests)?;
        folder.check(&requests, &parameters)?;
        atomic::create_folder(folder.out)?;
        if folder.existing == Existing::Resume {
            atomic::remove_leftovers(folder.out)?;
        }
        self.warn(folder, &requests, cut, observer)?;
        let networks = self.model.networks();
        let calls = |request: &Request| request.generation.network_calls(networks, self.strength());
        let steps: Vec<usize> = requests.iter().map(calls).collect::<Result<_>>()?;
        observer.begin(requests.len(), steps.iter().sum());
        let rows: Vec<Value> = requests.iter().map(|request| folder.row(request, &parameters)).collect();
        let mut start = None;
        let mut done = 0;
        for batch in batches(&requests, folder.settings.batch_size) {
            let kept = batch.iter().all(|request| folder.keeps(request, &parameters));
            if !kept {
                self.put_on(&batch[0].loras, observer)?;
                let start = self.start(&mut start, batch[0].generation.size)?;
                let (latents, images) = self.model.images(batch, start, || observer.stepped(batch.len()))?;
                let latents = latents.to_cpu()?.cast(DType::F32);
                for (i, (request, image)) in batch.iter().zip(&images).enumerate() {
                    let path = folder.path(request);
                    png::save(&path, image, Some(&parameters.text(request)))?;
                    if let Some(vae) = &folder.latents {
                        let own = latents.view(i * latents.len() / images.len(), &latents.shape()[1..]);
                        ImageLatents::write(own, self.model.vae.config.scaling_factor, vae, &path)?;
                    }
                }
            }
            for request in batch {
                folder.report(request, &rows[done], steps[done], kept, observer);
                done += 1;
            }
        }
        folder.write_rows(&rows)
    }

    fn strength(&self) -> Option<f64> {
        self.start.as_ref().map(|(_, strength)| *strength)
    }

    /// The image to start from at `size`; the last one is kept, since most images have the same size.
    fn start<'a>(
        &self,
        kept: &'a mut Option<((usize, usize), Start)>,
        size: (usize, usize),
    ) -> Result<Option<&'a Start>> {
        let Some((image, strength)) = &self.start else {
            return Ok(None);
        };
        if kept.as_ref().is_none_or(|(of, _)| *of != size) {
            *kept = Some((size, Start::new(&self.model, image, size, *strength)?));
        }
        Ok(kept.as_ref().map(|(_, start)| start))
    }

    /// Says what of the prompts is not used, and that some bring settings of their own.
    fn warn(&self, folder: &Folder, requests: &[Request], cut: usize, observer: &mut dyn Observer) -> Result<()> {
        let prompts = folder.prompts.len();
        if *folder.syntax == Syntax::Plain && folder.prompts.iter().any(|prompt| has_marks(&prompt.text)) {
            observer.note(
                "note: prompts have marks such as (word:1.3), BREAK or <lora:name>, which are plain text here; --prompt-syntax \
                 webui reads them",
            );
        }
        if cut > 0 {
            observer.note(&format!(
                "warning: {cut} of {prompts} prompts are longer than the 75 tokens that the text encoder reads; the rest of \
                 their words is left out (--long-prompts reads them whole)"
            ));
        }
        let negatives: BTreeSet<&str> = requests.iter().filter_map(|r| r.generation.negative.as_deref()).collect();
        let mut long = false;
        let cuts = !folder.settings.long_prompts && *folder.syntax == Syntax::Plain;
        for text in negatives.into_iter().filter(|_| cuts) {
            long |= self.model.text.parts(text)? > 1;
        }
        if long {
            observer.note("warning: a negative prompt is longer than 75 tokens; the rest of its words is left out");
        }
        let shared = Generation::new(folder.settings, folder.seed, &self.model);
        let own = requests.iter().step_by(folder.images_per_prompt);
        // A choice in the negative prompt is not a setting.
        let own = own.filter(|request| request.weighted.is_none() && request.generation != shared).count();
        if own > 0 && folder.named.is_empty() {
            observer.note(&format!(
                "{own} of {prompts} prompts have settings of their own, which replace those of the command; metadata.jsonl \
                 has what was used"
            ));
        }
        Ok(())
    }
}

/// Consecutive requests that fit, at most `size`: what belongs together depends on the list alone.
fn batches(requests: &[Request], size: usize) -> impl Iterator<Item = &[Request]> {
    requests.chunk_by(Request::fits).flat_map(move |same| same.chunks(size))
}
