//! Means of the right things, and pairs of the right images.

use selma::evaluate::comparison::Comparison;
use selma::evaluate::scores::{Answered, ScoredImage, Scores};
use selma::evaluate::shapes;
use selma::shapes::scene::lay_out;
use selma::shapes::{caption::parse, render, rng::Rng};

/// An image with one question for each letter: `y` yes, `n` no, `z` yes that does not count.
fn image(prompt: &str, skill: &str, index: u64, letters: &str) -> ScoredImage {
    let questions = letters.chars().enumerate().map(|(i, letter)| Answered {
        id: i + 1,
        parents: if i == 0 { vec![] } else { vec![1] },
        category: ["entity - whole", "attribute - color"][i.min(1)].into(),
        question: format!("question {i}?"),
        answer: None,
        yes: letter != 'n',
        counts: letter == 'y',
    });
    ScoredImage {
        file_name: format!("{index:05}.png"),
        prompt: prompt.into(),
        skill: Some(skill.into()),
        item_id: None,
        family: None,
        seed: 42,
        index,
        score: letters.chars().filter(|&letter| letter == 'y').count() as f64 / letters.len() as f64,
        questions: questions.collect(),
    }
}

fn scored(images: Vec<ScoredImage>) -> Scores {
    Scores::of("shapes", "builtin", images, 3).unwrap()
}

#[test]
fn every_mean_is_over_what_its_name_says() {
    let scores = scored(vec![
        image("a", "counting", 0, "yy"),
        image("a", "counting", 1, "nzzz"),
        image("b", "spatial", 2, "yn"),
        image("c", "spatial", 3, "y"),
    ]);
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a}, not {b}");
    near(scores.overall.mean, (1.0 + 0.0 + 0.5 + 1.0) / 4.0);
    assert_eq!((scores.overall.values, scores.overall.prompts), (4, 3));
    near(scores.skills["counting"].mean, 0.5);
    near(scores.skills["spatial"].mean, 0.75);
    near(scores.questions.unwrap().mean, 4.0 / 9.0);
    near(scores.questions_without_dependencies.unwrap().mean, 7.0 / 9.0);
    near(scores.categories["entity - whole"].mean, 0.75);
    near(scores.categories["attribute - color"].mean, 1.0 / 5.0);
    assert_eq!(scores.skills["counting"].interval, None);
}

#[test]
fn scores_come_back_from_their_file_and_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let scores = scored(vec![image("a", "counting", 0, "yyn"), image("b", "spatial", 1, "yny")]);
    let [first, second] = ["first.json", "second.json"].map(|name| dir.path().join(name));
    scores.write(&first).unwrap();
    let read = Scores::read(&first).unwrap();
    assert_eq!(read, scores);
    read.write(&second).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    std::fs::write(&first, "{}").unwrap();
    let refusal = Scores::read(&first).unwrap_err().to_string();
    assert!(refusal.contains("first.json") && refusal.contains("selma eval"), "{refusal}");
}

#[test]
fn a_comparison_pairs_by_prompt_seed_and_index() {
    // In another order, and each set with an image that the other one lacks.
    let ours =
        scored(vec![image("a", "counting", 0, "yy"), image("b", "spatial", 1, "yy"), image("c", "spatial", 2, "nz")]);
    let theirs =
        scored(vec![image("b", "spatial", 1, "nz"), image("a", "counting", 0, "yn"), image("c", "spatial", 7, "yy")]);
    let found = Comparison::of(&ours, &theirs).unwrap();
    assert_eq!((found.overall.estimate.mean, found.overall.estimate.values), (0.75, 2));
    assert_eq!(found.skills["counting"].estimate.mean, 0.5);
    assert_eq!(found.skills["spatial"].estimate.mean, 1.0);
    assert_eq!(found.categories["entity - whole"].estimate.mean, 0.5);
    assert_eq!(found.categories["attribute - color"].estimate.mean, 1.0);
    assert_eq!(found.unpaired, [1, 1]);
    let back = Comparison::of(&theirs, &ours).unwrap();
    assert_eq!(back.overall.estimate.mean, -0.75);
    assert_eq!(back.overall.p_value, found.overall.p_value);
}

#[test]
fn what_does_not_compare_is_refused() {
    let one = || image("a", "counting", 0, "yy");
    let refusal = |ours: &Scores, theirs: &Scores| Comparison::of(ours, theirs).unwrap_err().to_string();
    let base = scored(vec![one()]);
    let mut other = base.clone();
    other.judge = "somebody".into();
    assert!(refusal(&base, &other).contains("somebody"));
    assert!(refusal(&base, &scored(vec![image("b", "counting", 0, "yy")])).contains("no image"));
    assert!(refusal(&base, &scored(vec![one(), one()])).contains("same prompt, seed and index"));
    assert!(refusal(&base, &scored(vec![image("a", "counting", 0, "yyy")])).contains("different questions"));
    assert!(Scores::of("shapes", "builtin", vec![], 1).is_err());
    let unknown = ScoredImage { score: f64::NAN, ..one() };
    let refusal = Scores::of("shapes", "builtin", vec![unknown], 1).unwrap_err();
    assert!(refusal.to_string().contains("00000.png"));
}

#[test]
fn the_builtin_judge_scores_an_image_against_any_caption() {
    let shown = "two red circles left of a blue square on a white background";
    let scene = lay_out(&parse(shown).unwrap(), &mut Rng::of_caption(3, 0)).unwrap();
    let image = render(&scene);
    let (score, questions) = shapes::score(&image, shown).unwrap();
    assert_eq!((score, questions.len()), (1.0, 7));
    // Circle, red, two; square: no, so that neither its colour nor the relation counts.
    let (score, questions) = shapes::score(&image, "two red circles left of a blue star").unwrap();
    assert_eq!(score, 0.5);
    let star = questions.iter().find(|q| q.question == "Is there a star?").unwrap();
    let counted: Vec<_> = questions.iter().map(|q| q.counts).collect();
    assert_eq!((star.id, star.category.as_str(), star.yes), (4, "entity - whole", false));
    assert_eq!(counted, [true, true, true, false, false, false]);
    assert!(shapes::score(&image, "a calm view of the sea").unwrap_err().to_string().contains("no shape"));
}
