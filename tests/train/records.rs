//! metrics.jsonl and TensorBoard event files.

use selma::train::metrics::Metrics;
use selma::train::tensorboard::EventFile;

#[test]
fn a_resumed_run_repeats_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let log = |metrics: &mut Metrics, steps: std::ops::RangeInclusive<u64>| {
        for step in steps {
            metrics.append(step, &[("loss", 0.5 / step as f64), ("lr", 3e-4)]).unwrap();
        }
    };
    let mut metrics = Metrics::create(&path).unwrap();
    log(&mut metrics, 1..=5);
    metrics.flush().unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    assert_eq!(whole.lines().next(), Some(r#"{"step":1,"loss":0.5,"lr":0.0003}"#));

    // Killed in the middle of a line, then resumed from the state of step 3.
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    log(&mut Metrics::resume(&path, 3).unwrap(), 4..=5);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
}

#[test]
fn a_broken_last_line_is_dropped_and_a_broken_middle_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    std::fs::write(&path, "{\"step\":1}\n{\"step\":2}").unwrap();
    Metrics::resume(&path, 9).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    std::fs::write(&path, "{\"step\":1}\noops\n{\"step\":2}\n").unwrap();
    let message = crate::message(Metrics::resume(&path, 9));
    assert!(message.contains("metrics.jsonl: line 2"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let mut metrics = Metrics::resume(&path, 9).unwrap();
    metrics.append(10, &[("loss", f64::NAN)]).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":10,\"loss\":null}\n");
}

/// The records of an event file, each after a check of both of its checksums.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let crc = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes[8..12], crc(&bytes[..8]));
        let content = &bytes[12..12 + length];
        assert_eq!(bytes[12 + length..16 + length], crc(content));
        all.push(content.to_vec());
        bytes = &bytes[16 + length..];
    }
    all
}

#[test]
fn events_are_framed_protobuf() {
    let dir = tempfile::tempdir().unwrap();
    let mut events = EventFile::create(dir.path(), Some(299)).unwrap();
    events.scalars(300, &[("loss", 0.25), ("lr", 1.0)]).unwrap();
    let name = events.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("events.out.tfevents."), "{name}");
    let records = records(&std::fs::read(events.path()).unwrap());
    // 0x09 and eight bytes of time, 0x10 and the step, then the field: 0x1a version, 0x3a session log, 0x2a summary.
    assert!(records.iter().all(|r| r[0] == 0x09 && r[9] == 0x10));
    assert_eq!(records[0][10..], [&[0, 0x1a, 13], &b"brain.Event:2"[..]].concat());
    assert_eq!(records[1][10..], [0xac, 0x02, 0x3a, 2, 0x08, 1]);
    let value = |tag: &[u8], v: f32| {
        let entry = [&[0x0a, tag.len() as u8], tag, &[0x15], &v.to_le_bytes()].concat();
        [&[0x0a, entry.len() as u8], &entry[..]].concat()
    };
    let summary = [value(b"loss", 0.25), value(b"lr", 1.0)].concat();
    assert_eq!(records[2][10..], [&[0xac, 0x02, 0x2a, summary.len() as u8], &summary[..]].concat());
    assert_ne!(EventFile::create(dir.path(), None).unwrap().path(), events.path());
}

/// Images and texts are messages as TensorBoard's own classes write them.
#[test]
fn images_and_texts_are_those_of_tensorboard() {
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/events.json")).expect("a recorded case");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let png = recorded["png"].as_str().unwrap();
    let png: Vec<u8> = (0..png.len() / 2).map(|i| u8::from_str_radix(&png[2 * i..2 * i + 2], 16).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut events = EventFile::create(dir.path(), None).unwrap();
    events.image(3, "samples/0", (40, 32), &png).unwrap();
    events.text(3, "samples/0/settings", recorded["text"].as_str().unwrap()).unwrap();
    let records = records(&std::fs::read(events.path()).unwrap());
    // Time and step, then the summary: 0x2a, its length of two bytes or of one.
    assert_eq!(records[1][..13][9..], [0x10, 3, 0x2a, 0xaa]);
    assert_eq!(hex(&records[1][14..]), recorded["image_summary"].as_str().unwrap());
    // 0x0a and the length of the value, then its fields, in whatever order.
    let value = &records[2][15..];
    assert_eq!((records[2][13], records[2][14] as usize), (0x0a, value.len()));
    let (mut fields, mut rest) = (Vec::new(), value);
    while !rest.is_empty() {
        let (field, after) = rest.split_at(2 + rest[1] as usize);
        fields.push(serde_json::Value::from(hex(field)));
        rest = after;
    }
    fields.sort_by_key(ToString::to_string);
    assert_eq!(recorded["text_value_fields"], serde_json::Value::from(fields));
}

/// What one run has encoded, the next one with the same images, captions and encoders takes.
#[test]
fn runs_share_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let data = crate::images(dir.path());
    let (cache, alone) = (dir.path().join("shared"), dir.path().join("alone"));
    let of_cache = || {
        let mut files: Vec<_> =
            walk(&cache).into_iter().map(|path| (path.metadata().unwrap().modified().unwrap(), path)).collect();
        files.sort();
        files
    };
    let mut before = Vec::new();
    for (number, steps) in ["3", "3", "5"].into_iter().enumerate() {
        let out = dir.path().join(format!("out-{number}"));
        let shared = cache.display().to_string();
        // The centre: longer runs need no other crops.
        let settings = ["--steps", steps, "--crop", "center", "--no-flip", "--latents-cache", &shared];
        crate::train(&data, &out, &settings).assert().success();
        assert!(!out.join("cache").exists());
        let after = of_cache();
        assert!(after.len() >= 6, "{after:?}");
        assert!(number == 0 || after == before, "run {number} encoded something again");
        before = after;
    }
    crate::train(&data, &alone, &["--steps", "3", "--crop", "center", "--no-flip"]).assert().success();
    let shared = dir.path().join("out-1");
    assert!(crate::bytes(alone.join("lora.safetensors")) == crate::bytes(shared.join("lora.safetensors")));
    // Another image is not taken for the one that was encoded.
    std::fs::copy(data.join("1.png"), data.join("0.png")).unwrap();
    let out = dir.path().join("changed");
    let folder = cache.display().to_string();
    crate::train(&data, &out, &["--steps", "3", "--crop", "center", "--no-flip", "--latents-cache", &folder])
        .assert()
        .success();
    assert!(crate::bytes(out.join("lora.safetensors")) != crate::bytes(shared.join("lora.safetensors")));
}

/// The files below a folder.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
