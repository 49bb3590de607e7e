//! Which of a question's choices a free answer means. TIFA asks a sentence encoder; these rules need none, and each
//! result says by which of them it came about.

use std::collections::BTreeMap;

/// The first that decides, decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The answer is literally a choice, as in TIFA.
    Literal,
    /// It is one without articles, punctuation and case, and with digits for number words.
    Normalised,
    /// One holds the words of the other, in their order.
    Contained,
    /// The choice with the largest F1 over words, above 0.
    Overlap,
    /// The first choice, because nothing fits.
    First,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Rule::Literal => "literal",
            Rule::Normalised => "normalised",
            Rule::Contained => "contained",
            Rule::Overlap => "overlap",
            Rule::First => "first",
        }
    }
}

/// The place of the choice that an answer means, and the rule that found it. Of several choices that fit equally well the
/// first counts. `choices` is not empty.
pub fn choose(answer: &str, choices: &[String]) -> (usize, Rule) {
    if let Some(place) = choices.iter().position(|choice| choice == answer) {
        return (place, Rule::Literal);
    }
    let said = words(answer);
    let choices: Vec<Vec<String>> = choices.iter().map(|choice| words(choice)).collect();
    if let Some(place) = choices.iter().position(|choice| *choice == said && !said.is_empty()) {
        return (place, Rule::Normalised);
    }
    let scores: Vec<f64> = choices.iter().map(|choice| f1(&said, choice)).collect();
    let best = |fits: &dyn Fn(usize) -> bool| {
        let mut fitting = (0..choices.len()).filter(|&i| fits(i));
        let first = fitting.next()?;
        Some(fitting.fold(first, |best, i| if scores[i] > scores[best] { i } else { best }))
    };
    if let Some(place) = best(&|i| holds(&said, &choices[i]) || holds(&choices[i], &said)) {
        return (place, Rule::Contained);
    }
    match best(&|i| scores[i] > 0.0) {
        Some(place) => (place, Rule::Overlap),
        None => (0, Rule::First),
    }
}

fn words(text: &str) -> Vec<String> {
    const NUMBERS: [&str; 21] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.filter(|word| !matches!(*word, "a" | "an" | "the"));
    let digits = |word: &str| match NUMBERS.iter().position(|number| *number == word) {
        Some(number) => number.to_string(),
        None => word.into(),
    };
    words.map(digits).collect()
}

/// Whether the words of `part` follow each other somewhere in `whole`.
fn holds(whole: &[String], part: &[String]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}

/// Harmonic mean of precision and recall over words, each as often as it is there.
fn f1(a: &[String], b: &[String]) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for word in a {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in b {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    match common {
        0 => 0.0,
        _ => 2.0 * f64::from(common) / (a.len() + b.len()) as f64,
    }
}
