//! Which image is of which item.

use std::path::PathBuf;

use selma::evaluate::folder::Entry;
use selma::evaluate::pairing::{Paired, pair};
use selma::evaluate::questions::dsg;

use super::{HEADER, WHOLE, file, row};

#[test]
fn images_are_paired_with_items_by_id_and_by_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let same = |item: &str| row(item, "1", "0", WHOLE, "q?").replace(item, "twin").replacen("twin", item, 1);
    let lines = [HEADER.to_owned(), same("a_1"), same("b_1"), row("c_1", "1", "0", WHOLE, "q?")];
    let items = dsg::read(&file(dir.path(), "q.csv", lines.join("\n"))).unwrap();
    assert_eq!(items[0].prompt, items[1].prompt);
    let image = |index: u64, prompt: &str, id: Option<&str>| Entry {
        file_name: format!("{index}.png"),
        path: PathBuf::new(),
        prompt: prompt.into(),
        skill: None,
        item_id: id.map(String::from),
        seed: 0,
        index,
    };
    let (twin, own) = (items[0].prompt.as_str(), items[2].prompt.as_str());
    let ids = |paired: &Paired<'_>| -> Vec<String> { paired.images.iter().map(|(_, item)| item.id.clone()).collect() };
    // Two images a prompt, in the order of the prompts; another prompt is left out and counted.
    let entries = [image(0, twin, None), image(1, twin, None), image(2, twin, None), image(3, twin, None)];
    let entries = [&entries[..], &[image(4, "else", None), image(5, "else", Some("c_1"))]].concat();
    let paired = pair(dir.path(), &entries, &items).unwrap();
    assert_eq!(ids(&paired), ["a_1", "a_1", "b_1", "b_1", "c_1"]);
    assert_eq!((paired.missing.len(), paired.others), (0, 1));
    let entries = [image(0, twin, Some("b_1")), image(1, &format!(" {own} "), Some("unknown"))];
    let paired = pair(dir.path(), &entries, &items).unwrap();
    assert_eq!(ids(&paired), ["b_1", "c_1"]);
    assert_eq!(paired.missing, ["a_1"]);
    let message = |entries: &[Entry]| pair(dir.path(), entries, &items).err().unwrap().to_string();
    assert!(message(&[image(0, twin, None)]).contains("a_1 and b_1"));
    assert!(message(&[image(0, "else", None)]).contains("no image"));
}
