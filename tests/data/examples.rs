//! Training examples ahead of the steps and as they come.

use std::path::Path;

use selma::data::dataset::Dataset;
use selma::data::encoders::Encoders;
use selma::data::examples::Examples;
use selma::data::images;
use selma::data::preprocess::Crop;
use selma::device::Device;
use selma::formats::model_dir::ModelDir;
use selma::tensor::DType;
use selma::train::config::TrainConfig;
use selma::train::watcher::{StepReport, Watcher};

/// What a run says.
#[derive(Default)]
struct Notes(Vec<String>);

impl Watcher for Notes {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, _: &StepReport) {}
    fn stopped(&self) -> bool {
        false
    }
}

/// The first three micro-batches' latents, and what was said and kept.
fn latents(dir: &Path, name: &str, crop: Crop, ahead_bytes: Option<usize>) -> (Vec<u8>, Vec<String>, usize) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let config = TrainConfig { data: dir.join("data"), batch_size: 2, crop, ..TrainConfig::default() };
    let files = ModelDir::open(&fixtures.join("models/tiny-sd1")).unwrap();
    let vocab = fixtures.join("clip_vocab");
    let cache = dir.join(name);
    let encoders = Encoders::new(&files, &files.vae, Some(&vocab), &Device::Cpu, DType::F32, &cache).unwrap();
    let mut notes = Notes::default();
    let dataset = Dataset::open(&config.data).unwrap();
    let images = images::survey(&dataset, &mut notes).unwrap();
    let fits = vec![None; images.len()];
    let mut examples =
        Examples::open(&config, dataset, (images, fits), encoders, 16, [8, 8, 4], 0.5, &mut notes).unwrap();
    examples.ahead_bytes = ahead_bytes.unwrap_or(examples.ahead_bytes);
    examples.prepare(0..3, &[], &mut notes).unwrap();
    let kept = std::fs::read_dir(&cache).unwrap().count();
    let batches = (0..3).flat_map(|i| examples.batch(i, 0..1000).unwrap().latents.bytes().to_vec());
    let batches = batches.collect();
    // Timesteps stay within their bounds, and are not all the same.
    let timesteps: Vec<usize> = (0..3).flat_map(|i| examples.batch(i, 300..310).unwrap().timesteps).collect();
    assert!(timesteps.iter().all(|t| (300..310).contains(t)) && timesteps.iter().any(|t| *t != timesteps[0]));
    assert_eq!(kept, std::fs::read_dir(&cache).unwrap().count(), "{name}: something was encoded late and kept");
    (batches, notes.0, kept)
}

#[test]
fn crops_that_are_too_many_are_encoded_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let shade = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 5) as u8, 90]);
    image::RgbImage::from_fn(60, 16, shade).save(data.join("wide.png")).unwrap();
    std::fs::write(data.join("wide.txt"), "stripes").unwrap();
    let (ahead, said, kept) = latents(dir.path(), "ahead", Crop::Random, None);
    assert!(said.len() == 1 && said[0].contains("--crop center"), "{said:?}");
    assert!(kept > 3, "six draws from ninety crops gave {kept} entries");
    // There is room for one crop only.
    let (as_they_come, said, kept) = latents(dir.path(), "late", Crop::Random, Some(1));
    assert!(said.iter().any(|note| note.contains("as they come")), "{said:?}");
    assert_eq!(kept, 1, "more than the caption was kept");
    assert!(ahead == as_they_come, "other latents");
    // Two crops at most are always few enough.
    let (_, said, kept) = latents(dir.path(), "center", Crop::Center, Some(1));
    assert!(said.is_empty() && kept == 3, "{said:?}, {kept} entries");
}
