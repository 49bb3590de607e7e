//! Runs that are killed, shared, or changed.

use std::time::Instant;

use selma::run::folder::{Inputs, Paths, RunFolder};
use selma::run::{Stage, Task};

use crate::kills::Kills;
use crate::{differences, json, pipeline, results, run, says};

/// Twenty kills at random moments, in as many runs as it takes for them to find one at work.
#[test]
fn runs_that_are_killed_at_twenty_random_moments_end_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let whole = dir.path().join("whole");
    let begin = Instant::now();
    run(&file, &whole).assert().success();
    let mut kills = Kills::new(20, begin.elapsed() / 2, 2403);
    for number in 0.. {
        let broken = dir.path().join(format!("broken-{number}"));
        kills.through(&run(&file, &broken), &broken);
        assert_eq!(differences(&results(&whole), &results(&broken)), Vec::<std::path::PathBuf>::new());
        if !kills.are_left() {
            break;
        }
    }
    // In the beginning, in the middle, and near the end.
    assert!(kills.landed == 20 && kills.places.len() >= 4, "{:?}", kills.places);
}

#[test]
fn what_depends_on_a_change_is_done_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let out = dir.path().join("out");
    let done = || -> Vec<String> {
        let outcome = json(run(&file, &out));
        outcome["done"].as_array().unwrap().iter().map(|d| d.as_str().unwrap().to_string()).collect()
    };
    assert_eq!(done().len(), 10);
    // An image that is damaged is drawn again, and nothing that was made from it has changed.
    let image = out.join("images/counting/00001.png");
    let sound = std::fs::read(&image).unwrap();
    std::fs::write(&image, &sound[..sound.len() / 2]).unwrap();
    assert_eq!(done(), ["images of counting"]);
    assert!(std::fs::read(&image).unwrap() == sound);
    // Where it is kept and how often it saves decides nothing.
    pipeline(dir.path(), "keep = 2\n");
    assert_eq!(done(), Vec::<String>::new());
    let fewer = std::fs::read_to_string(&file).unwrap().replace("steps = 3", "steps = 2");
    std::fs::write(&file, fewer).unwrap();
    let experts = ["experts of counting", "experts of spatial", "experts of all-in-one"];
    assert_eq!(done(), [&experts[..], &["merge", "evaluate", "report"]].concat());
}

#[test]
fn a_task_is_complete_when_its_record_says_so_and_its_files_are_as_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::new(dir.path());
    let task = Task::new(Stage::Images, "counting");
    let inputs = |value: &str| Inputs::from([("settings".to_string(), value.to_string())]);
    let paths = Paths {
        outputs: vec!["images/counting".into()],
        own: vec!["images/counting".into()],
        mutable_inputs: vec!["answers"],
    };
    let file = dir.path().join("images/counting/a.png");
    assert!(!folder.begin(&task, &inputs("1"), &paths).unwrap());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "half").unwrap();
    std::fs::write(file.with_file_name(".selma-x.part"), "leftover").unwrap();
    assert!(folder.complete(&task, &inputs("1"), &paths).unwrap().is_none());
    // The same task goes on; leftovers are gone.
    assert!(folder.begin(&task, &inputs("1"), &paths).unwrap());
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    std::fs::write(&file, "whole").unwrap();
    let hash = folder.finish(&task, &inputs("1"), &paths, 1.0).unwrap();
    assert_eq!(folder.complete(&task, &inputs("1"), &paths).unwrap(), Some(hash));
    assert!(folder.complete(&task, &inputs("2"), &paths).unwrap().is_none());
    std::fs::write(&file, "other").unwrap();
    assert!(folder.complete(&task, &inputs("1"), &paths).unwrap().is_none());
    std::fs::remove_file(&file).unwrap();
    assert!(folder.complete(&task, &inputs("1"), &paths).unwrap().is_none());
    // Another task starts from nothing.
    std::fs::write(&file, "whole").unwrap();
    assert!(!folder.begin(&task, &inputs("2"), &paths).unwrap());
    assert!(!file.exists());
    assert!(folder.finish(&task, &inputs("2"), &paths, 1.0).is_err());
    // What may be corrected does not take away what is there.
    let mut corrected = inputs("2");
    corrected.insert("answers".into(), "more".into());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "kept").unwrap();
    assert!(folder.begin(&task, &corrected, &paths).unwrap() && file.exists());
    assert!(folder.complete(&task, &inputs("2"), &paths).unwrap().is_none());
    // What no run has made is the user's.
    let theirs = dir.path().join("images/spatial/theirs.png");
    std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    std::fs::write(&theirs, "precious").unwrap();
    let other =
        Paths { outputs: vec!["images/spatial".into()], own: vec!["images/spatial".into()], ..Paths::default() };
    let refused = folder.begin(&Task::new(Stage::Images, "spatial"), &inputs("1"), &other);
    assert!(refused.unwrap_err().to_string().contains("no run has recorded it") && theirs.exists());

    // Of a folder that others write into, what was to become this task's file goes, and nothing else.
    let prompts = Task::new(Stage::Prompts, "counting");
    let file = dir.path().join("prompts/counting.json");
    let own = Paths {
        outputs: vec!["prompts/counting.json".into()],
        own: vec!["prompts/counting.json".into()],
        ..Paths::default()
    };
    folder.begin(&prompts, &inputs("1"), &own).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let left = [".selma-counting.json-x1Y2z3.part", ".selma-spatial.json-x1Y2z3.part", ".selma-counting.json-a-b.part"];
    left.iter().for_each(|name| std::fs::write(file.with_file_name(name), "leftover").unwrap());
    for value in ["1", "2"] {
        folder.begin(&prompts, &inputs(value), &own).unwrap();
        assert_eq!(left.map(|name| file.with_file_name(name).exists()), [false, true, true]);
        std::fs::write(file.with_file_name(left[0]), "leftover").unwrap();
    }

    // One works, or several read.
    let other = RunFolder::new(dir.path());
    let held = folder.lock(&task).unwrap();
    let message = other.lock_shared(&task).err().unwrap().to_string();
    assert!(message.contains("another selma is at work on the images of counting"), "{message}");
    drop(held);
    let (_one, _two) = (folder.lock_shared(&task).unwrap(), other.lock_shared(&task).unwrap());
    assert!(other.lock(&task).is_err());
}

#[test]
fn two_processes_do_not_do_the_same_task() {
    let dir = tempfile::tempdir().unwrap();
    let file = pipeline(dir.path(), "");
    let out = dir.path().join("out");
    let _held = RunFolder::new(&out).lock(&Task::new(Stage::Prompts, "spatial")).unwrap();
    says(run(&file, &out), 1, &["another selma is at work on the prompts of spatial"]);
    assert!(out.join("prompts/counting.json").exists() || !out.join("prompts").exists());
}
