//! Training folders, right and wrong.

use std::path::Path;

use selma::data::dataset::Dataset;

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn names(dir: &Path) -> Vec<(String, String)> {
    let dataset = Dataset::open(dir).unwrap();
    let name = |path: &Path| path.strip_prefix(dir).unwrap().display().to_string();
    let samples = dataset.samples().iter();
    samples.map(|s| (name(&s.image), s.captions.join("|"))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn metadata_keeps_its_order() {
    let metadata = "\u{feff}{\"file_name\": \"b.png\", \"text\": \"two\"}\n\n\
                    {\"file_name\": \"sub/a.png\", \"text\": \" one \", \"score\": 3}\r\n";
    let dir = folder(&[("metadata.jsonl", metadata.as_bytes()), ("b.png", b""), ("sub/a.png", b""), ("c.png", b"")]);
    assert_eq!(names(dir.path()), pairs(&[("b.png", "two"), ("sub/a.png", "one")]));
}

#[test]
fn captions_are_sorted_by_name() {
    let dir = folder(&[
        ("b.JPG", b""),
        ("b.txt", b"two\n"),
        ("a.v1.png", b""),
        ("a.v1.txt", b"\xef\xbb\xbfone"),
        (".hidden.png", b""),
        ("notes.md", b""),
    ]);
    assert_eq!(names(dir.path()), pairs(&[("a.v1.png", "one"), ("b.JPG", "two")]));
}

#[test]
fn wrong_folders_are_explained() {
    let good = "{\"file_name\": \"a.png\", \"text\": \"one\"}\n";
    let with = |line: &str| format!("{good}{line}\n").into_bytes();
    let record = |name: &str| with(&format!("{{\"file_name\": \"{name}\", \"text\": \"x\"}}"));
    let metadata = |bytes: Vec<u8>| vec![("metadata.jsonl", bytes), ("a.png", vec![])];
    let cases = [
        (vec![], "no images with captions"),
        (metadata(vec![]), "no images with captions"),
        (metadata(with("{")), "metadata.jsonl: line 2: EOF while parsing"),
        (metadata(with("{\"file_name\": \"a.png\"}")), "line 2: missing field `text`"),
        (metadata([good.as_bytes(), b"\xff\n"].concat()), "line 2 is not UTF-8"),
        (metadata(record("../a.png")), "line 2: file_name `../a.png` leaves the folder"),
        (metadata(record("/etc/passwd")), "leaves the folder"),
        (metadata(record("")), "leaves the folder"),
        (metadata(record("gone.png")), "line 2: file_name `gone.png` does not exist"),
        (vec![("b.txt", b"x".to_vec())], "b.txt: a caption without an image"),
        (vec![("b.png", vec![])], "b.png: an image without a caption; write one to b.txt"),
        (vec![("a.png", vec![]), ("a.txt", b"caf\xe9".to_vec())], "a.txt: not UTF-8 at byte 3"),
        (vec![("a.txt", vec![]), ("a.jpg", vec![]), ("a.png", vec![])], "shares its caption"),
    ];
    for (files, expected) in cases {
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let dir = folder(&files);
        let message = crate::message(Dataset::open(dir.path()));
        assert!(message.contains(expected), "{message}\nexpected {expected}");
    }
    assert!(crate::message(Dataset::open(Path::new("/nowhere/at/all"))).contains("/nowhere/at/all"));
}

#[test]
fn links_out_of_the_folder_are_refused() {
    let outside = folder(&[("secret.png", b"")]);
    let dir = folder(&[("metadata.jsonl", b"{\"file_name\": \"l.png\", \"text\": \"x\"}\n")]);
    std::os::unix::fs::symlink(outside.path().join("secret.png"), dir.path().join("l.png")).unwrap();
    assert!(crate::message(Dataset::open(dir.path())).contains("line 1: file_name `l.png` is a link that leaves"));
}
