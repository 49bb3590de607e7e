//! A run whose networks run on the GPU kernels, by `--device sim`.

use std::path::{Path, PathBuf};

use crate::{differences, json, pipeline, results, run};

#[test]
fn a_run_on_the_simulator_gives_the_same_bytes_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "all-in-one = false\n");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text
        .replace("\"counting\", ", "")
        .replace("prompts = 2\nseeds = 2", "prompts = 1")
        .replace("count = 3", "count = 2")
        .replace("steps = 3\nbatch-size = 2", "steps = 2\nbatch-size = 1");
    std::fs::write(&file, text.replace("steps = 2\nbatch-size = 2", "steps = 1\nbatch-size = 1")).unwrap();
    let on_simulator = |out: &Path, more: &[&str]| {
        let mut command = run(&file, out);
        command.args(["--device", "sim"]).args(more);
        command
    };
    let [whole, pieces] = ["whole", "pieces"].map(|name| dir.path().join(name));
    let outcome = json(on_simulator(&whole, &[]));
    assert_eq!(outcome["done"].as_array().unwrap().len(), 6, "{outcome}");
    for stage in ["prompts", "images", "experts"] {
        on_simulator(&pieces, &["--only", stage]).assert().success();
    }
    on_simulator(&pieces, &[]).assert().success();
    assert_eq!(differences(&results(&whole), &results(&pieces)), Vec::<PathBuf>::new());
}
