//! Captions from replies in every style.

use selma::prompting::reply::{Captions, captions, plain_line};

fn read(reply: &str) -> Captions {
    captions(reply, 3, false)
}

/// `found` captions of A cat, Two dogs, 3.5 litres of milk, and so many lines that were not understood.
fn assert_reads(reply: &str, found: usize, not_understood: usize) {
    let all = ["A cat", "Two dogs", "3.5 litres of milk"];
    let expected =
        Captions { captions: all[..found].iter().map(|s| s.to_string()).collect(), not_understood, partial: 0 };
    assert_eq!(read(reply), expected, "{reply:?}");
}

#[test]
fn lists_in_the_usual_styles() {
    assert_reads("4. A cat\n5. Two dogs\n6. 3.5 litres of milk\n", 3, 0);
    assert_reads("1. A cat\n\n\n2. Two dogs\n\n3. 3.5 litres of milk", 3, 0);
    assert_reads("4) A cat\n5) Two dogs\n6) 3.5 litres of milk", 3, 0);
    assert_reads("4: A cat\r\n5: Two dogs\r\n6: 3.5 litres of milk\r\n", 3, 0);
    assert_reads("(4) A cat\n(5) Two dogs\n(6) 3.5 litres of milk", 3, 0);
    assert_reads("- A cat\n- Two dogs\n- 3.5 litres of milk", 3, 0);
    assert_reads("* A cat\n* Two dogs\n* 3.5 litres of milk", 3, 0);
    assert_reads("• A cat\n• Two dogs\n• 3.5 litres of milk", 3, 0);
    assert_reads("**4.** A cat\n**5.** Two dogs\n**6. 3.5 litres of milk**", 3, 0);
    assert_reads("4. \"A cat\"\n5. 'Two dogs'\n6. “3.5 litres of milk”", 3, 0);
    assert_reads("4.A cat\n  5.  Two   dogs\n\t6. **3.5 litres of milk**", 3, 0);
    assert_reads("A cat\nTwo dogs\n3.5 litres of milk", 3, 0);
    assert_reads("[\"A cat\", \"Two dogs\", \"3.5 litres of milk\"]", 3, 0);
    assert_reads("```json\n{\"captions\": [\"A cat\", \"Two dogs\", 7]}\n```", 2, 1);
    assert_reads("<think>4. not this\n5. nor this</think>\n4. A cat\n5. Two dogs", 2, 0);
    assert_reads("```\n4. A cat\n5. Two dogs\n```\n---", 2, 0);
}

#[test]
fn what_is_not_understood_is_counted() {
    assert_reads("Sure! Here are 20 more:\n\n4. A cat\n5. Two dogs\n\nI hope this helps!", 2, 2);
    // A skipped number, and a start in the middle, lose nothing.
    assert_reads("4. A cat\n7. Two dogs\n2. 3.5 litres of milk", 3, 0);
    assert_reads("4. A cat\nWhich one?\n5. Two dogs\n6.\n", 2, 2);
    assert_reads("4. A cat\n- a note\n5. Two dogs", 2, 1);
    assert_reads("Here you are:\nA cat\nTwo dogs", 2, 1);
    // A refusal is not a caption, and neither is an unfinished thought.
    assert_eq!(captions("I cannot help with that.", 20, false).not_understood, 1);
    assert_eq!(read("<think>4. A cat"), Captions::default());
    assert_eq!(read(""), Captions::default());
}

#[test]
fn a_cut_reply_loses_its_last_item() {
    let cut = captions("4. A cat\n5. Two do", 3, true);
    assert_eq!((cut.captions, cut.partial, cut.not_understood), (vec!["A cat".to_owned()], 1, 0));
    let cut = captions("[\"A cat\", \"Two do", 3, true);
    assert_eq!((cut.captions.len(), cut.partial), (0, 1));
    assert_eq!(captions("4. A", 3, true).captions.len(), 0);
}

#[test]
fn captions_are_one_line_of_plain_text() {
    assert_eq!(plain_line(" a\u{1b}[2Jb\tc\u{202e}d\u{2028}e \u{7}"), "a [2Jb c d e");
    let read = captions("4. A \u{1b}]0;title\u{7}cat\n5. <b>\"two\"</b> dogs\n6. \"a\" and \"b\"", 3, false);
    assert_eq!(read.captions, ["A ]0;title cat", "<b>\"two\"</b> dogs", "\"a\" and \"b\""]);
}

#[test]
fn json_is_found_wherever_it_is() {
    let array = "[\"A cat\", \"Two dogs\"]";
    for reply in [
        format!("Sure! Here are the captions:\n\n```json\n{array}\n```\nEnjoy!"),
        format!("Here you are: {array} I hope this helps."),
        format!("<think>[\"not this\"]</think>```\n{{\"count\": 2, \"captions\": {array}}}\n```"),
        "Here:\n[{\"id\": 4, \"caption\": \"A cat\"}, {\"id\": 5, \"caption\": \"Two dogs\"}]".to_owned(),
        "{\"prompt\": \"A cat\"}\n{\"prompt\": \"Two dogs\"}\n".to_owned(),
        "[{\"style\": 1, \"scene\": \"A cat\"}, {\"scene\": \"Two dogs\"}]".to_owned(),
    ] {
        assert_eq!(read(&reply).captions, ["A cat", "Two dogs"], "{reply}");
    }
    // What a caption quotes is not the list.
    let read = read("4. A sign that says [\"stop\"]\n5. Two dogs");
    assert_eq!(read.captions, ["A sign that says [\"stop\"]", "Two dogs"]);
}

#[test]
fn a_caption_on_two_lines_is_one() {
    let read = |reply: &str| captions(reply, 3, false);
    for reply in [
        "4. A cat\nwhich sleeps\n5. Two dogs",
        "4. A cat\n   which sleeps\n5. Two dogs\n\nI hope this helps!",
        "- A cat which\n  sleeps\n- Two dogs",
        "A cat which\nsleeps\n\nTwo dogs",
    ] {
        assert_eq!(read(reply).captions, ["A cat which sleeps", "Two dogs"], "{reply:?}");
    }
    // A remark is no second half.
    assert_eq!(read("4. A cat\n5. Two dogs\nI hope this helps!").captions, ["A cat", "Two dogs"]);
}

#[test]
fn quotes_of_any_language_and_a_byte_order_mark_are_no_part_of_a_caption() {
    let quoted = ["« A cat »", "“A cat”", "„A cat“", "„A cat”", "»A cat«", "‹A cat›", "「A cat」", "‘A cat’"];
    for caption in quoted {
        assert_eq!(read(&format!("\u{feff}4. {caption}\n5. Two dogs")).captions, ["A cat", "Two dogs"], "{caption}");
    }
}
