//! The tokenizer made of the world's words.

use std::collections::{BTreeMap, BTreeSet};

use selma::data::tokenizer::Tokenizer;
use selma::shapes::vocabulary::{WORDS, tokenizer, tokenizer_files};
use selma::shapes::{Skill, Split};

/// Words, and each comma and full stop.
fn pieces(caption: &str) -> Vec<String> {
    let spaced = caption.to_lowercase().replace(',', " ,").replace('.', " .");
    spaced.split_whitespace().map(String::from).collect()
}

#[test]
fn every_caption_is_one_token_a_word() {
    let tokenizer = tokenizer().unwrap();
    let mut seen = BTreeSet::new();
    for skill in Skill::ALL {
        for index in 0..3000 {
            let caption = skill.prompt(Split::Train, 21, index).caption;
            let pieces = pieces(&caption);
            let tokens = tokenizer.tokens(&caption).unwrap();
            assert_eq!(tokens.len(), pieces.len(), "{caption}");
            assert_eq!(tokenizer.encode(&caption).unwrap().dropped, 0);
            seen.extend(pieces);
        }
    }
    let unknown: Vec<_> =
        seen.iter().filter(|word| ![",", "."].contains(&word.as_str()) && !WORDS.contains(&word.as_str())).collect();
    assert!(unknown.is_empty(), "not in WORDS: {unknown:?}");
}

#[test]
fn the_vocabulary_is_small_and_in_the_order_of_clip() {
    let files = tokenizer_files();
    let vocab: BTreeMap<String, usize> = serde_json::from_str(&files.vocab).unwrap();
    let merges = files.merges.lines().count() - 1;
    assert!(WORDS.len() < 400 && WORDS.is_sorted() && vocab.len() <= 2000, "{} tokens", vocab.len());
    assert_eq!(vocab.len(), 256 + 256 + merges + 2);
    // As in openai/clip-vit-large-patch14, whose first tokens are the same.
    for (token, id) in [("!", 0), ("a", 64), ("!</w>", 256), ("a</w>", 320), ("\u{100}", 188)] {
        assert_eq!(vocab[token], id, "{token}");
    }
    assert_eq!(vocab["<|startoftext|>"], vocab.len() - 2);
    assert_eq!(vocab["<|endoftext|>"], vocab.len() - 1);
}

#[test]
fn the_files_load_as_a_tokenizer_folder() {
    let dir = tempfile::tempdir().unwrap();
    let files = tokenizer_files();
    for (name, text) in [
        ("vocab.json", &files.vocab),
        ("merges.txt", &files.merges),
        ("tokenizer_config.json", &files.config),
        ("special_tokens_map.json", &files.special_tokens),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(loaded.max_length(), 77);
    for text in ["Two red circles left of a blue square.", "caf\u{e9} #7"] {
        let ids = loaded.encode(text).unwrap();
        assert_eq!(ids, tokenizer().unwrap().encode(text).unwrap());
        assert_eq!(ids.ids[0] + 1, *ids.ids.last().unwrap());
        assert!(ids.ids[1..4].iter().all(|&id| id < ids.ids[0]));
    }
}
