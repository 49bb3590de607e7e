//! Parity with transformers' CLIPTokenizer, exact, and vocabularies that are wrong.

use std::path::{Path, PathBuf};

use selma::data::tokenizer::Tokenizer;
use selma::formats::safetensors::Safetensors;
use serde_json::{Value, json};

fn parity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

fn with_pad(pad: &str) -> Tokenizer {
    let vocab = parity().join("clip_vocab");
    let read = |name: &str| std::fs::read_to_string(vocab.join(name)).unwrap();
    let config = json!({"pad_token": pad, "model_max_length": 77});
    Tokenizer::from_texts(&read("vocab.json"), &read("merges.txt"), &config, &vocab).unwrap()
}

/// `CLIPTokenizer(texts, padding="max_length", truncation=True, max_length=77)`, transformers 5.23.
#[test]
fn ids_are_those_of_transformers() {
    let mut cases = 0;
    for entry in std::fs::read_dir(parity().join("cases")).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.file_name().unwrap().to_string_lossy().starts_with("tokenizer_") {
            continue;
        }
        let case: Value = serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap();
        let texts: Vec<String> = serde_json::from_value(case["texts"].clone()).unwrap();
        let file = Safetensors::open(&dir.join("tensors.safetensors")).unwrap();
        let expected = file.tensor("out.ids").unwrap();
        let batch = with_pad(case["pad_token"].as_str().unwrap()).encode_batch(&texts).unwrap();
        assert_eq!(batch.ids.shape(), expected.shape());
        for (i, text) in texts.iter().enumerate() {
            let row = i * 77..(i + 1) * 77;
            assert_eq!(batch.ids.data::<i64>()[row.clone()], expected.data::<i64>()[row], "{text}");
        }
        cases += 1;
    }
    assert!(cases >= 2);
}

/// What transformers 5 saves is one file; the merges are pairs in newer ones, and lines in older ones.
#[test]
fn one_file_holds_what_two_did() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(parity().join("clip_vocab").join(name)).unwrap();
    let (vocab, merges) = (read("vocab.json"), read("merges.txt"));
    let vocab: Value = serde_json::from_str(&vocab).unwrap();
    let lines = || merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let pairs: Vec<Vec<&str>> = lines().map(|line| line.split(' ').collect()).collect();
    let config = json!({"pad_token": "!", "model_max_length": 77});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let load = |whole: Value| {
        std::fs::write(dir.path().join("tokenizer.json"), whole.to_string()).unwrap();
        Tokenizer::load(dir.path())
    };
    let text = "A red-brown caf\u{e9}, isn't it? 42 \u{732b}";
    let expected = with_pad("!").encode(text).unwrap();
    for merges in [json!(pairs), json!(lines().collect::<Vec<_>>())] {
        let tokenizer = load(json!({"model": {"type": "BPE", "vocab": &vocab, "merges": merges}})).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected);
    }
    for wrong in [json!({}), json!({"model": {"type": "WordPiece", "vocab": {}}})] {
        let message = load(wrong).err().unwrap().to_string();
        assert!(message.contains("tokenizer.json") && message.contains("byte-pair"), "{message}");
    }
}

#[test]
fn configuration_folders_are_read() {
    let tokenizer = parity().join("models/tiny-sd2/tokenizer");
    let tokenizer = Tokenizer::load_with_vocab(&tokenizer, &parity().join("clip_vocab")).unwrap();
    let encoded = tokenizer.encode("wow!!!").unwrap();
    assert_eq!(encoded.ids[2..6], [0, 0, 0, 49407], "with \"!\" as the pad token each \"!\" is id 0");
    assert_eq!(encoded.ids[76], 0);
}

#[test]
fn overlong_texts_keep_75_tokens_and_are_counted() {
    let tokenizer = with_pad("<|endoftext|>");
    let [fits, long] = [75, 80].map(|n| vec!["cat"; n].join(" "));
    assert_eq!(tokenizer.encode(&fits).unwrap().dropped, 0);
    let encoded = tokenizer.encode(&long).unwrap();
    assert_eq!((encoded.dropped, encoded.ids.len(), encoded.ids[76]), (5, 77, 49407));
    assert_eq!(tokenizer.encode_batch(&[&fits, &long]).unwrap().overlong, 1);
}

#[test]
fn wrong_vocabularies_are_named() {
    let small = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    let build = |vocab: &str, merges: &str, config: Value| {
        let result = Tokenizer::from_texts(vocab, merges, &config, Path::new("tok"));
        result.map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(build(small, "#version: 0.2\n", json!({})), Ok(()));
    let broken = [
        (build("[]", "", json!({})), "tok/vocab.json: expected an object"),
        (build(r#"{"a": 0}"#, "", json!({})), "no token `<|startoftext|>`"),
        (build(small, "", json!({"pad_token": "!"})), "no token `!`"),
        (build(small, "#version: 0.2\na\n", json!({})), "tok/merges.txt: line 2"),
        (build(small, "a b</w>\n", json!({})), "tok/merges.txt: does not fit vocab.json"),
        (build(small, "", json!({"model_max_length": 1})), "model_max_length is 1"),
    ];
    for (result, expected) in broken {
        let message = result.unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_vocabulary_inside_is_the_published_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/clip_vocab");
    let published: std::collections::BTreeMap<String, u32> =
        serde_json::from_slice(&std::fs::read(path.join("vocab.json")).unwrap()).unwrap();
    let inside = selma::data::clip_vocabulary::ids();
    assert_eq!(inside.len(), 49_408);
    assert!(inside == published);
    let merges = std::fs::read_to_string(path.join("merges.txt")).unwrap();
    assert!(selma::data::clip_vocabulary::MERGES == merges);
}
