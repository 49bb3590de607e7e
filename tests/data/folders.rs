//! Training folders as they are out there.

use std::path::Path;

use selma::data::dataset::{Dataset, Reading, Subset};
use selma::data::preprocess::Crop;
use selma::train::config::TrainConfig;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8\xff\xe0";

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// Image, captions and repeats of every sample.
fn read(dir: &Path, reading: &Reading) -> Vec<(String, String, u32)> {
    let dataset = Dataset::read(dir, reading).unwrap();
    let sample = |sample: &selma::data::dataset::Sample| {
        let image = sample.image.strip_prefix(dir).unwrap_or(&sample.image).display().to_string();
        (image, sample.captions.join("|"), dataset.subset(sample).repeats)
    };
    dataset.samples().iter().map(sample).collect()
}

fn rows(expected: &[(&str, &str, u32)]) -> Vec<(String, String, u32)> {
    expected.iter().map(|&(image, caption, repeats)| (image.into(), caption.into(), repeats)).collect()
}

#[test]
fn folders_are_read_with_those_inside_and_kohyas_repeats() {
    let dir = folder(&[
        ("a.png", PNG),
        ("a.txt", b"one"),
        ("10_a cat/b.png", PNG),
        ("10_a cat/c.jpg", JPEG),
        ("10_a cat/c.caption", b"two"),
        ("deep/er/d.webp", b""),
        ("deep/er/d.txt", b"three"),
        (".cache/e.png", PNG),
    ]);
    let expected = rows(&[
        ("a.png", "one", 1),
        ("10_a cat/b.png", "a cat", 10),
        ("10_a cat/c.jpg", "two", 10),
        ("deep/er/d.webp", "three", 1),
    ]);
    assert_eq!(read(dir.path(), &Reading::default()), expected);
    let notes = Dataset::open(dir.path()).unwrap().notes.join("\n");
    assert!(notes.contains("10_a cat counts 10 times"), "{notes}");
    assert!(notes.contains("1 image in") && notes.contains("it is `a cat`"), "{notes}");
    let twice = Reading { subset: Subset { repeats: 2, ..Subset::default() }, ..Reading::default() };
    assert_eq!(read(dir.path(), &twice)[1].2, 20);
}

#[test]
fn images_are_known_by_content_and_others_are_named() {
    let dir = folder(&[
        ("a.jfif", JPEG),
        ("a.txt", b"one"),
        ("b.jpe", JPEG),
        ("b.txt", b"two"),
        ("c", PNG),
        ("c.txt", b"three"),
        ("d.avif", b""),
        ("d.txt", b"four"),
        ("e.gif", b"GIF89a"),
        ("f", b"\0\0\0\x1cftypheic"),
        ("notes.md", b"x"),
    ]);
    let expected = rows(&[("a.jfif", "one", 1), ("b.jpe", "two", 1), ("c", "three", 1)]);
    assert_eq!(read(dir.path(), &Reading::default()), expected);
    let notes = Dataset::open(dir.path()).unwrap().notes.join("\n");
    assert!(notes.contains("3 images") && notes.contains("d.avif, e.gif, f"), "{notes}");
}

#[test]
fn captions_come_from_tables_and_columns_that_are_named() {
    let table = "file_name,caption,score\na.png,\"one, two\",3\nb.png,three,4\n";
    let dir = folder(&[("metadata.csv", table.as_bytes()), ("a.png", PNG), ("b.png", PNG)]);
    assert_eq!(read(dir.path(), &Reading::default()), rows(&[("a.png", "one, two", 1), ("b.png", "three", 1)]));
    assert_eq!(Dataset::open(dir.path()).unwrap().notes, ["captions are the column `caption` of metadata.csv"]);
    let by = |column: &str| Reading { caption_column: Some(column.into()), ..Reading::default() };
    assert_eq!(read(dir.path(), &by("score"))[1].1, "4");
    let refused = crate::message(Dataset::read(dir.path(), &by("txt")));
    assert!(refused.contains("no column `txt`") && refused.contains("caption, score"), "{refused}");

    let lines = "{\"file_name\": \"a.png\", \"text\": [\"one\", \" two \"]}\n";
    let dir = folder(&[("metadata.jsonl", lines.as_bytes()), ("a.png", PNG)]);
    assert_eq!(read(dir.path(), &Reading::default()), rows(&[("a.png", "one|two", 1)]));
    std::fs::write(dir.path().join("metadata.csv"), table).unwrap();
    assert!(crate::message(Dataset::open(dir.path())).contains("stands beside metadata.csv"));
}

