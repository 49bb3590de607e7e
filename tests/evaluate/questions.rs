//! Question files with the quirks that real ones have, and what answers make of them.

use std::path::{Path, PathBuf};

use selma::evaluate::answers::Answers;
use selma::evaluate::asked;
use selma::evaluate::folder::{Entry, of_items};
use selma::evaluate::pairing::{Paired, pair};
use selma::evaluate::questions::matching::{Rule, choose};
use selma::evaluate::questions::{Dependencies, Item, dsg, stripped, tifa};
use selma::evaluate::scores::Scores;
use serde_json::json;

const HEADER: &str = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,\
                      question_natural_language";

fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A row as DSG writes it: everything but the numbers may be in quotes.
fn row(item: &str, number: &str, dependency: &str, category: (&str, &str), question: &str) -> String {
    let text = format!("\"The prompt of {item}, with a comma\"");
    let (broad, detailed) = category;
    format!("{item},{text},k,{number},\"{dependency}\",{broad},{detailed},t,{question}")
}

const WHOLE: (&str, &str) = ("entity", "whole");

/// Scores of items whose questions are answered in order by the letters y and n.
fn scored(items: &[Item], letters: &[&str], dependencies: Dependencies) -> Scores {
    let entries = of_items(items);
    let paired = pair(Path::new("pictures"), &entries, items).unwrap();
    let spell = |letters: &&str| {
        letters
            .chars()
            .map(|c| if c == 'y' { "yes" } else { "no" }.into())
            .collect()
    };
    let answers: Vec<Vec<String>> = letters.iter().map(spell).collect();
    asked::score(("dsg", "test"), &paired, &answers, dependencies, 5).unwrap()
}

#[test]
fn the_quirks_of_dsgs_file() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        HEADER.to_owned(),
        row("whoops_5", "1", "0", WHOLE, "Is there a caf\u{e9}?"),
        row(
            "whoops_5",
            "2",
            "1, 3",
            ("attribute", "color"),
            "Blanks after the comma?",
        ),
        row("whoops_5", "3", "1, baseball bat", ("global", "-"), "A word?"),
        row("whoops_5", "4", "0,2", WHOLE, "A zero?"),
        row("whoops_5", "5", "5,1", WHOLE, "Itself?"),
        row("whoops_5", "6", "7", WHOLE, "A later one?"),
        row("whoops_5", "7", "", WHOLE, "\"Is your mom ?\""),
        // Begins at 2, with a parent that is missing.
        row("tifa160_134", "2", "1", WHOLE, "One?"),
        row("stanford_paragraph_3", "1", "0", WHOLE, "Two?"),
        row("mine", "1", "0", WHOLE, "Three?"),
    ];
    let text = format!("\u{feff}{}\r\n", lines.join("\r\n"));
    let items = dsg::read(&file(dir.path(), "q.csv", text)).unwrap();
    let parents: Vec<Vec<usize>> = items[0].questions.iter().map(|q| q.parents.clone()).collect();
    assert_eq!(
        parents,
        [vec![], vec![1, 3], vec![1], vec![2], vec![1], vec![7], vec![]]
    );
    assert_eq!(items[0].prompt, "The prompt of whoops_5, with a comma");
    assert_eq!(items[0].questions[0].text, "Is there a caf\u{e9}?");
    assert_eq!(items[0].questions[6].text, "Is your mom ?");
    assert_eq!(items[0].questions[1].category, "attribute - color");
    assert_eq!(items[0].questions[2].category, "global");
    assert_eq!(
        (items[1].questions[0].id, &items[1].questions[0].parents),
        (2, &vec![1])
    );
    let families: Vec<Option<&str>> = items.iter().map(|item| item.family.as_deref()).collect();
    assert_eq!(families, [Some("defying"), Some("tifa"), Some("paragraph"), None]);
    // What is missing does not gate.
    let scores = scored(&items[1..2], &["y"], Dependencies::Cascading);
    assert_eq!(scores.overall.mean, 1.0);
}

