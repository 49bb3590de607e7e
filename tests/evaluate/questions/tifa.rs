//! TIFA's file, its own sample, and how an answer is taken for a choice.

use selma::evaluate::answers::Answers;
use selma::evaluate::folder::of_items;
use selma::evaluate::pairing::pair;
use selma::evaluate::question_scores;
use selma::evaluate::questions::matching::{Rule, choose};
use selma::evaluate::questions::{Dependencies, tifa};
use serde_json::json;

use super::file;

#[test]
fn damaged_question_files_are_refused_by_entry() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |content: serde_json::Value, words: &[&str]| {
        let path = file(dir.path(), "q.json", content.to_string());
        let message = tifa::read(&path).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    refused(json!([]), &["no questions"]);
    refused(json!({"id": 1}), &["q.json", "list"]);
    let question = |caption: &str, choices: &[&str]| json!({"id": "c_1", "caption": caption, "question": "q?", "choices": choices, "answer": "a"});
    refused(json!([question("x", &[])]), &["entry 1", "c_1", "choices"]);
    refused(json!([question("x", &["a"]), question("y", &["a"])]), &["entry 2", "another caption"]);
}

/// Questions, choices, right answers and given ones of TIFA's own sample (github.com/Yushi-Hu/tifa, Apache-2.0), by type.
const SAMPLE: [(&str, &str, &str, &str, &str, &str); 19] = [
    ("coco_301091", "animal/human", "is this a surfer?", "yes|no", "yes", "yes"),
    ("coco_301091", "animal/human", "who is on the beach?", "surfer|swimmer|diver|skier", "surfer", "surfer"),
    ("coco_301091", "object", "is the person carrying a board?", "yes|no", "yes", "yes"),
    ("coco_301091", "location", "is this a beach?", "yes|no", "yes", "yes"),
    ("coco_301091", "location", "what type of place is this?", "beach|park|forest|mountain", "beach", "beach"),
    ("coco_301091", "activity", "is the surfer carrying something?", "yes|no", "yes", "yes"),
    ("coco_301091", "activity", "is the surfer walking on the beach?", "yes|no", "yes", "yes"),
    ("coco_301091", "color", "is the day gray?", "yes|no", "yes", "yes"),
    ("coco_301091", "color", "what color is the sky?", "gray|black|red|blue", "gray", "gray"),
    ("coco_301091", "color", "is the board white?", "yes|no", "yes", "yes"),
    ("coco_301091", "color", "what color is the board?", "white|black|red|blue", "white", "white"),
    ("drawbench_52", "animal/human", "are there cats?", "yes|no", "yes", "yes"),
    ("drawbench_52", "animal/human", "are there dogs?", "yes|no", "yes", "no"),
    ("drawbench_52", "object", "is there grass?", "yes|no", "yes", "yes"),
    ("drawbench_52", "object", "what is the animals sitting on?", "grass|leaves|twigs|sand", "grass", "grass"),
    ("drawbench_52", "activity", "are the animals sitting?", "yes|no", "yes", "yes"),
    ("drawbench_52", "counting", "how many cats are in the picture?", "1|2|3|4", "3", "3"),
    ("drawbench_52", "counting", "are there two dogs?", "yes|no", "yes", "no"),
    ("drawbench_52", "counting", "how many dogs are in the picture?", "1|2|3|4", "2", "0"),
];

