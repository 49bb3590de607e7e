//! What a model's reply to a question says: models are asked for one word, and think aloud, write Markdown or a sentence.

use super::stripped;
use crate::prompting::reply::without_thoughts;

/// The answer in a reply to a yes-or-no question: `yes` or `no`, or where it is neither, the reply without thoughts and
/// formatting. None where nothing is left: an empty reply, or one that was cut while the model thought.
pub fn yes_or_no(reply: &str) -> Option<String> {
    let text = plain(reply)?;
    let words = words(&text);
    let said = |word: &str| matches!(word, "yes" | "no").then(|| word.to_owned());
    // "The answer is yes", "Final answer: no": the last one is what the model came to.
    let after_answer = words.iter().rposition(|word| word == "answer").and_then(|place| {
        let rest = words[place + 1..].iter();
        let filler = ["is", "would", "be", "must", "should", "therefore", "thus", "clearly", "a"];
        let mut rest = rest.skip_while(|word| filler.contains(&word.as_str()));
        said(rest.next()?)
    });
    let first = || words.first().and_then(|word| said(word));
    let last = || words.last().and_then(|word| said(word));
    Some(after_answer.or_else(first).or_else(last).unwrap_or_else(|| stripped(&text)))
}

/// The answer in a reply to a question with choices: the reply without thoughts, formatting and `Answer:`. None where nothing
/// is left.
pub fn choice(reply: &str) -> Option<String> {
    let text = plain(reply)?;
    let lower = text.to_lowercase();
    let said = ["answer is", "answer:"].iter().filter_map(|marker| Some(lower.rfind(marker)? + marker.len())).max();
    // Lower case can have other lengths than the text.
    let said = said.filter(|_| lower.len() == text.len()).and_then(|place| text.get(place..));
    let said = said.map(|rest| rest.trim_matches([':', ' ', '\n', '.'])).filter(|rest| !rest.is_empty());
    Some(said.unwrap_or(&text).to_owned())
}

/// The reply without thoughts, LaTeX's box and Markdown.
fn plain(reply: &str) -> Option<String> {
    let text = without_thoughts(reply);
    let text = match text.rsplit_once("\\boxed{").and_then(|(_, rest)| rest.split_once('}')) {
        Some((inside, _)) => inside.strip_prefix("\\text{").unwrap_or(inside),
        None => text,
    };
    let formatting = |c: char| matches!(c, '*' | '`' | '#' | '_' | '$' | '"' | '“' | '”' | '«' | '»' | '\u{feff}');
    let text: String = text.chars().map(|c| if formatting(c) { ' ' } else { c }).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// Words in lower case, without the question's own "yes or no".
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).map(String::from).collect();
    while let Some(place) =
        words.windows(3).position(|w| w[0] == "yes" && matches!(&*w[1], "or" | "and") && w[2] == "no")
    {
        words.drain(place..place + 3);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{choice, yes_or_no};

    #[test]
    fn a_yes_is_found_in_what_models_write() {
        for reply in [
            "yes",
            "Yes.",
            "**Yes**",
            "Answer: yes",
            "The answer is yes.",
            "\\boxed{yes}",
            "$\\boxed{\\text{Yes}}$",
            "<think>No cup... no, wait.</think>\nYes",
            "Yes, there is no doubt.",
            "# Final answer\n\n`yes`",
            "I see a red cup on the table. So the answer is: **Yes**.",
            "A cup is there.\n\nYes",
            "\u{feff}Yes",
            "Answer with yes or no: yes",
            "No cup at first sight, but it is there. Final answer: yes",
        ] {
            assert_eq!(yes_or_no(reply).as_deref(), Some("yes"), "{reply:?}");
        }
    }

    #[test]
    fn a_no_and_what_is_neither() {
        for reply in
            ["No", "*no*", "The answer is no.", "<think>yes yes</think>no", "I would say no.", "No, it is blue."]
        {
            assert_eq!(yes_or_no(reply).as_deref(), Some("no"), "{reply:?}");
        }
        for reply in ["A dog!", "unanswerable", "There is no cup in it", "yes and no"] {
            assert!(!matches!(yes_or_no(reply).as_deref(), Some("yes" | "no")), "{reply:?}");
        }
        // An empty reply, and one that was cut before it came to an answer.
        for reply in ["", " \n", "<think>There is a cup, so yes", "**", "<think>yes</think>"] {
            assert_eq!(yes_or_no(reply), None, "{reply:?}");
            assert_eq!(choice(reply), None, "{reply:?}");
        }
    }

    #[test]
    fn a_choice_is_found_behind_its_marker() {
        for (reply, said) in [
            ("a cat", "a cat"),
            ("**a cat**", "a cat"),
            ("Answer: a cat.", "a cat"),
            ("The answer is: a cat", "a cat"),
            ("<think>a dog?</think> a cat", "a cat"),
            ("It is the dog.", "It is the dog."),
        ] {
            assert_eq!(choice(reply).as_deref(), Some(said), "{reply:?}");
        }
    }
}
