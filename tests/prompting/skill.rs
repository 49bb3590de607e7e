//! Skills as data.

use selma::prompting::Skill;

#[test]
fn six_skills_ship_and_answer_to_the_names_of_the_paper() {
    let skills = Skill::built_in();
    let ids: Vec<&str> = skills.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["paragraph", "counting", "real-user", "defying", "everyday", "spatial"]);
    for (paper, ours, words) in [
        ("Localized_Narrative", "paragraph", 50),
        ("countbench", "counting", 30),
        ("DiffusionDB", "real-user", 50),
        ("Whoops", "defying", 30),
        ("Coco", "everyday", 30),
        ("Spatial-Relations", "spatial", 30),
    ] {
        let skill = Skill::resolve(paper).unwrap();
        assert_eq!((skill.id.as_str(), skill.word_limit), (ours, words), "{paper}");
        assert_eq!((skill.examples, skill.captions_per_request, skill.seeds.len()), (3, 20, 3));
        assert!(skill.seeds.iter().all(|seed| seed.split_whitespace().count() < words), "{paper}");
    }
}

#[test]
fn a_request_ends_in_the_list_that_the_writer_goes_on_with() {
    let text = Skill::resolve("counting").unwrap().request(&["Two cats", "One dog"]);
    assert!(text.starts_with("Write 20 new image descriptions"), "{text}");
    assert!(text.contains("fewer than 30 words") && !text.contains('{'), "{text}");
    assert!(text.ends_with("\n\n1. Two cats\n\n2. One dog\n"), "{text}");
    let everyday = Skill::resolve("everyday").unwrap().request(&["A"]);
    assert!(everyday.contains("test one of: spatial relations, counts,"), "{everyday}");
}

const OWN: &str = r#"
id = "glass"
word_limit = 12
examples = 1
captions_per_request = 5
abilities = ["material"]
instruction = "Write {count} captions about glass ({abilities}), under {words} words."
seeds = ["A glass door"]
"#;

#[test]
fn a_file_adds_a_skill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glass.toml");
    std::fs::write(&path, OWN).unwrap();
    let skill = Skill::resolve(path.to_str().unwrap()).unwrap();
    assert_eq!(skill.id, "glass");
    let text = skill.request(&["A glass door"]);
    assert!(text.starts_with("Write 5 captions about glass (material), under 12 words."), "{text}");
}

#[test]
fn what_is_wrong_with_a_skill_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("glass.toml");
    for (from, to, words) in [
        ("word_limit", "word_limits", "`word_limits`; the closest known one is `word_limit`"),
        ("id = \"glass\"", "id = \"../glass\"", "id = \"../glass\""),
        ("examples = 1", "examples = 2", "seeds: 1 captions, but a request shows 2"),
        ("examples = 1", "examples = 0", "examples = 0: expected 1 to 20"),
        ("{count}", "{number}", "{number}"),
        ("{count}", "{count", "{count"),
        ("A glass door", "A glass\\ndoor", "number 1"),
        ("A glass door", "...", "number 1"),
        ("[\"material\"]", "[]", "abilities"),
        ("[\"material\"]", "3", "invalid type: integer"),
        ("id = \"glass\"", "", "missing field `id`"),
        ("word_limit = 12", "word_limit =", "line 3"),
    ] {
        assert!(OWN.contains(from), "{from}");
        std::fs::write(&path, OWN.replace(from, to)).unwrap();
        let message = Skill::load(&path).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("glass.toml"), "{to}: {message}");
    }
    std::fs::write(&path, b"id = \"\xff\"").unwrap();
    assert!(Skill::load(&path).unwrap_err().to_string().contains("not UTF-8"));
    let missing = Skill::resolve("cuonting").unwrap_err();
    assert!(missing.exit_code() == 2 && missing.to_string().contains("counting"), "{missing}");
    assert!(Skill::resolve("./counting").unwrap_err().to_string().contains("./counting"));
}
