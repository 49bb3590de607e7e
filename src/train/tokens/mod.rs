//! Learns embeddings of new tokens (textual inversion, Gal et al. 2022, arXiv:2208.01618), alone or together with a LoRA as
//! Diff-Mix does (Wang et al. 2024, arXiv:2403.19600). The text encoders stay as they are: gradients flow through them into
//! the new rows, whose norm is not clipped.

mod start;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::branches::Branches;
use super::checkpoint::{self, RunIdentity};
use super::config::TrainConfig;
use super::folder::OutputFolder;
use super::metrics::Metrics;
use super::parameters::FlatParameters;
use super::preparation::Preparation;
use super::saved::SavedLoras;
use super::step::Objective;
use super::watcher::{StepReport, Watcher};
use crate::autograd::Tape;
use crate::data::examples::Examples;
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::formats::embeddings::{Embedding, Embeddings};
use crate::formats::model_dir::ModelDir;
use crate::generate::TextEncoders;
use crate::lora::state;
use crate::nn::UNet;
use crate::ops::optimizer::AdamW;
use crate::tensor::Tensor;
use start::SETTINGS;

/// The result, in the run's folder.
pub const EMBEDDINGS: &str = "learned_embeds.safetensors";

/// What is learned besides the settings of the run.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TokenSettings {
    pub tokens: Vec<String>,
    /// The class of each token, where tokens are those of classes.
    pub classes: Vec<String>,
    /// A text whose tokens' mean the vectors start from.
    pub init: Init,
    /// Vectors of each token.
    pub vectors: usize,
    /// Learning rate of the vectors; it follows the schedule of the run.
    pub lr: f64,
    /// Train a LoRA at the same time.
    pub lora: bool,
}

/// Where new vectors start.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Init {
    /// The mean of the embeddings of a text's tokens.
    Text(String),
    /// As Diff-Mix has it.
    DiffMix,
}

/// New tokens in training.
pub struct TokenTrainer {
    config: TrainConfig,
    settings: TokenSettings,
    folder: OutputFolder,
    unet: UNet,
    encoders: TextEncoders,
    /// Windows that every caption is encoded in.
    windows: usize,
    examples: Examples,
    objective: Objective,
    timesteps: Range<u32>,
    rows: FlatParameters,
    lora: Option<(FlatParameters, Branches, SavedLoras)>,
    run: RunIdentity,
    metrics: Metrics,
}

impl TokenTrainer {
    /// Loads the networks of a run prepared by [`Preparation::with_tokens`], and with `resume` goes on from its newest state.
    ///
    /// # Errors
    /// [`Error::File`] for a state of another run.
    pub fn new(prepared: Preparation, settings: TokenSettings, vocab: Option<&Path>, resume: bool) -> Result<Self> {
        let mut unet = prepared.load_unet()?;
        let files = ModelDir::open(Path::new(&prepared.config.model))?;
        let mut encoders = TextEncoders::load(&files, vocab, prepared.dtype)?;
        encoders.to(&unet.device())?;
        let embeddings = start::initial(&encoders, &settings)?;
        encoders.add(&embeddings, prepared.dtype)?;
        let Preparation { config, folder, examples, objective, run, state, start, dtype, .. } = prepared;
        unet.set_checkpointing(config.checkpointing);
        let added = encoders.encoders.iter().map(|encoder| encoder.model.added().expect("just added").clone());
        let (beta1, beta2) = (config.betas[0], config.betas[1]);
        let adamw = AdamW { betas: (beta1, beta2), eps: config.eps, weight_decay: config.weight_decay };
        let mut rows = FlatParameters::new(added.collect(), dtype, Box::new(adamw))?;
        let mut lora = None;
        if settings.lora {
            let branches = Branches::attach(&config, start.as_ref(), &mut unet, None, dtype)?;
            let mut flat =
                FlatParameters::grouped(branches.params(), &branches.lr_factors(), dtype, |_| Ok(Box::new(adamw)))?;
            if let (None, Some(start)) = (&state, &start) {
                flat.set_values(branches.values(start)?)?;
            }
            lora = Some((flat, branches, SavedLoras::new(&config, &examples)?));
        }
        start::resume_from(&folder, resume, &settings, &run, state.as_ref(), &mut rows, &mut lora)?;
        let windows = match config.long_prompts {
            true => start::longest(&encoders, &examples)?,
            false => 1,
        };
        let timesteps = config.timesteps(objective.schedule.alphas_cumprod.len() as u32)?;
        atomic::write_bytes(&folder.join("config.toml"), config.to_toml()?.as_bytes())?;
        let metrics = Metrics::resume(&folder.join("metrics.jsonl"), rows.step)?;
        Ok(Self {
            config,
            settings,
            folder,
            unet,
            encoders,
            windows,
            examples,
            objective,
            timesteps,
            rows,
            lora,
            run,
            metrics,
        })
    }

    /// Steps already done.
    pub fn step(&self) -> u64 {
        self.rows.step
    }

    /// Values of embeddings, and of the LoRA.
    pub fn trained(&self) -> [usize; 2] {
        [self.rows.len(), self.lora.as_ref().map_or(0, |(flat, ..)| flat.len())]
    }

