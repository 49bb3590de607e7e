//! Training folders with bad records, captions and images.

use std::path::Path;

use crate::{model, names, refuses, train};

fn image(path: &Path) {
    let shade = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 4) as u8, 7]);
    image::RgbImage::from_fn(40, 40, shade).save(path).unwrap();
}

fn metadata(dir: &Path, lines: &str) {
    std::fs::write(dir.join("metadata.jsonl"), lines).unwrap();
}

#[test]
fn bad_records_are_named_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    image(&data.join("a.png"));
    image(&dir.path().join("secret.png"));
    std::os::unix::fs::symlink(dir.path().join("secret.png"), data.join("link.png")).unwrap();
    let good = r#"{"file_name": "a.png", "text": "one"}"#;
    let absolute = format!(r#"{{"file_name": "{}", "text": "x"}}"#, dir.path().join("secret.png").display());
    for (line, words) in [
        ("{\"file_name\": \"a.png\"", &["metadata.jsonl", "line 2"][..]),
        (r#"{"file_name": "a.png"}"#, &["line 2", "text"]),
        (r#"{"text": "x"}"#, &["line 2", "file_name"]),
        (r#"{"file_name": 3, "text": "x"}"#, &["line 2"]),
        (r#"{"file_name": "a.png", "text": null}"#, &["line 2"]),
        ("null", &["line 2"]),
        (r#"{"file_name": "../secret.png", "text": "x"}"#, &["line 2", "leaves the folder"]),
        (r#"{"file_name": "b/../../secret.png", "text": "x"}"#, &["line 2", "leaves the folder"]),
        (&absolute, &["line 2", "leaves the folder"]),
        (r#"{"file_name": "link.png", "text": "x"}"#, &["line 2", "leaves the folder"]),
        (r#"{"file_name": "gone.png", "text": "x"}"#, &["line 2", "does not exist"]),
        (r#"{"file_name": ".", "text": "x"}"#, &["line 2"]),
        (r#"{"file_name": "a\u0000.png", "text": "x"}"#, &["line 2"]),
    ] {
        metadata(&data, &format!("{good}\n{line}\n"));
        refuses(&mut train(&model("tiny-sd1"), &data, &dir.path().join("out")), 1, words);
    }
    std::fs::write(data.join("metadata.jsonl"), b"{\"file_name\": \"a.png\", \"text\": \"\xff\"}").unwrap();
    refuses(&mut train(&model("tiny-sd1"), &data, &dir.path().join("out")), 1, &["line 1", "UTF-8"]);
    metadata(&data, "\n\n");
    refuses(&mut train(&model("tiny-sd1"), &data, &dir.path().join("out")), 1, &["no images"]);
    assert!(!dir.path().join("out/lora.safetensors").exists());
}

#[test]
fn captions_and_images_come_in_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let with = |files: &[(&str, &[u8])], words: &[&str]| {
        let data = tempfile::tempdir().unwrap();
        image(&data.path().join("a.png"));
        std::fs::write(data.path().join("a.txt"), "one").unwrap();
        for (name, bytes) in files {
            std::fs::write(data.path().join(name), bytes).unwrap();
        }
        refuses(&mut train(&model("tiny-sd1"), data.path(), &out), 1, words);
    };
    with(&[("b.txt", b"two")], &["b.txt", "without an image"]);
    with(&[("b.png", b"")], &["b.png", "without a caption", "b.txt"]);
    with(&[("a.txt", b"\xff\xfeo\0n\0e\0")], &["a.txt", "UTF-8"]);
    with(&[("a.jpg", b"")], &["shares its caption"]);
    refuses(&mut train(&model("tiny-sd1"), &dir.path().join("none"), &out), 1, &["none"]);
    assert!(!out.join("lora.safetensors").exists());
}

#[test]
fn images_that_do_not_decode_are_named() {
    let dir = tempfile::tempdir().unwrap();
    image(&dir.path().join("whole.png"));
    let whole = std::fs::read(dir.path().join("whole.png")).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    // A header that promises 2^31 pixels a side.
    let mut vast = whole.clone();
    vast[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let bad: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("text", b"not an image"),
        ("cut", &whole[..whole.len() / 2]),
        ("flipped", &flipped),
        ("vast", &vast),
        ("gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
    ];
    for (name, bytes) in bad {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join(format!("{name}.png")), bytes).unwrap();
        std::fs::write(data.path().join(format!("{name}.txt")), "one").unwrap();
        let out = data.path().join("out");
        refuses(&mut train(&model("tiny-sd1"), data.path(), &out), 1, &[&format!("{name}.png"), "image"]);
        assert!(!out.join("lora.safetensors").exists());
        let init = data.path().join(format!("{name}.png"));
        let images = data.path().join("images");
        let mut command = crate::generate(&model("tiny-sd1"), &images);
        refuses(command.arg("--init-image").arg(&init), 1, &[&format!("{name}.png"), "image"]);
        assert!(!images.exists() || names(&images).is_empty());
    }
}
