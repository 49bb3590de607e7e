//! The prompt writer, and the parser that reads it back.

use std::collections::HashSet;

use selma::shapes::caption::parse;
use selma::shapes::{Skill, Split};

const SPLITS: [Split; 2] = [Split::Train, Split::HeldOut];

#[test]
fn every_caption_is_read_back_as_it_was_meant() {
    for skill in Skill::ALL {
        for split in SPLITS {
            for index in 0..3000 {
                let prompt = skill.prompt(split, 11, index);
                let read = parse(&prompt.caption).unwrap();
                assert_eq!(read.content(), prompt.description.content(), "{}", prompt.caption);
            }
        }
    }
}

#[test]
fn no_content_is_both_trained_on_and_held_out() {
    let contents = |split: Split| -> HashSet<String> {
        let prompts =
            Skill::ALL.into_iter().flat_map(|skill| (0..3000).map(move |index| skill.prompt(split, 5, index)));
        prompts.map(|prompt| prompt.description.content()).collect()
    };
    let (train, held_out) = (contents(Split::Train), contents(Split::HeldOut));
    assert!(train.is_disjoint(&held_out));
    assert!(train.len() > 7000 && held_out.len() > 3000, "{} {}", train.len(), held_out.len());
}

#[test]
fn captions_stay_below_the_word_limit_of_their_skill() {
    for skill in Skill::ALL {
        let words = |index| skill.prompt(Split::Train, 4, index).caption.split(' ').count();
        let longest = (0..5000).map(words).max().unwrap();
        assert!(longest < skill.word_limit(), "{}: {longest} words", skill.name());
        assert_eq!(Skill::from_name(skill.name()).unwrap(), skill);
    }
    let unknown = Skill::from_name("singing").unwrap_err().to_string();
    assert!(unknown.contains("`singing`") && unknown.contains("everyday, counting"), "{unknown}");
}

/// `defying` has the colours that the other skills never have, and they have all the others.
#[test]
fn common_sense_is_broken_by_one_skill_only() {
    for skill in Skill::ALL {
        for index in 0..1000 {
            for thing in skill.prompt(Split::Train, 6, index).description.things {
                let usual = thing.shape.usual_colours().contains(&thing.colour.unwrap());
                assert_eq!(usual, skill != Skill::Defying, "{thing:?} in {}", skill.name());
            }
        }
    }
}

/// Captions that the writer does not write, told as the writer would.
#[test]
fn other_wordings_are_understood() {
    let equal = [
        ("Two red circles!", "a picture of two red circles"),
        ("A RED CIRCLE, ON TOP OF A BLUE SQUARE", "a blue square below a red circle"),
        ("the red circle is left of the blue square", "a red circle left of a blue square"),
        ("a circle; the circle is red", "a red circle"),
        ("On the right side of a heart there is a big star.", "a large star to the right of a heart"),
        ("a grey background behind a couple of stars", "two stars on a gray background"),
        (
            "A square on solid black background, with a star within it",
            "a star inside a square on a plain black background",
        ),
        ("There is a red star. It is above a cross.", "a red star above a cross"),
        ("a red star and a blue star. The blue star is tiny.", "a red star and a small blue star"),
    ];
    for (said, meant) in equal {
        assert_eq!(parse(said).unwrap().content(), parse(meant).unwrap().content(), "{said}");
    }
    let different = [
        ("a red circle left of a blue square", "a red circle right of a blue square"),
        ("a red circle and a blue square", "a blue circle and a red square"),
        ("two stars", "three stars"),
        ("a star", "one star"),
        ("a heart at the top", "a heart at the bottom"),
        ("a heart on a plain white background", "a heart on a shaded white background"),
    ];
    for (one, other) in different {
        assert_ne!(parse(one).unwrap().content(), parse(other).unwrap().content(), "{one}");
    }
    for nothing in ["", "a dog in the park", "a red background", "\u{1f600}"] {
        let refusal = parse(nothing).unwrap_err().to_string();
        assert!(refusal.contains("names no shape"), "{refusal}");
    }
}
