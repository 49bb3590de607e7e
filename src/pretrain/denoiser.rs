//! Text encoder and UNet, trained together.

use super::Pretraining;
use super::latents::{LATENT_LEN, Pairs, example};
use super::stage::{Recipe, Stage, StepOutput};
use super::text_probe;
use crate::autograd::Tape;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::diffusion::config::Class;
use crate::diffusion::{NoiseSchedule, Prediction, SchedulerConfig};
use crate::error::Result;
use crate::formats::content_hash;
use crate::generate::StableDiffusion;
use crate::nn::{AutoencoderKl, ClipText, Param, UNet};
use crate::ops;
use crate::shapes::careless::Careless;
use crate::shapes::model::{
    LATENT_CHANNELS, LATENT_SIDE, Networks, scheduler_config, text_config, unet_config, vocabulary_size,
};
use crate::shapes::rng::Rng;
use crate::shapes::vocabulary::tokenizer;
use crate::shapes::{Split, caption};
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};
use crate::train::checkpoint::RunIdentity;
use crate::train::watcher::Watcher;

/// The name of the last stage's states and records.
pub(super) const CARELESS: &str = "careless";
const BATCH: usize = 32;
/// Of the stage of careless captions.
const CARELESS_BATCH: usize = 16;
/// Share of captions that are replaced by the empty one, which guidance compares with.
const CAPTION_DROPOUT: f32 = 0.1;

pub(super) struct Denoiser<'a> {
    seed: u64,
    batch: usize,
    tokenizer: Tokenizer,
    /// How captions err; `None`: they are exact.
    careless: Option<Careless>,
    pub text: ClipText,
    pub unet: UNet,
    schedule: NoiseSchedule,
    prediction: Prediction,
    pairs: &'a Pairs,
}

/// Trains both networks, and writes the model's folder at every saved state. When the rate has fallen to 0 it rises again, to
/// half as much, and the averaged weights learn on, several times (warm restarts, Loshchilov & Hutter 2017, arXiv:1608.03983).
pub(super) fn train(run: &Pretraining, mut vae: AutoencoderKl, pairs: &Pairs, watcher: &mut dyn Watcher) -> Result<()> {
    vae.config.scaling_factor = pairs.scaling_factor;
    let mut denoiser = Denoiser::new(run.seed, BATCH, pairs, &run.device)?;
    let (text, unet, scheduler) = (text_config(vocabulary_size()), unet_config(), scheduler_config());
    let model = content_hash::of_bytes(format!("{text}{unet}{scheduler}").as_bytes());
    let mut settings =
        format!("seed = {}\ntext-steps = {}\nsteps = {}\npairs = {}\n", run.seed, run.text_steps, run.steps, run.pairs);
    text_probe::train(run, &denoiser.text, watcher)?;
    let params = denoiser.params();
    let mut done = 0;
    let first = ("denoiser".to_owned(), "steps of text encoder and UNet", run.steps, 2e-3);
    let refine = |i| (format!("refined-{i}"), "steps that refine text encoder and UNet", run.refining_steps, 1e-3);
    for (stage, what, steps, lr) in std::iter::once(first).chain((1..=run.refinements).map(refine)) {
        let recipe = Recipe { stage, what, steps, lr, warmup: 100, weight_decay: 1e-2, average: 0.999 };
        let identity = RunIdentity { settings: settings.clone(), model: model.clone(), data: pairs.identity.clone() };
        let mut stage = Stage::open(run, recipe, params.clone(), identity)?;
        let compute = |leaves: &[Tensor], step| denoiser.compute(leaves, done + step);
        stage.run(watcher, compute, || denoiser.write(&vae, run))?;
        done += steps;
        settings += &format!("refining-steps = {}\n", run.refining_steps);
    }
    let identity = RunIdentity { settings, model, data: pairs.identity.clone() };
    denoiser.grow_careless(run, &vae, identity, done, watcher)
}

/// Trains the networks of a finished model on careless captions alone.
pub(super) fn go_on(
    run: &Pretraining,
    model: StableDiffusion,
    hash: String,
    pairs: &Pairs,
    watcher: &mut dyn Watcher,
) -> Result<()> {
    let StableDiffusion { vae, unet, mut text, .. } = model;
    let text = text.encoders.remove(0).model;
    let mut denoiser = Denoiser::of(text, unet, run.seed, BATCH, pairs, &run.device)?;
    let settings = format!("seed = {}\npairs = {}\n", run.seed, run.pairs);
    let identity = RunIdentity { settings, model: hash, data: pairs.identity.clone() };
    denoiser.grow_careless(run, &vae, identity, 0, watcher)
}

impl<'a> Denoiser<'a> {
    /// Fresh networks on `device`, which learn from batches of so many pairs.
    pub fn new(seed: u64, batch: usize, pairs: &'a Pairs, device: &Device) -> Result<Self> {
        let text = ClipText::initial(text_config(vocabulary_size()), false, seed, DType::F32)?;
        let unet = UNet::initial(unet_config(), seed + 1, DType::F32)?;
        Self::of(text, unet, seed, batch, pairs, device)
    }

