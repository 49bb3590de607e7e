//! ROUGE-L against the recorded values and a plain computation; the pool against comparing with everything.

use proptest::prelude::*;
use selma::prompting::rouge::{Nearest, Pool, f_measure, rouge_l, tokens};

/// Scores by Google's `rouge-score` package, `rougeL` without stemming.
#[test]
fn scores_are_those_of_the_package_to_the_last_bit() {
    for (candidate, entry, f, rejected) in [
        ("A brown purse is sitting on a green bench.", "A brown purse is sitting on a green bench!", 1.0, true),
        (
            "A brown purse is sitting on a green bench.",
            "A red purse is sitting on a green bench.",
            0.8888888888888888,
            true,
        ),
        (
            "A brown purse is sitting on a green bench.",
            "A brown purse lies on the green bench.",
            0.7058823529411765,
            false,
        ),
        ("Wheat is covered by snow.", "Wheat is covered by ice.", 0.8000000000000002, true),
        ("a b c", "a b", 0.8, false),
        ("1 2 3 4 5 6 x y", "1 2 3 4 5 6 z", 0.7999999999999999, false),
        ("Three light-bulbs, café", "three light bulbs cafe", 0.75, false),
        ("one two three", "three two one", 0.3333333333333333, false),
        ("!!!", "Wheat", 0.0, false),
    ] {
        assert_eq!(rouge_l(candidate, entry), f, "{candidate} / {entry}");
        let mut pool = Pool::default();
        pool.insert(entry);
        let expected = rejected.then_some(Nearest { index: 0, f });
        assert_eq!(pool.nearest_above(candidate, 0.8), expected, "{candidate} / {entry}");
    }
}

#[test]
fn tokens_are_lower_case_runs_of_letters_and_digits() {
    for (text, expected) in [
        ("light-bulbs", vec!["light", "bulbs"]),
        ("3.5 don't", vec!["3", "5", "don", "t"]),
        ("Café ÉCLAIR", vec!["caf", "clair"]),
        // The Kelvin sign is a capital k.
        ("10 \u{212A}elvin", vec!["10", "kelvin"]),
        ("snake_case\ttab\nline", vec!["snake", "case", "tab", "line"]),
        ("日本 !!!", vec![]),
    ] {
        assert_eq!(tokens(text), expected);
    }
}

/// The textbook recurrence.
fn plain_f(candidate: &str, entry: &str) -> f64 {
    let (a, b) = (tokens(candidate), tokens(entry));
    let mut row = vec![0; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    f_measure(row[b.len()], a.len(), b.len())
}

fn plain_nearest(pool: &[String], candidate: &str, threshold: f64) -> Option<Nearest> {
    let scored = pool.iter().enumerate().map(|(index, entry)| Nearest { index, f: plain_f(candidate, entry) });
    scored.filter(|n| n.f > threshold).reduce(|best, n| if n.f > best.f { n } else { best })
}

/// Few words, so that much is nearly equal, in lengths to either side of one and two machine words.
fn text() -> impl Strategy<Value = String> {
    let words = |count| prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "dog", "4"]), count);
    prop_oneof![words(0..9), words(4..6), words(60..70), words(125..131)].prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_bit_parallel_length_is_the_textbook_one(a in text(), b in text()) {
        prop_assert_eq!(rouge_l(&a, &b), plain_f(&a, &b));
    }

    #[test]
    fn the_pool_finds_what_comparing_with_everything_finds(
        texts in prop::collection::vec(text(), 1..40),
        threshold in prop::sample::select(vec![0.0, 0.2, 0.5, 0.6666666666666666, 0.8, 0.95, 1.0]),
    ) {
        let mut pool = Pool::default();
        for (i, candidate) in texts.iter().enumerate() {
            let expected = plain_nearest(&texts[..i], candidate, threshold);
            prop_assert_eq!(pool.nearest_above(candidate, threshold), expected, "{}", candidate);
            pool.insert(candidate);
        }
    }
}
