//! What a run makes of its data: buckets, captions that vary, regularisation images, and what it says beforehand.

use std::path::Path;

use crate::{bytes, images, said, train};

/// Two wide and two high images with tags, one of them twice.
fn oblong(dir: &Path, name: &str) -> std::path::PathBuf {
    let data = dir.join(name);
    std::fs::create_dir(&data).unwrap();
    for (i, (w, h)) in [(48, 32), (32, 48), (60, 40), (20, 60)].into_iter().enumerate() {
        let shade = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 4) as u8, (i * 50) as u8]);
        image::RgbImage::from_fn(w, h, shade).save(data.join(format!("{i}.png"))).unwrap();
        std::fs::write(data.join(format!("{i}.txt")), format!("cat, tag {i}, red, big, old")).unwrap();
    }
    std::fs::copy(data.join("0.png"), data.join("4.png")).unwrap();
    std::fs::write(data.join("4.txt"), "").unwrap();
    data
}

const BUCKETS: [&str; 5] = ["--resolution", "32", "--buckets", "--bucket-steps", "8"];

#[test]
fn a_dry_run_tells_what_a_run_would_do_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (oblong(dir.path(), "data"), dir.path().join("out"));
    let mut command = train(&data, &out, &["--steps", "4", "--dry-run"]);
    command.args(BUCKETS);
    let notes = said(command);
    // 60 x 40 and 48 x 32 have the same proportions; 32² pixels allow 40 x 24 or 32 x 24 and so on.
    for part in ["5 images in", "there more than once: 2: 0.png, 4.png", "without words in a caption: 1: 4.png"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    for part in ["planned memory", "planned files", "1 state of"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert!(!out.exists(), "a dry run wrote something");
    let square = said(train(&data, &out, &["--dry-run", "--resolution", "32"]));
    assert!(square.contains("5 images in 1 size:") && square.contains("cropped by more than a tenth: 5"), "{square}");
    let mut large = train(&data, &out, &["--dry-run", "--resolution", "64"]);
    large.args(["--crop", "center"]);
    assert!(said(large).contains("enlarged: 5"));
    let refused = train(&data, &out, &["--buckets", "--resolution", "32"]).assert().code(2);
    let refused = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(refused.contains("resolution is 32") && refused.contains("bucket-steps (64)"), "{refused}");
}

/// All at once, broken off and resumed.
#[test]
fn buckets_tags_and_regularisation_images_resume_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, regular) = (oblong(dir.path(), "data"), oblong(dir.path(), "regular"));
    let regular = regular.display().to_string();
    let run = |out: &Path, more: &[&str]| {
        let mut command = train(&data, out, &["--steps", "6", "--save-every", "2", "--ema", "0.5"]);
        command.args(BUCKETS).args(["--shuffle-caption", "--keep-tokens", "1", "--tag-dropout", "0.3"]);
        command.args(["--repeats", "2", "--caption-dropout", "0.1"]);
        command.args(["--reg-data-dir", &regular]).args(more);
        command
    };
    let (whole, broken) = (dir.path().join("whole"), dir.path().join("broken"));
    run(&whole, &[]).assert().success();
    run(&broken, &[]).assert().success();
    for step in [4, 6] {
        std::fs::remove_file(broken.join(format!("state/step-{step:08}.safetensors"))).unwrap();
    }
    run(&broken, &["--resume"]).assert().success();
    for file in ["lora.safetensors", "metrics.jsonl", "state/step-00000006.safetensors", "lora-00000004.safetensors"] {
        assert!(bytes(whole.join(file)) == bytes(broken.join(file)), "{file} differs");
    }
    let weighted = dir.path().join("weighted");
    run(&weighted, &["--prior-loss-weight", "0.25"]).assert().success();
    assert!(bytes(whole.join("metrics.jsonl")) != bytes(weighted.join("metrics.jsonl")));
}

#[test]
fn a_dataset_file_and_the_run_agree_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = images(dir.path());
    let file = dir.path().join("set.toml");
    let text =
        "[[datasets]]\nresolution = 32\nbatch_size = 1\n[[datasets.subsets]]\nimage_dir = 'images'\nnum_repeats = 3\n";
    std::fs::write(&file, text).unwrap();
    let (by_file, by_options) = (dir.path().join("file"), dir.path().join("options"));
    train(&file, &by_file, &["--steps", "4"]).assert().success();
    train(&data, &by_options, &["--steps", "4", "--resolution", "32", "--repeats", "3"]).assert().success();
    assert!(bytes(by_file.join("lora.safetensors")) == bytes(by_options.join("lora.safetensors")));
    let refused = train(&file, &dir.path().join("none"), &["--resolution", "64"]).assert().code(2);
    let refused = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(refused.contains("resolution is 32 in the dataset file and 64 in this run"), "{refused}");
}