#[test]
fn snapshots_of_the_hubs_cache_are_followed() {
    let dir = folder(&[("datasets--x/blobs/1234", PNG), ("secret.png", PNG)]);
    let snapshot = dir.path().join("datasets--x/snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::os::unix::fs::symlink("../../blobs/1234", snapshot.join("a.png")).unwrap();
    let line = |name: &str| format!("{{\"file_name\": \"{name}\", \"text\": \"x\"}}\n");
    std::fs::write(snapshot.join("metadata.jsonl"), line("a.png")).unwrap();
    assert_eq!(read(&snapshot, &Reading::default()), rows(&[("a.png", "x", 1)]));
    std::os::unix::fs::symlink("../../../secret.png", snapshot.join("b.png")).unwrap();
    std::fs::write(snapshot.join("metadata.jsonl"), line("b.png")).unwrap();
    assert!(crate::message(Dataset::open(&snapshot)).contains("is a link that leaves the folder"));
}

#[test]
fn accents_in_either_spelling_are_the_same_name() {
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    let dir = folder(&[(&format!("{decomposed}.png"), PNG), (&format!("{composed}.txt"), b"one")]);
    assert_eq!(read(dir.path(), &Reading::default())[0].1, "one");
    let line = format!("{{\"file_name\": \"{composed}.png\", \"text\": \"two\"}}\n");
    let dir = folder(&[(&format!("{decomposed}.png"), PNG), ("metadata.jsonl", line.as_bytes())]);
    assert_eq!(read(dir.path(), &Reading::default())[0].1, "two");
}

#[test]
fn dataset_files_of_kohyas_scripts_are_read() {
    let file = "[general]\nshuffle_caption = true\ncaption_extension = '.cap'\nkeep_tokens = 1\n\
                [[datasets]]\nresolution = 512\nbatch_size = 4\nkeep_tokens = 2\nenable_bucket = true\n\
                [[datasets.subsets]]\nimage_dir = 'one'\nnum_repeats = 10\n\
                [[datasets.subsets]]\nimage_dir = 'two'\nis_reg = true\nclass_tokens = 'cat'\nkeep_tokens = 3\n";
    let dir = folder(&[
        ("set.toml", file.as_bytes()),
        ("one/a.png", PNG),
        ("one/a.cap", b"a, b"),
        ("one/a.txt", b"not this"),
        ("two/b.png", PNG),
    ]);
    let path = dir.path().join("set.toml");
    let dataset = Dataset::open(&path).unwrap();
    let [one, two] = [0, 1].map(|i| (&dataset.samples()[i], dataset.subset(&dataset.samples()[i])));
    assert_eq!((one.0.captions[0].as_str(), one.1.repeats, one.1.is_reg), ("a, b", 10, false));
    assert_eq!((two.0.captions[0].as_str(), two.1.repeats, two.1.is_reg), ("cat", 1, true));
    assert_eq!((one.1.variation.shuffle, one.1.variation.keep_tokens, two.1.variation.keep_tokens), (true, 2, 3));
    let asked = &dataset.asked;
    assert_eq!((asked.resolution, asked.batch_size, asked.buckets), (Some(512), Some(4), Some(true)));
    for (from, to, expected) in [
        ("num_repeats", "num_repeat", "num_repeat"),
        ("resolution = 512", "resolution = [512, 768]", "expected one number"),
        ("image_dir = 'one'", "", "image_dir is missing"),
        ("num_repeats = 10", "num_repeats = 0", "num_repeats is 0"),
        ("[[datasets.subsets]]\nimage_dir = 'one'", "[[datasets.subset]]\nimage_dir = 'one'", "unknown field `subset`"),
        ("[general]", "[generals]", "unknown key `generals`"),
        (
            "[general]",
            "[general]\nenable_wildcard = true",
            "enable_wildcard = true is not available; write one caption",
        ),
        ("[general]", "[general]\nvalidation_split = 0.1", "give --validation-split"),
        ("[general]", "[general]\ntoken_warmup_step = 0.5", "token_warmup_step = 0.5"),
        ("num_repeats = 10", "random_crop = true", "differ in resolution, batch_size, buckets, flip_aug, random_crop"),
    ] {
        std::fs::write(&path, file.replacen(from, to, 1)).unwrap();
        let refused = crate::message(Dataset::open(&path));
        assert!(refused.contains("set.toml") && refused.contains(expected), "{refused}\nexpected {expected}");
    }
}

/// What files of kohya's scripts often say although it does nothing, and what they ask of the whole run.
#[test]
fn keys_that_are_off_are_read_over_and_those_of_the_run_are_asked() {
    let off = "[general]\ncolor_aug = false\nenable_wildcard = false\nkeep_tokens_separator = ''\ntoken_warmup_min = 1\n\
               token_warmup_step = 0\ncaption_dropout_every_n_epochs = 0\nvalidation_split = 0.0\n\
               flip_aug = false\nrandom_crop = false\nalpha_mask = true\n\
               [[datasets]]\n[[datasets.subsets]]\nimage_dir = 'one'\n";
    let dir = folder(&[("set.toml", off.as_bytes()), ("one/a.png", PNG), ("one/a.txt", b"a")]);
    let asked = Dataset::open(&dir.path().join("set.toml")).unwrap().asked;
    assert_eq!((asked.flip, asked.random_crop, asked.alpha_mask), (Some(false), Some(false), Some(true)));
    let config = |change: fn(&mut TrainConfig)| {
        let mut config = TrainConfig::default();
        change(&mut config);
        config.agree_with(&asked).map(|()| (config.flip, config.crop, config.masked_loss))
    };
    // Without the file a run flips, crops at random and learns all of an image.
    assert_eq!(config(|_| ()).unwrap(), (false, Crop::Center, true));
    assert_eq!(config(|c| c.crop = Crop::Center).unwrap(), (false, Crop::Center, true));
    let other = selma::data::dataset::Asked { flip: Some(true), random_crop: Some(true), ..Default::default() };
    let mut mine = TrainConfig { crop: Crop::Center, ..TrainConfig::default() };
    assert!(crate::message(mine.agree_with(&other)).contains("random_crop"));
    let mut mine = TrainConfig { flip: false, ..TrainConfig::default() };
    assert!(crate::message(mine.agree_with(&other)).contains("flip_aug is true"));
}

/// Data sets as they are downloaded, and metadata as Windows writes it.
#[test]
fn what_has_images_inside_and_names_of_windows_are_told() {
    let refused = |files: &[(&str, &[u8])]| {
        let dir = folder(files);
        crate::message(Dataset::open(dir.path()))
    };
    let packed = refused(&[("README.md", b"# cats"), ("data/train-00000-of-00001.parquet", b"PAR1")]);
    assert!(packed.contains("train-00000-of-00001.parquet is not read: unpack its images"), "{packed}");
    assert!(!refused(&[("README.md", b"# cats")]).contains("is not read"));
    let metadata: &[u8] = br#"{"file_name": "sub\\a.png", "text": "x"}"#;
    let windows = refused(&[("metadata.jsonl", metadata), ("sub/a.png", PNG)]);
    assert!(windows.contains(r"`sub\a.png` does not exist; folders and names are separated by /"), "{windows}");
    let folder = folder(&[("1_cat/a.png", PNG), ("2_dog/a.png", PNG), ("2_dog/b.png", PNG)]);
    let notes = Dataset::open(folder.path()).unwrap().notes.join("\n");
    assert!(notes.contains("1_cat has no caption of its own: it is `cat`"), "{notes}");
    assert!(notes.contains("2_dog have no captions of their own: it is `dog`"), "{notes}");
}
