//! Trains the gate of a merge on frozen experts: which share of each a text gets, from the denoising loss and a term that
//! keeps the experts in use.

mod state;

use std::path::Path;

use super::config::TrainConfig;
use super::preparation::Preparation;
use super::watcher::{StepReport, Watcher};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::lora::gate::{Gate, GateFile, Gates, MixedLayer, Mixture, Origin, balance, balance_gradient, pooled};
use crate::lora::{Expert, Loaded};
use crate::ops::optimizer::{self, AdamW, Parameters, Progress, Step};
use crate::tensor::{DType, Tensor};

/// Steps between saved states.
const SAVE_EVERY: u64 = 25;

/// What decides a gate besides the experts and the settings of its run.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSettings {
    /// Weight of the balance term in the loss.
    pub balance: f64,
    /// A gate for each layer instead of one for all.
    pub per_layer: bool,
}

/// A gate in training, and all that it is trained with.
pub struct GateTrainer {
    prepared: Preparation,
    settings: GateSettings,
    mixture: Mixture,
    unet: crate::nn::UNet,
    /// B of each layer's experts side by side with their scales, and the expert of each column.
    ups: Vec<(Vec<f32>, Vec<usize>)>,
    tokenizer: Tokenizer,
    experts: Vec<Origin>,
    state: State,
    width: usize,
}

/// How far the training is.
struct State {
    step: u64,
    adamw: AdamW,
    /// Values f32 `[n]`: for each gate `[T, width + 1]`, a row an expert, its bias last.
    parameters: Parameters,
}

impl State {
    /// Gates of zeros.
    fn new(len: usize, config: &TrainConfig) -> Result<Self> {
        let (beta1, beta2) = (config.betas[0], config.betas[1]);
        let adamw = AdamW { betas: (beta1, beta2), eps: config.eps, weight_decay: config.weight_decay };
        let parameters = Parameters::new(Tensor::zeros(&[len], DType::F32), DType::F32, &adamw)?;
        Ok(Self { step: 0, adamw, parameters })
    }

    fn update(&mut self, gradient: Vec<f64>, lr: f64) -> Result<()> {
        let gradient = Tensor::from_reals(gradient, self.parameters.values.shape(), DType::F32);
        let one = |value: f64| Tensor::new(vec![value], &[1]);
        let mut progress = Progress { updates: self.step, ..Progress::new(DType::F32) }.tensor();
        let (factor, lr) = (one(1.0), one(lr));
        let step = Step { gradient: &gradient, factor: &factor, lr: &lr, progress: &mut progress, interval: 0 };
        optimizer::update(&self.adamw, &mut self.parameters, step)?;
        self.step += 1;
        Ok(())
    }
}

/// What one text did: the shares that each gate gave, and the loss's gradient for them.
struct Sample {
    h: Vec<f64>,
    shares: Vec<Vec<f64>>,
    of_shares: Vec<Vec<f64>>,
}

/// How a training ended.
pub struct Outcome {
    pub file: GateFile,
    /// Of the last step: its loss without the balance term, and that term's value (0: all experts alike).
    pub loss: f64,
    pub balance: f64,
    /// Mean share of each expert in the last step.
    pub shares: Vec<f64>,
}

impl GateTrainer {
    /// `prepared`: a run of micro-batches of one text. With `resume` the state in its folder is gone on from.
    ///
    /// # Errors
    /// [`Error::Failed`] for experts that do not fit the model, or have nothing in its UNet; [`Error::File`] for a state of
    /// another run.
    pub fn new(
        prepared: Preparation,
        loaded: &[Loaded],
        settings: GateSettings,
        vocab: Option<&Path>,
        resume: bool,
    ) -> Result<Self> {
        let mut prepared = prepared;
        let mut unet = prepared.load_unet()?;
        let experts: Vec<&Expert> = loaded.iter().map(|lora| &lora.expert).collect();
        let mixture = Mixture::attach(&experts, &mut unet, prepared.dtype)?;
        let files = ModelDir::open(Path::new(&prepared.config.model))?;
        let tokenizer = Tokenizer::load_with_vocab(&files.tokenizer, vocab.unwrap_or(&files.tokenizer))?;
        let width = prepared.examples.conditions("")?.context.shape()[2];
        let gates = if settings.per_layer { mixture.layers().len() } else { 1 };
        let mut trainer = Self {
            state: State::new(gates * loaded.len() * (width + 1), &prepared.config)?,
            ups: mixture.layers().iter().map(columns).collect(),
            experts: loaded.iter().map(|lora| Origin::of(&lora.path)).collect::<Result<_>>()?,
            width,
            prepared,
            settings,
            mixture,
            unet,
            tokenizer,
        };
        let path = trainer.state_path();
        match (path.exists(), resume) {
            (false, _) => Ok(()),
            (true, true) => trainer.restore(&path),
            (true, false) => Err(Error::file(
                &path,
                "is the state of an earlier training; go on with it by --resume, or choose another --out",
            )),
        }?;
        Ok(trainer)
    }