#[test]
fn damaged_question_files_are_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |lines: &[String], words: &[&str]| {
        let path = file(dir.path(), "q.csv", lines.join("\n"));
        let message = dsg::read(&path).unwrap_err().to_string();
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in {message}"
        );
    };
    let good = row("a_1", "1", "0", WHOLE, "One?");
    let header = HEADER.to_owned();
    refused(
        &[header.replace("dependency", "parents"), good.clone()],
        &["q.csv", "dependency"],
    );
    refused(std::slice::from_ref(&header), &["no questions"]);
    refused(
        &[header.clone(), good.replace(",1,", ",one,")],
        &["line 2", "proposition_id", "one"],
    );
    refused(
        &[header.clone(), good.clone(), good.clone()],
        &["line 3", "question 1 twice"],
    );
    let other = row("a_1", "2", "0", WHOLE, "Two?").replace("The prompt", "Another prompt");
    refused(&[header.clone(), good.clone(), other], &["line 3", "another text"]);
    refused(&[header.clone(), format!("{good},more")], &["line: 2"]);
    let broken = [header.as_bytes(), b"\na_1,\xff,k,1,0,entity,whole,t,q\n"].concat();
    let message = dsg::read(&file(dir.path(), "q.csv", broken)).unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");

    let refused = |content: serde_json::Value, words: &[&str]| {
        let path = file(dir.path(), "q.json", content.to_string());
        let message = tifa::read(&path).unwrap_err().to_string();
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in {message}"
        );
    };
    refused(json!([]), &["no questions"]);
    refused(json!({"id": 1}), &["q.json", "list"]);
    let question = |caption: &str, choices: &[&str]| json!({"id": "c_1", "caption": caption, "question": "q?", "choices": choices, "answer": "a"});
    refused(json!([question("x", &[])]), &["entry 1", "c_1", "choices"]);
    refused(
        json!([question("x", &["a"]), question("y", &["a"])]),
        &["entry 2", "another caption"],
    );
}

#[test]
fn three_readings_and_two_averages() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        HEADER.to_owned(),
        // A chain that begins with its end: the order of the rows does not matter.
        row("vrd_1", "3", "2", ("relation", "spatial"), "On it?"),
        row("vrd_1", "2", "1", ("attribute", "color"), "Red?"),
        row("vrd_1", "1", "0", WHOLE, "A cat?"),
        row("vrd_1", "4", "0", WHOLE, "A mat?"),
        // A cycle of two, and one that hangs on it.
        row("drawtext_45", "1", "2", WHOLE, "One?"),
        row("drawtext_45", "2", "1", WHOLE, "Two?"),
        row("drawtext_45", "3", "2", WHOLE, "Three?"),
    ];
    let items = dsg::read(&file(dir.path(), "q.csv", lines.join("\n"))).unwrap();
    // On it: yes. Red: yes. A cat: no. A mat: yes. In the cycle the first is denied.
    let letters = ["yyny", "nyy"];
    let counts = |dependencies| -> Vec<Vec<bool>> {
        let scores = scored(&items, &letters, dependencies);
        scores
            .pictures
            .iter()
            .map(|p| p.questions.iter().map(|q| q.counts).collect())
            .collect()
    };
    let none = vec![vec![true, true, false, true], vec![false, true, true]];
    let direct = vec![vec![true, false, false, true], vec![false, false, true]];
    let cascading = vec![vec![false, false, false, true], vec![false, false, false]];
    assert_eq!(counts(Dependencies::None), none);
    assert_eq!(counts(Dependencies::Direct), direct);
    assert_eq!(counts(Dependencies::Cascading), cascading);

    let scores = scored(&items, &letters, Dependencies::Direct);
    let asked = scores.asked.as_ref().unwrap();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a}, not {b}");
    for (name, item, question) in [
        ("none", (0.75 + 2.0 / 3.0) / 2.0, 5.0 / 7.0),
        ("direct", (0.5 + 1.0 / 3.0) / 2.0, 3.0 / 7.0),
        ("cascading", 0.125, 1.0 / 7.0),
    ] {
        near(asked.readings[name].item_mean.mean, item);
        near(asked.readings[name].question_mean.mean, question);
    }
    assert_eq!(
        (scores.overall, asked.dependencies.as_str()),
        (asked.readings["direct"].item_mean, "direct")
    );
    near(scores.families["relation"].mean, 0.5);
    near(scores.families["text"].mean, 1.0 / 3.0);
    near(scores.categories["relation - spatial"].mean, 1.0);
    near(scores.broad_categories["entity"].mean, 2.0 / 5.0);
    let of_other = scored(&items, &letters, Dependencies::None);
    let message = selma::evaluate::comparison::Comparison::of(&scores, &of_other)
        .unwrap_err()
        .to_string();
    assert!(message.contains("--dependencies"), "{message}");
}

