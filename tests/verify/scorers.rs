//! `selma eval` by scorers and by BLIP-VQA: the numbers are the recorded ones, nothing is computed twice, and a run that was
//! broken off goes on.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use selma::evaluate::scores::Scores;
use selma::formats::safetensors::Safetensors;
use serde_json::{Value, json};

use crate::models::root;

const IMAGES: [&str; 4] = ["wide", "tall", "square", "big"];
const TEXTS: [&str; 4] =
    ["a red car", "two dogs on the street playing with a ball near the river", "an oil painting of a ship", "x"];

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/cases").join(name)
}

fn recorded(name: &str, tensor: &str) -> Vec<f64> {
    let file = Safetensors::open(&case(name).join("tensors.safetensors")).unwrap();
    file.tensor(tensor).unwrap().reals::<f64>().into_owned()
}

/// A folder with the images of the cases, each drawn from one of the texts.
fn images(dir: &Path, texts: [&str; 4]) -> PathBuf {
    let folder = dir.join("images");
    std::fs::create_dir_all(&folder).unwrap();
    let rows = IMAGES.iter().zip(texts).enumerate().map(|(i, (image, text))| {
        std::fs::copy(root().join(format!("images/{image}.png")), folder.join(format!("{image}.png"))).unwrap();
        let skill = if i < 2 { "first" } else { "second" };
        json!({ "file_name": format!("{image}.png"), "text": text, "seed": 1, "index": i, "skill": skill }).to_string()
    });
    std::fs::write(folder.join("metadata.jsonl"), rows.collect::<Vec<_>>().join("\n")).unwrap();
    folder
}

fn eval(images: &Path, out: &Path, benchmark: &str) -> Command {
    let mut command = Command::cargo_bin("selma").unwrap();
    command.args(["eval", "--device", "cpu", "--quiet", "--overwrite", "--benchmark", benchmark]);
    command.arg("--images").arg(images).arg("--out").arg(out);
    command
}

fn weights(name: &str, model: &str) -> String {
    format!("--weights={name}={}", root().join("models").join(model).display())
}

fn scores(path: &Path) -> Scores {
    Scores::read(path).unwrap_or_else(|e| panic!("{e}"))
}

fn close(ours: &Scores, reference: impl IntoIterator<Item = f64>, tolerance: f64) {
    let reference: Vec<f64> = reference.into_iter().collect();
    assert_eq!(ours.images.len(), reference.len());
    for (image, reference) in ours.images.iter().zip(reference) {
        let error = (image.score - reference).abs();
        assert!(error <= tolerance, "{} {}: {} is not {reference}", ours.benchmark, image.file_name, image.score);
    }
}

#[test]
fn several_scorers_give_the_recorded_numbers_each_in_its_file() {
    let dir = tempfile::tempdir().unwrap();
    // With the first text one image has a cosine above 0.
    let (images, out) = (images(dir.path(), [TEXTS[0]; 4]), dir.path().join("scores.json"));
    let run = || {
        let mut command = eval(&images, &out, "clipscore,pickscore,hpsv2");
        command.arg(weights("clipscore", "judge-clip-b")).arg(weights("pickscore", "judge-clip-h"));
        command.arg(weights("hpsv2", "judge-clip-openclip/open_clip_model.safetensors"));
        command.assert().success();
    };
    run();
    let of_first_text = |matrix: Vec<f64>| (0..4).map(move |i| matrix[4 * i]);
    let [clip, pick, hps] =
        ["clipscore", "pickscore", "hpsv2"].map(|name| dir.path().join(format!("scores.{name}.json")));
    close(&scores(&clip), of_first_text(recorded("clipscore", "out.clip_score_hessel")), 3e-5);
    close(&scores(&pick), of_first_text(recorded("pickscore", "out.pick_score")), 1e-3);
    close(&scores(&hps), of_first_text(recorded("hps", "out.hps")), 1e-3);
    assert!(scores(&clip).judge.contains("A photo depicts"), "{}", scores(&clip).judge);
    assert!(scores(&hps).judge.contains("recipe hps 28"), "{}", scores(&hps).judge);
    assert_eq!(scores(&clip).skills.len(), 2);

    // Everything is in the cache: it does not grow, and the scores are the same bytes.
    let cache = dir.path().join("scores.values.jsonl");
    let (known, first) = (std::fs::read(&cache).unwrap(), std::fs::read(&clip).unwrap());
    run();
    assert_eq!(std::fs::read(&cache).unwrap(), known);
    assert_eq!(std::fs::read(&clip).unwrap(), first);

    // A run that was killed while it wrote: the rest is computed anew.
    std::fs::write(&cache, &known[..known.len() / 2]).unwrap();
    run();
    assert_eq!(std::fs::read(&clip).unwrap(), first);
}

#[test]
fn rewards_and_aesthetics_are_the_recorded_ones_and_compare_image_by_image() {
    let dir = tempfile::tempdir().unwrap();
    let (images, out) = (images(dir.path(), [TEXTS[0]; 4]), dir.path().join("scores.json"));
    let mut command = eval(&images, &out, "imagereward");
    command.arg(weights("imagereward", "judge-image-reward")).arg("--against").arg(&images);
    command.assert().success();
    let ours = scores(&out);
    close(&ours, recorded("judge-image-reward", "out.rewards_first_prompt"), 5e-5);
    let against = ours.against.unwrap();
    assert_eq!((against.overall.estimate.mean, against.overall.estimate.values), (0.0, 4));

    let out = dir.path().join("aesthetic.json");
    let mut command = eval(&images, &out, "aesthetic");
    command.arg(weights("aesthetic", "judge-aesthetic")).arg(weights("aesthetic-clip", "judge-clip-b"));
    command.assert().success();
    let mut ours = scores(&out);
    ours.images.truncate(2);
    close(&ours, recorded("judge-aesthetic", "out.image_score"), 1e-5);
}