    /// The files that are written.
    pub fn results(&self) -> Vec<PathBuf> {
        let lora = self.lora.as_ref().map(|(_, _, saved)| saved.result().to_path_buf());
        std::iter::once(self.folder.join(EMBEDDINGS)).chain(lora).collect()
    }

    /// Trains to the last step.
    ///
    /// # Errors
    /// [`Error::Failed`] where the loss is no longer a number; [`Error::Interrupted`] after a stop, with the state saved.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let steps = self.config.steps;
        while self.rows.step < steps {
            let report = self.one_step()?;
            if !(report.loss.is_finite() && report.grad_norm.is_finite()) {
                let message = "the loss or its gradient is no longer a number";
                let message = format!("{message} at step {}; lower --lr and --embedding-lr", report.step);
                return Err(Error::Failed(message));
            }
            let values = [("loss", report.loss), ("lr", report.lr), ("grad_norm", report.grad_norm)];
            self.metrics.append(report.step, &values)?;
            watcher.step(&report);
            let (step, stopped) = (report.step, watcher.stopped());
            if stopped || step == steps || step.is_multiple_of(self.config.save_every) {
                self.save()?;
            }
            if stopped && step < steps {
                return Err(Error::Interrupted(format!(
                    "stopped after step {step} of {steps}, which is saved; the same command with --resume goes on"
                )));
            }
        }
        // Also where everything had been done before.
        self.save_results()
    }

    fn one_step(&mut self) -> Result<StepReport> {
        let texts = self.config.grad_accum as u64;
        let (factor, first) = (1.0 / texts as f64, self.rows.step * texts);
        let device = self.unet.device();
        let mut leaves = self.rows.leaves();
        leaves.extend(self.lora.iter().flat_map(|(flat, ..)| flat.leaves()));
        let mut loss = 0.0;
        for number in first..first + texts {
            let captions = self.examples.captions(number);
            let mut batch = self.examples.batch(number, self.timesteps.clone())?;
            let tape = Tape::watching(&leaves);
            let states = self.encoders.encode_on(&tape, &captions, 0, self.windows)?;
            if let (Some(added), Some(pooled)) = (&mut batch.added, states.pooled) {
                added.text_embeds = pooled;
            }
            let mut prepared = self.objective.prepare(&batch)?;
            for tensor in prepared.tensors() {
                *tensor = tensor.to(&device)?;
            }
            let one = self.rows.loss_scale();
            let context = &states.context;
            let computed = self.objective.differentiate_on(tape, &self.unet, &prepared, context, factor, one)?;
            loss += computed.loss.to_cpu()?.item() * factor;
            self.rows.accumulate(&computed.gradients)?;
            if let Some((flat, ..)) = &mut self.lora {
                flat.accumulate(&computed.gradients)?;
            }
        }
        let c = &self.config;
        let lr = c.schedule().at(self.rows.step);
        let own = self.rows.update(lr * self.settings.lr / c.lr, 0.0)?;
        let grad_norm = match &mut self.lora {
            Some((flat, ..)) => flat.update(lr, c.max_grad_norm)?,
            None => own,
        };
        Ok(StepReport { step: self.rows.step, loss, grad_norm, loss_scale: None, lr })
    }

    /// The embeddings of the present step.
    ///
    /// # Errors
    /// What a GPU says.
    pub fn embeddings(&self) -> Result<Embeddings> {
        let master = self.rows.master()?;
        let (mut all, mut first): (Vec<Embedding>, usize) = (Vec::new(), 0);
        for param in self.rows.params() {
            let [_, width] = param.get().dims("embeddings")?;
            let len = self.settings.vectors * width;
            for (number, token) in self.settings.tokens.iter().enumerate() {
                let values = master.data::<f32>()[first..first + len].to_vec();
                let rows = Tensor::new(values, &[self.settings.vectors, width]);
                match all.get_mut(number) {
                    Some(embedding) => embedding.rows.push(rows),
                    None => all.push(Embedding { token: token.clone(), rows: vec![rows] }),
                }
                first += len;
            }
        }
        let classes = self.settings.classes.iter().cloned().zip(self.settings.tokens.iter().cloned());
        Ok(Embeddings { all, classes: classes.collect() })
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        // First, and one more than of the LoRA: a killed run has the embeddings of every state of its LoRA.
        let tokens = BTreeMap::from([(SETTINGS.to_owned(), serde_json::json!(self.settings).to_string())]);
        let keep = self.config.keep + 1;
        checkpoint::save_with(&start::states(&self.folder), &self.rows, &self.run, keep, &tokens)?;
        if let Some((flat, branches, _)) = &self.lora {
            let layers = BTreeMap::from([(state::LAYERS.to_string(), state::describe(&branches.layers()))]);
            checkpoint::save_with(&self.folder.states(), flat, &self.run, self.config.keep, &layers)?;
        }
        self.save_results()
    }

    fn save_results(&self) -> Result<()> {
        let step = BTreeMap::from([("selma.step".to_owned(), self.rows.step.to_string())]);
        self.embeddings()?.write(&self.folder.join(EMBEDDINGS), &step)?;
        match &self.lora {
            None => Ok(()),
            Some((flat, branches, saved)) => {
                saved.write(saved.result(), branches.expert(flat.master()?.data())?, flat.step)
            }
        }
    }
}
