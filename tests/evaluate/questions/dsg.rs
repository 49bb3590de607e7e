//! DSG's file, its dependencies, and what a yes is.

use std::path::Path;

use selma::evaluate::folder::of_items;
use selma::evaluate::pairing::pair;
use selma::evaluate::question_scores;
use selma::evaluate::questions::{Dependencies, Item, dsg, stripped};
use selma::evaluate::scores::Scores;

use super::{HEADER, WHOLE, file, row};

/// Scores of items whose questions are answered in order by the letters y and n.
fn scored(items: &[Item], letters: &[&str], dependencies: Dependencies) -> Scores {
    let entries = of_items(items);
    let paired = pair(Path::new("images"), &entries, items).unwrap();
    let spell = |letters: &&str| letters.chars().map(|c| Some(if c == 'y' { "yes" } else { "no" }.into())).collect();
    let answers: Vec<Vec<Option<String>>> = letters.iter().map(spell).collect();
    question_scores::score(("dsg", "test"), &paired, &answers, dependencies, 5).unwrap()
}

#[test]
fn the_quirks_of_dsgs_file() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        HEADER.to_owned(),
        row("whoops_5", "1", "0", WHOLE, "Is there a caf\u{e9}?"),
        row("whoops_5", "2", "1, 3", ("attribute", "color"), "Blanks after the comma?"),
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
    assert_eq!(parents, [vec![], vec![1, 3], vec![1], vec![2], vec![1], vec![7], vec![]]);
    assert_eq!(items[0].prompt, "The prompt of whoops_5, with a comma");
    assert_eq!(items[0].questions[0].text, "Is there a caf\u{e9}?");
    assert_eq!(items[0].questions[6].text, "Is your mom ?");
    assert_eq!(items[0].questions[1].category, "attribute - color");
    assert_eq!(items[0].questions[2].category, "global");
    assert_eq!((items[1].questions[0].id, &items[1].questions[0].parents), (2, &vec![1]));
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
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    let good = row("a_1", "1", "0", WHOLE, "One?");
    let header = HEADER.to_owned();
    refused(&[header.replace("dependency", "parents"), good.clone()], &["q.csv", "dependency"]);
    refused(std::slice::from_ref(&header), &["no questions"]);
    refused(&[header.clone(), good.replace(",1,", ",one,")], &["line 2", "proposition_id", "one"]);
    refused(&[header.clone(), good.clone(), good.clone()], &["line 3", "question 1 twice"]);
    let other = row("a_1", "2", "0", WHOLE, "Two?").replace("The prompt", "Another prompt");
    refused(&[header.clone(), good.clone(), other], &["line 3", "another text"]);
    refused(&[header.clone(), format!("{good},more")], &["line: 2"]);
    let broken = [header.as_bytes(), b"\na_1,\xff,k,1,0,entity,whole,t,q\n"].concat();
    let message = dsg::read(&file(dir.path(), "q.csv", broken)).unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");
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
        scores.images.iter().map(|p| p.questions.iter().map(|q| q.counts).collect()).collect()
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
    assert_eq!((scores.overall, asked.dependencies.as_str()), (asked.readings["direct"].item_mean, "direct"));
    near(scores.families["relation"].mean, 0.5);
    near(scores.families["text"].mean, 1.0 / 3.0);
    near(scores.categories["relation - spatial"].mean, 1.0);
    near(scores.broad_categories["entity"].mean, 2.0 / 5.0);
    let of_other = scored(&items, &letters, Dependencies::None);
    let message = selma::evaluate::comparison::Comparison::of(&scores, &of_other).unwrap_err().to_string();
    assert!(message.contains("--dependencies"), "{message}");
}

#[test]
fn an_answer_is_understood_before_it_is_scored() {
    for (answer, expected) in [(" Yes. ", "yes"), ("YES!", "yes"), ("no bus", "no bus"), ("", ""), ("?yes,", "yes")] {
        assert_eq!(stripped(answer), expected);
    }
    let dir = tempfile::tempdir().unwrap();
    let numbers = ["1", "2", "3", "4", "5", "6"];
    let rows = numbers.map(|number| row("a_1", number, "0", WHOLE, &format!("Question {number}?")));
    let items =
        dsg::read(&file(dir.path(), "q.csv", [&[HEADER.to_owned()][..], &rows[..]].concat().join("\n"))).unwrap();
    let entries = of_items(&items);
    let paired = pair(dir.path(), &entries, &items).unwrap();
    let answers = vec![
        ["**Yes**", "no bus", "", "unanswerable", "<think>yes", "The answer is yes."]
            .map(|said| Some(said.into()))
            .to_vec(),
    ];
    let scores = question_scores::score(("dsg", "x"), &paired, &answers, Dependencies::Direct, 1).unwrap();
    // An empty reply and a thought without an end are no answers: of the other four, two are a yes.
    assert_eq!((scores.overall.mean, scores.images[0].questions.len()), (0.5, 4));
    let asked = scores.asked.unwrap();
    assert_eq!((asked.not_understood, asked.unanswered), (1, 2));
    // An image without any answer has no score.
    let message = question_scores::score(("dsg", "x"), &paired, &[vec![None; 6]], Dependencies::Direct, 1).unwrap_err();
    assert!(message.to_string().contains("6 questions"), "{message}");
}