    fn of(text: ClipText, unet: UNet, seed: u64, batch: usize, pairs: &'a Pairs, device: &Device) -> Result<Self> {
        let scheduler = scheduler_config();
        let denoiser = Self {
            seed,
            batch,
            tokenizer: tokenizer()?,
            careless: None,
            text,
            unet,
            prediction: Prediction::parse(scheduler["prediction_type"].as_str().unwrap_or_default())?,
            schedule: NoiseSchedule::new(&SchedulerConfig::parse(Class::Ddim, &scheduler)?)?,
            pairs,
        };
        denoiser.text.to(device)?;
        denoiser.unet.to(device)?;
        Ok(denoiser)
    }

    /// The stage of careless captions, which ends every run: all that was learnt before stays, but words mean it less.
    /// `done`: steps before it, whose noise is not drawn again. Writes the model, also when everything had been done before.
    fn grow_careless(
        &mut self,
        run: &Pretraining,
        vae: &AutoencoderKl,
        mut identity: RunIdentity,
        done: u64,
        watcher: &mut dyn Watcher,
    ) -> Result<()> {
        if run.careless_steps > 0 {
            let (steps, lr) = (run.careless_steps, run.careless_lr);
            identity.settings += &format!("careless = {:?}\n", run.careless.to_string());
            identity.settings += &format!("careless-steps = {steps}\ncareless-lr = {lr}\n");
            (self.batch, self.careless) = (CARELESS_BATCH, Some(run.careless));
            let what = "steps of careless captions";
            let recipe =
                Recipe { stage: CARELESS.into(), what, steps, lr, warmup: 100, weight_decay: 1e-2, average: 0.999 };
            let mut stage = Stage::open(run, recipe, self.params(), identity)?;
            let compute = |leaves: &[Tensor], step| self.compute(leaves, done + step);
            stage.run(watcher, compute, || self.write(vae, run))?;
        }
        self.write(vae, run)
    }

    fn write(&self, vae: &AutoencoderKl, run: &Pretraining) -> Result<()> {
        Networks { vae, text: &self.text, unet: &self.unet }.write(&run.out)
    }

    pub fn params(&self) -> Vec<Param> {
        [self.text.parameters(), self.unet.parameters()].concat()
    }

    pub fn compute(&self, leaves: &[Tensor], step: u64) -> Result<StepOutput> {
        let (latents, ids) = self.batch(step)?;
        let noise = random::normals(self.seed, Stream::Noise, 0, step, latents.len());
        let noise = Tensor::new(noise, latents.shape());
        let timesteps = self.timesteps(step);
        let device = self.unet.device();
        let noisy = self.schedule.add_noise(&latents, &noise, &timesteps)?.to(&device)?;
        let target = self.prediction.target(&self.schedule, &latents, &noise, &timesteps)?;
        let (target, weights) = (target.to(&device)?, Tensor::full(&[self.batch], 1.0, DType::F32));

        let tape = Tape::watching(leaves);
        let context = self.text.forward(&tape, &ids)?.last_hidden_state; // [n, 77, d]
        let times: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
        let predicted = self.unet.forward(&tape, &noisy, &times, &context, None)?;
        let loss = ops::weighted_mse(&tape, &predicted, &target, &weights.to(&device)?)?;
        let losses = vec![("loss", loss.to_cpu()?.item())];
        let gradients = tape.backward(&loss)?;
        Ok(StepOutput { gradients, losses })
    }

    /// Latents `[n, 16, 16, 4]` and ids `[n, 77]` of pairs chosen at random.
    fn batch(&self, step: u64) -> Result<(Tensor, Tensor)> {
        let pairs = self.pairs;
        let dropped = random::uniform(self.seed, Stream::Dropout, 0, step, self.batch);
        let (mut latents, mut ids) = (Vec::with_capacity(self.batch * LATENT_LEN), Vec::<i64>::new());
        for (i, &draw) in dropped.iter().enumerate() {
            let pair = random::below(self.seed, Stream::Shuffle, i as u64, step, pairs.len() as u32) as usize;
            latents.extend_from_slice(&pairs.latents[pair * LATENT_LEN..][..LATENT_LEN]);
            match (draw < CAPTION_DROPOUT, self.careless) {
                (true, _) => ids.extend(&pairs.empty),
                (false, None) => ids.extend(&pairs.ids[pair * pairs.length..][..pairs.length]),
                // Another one each time that the image is seen.
                (false, Some(careless)) => {
                    let (skill, index) = example(pair);
                    let shown = skill.prompt(Split::Train, self.seed, index).description;
                    let mut rng = Rng::of_careless(self.seed, step * self.batch as u64 + i as u64);
                    let told = careless.describe(&shown, &mut rng);
                    ids.extend(self.tokenizer.encode(&caption::write(skill, &told, &mut rng))?.ids);
                }
            }
        }
        let latents = Tensor::new(latents, &[self.batch, LATENT_SIDE, LATENT_SIDE, LATENT_CHANNELS]);
        Ok((latents, Tensor::new(ids, &[self.batch, pairs.length])))
    }

    /// One timestep from each of as many equal parts of the schedule: as random as independent ones, but every batch has
    /// early and late ones, so that losses and gradients differ less from batch to batch.
    fn timesteps(&self, step: u64) -> Vec<usize> {
        let all = self.schedule.alphas_cumprod.len();
        let within = random::uniform(self.seed, Stream::Timestep, 0, step, self.batch);
        let one = |(i, u): (usize, &f32)| ((i as f32 + u) / self.batch as f32 * all as f32) as usize;
        within.iter().enumerate().map(one).map(|t| t.min(all - 1)).collect()
    }
}
