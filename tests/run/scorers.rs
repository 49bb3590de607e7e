//! `[judge.scorers]`: further columns of the evaluation, what selects and chooses, and what is refused.

use std::path::Path;

use selma::device::Device;
use selma::evaluate::scores::Scores;
use selma::run::{Run, RunConfig, Selection};
use selma::shapes::builtin;
use selma::tensor::DType;
use selma::train::watcher::{StepReport, Watcher};

use crate::models::root;

struct Silent;

impl Watcher for Silent {
    fn note(&mut self, _: &str) {}
    fn prepared(&mut self, _: &'static str, _: usize, _: usize) {}
    fn step(&mut self, _: &StepReport) {}
    fn stopped(&self) -> bool {
        false
    }
}

/// A run on the built-in model that selects and chooses by a reward, and scores by `scorers`.
fn rewarded(model: &Path, scorers: &str) -> RunConfig {
    let draw = "steps = 2\nwidth = 64\nheight = 64\nguidance = 2.0\nscheduler = \"ddim\"\n";
    let text = format!(
        "skills = [\"counting\"]\n[prompts]\nwriter = \"builtin\"\ncount = 3\n[images]\n{draw}\
         [select]\nrule = \"best-of:2\"\n[choose]\nevery = 1\nprompts = 2\n\
         [experts]\nmodel = {model:?}\nresolution = 64\nrank = 2\nsteps = 2\nbatch-size = 2\ngrad-accum = 1\n\
         save-every = 1\nwarmup = 0\n[evaluate]\nbenchmark = \"shapes\"\nprompts = 2\n{draw}\
         [judge]\nby = \"imagereward\"\n[judge.scorers]\nimagereward = {:?}\n{scorers}\n",
        root().join("models/judge-image-reward"),
    );
    RunConfig::parse(&text, Path::new("")).unwrap()
}

#[test]
fn scorers_are_columns_and_select_and_choose() {
    let dir = tempfile::tempdir().unwrap();
    let model = builtin::unpack(dir.path()).unwrap();
    let out = dir.path().join("run");
    let file = |name: &str| out.join(name);
    let go = |scorers: &str| {
        let config = rewarded(&model, scorers);
        let run = Run::new(&config, &out, Device::Cpu, DType::F32, "selma run");
        let done = run.go(&Selection::default(), &mut Silent).unwrap();
        (done.len(), run.summary().unwrap(), std::fs::read_to_string(file("report.html")).unwrap())
    };
    let clip = root().join("models/judge-clip-b");
    let (_, summary, report) = go(&format!("clipscore = {clip:?}\npickscore = {clip:?}"));
    let names: Vec<&str> = summary.scorers.iter().map(|column| column.benchmark.as_str()).collect();
    assert_eq!(names, ["clipscore", "pickscore", "imagereward"]);
    assert!(summary.scorers[2].judge.starts_with("standardised reward; weights "), "{}", summary.scorers[2].judge);
    for column in &summary.scorers {
        let path = file(&format!("evaluate/merged/scores.{}.json", column.benchmark));
        let scores = Scores::read(&path).unwrap();
        let arm = column.arms.iter().find(|arm| arm.name == "merged").unwrap();
        assert_eq!((scores.overall.mean, scores.benchmark), (arm.overall.mean, column.benchmark.clone()));
        let pairs: Vec<[&str; 2]> = column.comparisons.iter().map(|c| [&*c.ours, &*c.theirs]).collect();
        assert!(pairs.contains(&["merged", "base"]), "{pairs:?}");
    }
    for words in
        ["Beside the paper", "<th>ImageReward</th>", "Not measured: DSG", "Not measured: HPS v2, HPS v2.1, aesthetic"]
    {
        assert!(report.contains(words), "no {words:?}");
    }

    // Of two images of each prompt the one with the larger reward is learnt from.
    let chosen = std::fs::read_to_string(file("select/counting/chosen/metadata.jsonl")).unwrap();
    assert_eq!(chosen.lines().count(), 3);
    let rewards = std::fs::read_to_string(file("judge/select/counting.values.jsonl")).unwrap();
    assert!(rewards.lines().count() > 0);
    let choice = std::fs::read_to_string(file("experts/counting/choice.json")).unwrap();
    assert!(choice.contains("score"), "{choice}");

    // Nothing is done twice; a scorer less is an evaluation of the same images, and a report.
    assert_eq!(go(&format!("clipscore = {clip:?}\npickscore = {clip:?}")).0, 0);
    let image = file("evaluate/base/counting/seed-42/00000.png");
    let drawn = std::fs::metadata(&image).unwrap().modified().unwrap();
    let (done, summary, _) = go(&format!("clipscore = {clip:?}"));
    assert_eq!((done, summary.scorers.len()), (2, 2));
    assert_eq!(std::fs::metadata(&image).unwrap().modified().unwrap(), drawn);
    assert!(!file("evaluate/base/scores.pickscore.json").exists());
}

fn refusal(judge: &str, folder: &Path) -> String {
    let text =
        format!("skills = [\"counting\"]\n[prompts]\nwriter = \"builtin\"\n[experts]\nmodel = \"shapes\"\n{judge}\n");
    RunConfig::parse(&text, folder).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn scorers_that_cannot_be_used_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("weights.safetensors"), "").unwrap();
    for (judge, words) in [
        ("[judge.scorers]\nclipscor = \"weights.safetensors\"", "`clipscor`: expected clipscore"),
        ("[judge.scorers]\nclipscore = \"absent\"", "no such folder or file"),
        ("[judge]\nby = \"imagereward\"", "expected a name of [judge.scorers]"),
        ("[judge]\nby = \"aesthetic-clip\"\n[judge.scorers]\naesthetic-clip = \"weights.safetensors\"", "by ="),
        ("[judge]\nanswer-form = \"greedy\"", "is for blip-vqa"),
        ("[judge]\nblip-vqa = \"weights.safetensors\"", "has its own judge"),
    ] {
        let message = refusal(judge, dir.path());
        assert!(message.contains(words), "{message}");
    }
}
