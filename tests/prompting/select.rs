//! Which images are trained on.

use std::path::PathBuf;

use selma::data::dataset::Dataset;
use selma::prompting::select::{Candidate, Rule, select, write};

/// Candidates of the prompts a, b, c with four images each, as they were drawn: prompt by prompt.
fn candidates() -> Vec<Candidate> {
    let scores = [[0.2, 0.9, 0.9, 1.0], [0.5, 0.4, 0.3, 0.2], [0.7, 0.1, 0.8, 0.6]];
    let prompts = ["a", "b", "c"].iter().zip(scores);
    let each = prompts.flat_map(|(prompt, scores)| scores.into_iter().enumerate().map(move |(k, s)| (prompt, k, s)));
    each.map(|(prompt, k, score)| Candidate {
        image: PathBuf::from(format!("{prompt}{k}.png")),
        prompt: prompt.to_string(),
        skill: None,
        score,
    })
    .collect()
}

#[test]
fn each_rule_takes_the_best_of_a_prompt_or_none() {
    let chosen = |rule: &str| -> Vec<String> {
        let candidates = candidates();
        let chosen = select(&candidates, Rule::parse(rule).unwrap());
        chosen.iter().map(|c| c.image.display().to_string()).collect()
    };
    assert_eq!(chosen("best-of:1"), ["a0.png", "b0.png", "c0.png"]);
    // Of equal ones the first.
    assert_eq!(chosen("best-of:3"), ["a1.png", "b0.png", "c2.png"]);
    assert_eq!(chosen("best-of:100"), ["a3.png", "b0.png", "c2.png"]);
    assert_eq!(chosen("threshold:0.8"), ["a3.png", "c2.png"]);
    assert_eq!(chosen("threshold:1.1"), [""; 0]);
    assert_eq!(chosen("top:1"), ["a3.png", "b0.png", "c2.png"]);
    assert_eq!(chosen("top:0.34"), ["a3.png", "c2.png"]);
    assert_eq!(chosen("top:0.33"), ["a3.png"]);
    assert_eq!(chosen("above:0.8"), ["a3.png"]);
    assert_eq!(chosen("best-of:3,above:0.6,top:0.4"), ["a1.png", "c2.png"]);
}

#[test]
fn a_rule_that_is_none_is_refused_with_what_there_is() {
    for rule in ["best-of:0", "best-of:x", "best-of", "threshold:nan", "top:0", "top:1.5", "worst:3", "top:1,top:1", ""]
    {
        let refusal = Rule::parse(rule).unwrap_err();
        assert_eq!(refusal.exit_code(), 2);
        assert!(refusal.to_string().contains("best-of:K"), "{refusal}");
    }
}

#[test]
fn a_selection_is_a_training_folder_and_is_not_overwritten_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = candidates();
    for (i, candidate) in all.iter_mut().enumerate() {
        candidate.image = dir.path().join(&candidate.image);
        image::RgbImage::from_pixel(2, 2, image::Rgb([i as u8; 3])).save(&candidate.image).unwrap();
    }
    let out = dir.path().join("selected");
    let chosen = select(&all, Rule::parse("best-of:4").unwrap());
    write(&out, &chosen, dir.path()).unwrap();
    let data = Dataset::open(&out).unwrap();
    let captions: Vec<_> = data.samples().iter().map(|sample| sample.captions[0].as_str()).collect();
    assert_eq!(captions, ["a", "b", "c"]);
    assert_eq!(std::fs::read(&data.samples()[2].image).unwrap(), std::fs::read(&chosen[2].image).unwrap());
    let metadata = std::fs::read(out.join("metadata.jsonl")).unwrap();
    let text = String::from_utf8_lossy(&metadata);
    assert!(text.contains("\"score\":0.8,") && !text.contains(dir.path().to_str().unwrap()));
    // A killed command is repeated.
    std::fs::remove_file(out.join("00001.png")).unwrap();
    write(&out, &chosen, dir.path()).unwrap();
    assert!(out.join("00001.png").is_file());
    let refusal = write(&out, &select(&all, Rule::parse("best-of:1").unwrap()), dir.path()).unwrap_err().to_string();
    assert!(refusal.contains("selected") && refusal.contains("new folder"), "{refusal}");
    assert_eq!(std::fs::read(out.join("metadata.jsonl")).unwrap(), metadata);
    assert!(write(&dir.path().join("none"), &[], dir.path()).is_err());
}