#[test]
fn tifas_sample_scores_as_tifa_scores_it() {
    let dir = tempfile::tempdir().unwrap();
    let question = |(id, kind, question, choices, answer, _): &(&str, &str, &str, &str, &str, &str)| {
        let choices: Vec<&str> = choices.split('|').collect();
        json!({"id": id, "caption": format!("the caption of {id}"), "question": question, "choices": choices,
               "answer": answer, "element_type": kind, "element": "x", "coco_val_id": null})
    };
    let rows: Vec<_> = SAMPLE.iter().map(question).collect();
    let items = tifa::read(&file(dir.path(), "q.json", json!(rows).to_string())).unwrap();
    assert_eq!(items.iter().map(|item| item.questions.len()).collect::<Vec<_>>(), [11, 8]);
    // The form of TIFA's result file, JSON lines by text, and a table by number.
    let mut details = json!({});
    for ((id, _, text, .., given), row) in SAMPLE.iter().zip(&rows) {
        details[id][text] = row.clone();
        details[id][text]["free_form_vqa"] = json!(given);
    }
    let result = json!({"tifa_average": 0.8125, "question_details": details});
    let lines: String = (SAMPLE.iter())
        .map(|(id, _, text, .., given)| format!("{}\n", json!({"id": id, "question": text, "answer": given})))
        .collect();
    let mut table = String::from("question_id,item_id,answer\n");
    for (number, (id, .., given)) in SAMPLE.iter().enumerate() {
        table += &format!("{},{id},{given}\n", if number < 11 { number + 1 } else { number - 10 });
    }
    for path in [
        file(dir.path(), "answers.json", result.to_string()),
        file(dir.path(), "answers.jsonl", lines),
        file(dir.path(), "answers.csv", table),
    ] {
        let answers = Answers::read(&path, &items).unwrap();
        let entries = of_items(&items);
        let paired = pair(dir.path(), &entries, &items).unwrap();
        let given: Vec<_> = items.iter().map(|item| answers.of(item, "x.png").unwrap()).collect();
        let scores = question_scores::score(("tifa", "x"), &paired, &given, Dependencies::Direct, 1).unwrap();
        // The numbers of TIFA's own result file.
        assert_eq!(scores.overall.mean, 0.8125);
        let asked = scores.asked.unwrap();
        assert!((asked.deviation.unwrap() - 0.2651650429449553).abs() < 1e-15);
        let types = ["animal/human", "object", "location", "activity", "color", "counting"];
        let accuracy = types.map(|kind| scores.categories[kind].mean);
        assert_eq!(accuracy, [0.75, 1.0, 1.0, 1.0, 1.0, 1.0 / 3.0]);
        assert_eq!(scores.families["coco"].mean, 1.0);
        assert_eq!(scores.families["drawbench"].mean, 0.625);
        // "0" is none of the choices 1 to 4.
        assert_eq!(
            asked.matching.into_iter().collect::<Vec<_>>(),
            [("first".to_owned(), 1.0 / 19.0), ("literal".to_owned(), 18.0 / 19.0)]
        );
        assert!(asked.readings.is_empty());
    }
}

#[test]
fn answers_are_matched_by_the_first_rule_that_decides() {
    let choose = |answer: &str, choices: &str| {
        let choices: Vec<String> = choices.split('|').map(String::from).collect();
        let (place, rule) = choose(answer, &choices);
        (choices[place].clone(), rule)
    };
    for (answer, choices, expected, rule) in [
        ("red", "blue|red", "red", Rule::Literal),
        ("The Red.", "blue|red", "red", Rule::Normalised),
        ("two", "1|2|3|4", "2", Rule::Normalised),
        ("twenty", "19|20", "20", Rule::Normalised),
        ("there are three of them", "1|2|3|4", "3", Rule::Contained),
        ("beach", "a sandy beach|forest", "a sandy beach", Rule::Contained),
        // Of several that it holds, the one with most of its words.
        ("a red sports car", "car|sports car|boat", "sports car", Rule::Contained),
        // Whole words: "cat" is not in "caterpillar".
        ("a green caterpillar", "cat|green leaf", "green leaf", Rule::Overlap),
        ("nothing", "1|2", "1", Rule::First),
        ("", "1|2", "1", Rule::First),
        ("?!", "the|2", "the", Rule::First),
    ] {
        assert_eq!(choose(answer, choices), (expected.into(), rule), "{answer:?} among {choices}");
    }
}