/// Of four images of one text the one with the largest recorded reward, the third.
#[test]
fn the_best_image_is_selected_by_a_scorer() {
    let dir = tempfile::tempdir().unwrap();
    let (images, out) = (images(dir.path(), [TEXTS[0]; 4]), dir.path().join("best"));
    let select = |arguments: &[&str]| {
        let mut command = Command::cargo_bin("selma").unwrap();
        command.args(["select", "--device", "cpu", "--quiet", "--overwrite", "--rule", "best-of:4"]);
        command.arg("--images").arg(&images).arg("--out").arg(&out).args(arguments);
        command
    };
    let reward = weights("imagereward", "judge-image-reward");
    select(&["--by", "imagereward", &reward]).assert().success();
    let row: Value = serde_json::from_slice(&std::fs::read(out.join("metadata.jsonl")).unwrap()).unwrap();
    let chosen = std::fs::read(out.join(row["file_name"].as_str().unwrap())).unwrap();
    assert_eq!(chosen, std::fs::read(images.join("square.png")).unwrap());
    let score = row["score"].as_f64().unwrap();
    assert!((score - recorded("judge-image-reward", "out.rewards_first_prompt")[2]).abs() < 5e-5, "{score}");
    let refused = select(&["--by", "scores.json", &reward]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--weights: expected --by clipscore"));
}

/// Each question alone: the recorded greedy answers, and by yes-no what the logits say.
#[test]
fn blip_vqa_answers_questions_and_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path(), TEXTS);
    let asked: Value =
        serde_json::from_slice(&std::fs::read(case("blip_vqa_transformers/case.json")).unwrap()).unwrap();
    let rows = (0..3).map(|i| {
        let choices = if i == 0 { json!(["yes", "no"]) } else { json!(["one", "boys royal"]) };
        json!({
            "id": format!("coco_{i}"), "caption": TEXTS[i], "question": asked["questions"][i], "choices": choices,
            "answer": choices[1], "element_type": "object",
        })
    });
    let questions = dir.path().join("questions.json");
    std::fs::write(&questions, Value::from(rows.collect::<Vec<_>>()).to_string()).unwrap();
    let run = |judge: &str, name: &str| {
        let out = dir.path().join(name);
        let mut command = eval(&images, &out, "tifa");
        command.arg("--questions").arg(&questions).args(["--judge", judge]).arg(weights("blip-vqa", "judge-blip-vqa"));
        command.assert().success();
        scores(&out)
    };
    let greedy = run("blip-vqa", "greedy.json");
    assert!(greedy.judge.starts_with("blip-vqa greedy; weights "), "{}", greedy.judge);
    let answers: Vec<Value> =
        greedy.images.iter().map(|p| Value::from(p.questions[0].answer.clone().unwrap())).collect();
    assert_eq!(Value::from(answers), asked["answers"]);
    let record = std::fs::read(dir.path().join("greedy.answers.jsonl")).unwrap();
    assert_eq!(run("blip-vqa", "greedy.json"), greedy);
    assert_eq!(std::fs::read(dir.path().join("greedy.answers.jsonl")).unwrap(), record);

    let logits = recorded("blip_vqa_transformers", "out.yes_no_logits");
    let yes_no = run("blip-vqa:yes-no", "yes-no.json");
    let expected = if logits[0] > logits[1] { "yes" } else { "no" };
    assert_eq!(yes_no.images[0].questions[0].answer.as_deref(), Some(expected));
    assert_eq!(yes_no.images[1].questions[0].answer, greedy.images[1].questions[0].answer);
    let ranked = run("blip-vqa:rank", "rank.json");
    for image in &ranked.images {
        let answer = image.questions[0].answer.clone().unwrap();
        assert!(["yes", "no", "one", "boys royal"].contains(&answer.as_str()), "{answer}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (images, out) = (images(dir.path(), TEXTS), dir.path().join("scores.json"));
    let refused = |arguments: &[&str], benchmark: &str, words: &str| {
        let output = eval(&images, &out, benchmark).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{text}");
        assert!(!out.exists());
    };
    refused(&[], "clipscore,dsg", "--benchmark dsg: together with others");
    refused(&["--weights", "hpsv2=x"], "clipscore", "expected NAME=MODEL with one of clipscore");
    refused(&["--weights", "clipscore=/nowhere"], "clipscore", "no such file or folder");
    refused(&["--offline", "--weights", "clipscore=no/such"], "clipscore", "the network is not to be used");
    let questions = dir.path().join("questions.json");
    let row = json!({ "id": "a", "caption": "b", "question": "c?", "choices": ["yes"], "answer": "yes" });
    std::fs::write(&questions, json!([row]).to_string()).unwrap();
    let questions = questions.to_str().unwrap();
    refused(&["--judge", "blip-vqa:beams", "--questions", questions], "tifa", "blip-vqa:yes-no");
    let head = weights("aesthetic", "judge-aesthetic");
    refused(&[&head], "aesthetic", "aesthetic-clip=MODEL");
    let other = weights("clipscore", "judge-inception");
    refused(&[&other], "clipscore", "no tensor vision_model.embeddings.class_embedding");
}
