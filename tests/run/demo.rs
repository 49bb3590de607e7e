//! The demo's stages on the built-in model, with less of everything.

use selma::device::Device;
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
    let mut pipeline = demo::config(&model, false, None, 42).unwrap();
    (pipeline.prompts.count, pipeline.experts.steps) = (2, 2);
    (pipeline.evaluate.prompts, pipeline.evaluate.seeds) = (Some(2), 1);
    (pipeline.images.draw.steps, pipeline.evaluate.draw.steps) = (6, 6);
    let run = Run::new(&pipeline, &dir.path().join("run"), Device::Cpu, DType::F32, "selma demo");
    let done = run.go(&Selection::default(), &mut Silent).unwrap();
    assert_eq!(done.len(), 5 + 5 + 6 + 3);
    let summary = run.summary().unwrap();
    let names: Vec<&str> = summary.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names[..3], ["base", "all-in-one", "merged"]);
    assert_eq!((names.len(), summary.arms[2].skills.len()), (8, 5));
    assert!(summary.arms[..3].iter().all(|arm| arm.overall.prompts == 10), "{:?}", summary.arms);
    assert!(summary.arms[3..].iter().all(|arm| arm.overall.prompts == 2), "{:?}", summary.arms);
    let report = std::fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(report.contains("selma demo") && report.matches("<img").count() >= 40);
}
