//! Pretraining the built-in model: the same bytes from run to run, whatever stopped it on the way, and a model that the
//! other commands take.

use std::collections::BTreeMap;
use std::path::Path;

use selma::device::Device;
use selma::generate::StableDiffusion;
use selma::pretrain::Pretraining;
use selma::shapes::careless::Careless;
use selma::tensor::DType;
use selma::train::watcher::{StepReport, Watcher};

const STEPS: u64 = 2;
const CARELESS_STEPS: u64 = 2;

fn run(out: &Path) -> Pretraining {
    Pretraining {
        out: out.into(),
        from: None,
        device: Device::Cpu,
        seed: 7,
        vae_steps: STEPS,
        pairs: 6,
        text_steps: STEPS,
        steps: STEPS,
        refinements: 2,
        refining_steps: 1,
        careless: Careless::parse("counts=0.5,colours=0.5,relations=0.5").expect("shares"),
        careless_steps: CARELESS_STEPS,
        careless_lr: 1e-3,
        save_every: 1,
    }
}

/// Counts steps, and stops the run after some of them.
struct Stopwatch {
    steps: u64,
    stop_after: u64,
}

impl Watcher for Stopwatch {
    fn note(&mut self, _: &str) {}
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, _: &StepReport) {
        self.steps += 1;
    }
    fn stopped(&self) -> bool {
        self.steps == self.stop_after
    }
}

/// Runs on `threads` threads until `stop_after` steps are done, or to the end; returns whether it came to the end.
fn go(run: &Pretraining, resume: bool, threads: usize, stop_after: u64) -> bool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut watcher = Stopwatch { steps: 0, stop_after };
    match pool.install(|| run.run(resume, &mut watcher)) {
        Ok(()) => true,
        Err(selma::Error::Interrupted(message)) => {
            assert!(message.contains("--resume"), "{message}");
            false
        }
        Err(e) => panic!("{e}"),
    }
}

/// Every file below `folder` but the lock.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let inside = files(&entry.path());
            all.extend(inside.into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else if name != ".lock" {
            all.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    all
}

#[test]
fn a_run_gives_the_same_bytes_again_on_other_threads_and_after_any_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, broken) = (run(&dir.path().join("whole")), run(&dir.path().join("broken")));
    assert!(go(&whole, false, 2, u64::MAX));
    // In the middle and at the last step of every stage.
    for stop in 1..=4 * STEPS + CARELESS_STEPS {
        assert!(!go(&broken, stop > 1, 1, 1), "stop {stop}");
    }
    // The latents were damaged meanwhile: they are made again.
    std::fs::write(broken.out.join("state/latents.safetensors"), "cut").unwrap();
    assert!(go(&broken, true, 1, u64::MAX));
    let (whole, broken) = (files(&whole.out), files(&broken.out));
    assert_eq!(whole.keys().collect::<Vec<_>>(), broken.keys().collect::<Vec<_>>(), "not the same files");
    for (path, bytes) in &whole {
        assert!(*bytes == broken[path], "{path} differs");
    }
    let denoiser = String::from_utf8(whole["metrics-denoiser.jsonl"].clone()).unwrap();
    assert_eq!(denoiser.lines().count() as u64, STEPS);
    // The weights moved: the state is that of a training.
    assert!(denoiser.lines().all(|line| line.contains("\"loss\":")), "{denoiser}");
}

#[test]
fn the_folder_is_a_model_and_belongs_to_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pretraining { vae_steps: 1, text_steps: 1, steps: 1, refinements: 1, ..run(dir.path()) };
    assert!(go(&first, false, 2, u64::MAX));

    let model = StableDiffusion::load(dir.path(), None, DType::F32).unwrap();
    let states = model.encode(&["a red circle".into()], None, 0).unwrap().context;
    assert_eq!(states.shape()[..2], [1, 77]);
    assert_eq!(model.vae.config.downscale() * model.unet.config.sample_size, 64);
    // The latents that the UNet learnt from had a mean square of 1.
    assert!(model.vae.config.scaling_factor != 1.0);

    let mut watcher = Stopwatch { steps: 0, stop_after: u64::MAX };
    let again = first.run(false, &mut watcher).unwrap_err().to_string();
    assert!(again.contains("--resume"), "{again}");
    let other = Pretraining { seed: 8, ..first };
    let refused = other.run(true, &mut watcher).unwrap_err().to_string();
    assert!(refused.contains("`seed` is 8 and was 7"), "{refused}");
    assert_eq!(watcher.steps, 0);
}

/// The stage of careless captions alone, from the model of another run.
#[test]
fn a_finished_model_learns_on_from_careless_captions() {
    let dir = tempfile::tempdir().unwrap();
    let one = Pretraining { vae_steps: 1, text_steps: 1, steps: 1, refinements: 1, ..run(&dir.path().join("exact")) };
    let exact = Pretraining { careless_steps: 0, ..one };
    assert!(go(&exact, false, 2, u64::MAX));
    let from = |out: &str| Pretraining { from: Some(exact.out.clone()), ..run(&dir.path().join(out)) };
    let (whole, broken) = (from("whole"), from("broken"));
    assert!(go(&whole, false, 2, u64::MAX));
    assert!(!go(&broken, false, 1, 1));
    assert!(go(&broken, true, 1, u64::MAX));
    let [exact_files, whole_files, broken_files] = [&exact, &whole, &broken].map(|run| files(&run.out));
    assert!(whole_files == broken_files);
    let changed = |path: &str| exact_files[path] != whole_files[path];
    assert!(changed("unet/diffusion_pytorch_model.safetensors") && changed("text_encoder/model.safetensors"));
    for kept in ["vae/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/vocab.json"] {
        assert!(!changed(kept), "{kept}");
    }
    let losses = String::from_utf8(whole_files["metrics-careless.jsonl"].clone()).unwrap();
    assert_eq!(losses.lines().count() as u64, CARELESS_STEPS);

    // Other shares are another run; a model of another kind is none of these.
    let mut watcher = Stopwatch { steps: 0, stop_after: u64::MAX };
    let other = Pretraining { careless: Careless::parse("counts=1").unwrap(), ..from("whole") };
    let refused = other.run(true, &mut watcher).unwrap_err().to_string();
    assert!(refused.contains("careless"), "{refused}");
    let config = exact.out.join("unet/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"sample_size\": 16", "\"sample_size\": 32")).unwrap();
    let refused = from("third").run(false, &mut watcher).unwrap_err().to_string();
    assert!(refused.contains("unet/config.json") && refused.contains("--from"), "{refused}");
    assert_eq!(watcher.steps, 0);
}