#[test]
fn only_a_plain_yes_is_one() {
    for (answer, expected) in [
        (" Yes. ", "yes"),
        ("YES!", "yes"),
        ("no bus", "no bus"),
        ("", ""),
        ("?yes,", "yes"),
    ] {
        assert_eq!(stripped(answer), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    let numbers = ["1", "2", "3", "4"];
    let rows = numbers.map(|number| row("a_1", number, "0", WHOLE, &format!("Question {number}?")));
    let items = dsg::read(&file(
        dir.path(),
        "q.csv",
        [&[HEADER.to_owned()][..], &rows[..]].concat().join("\n"),
    ))
    .unwrap();
    let entries = of_items(&items);
    let paired = pair(dir.path(), &entries, &items).unwrap();
    let answers = vec![["Yes.", "no bus", "", "unanswerable"].map(String::from).to_vec()];
    let scores = asked::score(("dsg", "x"), &paired, &answers, Dependencies::Direct, 1).unwrap();
    assert_eq!(scores.overall.mean, 0.25);
    assert_eq!(scores.asked.unwrap().not_understood, 3);
}

/// Questions, choices, right answers and given ones of TIFA's own sample (github.com/Yushi-Hu/tifa, Apache-2.0), by type.
const SAMPLE: [(&str, &str, &str, &str, &str, &str); 19] = [
    (
        "coco_301091",
        "animal/human",
        "is this a surfer?",
        "yes|no",
        "yes",
        "yes",
    ),
    (
        "coco_301091",
        "animal/human",
        "who is on the beach?",
        "surfer|swimmer|diver|skier",
        "surfer",
        "surfer",
    ),
    (
        "coco_301091",
        "object",
        "is the person carrying a board?",
        "yes|no",
        "yes",
        "yes",
    ),
    ("coco_301091", "location", "is this a beach?", "yes|no", "yes", "yes"),
    (
        "coco_301091",
        "location",
        "what type of place is this?",
        "beach|park|forest|mountain",
        "beach",
        "beach",
    ),
    (
        "coco_301091",
        "activity",
        "is the surfer carrying something?",
        "yes|no",
        "yes",
        "yes",
    ),
    (
        "coco_301091",
        "activity",
        "is the surfer walking on the beach?",
        "yes|no",
        "yes",
        "yes",
    ),
    ("coco_301091", "color", "is the day gray?", "yes|no", "yes", "yes"),
    (
        "coco_301091",
        "color",
        "what color is the sky?",
        "gray|black|red|blue",
        "gray",
        "gray",
    ),
    ("coco_301091", "color", "is the board white?", "yes|no", "yes", "yes"),
    (
        "coco_301091",
        "color",
        "what color is the board?",
        "white|black|red|blue",
        "white",
        "white",
    ),
    (
        "drawbench_52",
        "animal/human",
        "are there cats?",
        "yes|no",
        "yes",
        "yes",
    ),
    ("drawbench_52", "animal/human", "are there dogs?", "yes|no", "yes", "no"),
    ("drawbench_52", "object", "is there grass?", "yes|no", "yes", "yes"),
    (
        "drawbench_52",
        "object",
        "what is the animals sitting on?",
        "grass|leaves|twigs|sand",
        "grass",
        "grass",
    ),
    (
        "drawbench_52",
        "activity",
        "are the animals sitting?",
        "yes|no",
        "yes",
        "yes",
    ),
    (
        "drawbench_52",
        "counting",
        "how many cats are in the picture?",
        "1|2|3|4",
        "3",
        "3",
    ),
    ("drawbench_52", "counting", "are there two dogs?", "yes|no", "yes", "no"),
    (
        "drawbench_52",
        "counting",
        "how many dogs are in the picture?",
        "1|2|3|4",
        "2",
        "0",
    ),
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
    assert_eq!(
        items.iter().map(|item| item.questions.len()).collect::<Vec<_>>(),
        [11, 8]
    );
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
        let scores = asked::score(("tifa", "x"), &paired, &given, Dependencies::Direct, 1).unwrap();
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
        assert_eq!(
            choose(answer, choices),
            (expected.into(), rule),
            "{answer:?} among {choices}"
        );
    }
}

#[test]
fn answers_that_fit_no_question_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        HEADER.to_owned(),
        row("a_1", "1", "0", WHOLE, "One?"),
        row("a_1", "2", "0", WHOLE, "Two?"),
    ];
    let items = dsg::read(&file(dir.path(), "q.csv", lines.join("\n"))).unwrap();
    let read = |text: &str| Answers::read(&file(dir.path(), "answers.jsonl", text), &items);
    let refused = |text: &str, words: &[&str]| {
        let message = read(text).err().unwrap().to_string();
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{words:?} in {message}"
        );
    };
    refused(
        r#"{"item_id": "b_1", "question_id": 1, "answer": "yes"}"#,
        &["line 1", "b_1"],
    );
    refused(
        r#"{"item_id": "a_1", "question_id": 3, "answer": "yes"}"#,
        &["line 1", "no such question"],
    );
    refused(
        r#"{"item_id": "a_1", "question": "Three?", "answer": "yes"}"#,
        &["no such question"],
    );
    refused(r#"{"item_id": "a_1", "question_id": 1}"#, &["no answer"]);
    refused(
        r#"{"item_id": "a_1", "answer": "yes"}"#,
        &["neither question_id nor question"],
    );
    let both = r#"{"item_id": "a_1", "question_id": 1, "answer": "yes"}
{"item_id": "a_1", "question_id": 1, "answer": "no"}"#;
    refused(both, &["line 2", "another answer"]);
    // Of one picture, of the item's others, and none.
    let answers = read(
        r#"{"item_id": "a_1", "question_id": 1, "answer": "yes", "file_name": "x.png"}
{"item_id": "a_1", "question_id": "1", "answer": "no"}
{"item_id": "a_1", "question": "Two?", "answer": "no"}"#,
    )
    .unwrap();
    assert_eq!(answers.of(&items[0], "x.png").unwrap(), ["yes", "no"]);
    assert_eq!(answers.of(&items[0], "y.png").unwrap(), ["no", "no"]);
    let some = read(r#"{"item_id": "a_1", "question_id": 1, "answer": "yes"}"#).unwrap();
    let message = some.of(&items[0], "y.png").unwrap_err().to_string();
    assert!(message.contains("question 2 of item a_1"), "{message}");
}

#[test]
fn pictures_are_paired_with_items_by_id_and_by_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let same = |item: &str| {
        row(item, "1", "0", WHOLE, "q?")
            .replace(item, "twin")
            .replacen("twin", item, 1)
    };
    let lines = [
        HEADER.to_owned(),
        same("a_1"),
        same("b_1"),
        row("c_1", "1", "0", WHOLE, "q?"),
    ];
    let items = dsg::read(&file(dir.path(), "q.csv", lines.join("\n"))).unwrap();
    assert_eq!(items[0].prompt, items[1].prompt);
    let picture = |index: u64, prompt: &str, id: Option<&str>| Entry {
        file_name: format!("{index}.png"),
        path: PathBuf::new(),
        prompt: prompt.into(),
        skill: None,
        item_id: id.map(String::from),
        seed: 0,
        index,
    };
    let (twin, own) = (items[0].prompt.as_str(), items[2].prompt.as_str());
    let ids =
        |paired: &Paired<'_>| -> Vec<String> { paired.pictures.iter().map(|(_, item)| item.id.clone()).collect() };
    // Two pictures a prompt, in the order of the prompts; another prompt is left out and counted.
    let entries = [
        picture(0, twin, None),
        picture(1, twin, None),
        picture(2, twin, None),
        picture(3, twin, None),
    ];
    let entries = [
        &entries[..],
        &[picture(4, "else", None), picture(5, "else", Some("c_1"))],
    ]
    .concat();
    let paired = pair(dir.path(), &entries, &items).unwrap();
    assert_eq!(ids(&paired), ["a_1", "a_1", "b_1", "b_1", "c_1"]);
    assert_eq!((paired.missing.len(), paired.others), (0, 1));
    let entries = [
        picture(0, twin, Some("b_1")),
        picture(1, &format!(" {own} "), Some("unknown")),
    ];
    let paired = pair(dir.path(), &entries, &items).unwrap();
    assert_eq!(ids(&paired), ["b_1", "c_1"]);
    assert_eq!(paired.missing, ["a_1"]);
    let message = |entries: &[Entry]| pair(dir.path(), entries, &items).err().unwrap().to_string();
    assert!(message(&[picture(0, twin, None)]).contains("a_1 and b_1"));
    assert!(message(&[picture(0, "else", None)]).contains("no picture"));
}
