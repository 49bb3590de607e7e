//! Files of answers.

use selma::evaluate::answers::Answers;
use selma::evaluate::questions::dsg;

use super::{HEADER, WHOLE, file, row};

#[test]
fn answers_that_fit_no_question_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [HEADER.to_owned(), row("a_1", "1", "0", WHOLE, "One?"), row("a_1", "2", "0", WHOLE, "Two?")];
    let items = dsg::read(&file(dir.path(), "q.csv", lines.join("\n"))).unwrap();
    let read = |text: &str| Answers::read(&file(dir.path(), "answers.jsonl", text), &items);
    let refused = |text: &str, words: &[&str]| {
        let message = read(text).err().unwrap().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    refused(r#"{"item_id": "b_1", "question_id": 1, "answer": "yes"}"#, &["line 1", "b_1"]);
    refused(r#"{"item_id": "a_1", "question_id": 3, "answer": "yes"}"#, &["line 1", "no such question"]);
    refused(r#"{"item_id": "a_1", "question": "Three?", "answer": "yes"}"#, &["no such question"]);
    refused(r#"{"item_id": "a_1", "question_id": 1}"#, &["no answer"]);
    refused(r#"{"item_id": "a_1", "answer": "yes"}"#, &["neither question_id nor question"]);
    let both = r#"{"item_id": "a_1", "question_id": 1, "answer": "yes"}
{"item_id": "a_1", "question_id": 1, "answer": "no"}"#;
    refused(both, &["line 2", "another answer"]);
    // Of one image, of the item's others, and none.
    let answers = read(
        r#"{"item_id": "a_1", "question_id": 1, "answer": "yes", "file_name": "x.png"}
{"item_id": "a_1", "question_id": "1", "answer": "no"}
{"item_id": "a_1", "question": "Two?", "answer": "no"}"#,
    )
    .unwrap();
    assert_eq!(answers.of(&items[0], "x.png").unwrap(), ["yes", "no"].map(|said| Some(said.into())));
    assert_eq!(answers.of(&items[0], "y.png").unwrap(), ["no", "no"].map(|said| Some(said.into())));
    let some = read(r#"{"item_id": "a_1", "question_id": 1, "answer": "yes"}"#).unwrap();
    let message = some.of(&items[0], "y.png").unwrap_err().to_string();
    assert!(message.contains("question 2 of item a_1"), "{message}");
}
