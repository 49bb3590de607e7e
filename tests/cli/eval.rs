//! `selma eval` and `selma select` on rendered images.

use std::path::Path;

use selma::data::dataset::Dataset;
use selma::shapes::{Skill, Split, render};
use serde_json::{Value, json};

use crate::{bytes, says, selma};

/// Two images to each of six prompts of two skills; nothing is on those that are `wrong`.
fn drawn(dir: &Path, wrong: impl Fn(u64) -> bool) {
    std::fs::create_dir(dir).unwrap();
    let mut rows = String::new();
    for index in 0..12u64 {
        let (skill, prompt) = ([Skill::Counting, Skill::Everyday][index as usize / 6], index % 6 / 2);
        let caption = skill.prompt(Split::HeldOut, 4, prompt).caption;
        let mut image = render(&skill.scene(Split::HeldOut, 4, prompt).unwrap().1);
        if wrong(index) {
            image.fill(128);
        }
        let name = format!("{index:05}.png");
        image.save(dir.join(&name)).unwrap();
        let row = json!({"file_name": name, "text": caption, "seed": 1, "index": index, "skill": skill.name()});
        rows += &format!("{row}\n");
    }
    std::fs::write(dir.join("metadata.jsonl"), rows).unwrap();
}

fn eval(images: &Path, out: &Path) -> assert_cmd::Command {
    let mut command = selma();
    command.args(["eval", "--overwrite", "--benchmark", "shapes", "--judge", "builtin", "--images"]);
    command.arg(images).arg("--out").arg(out);
    command
}

#[test]
fn images_are_scored_compared_and_selected() {
    let dir = tempfile::tempdir().unwrap();
    let [right, half, scores, selected] =
        ["right", "half", "scores.json", "selected"].map(|name| dir.path().join(name));
    drawn(&right, |_| false);
    drawn(&half, |index| index % 2 == 0);
    let output = eval(&right, &scores).arg("--against").arg(&half).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["overall"]["mean"], 1.0);
    assert_eq!(summary["overall"]["values"], 12);
    assert_eq!(summary["skills"]["counting"]["prompts"], 3);
    assert_eq!(summary.get("pictures"), None);
    let against = &summary["against"];
    assert!(against["overall"]["mean"].as_f64().unwrap() > 0.2, "{against}");
    assert!(against["overall"]["interval"][0].as_f64().unwrap() > 0.0);
    assert_eq!(against["unpaired"], json!([0, 0]));

    // The same command gives the same bytes; a table is for people.
    let first = bytes(scores.clone());
    let command = eval(&right, &scores).arg("--against").arg(&half).args(["--threads", "1"]).assert().success();
    assert_eq!(bytes(scores.clone()), first);
    let table = String::from_utf8_lossy(&command.get_output().stdout).into_owned();
    assert!(table.contains("all 12 images") && table.contains("attribute - color") && table.contains("p = "));

    eval(&half, &scores).assert().success();
    let select = |rule: &str| {
        let mut command = selma();
        command.args(["select", "--rule", rule, "--images"]).arg(&half);
        command.arg("--by").arg(&scores).arg("--out").arg(&selected);
        command
    };
    says(select("best-of:0"), 2, &["best-of:0", "top:Q"]);
    select("best-of:2").assert().success();
    let data = Dataset::open(&selected).unwrap();
    assert_eq!(data.len(), 6);
    // The second image of every prompt is the right one.
    for (i, sample) in data.samples().iter().enumerate() {
        let right = half.join(format!("{:05}.png", 2 * i + 1));
        assert!(bytes(sample.image.clone()) == bytes(right), "{}", sample.captions[0]);
    }
    let mut unequal = select("best-of:2");
    unequal.arg("--images").arg(&right);
    says(unequal, 2, &["--by", "expected 2", "got 1"]);
}

#[test]
fn what_cannot_be_scored_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [images, scores] = ["images", "scores.json"].map(|name| dir.path().join(name));
    says(eval(&images, &scores), 1, &["images", "no such file or folder", "--images"]);
    drawn(&images, |_| false);
    std::fs::remove_file(images.join("00003.png")).unwrap();
    says(eval(&images, &scores), 1, &["1 of 12", "00003.png", "--allow-missing"]);
    assert!(!scores.exists());
    let command = eval(&images, &scores).args(["--allow-missing", "--json"]).assert().success();
    let summary: Value = serde_json::from_slice(&command.get_output().stdout).unwrap();
    assert_eq!(summary["overall"]["values"], 11);
    let mut other = eval(&images, &scores);
    other.args(["--against"]).arg(dir.path().join("nowhere")).arg("--allow-missing");
    says(other, 1, &["nowhere"]);
    let row = json!({"file_name": "../scores.json", "text": "a red circle"});
    std::fs::write(images.join("metadata.jsonl"), row.to_string()).unwrap();
    says(eval(&images, &scores), 1, &["line 1", "leaves the folder"]);
    let row = json!({"file_name": "00001.png", "text": "a view of the sea"});
    std::fs::write(images.join("metadata.jsonl"), row.to_string()).unwrap();
    says(eval(&images, &scores), 1, &["00001.png", "names no shape"]);
}
