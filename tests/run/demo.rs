//! The demo's stages on the built-in model, with less of everything.

use selma::data::image_latents::ImageLatents;
use selma::device::Device;
use selma::generate::StableDiffusion;
use selma::run::{Run, Selection, demo};
use selma::shapes::builtin;
use selma::tensor::DType;
use selma::train::watcher::{StepReport, Watcher};

struct Silent;

impl Watcher for Silent {
    fn note(&mut self, _: &str) {}
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, _: &StepReport) {}
    fn stopped(&self) -> bool {
        false
    }
}

#[test]
fn the_demo_measures_every_skill_on_captions_that_no_expert_saw() {
    let dir = tempfile::tempdir().unwrap();
    let model = builtin::unpack(dir.path()).unwrap();
    let mut config = demo::config(&model, false, Some(demo::RULE), 42).unwrap();
    (config.prompts.count, config.experts.steps, config.experts.warmup) = (2, 2, 0);
    // Of two images a skill none may be all right.
    config.select.as_mut().unwrap().rule = "threshold:0".into();
    (config.evaluate.prompts, config.evaluate.guidance_sweep) = (Some(2), vec![1.0]);
    (config.images.draw.steps, config.evaluate.draw.steps) = (6, 6);
    let run = Run::new(&config, &dir.path().join("run"), Device::Cpu, DType::F32, "selma demo");
    let done = run.go(&Selection::default(), &mut Silent).unwrap();
    assert_eq!(done.len(), 5 + 5 + 5 + 11 + 2 + 2);
    let summary = run.summary().unwrap();
    let names: Vec<&str> = summary.arms.iter().map(|arm| arm.name.as_str()).collect();
    let compared = ["base", "all-in-one-selected", "merged", "merged-selected"];
    assert_eq!(names[..4], compared);
    assert_eq!((names.len(), summary.arms[2].skills.len()), (9, 5));
    assert!(summary.arms[..4].iter().all(|arm| arm.overall.prompts == 10), "{:?}", summary.arms);
    assert!(summary.arms[4..].iter().all(|arm| arm.overall.prompts == 2), "{:?}", summary.arms);
    // Every arm at the guidance of the scores above and at the other one; no skill's own expert.
    let sweep = summary.sweep.as_ref().unwrap();
    assert_eq!(sweep.guidances, [1.0, 3.0]);
    assert_eq!(sweep.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(), compared);
    for (swept, arm) in sweep.arms.iter().zip(&summary.arms) {
        assert_eq!(swept.overall[1].mean, arm.overall.mean);
        let best = sweep.guidances.iter().position(|guidance| *guidance == swept.best).unwrap();
        assert!(swept.overall.iter().all(|estimate| estimate.mean <= swept.overall[best].mean));
        assert_eq!(swept.against_best.is_none(), swept.name == "base");
    }
    // The strict judge names some of what the other names, and nothing else: of a claim, never more is true.
    let strict = summary.strict.as_ref().unwrap();
    assert_eq!(strict.arms.len(), summary.arms.len());
    assert!(strict.compared("merged-selected", "base").is_some());
    // What experts learn from keeps its latents; what is only looked at does not.
    let images = dir.path().join("run");
    let image = images.join("images/counting/00000.png");
    let latents = ImageLatents::read(&image).unwrap().unwrap();
    let network = StableDiffusion::load(&model, None, DType::F32).unwrap();
    let z = latents.values.with_shape(&[1, 16, 16, 4]);
    let decoded = selma::formats::image::from_tensor(&network.decode(&z).unwrap()).unwrap();
    assert!(decoded[0] == selma::formats::image::read(&image).unwrap());
    assert!(images.join("select/counting/chosen/00000.latents.safetensors").is_file());
    assert!(images.join("experts/all-in-one-selected/data/counting-00000.latents.safetensors").is_file());
    assert!(!images.join("evaluate/base/counting/seed-42/00000.latents.safetensors").exists());
    let report = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(
        report.contains("What made it")
            && report.contains("At other guidances")
            && report.contains("selma demo")
            && report.contains("Not measured: CLIPScore, PickScore")
            && report.matches("<img").count() >= 40
    );
}