    /// Steps already done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Values that are trained.
    pub fn trained(&self) -> usize {
        self.state.parameters.values.len()
    }

    /// Trains to the last step.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after a stop, with the state saved; [`Error::Failed`] where the loss is no longer a number.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<Outcome> {
        let steps = self.prepared.config.steps;
        // A run that was done already takes its last step again for what it reports.
        let mut last = None;
        while self.state.step < steps || last.is_none() {
            let again = self.state.step == steps;
            let step = if again { steps - 1 } else { self.state.step };
            let (samples, loss) = self.samples(step)?;
            let means = self.means(&samples);
            let penalty =
                means.iter().map(|mean| balance(std::slice::from_ref(mean))).sum::<f64>() / means.len() as f64;
            if !loss.is_finite() {
                let message = format!("the loss is no longer a number at step {}; lower --lr", step + 1);
                return Err(Error::Failed(message));
            }
            if !again {
                let (grad_norm, lr) = self.update(&samples, &means)?;
                let total = loss + self.settings.balance * penalty;
                watcher.step(&StepReport { step: step + 1, loss: total, grad_norm, loss_scale: None, lr });
                let stopped = watcher.stopped();
                if stopped || self.state.step.is_multiple_of(SAVE_EVERY) || self.state.step == steps {
                    self.save()?;
                }
                if stopped && self.state.step < steps {
                    let message = format!(
                        "stopped after step {} of {steps}, which is saved; the same command with --resume goes on",
                        self.state.step
                    );
                    return Err(Error::Interrupted(message));
                }
            }
            last = Some((loss, penalty, means));
        }
        let (loss, balance, means) = last.expect("a run has a step");
        let experts = self.experts.len();
        let shares = (0..experts).map(|t| means.iter().map(|mean| mean[t]).sum::<f64>() / means.len() as f64).collect();
        Ok(Outcome { file: self.file(), loss, balance, shares })
    }

    /// The gates of the present step.
    pub fn file(&self) -> GateFile {
        let gates = match self.settings.per_layer {
            false => Gates::Shared(self.gate(0)),
            true => {
                let named = self.mixture.layers().iter().enumerate();
                Gates::Layers(named.map(|(i, layer)| (layer.name.clone(), self.gate(i))).collect())
            }
        };
        GateFile { experts: self.experts.clone(), gates }
    }

    fn gates(&self) -> usize {
        if self.settings.per_layer { self.mixture.layers().len() } else { 1 }
    }

    fn gate(&self, number: usize) -> Gate {
        let len = self.experts.len() * (self.width + 1);
        Gate::from_rows(&self.state.parameters.values.data()[number * len..][..len], self.experts.len(), self.width)
    }

    /// The texts of one step, and their mean loss.
    fn samples(&mut self, step: u64) -> Result<(Vec<Sample>, f64)> {
        let texts = self.prepared.config.grad_accum as u64;
        let gates: Vec<Gate> = (0..self.gates()).map(|number| self.gate(number)).collect();
        let (mut samples, mut loss) = (Vec::new(), 0.0);
        for number in step * texts..(step + 1) * texts {
            let (sample, of_sample) = self.sample(number, &gates)?;
            loss += of_sample / texts as f64;
            samples.push(sample);
        }
        Ok((samples, loss))
    }

    /// One text: its loss with the experts mixed as the gates say. The gradient for a share is that for B, times the
    /// expert's own B.
    fn sample(&mut self, number: u64, gates: &[Gate]) -> Result<(Sample, f64)> {
        let timesteps = self.prepared.objective.schedule.alphas_cumprod.len() as u32;
        let timesteps = self.prepared.config.timesteps(timesteps)?;
        let caption = self.prepared.examples.captions(number).concat();
        let batch = self.prepared.examples.batch(number, timesteps)?;
        let h = self.pooled(&caption, &batch.context)?;
        let shares: Vec<Vec<f64>> = gates.iter().map(|gate| gate.shares(&h)).collect();
        let gate_of = |layer: usize| if gates.len() == 1 { 0 } else { layer };
        let dtype = self.prepared.dtype;
        let device = self.unet.device();
        let mut leaves = Vec::new();
        for (number, (layer, (ups, of_column))) in self.mixture.layers().iter().zip(&self.ups).enumerate() {
            let shares = &shares[gate_of(number)];
            let rank = of_column.len();
            let mixed = ups.iter().enumerate().map(|(i, &b)| b * shares[of_column[i % rank]] as f32);
            let mixed = Tensor::new(mixed.collect::<Vec<f32>>(), &[ups.len() / rank, rank]);
            let mixed = mixed.cast(dtype).to(&device)?;
            layer.b.set(mixed.clone());
            leaves.push(mixed);
        }
        let one = Tensor::full(&[], 1.0, DType::F32).to(&device)?;
        let computed = self.prepared.objective.compute(&self.unet, &batch, &leaves, 1.0, one)?;
        let mut of_shares = vec![vec![0.0; self.experts.len()]; gates.len()];
        for (number, (leaf, (ups, of_column))) in leaves.iter().zip(&self.ups).enumerate() {
            let Some(gradient) = computed.gradients.get(leaf) else { continue };
            let gradient = gradient.to_cpu()?;
            let sums = &mut of_shares[gate_of(number)];
            for (i, (g, b)) in gradient.reals::<f32>().iter().zip(ups).enumerate() {
                sums[of_column[i % of_column.len()]] += f64::from(*g) * f64::from(*b);
            }
        }
        Ok((Sample { h, shares, of_shares }, computed.loss.to_cpu()?.item()))
    }

    fn pooled(&self, caption: &str, context: &Tensor) -> Result<Vec<f64>> {
        let own = match self.prepared.config.long_prompts {
            true => self.tokenizer.windows(caption)?,
            false => 1,
        };
        let ids = |window| match own {
            1 => self.tokenizer.encode(caption),
            _ => self.tokenizer.encode_window(caption, window),
        };
        let ids: Vec<Vec<i64>> = (0..own).map(|window| Ok(ids(window)?.ids)).collect::<Result<_>>()?;
        Ok(pooled(&context.reals::<f64>(), self.width, &ids, self.tokenizer.end()))
    }

    /// The mean shares of each gate over the texts of a step.
    fn means(&self, samples: &[Sample]) -> Vec<Vec<f64>> {
        let mean = |gate: usize, t: usize| {
            samples.iter().map(|sample| sample.shares[gate][t]).sum::<f64>() / samples.len() as f64
        };
        (0..self.gates()).map(|gate| (0..self.experts.len()).map(|t| mean(gate, t)).collect()).collect()
    }

    /// Moves the gates; the gradient's norm, and the learning rate.
    fn update(&mut self, samples: &[Sample], means: &[Vec<f64>]) -> Result<(f64, f64)> {
        let c = &self.prepared.config;
        let lr = c.schedule().at(self.state.step);
        let (gates, texts) = (means.len(), samples.len());
        let mut gradient = vec![0.0; self.state.parameters.values.len()];
        for (number, mean) in means.iter().enumerate() {
            let gate = self.gate(number);
            let of_balance = balance_gradient(mean, texts);
            let factor = self.settings.balance / gates as f64;
            let len = gradient.len() / gates;
            for sample in samples {
                let of_loss = sample.of_shares[number].iter().map(|d| d / texts as f64);
                let all: Vec<f64> = of_loss.zip(&of_balance).map(|(d, b)| d + factor * b).collect();
                let own = gate.gradient(&sample.h, &sample.shares[number], &all);
                gradient[number * len..].iter_mut().zip(own).for_each(|(sum, g)| *sum += g);
            }
        }
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        self.state.update(gradient, lr)?;
        Ok((norm, lr))
    }
}

/// B of a layer's experts side by side with their scales, row by row, and the expert of each column.
fn columns(layer: &MixedLayer) -> (Vec<f32>, Vec<usize>) {
    let of_column: Vec<usize> = layer.experts.iter().flat_map(|(t, f)| std::iter::repeat_n(*t, f.rank())).collect();
    let outputs = layer.experts[0].1.outputs();
    let mut ups = vec![0.0; outputs * of_column.len()];
    let mut first = 0;
    for (_, factors) in &layer.experts {
        let (rank, scale) = (factors.rank(), factors.scale() as f32);
        for (row, values) in factors.b.reals::<f32>().chunks_exact(rank).enumerate() {
            let place = &mut ups[row * of_column.len() + first..][..rank];
            place.iter_mut().zip(values).for_each(|(to, b)| *to = scale * b);
        }
        first += rank;
    }
    (ups, of_column)
}
