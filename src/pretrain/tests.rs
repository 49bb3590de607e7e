//! Steps on the simulator against the CPU's: the real networks, on small batches.

use super::denoiser::Denoiser;
use super::stage::{Recipe, Stage, StepOutput};
use super::text_probe::Reader;
use super::*;
use crate::device::gpu::{Checks, Gpu, Order};
use crate::nn::{AutoencoderKl, Param};
use crate::shapes::model::vae_config;
use crate::tensor::{DType, Tensor};
use crate::train::checkpoint::RunIdentity;
use crate::train::watcher::StepReport;

const SEED: u64 = 7;
const BATCH: usize = 1;
const STEPS: u64 = 2;

/// What a stage went through.
#[derive(Default)]
struct Trained {
    stage: &'static str,
    /// Of each step.
    losses: Vec<f64>,
    norms: Vec<f64>,
    before: Vec<f32>,
    after: Vec<f32>,
    first_moment: Vec<f32>,
}

impl Trained {
    fn moved(&self) -> Vec<f64> {
        let pairs = self.after.iter().zip(&self.before);
        pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)).collect()
    }
}

impl Watcher for Trained {
    fn note(&mut self, _: &str) {}
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
        self.norms.push(report.grad_norm);
    }
    fn stopped(&self) -> bool {
        false
    }
}

fn train(
    run: &Pretraining,
    stage: &'static str,
    params: Vec<Param>,
    compute: impl FnMut(&[Tensor], u64) -> Result<StepOutput>,
) -> Trained {
    let recipe = Recipe {
        stage: stage.into(),
        what: "steps",
        steps: STEPS,
        lr: 1e-3,
        warmup: 1,
        weight_decay: 1e-2,
        average: 0.9,
    };
    let identity = RunIdentity { settings: String::new(), model: String::new(), data: String::new() };
    let mut trained = Trained { stage, ..Trained::default() };
    let mut stage = Stage::open(run, recipe, params, identity).expect("room");
    trained.before = stage.flat.master().expect("a device").data().to_vec();
    stage.run(&mut trained, compute, || Ok(())).expect("steps");
    trained.first_moment = stage.flat.state().expect("a device")[0].1.data().to_vec();
    trained.after = stage.flat.master().expect("a device").data().to_vec();
    trained
}

/// The first steps of every stage, each beginning where the one before it has come to.
fn stages(device: Device) -> [Trained; 3] {
    let folder = tempfile::tempdir().expect("a folder");
    let run = Pretraining {
        out: folder.path().into(),
        from: None,
        device,
        seed: SEED,
        vae_steps: STEPS,
        pairs: 3,
        text_steps: STEPS,
        steps: STEPS,
        refinements: 1,
        refining_steps: 1,
        careless: Careless::parse("counts=0.5,colours=0.5,relations=0.5").expect("shares"),
        careless_steps: 0,
        careless_lr: 1e-3,
        save_every: 1,
    };
    let vae = AutoencoderKl::initial(vae_config(1.0), SEED, DType::F32).expect("a network");
    vae.to(&run.device).expect("room");
    let compute = |leaves: &[Tensor], step| vae::compute(SEED, BATCH, &vae, leaves, step);
    let first = train(&run, "vae", vae.parameters().to_vec(), compute);

    let mut watcher = Trained::default();
    let pairs = Pairs::encode(&run, &vae, None, &mut watcher).expect("latents");
    let denoiser = Denoiser::new(SEED, BATCH, &pairs, &run.device).expect("networks");
    let (reader, weights) = Reader::new(SEED, &denoiser.text).expect("a layer");
    let params = [denoiser.text.parameters(), &weights].concat();
    let compute = |leaves: &[Tensor], step| reader.compute(SEED, BATCH, &denoiser.text, leaves, step);
    let second = train(&run, "words", params, compute);

    let compute = |leaves: &[Tensor], step| denoiser.compute(leaves, step);
    let third = train(&run, "denoiser", denoiser.params(), compute);
    [first, second, third]
}

fn floats(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// `||x - y|| / ||y||`
fn relative_error(x: &[f64], y: &[f64]) -> f64 {
    let norm = |values: Vec<f64>| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    norm(x.iter().zip(y).map(|(x, y)| x - y).collect()) / norm(y.to_vec())
}

#[test]
fn steps_on_a_gpu_are_those_of_the_cpu() {
    let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
    let there = stages(Device::Gpu(gpu));
    for (there, here) in there.iter().zip(stages(Device::Cpu)) {
        let stage = here.stage;
        assert_eq!(there.losses.len() as u64, STEPS);
        // A parameter whose gradient is 0 but for rounding, such as the bias of keys, goes either way.
        for (what, there, here, bound) in [
            ("losses", &there.losses, &here.losses, 1e-5),
            ("norms of the gradient", &there.norms, &here.norms, 1e-5),
            ("mean gradient", &floats(&there.first_moment), &floats(&here.first_moment), 1e-4),
            ("change of the weights", &there.moved(), &here.moved(), 1e-3),
        ] {
            let error = relative_error(there, here);
            // Written so that NaN fails.
            assert!(error <= bound, "{stage}: {what}: off by {error:e}, more than {bound:e}");
        }
    }
}
