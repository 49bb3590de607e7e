//! The judge: what it asks, and what it answers on images made for the purpose.

use image::{Rgb, RgbImage};
use selma::shapes::caption::parse;
use selma::shapes::description::{Colour, Shape};
use selma::shapes::judge::{Question, View, gate, judge, questions};
use selma::shapes::scene::lay_out;
use selma::shapes::{SIDE, Skill, Split, render, rng::Rng};

/// An image of a caption.
fn image(caption: &str) -> RgbImage {
    let scene = lay_out(&parse(caption).unwrap(), &mut Rng::of_caption(3, 0)).unwrap();
    render(&scene)
}

fn asked(caption: &str) -> Vec<Question> {
    questions(&parse(caption).unwrap())
}

#[test]
fn a_caption_is_asked_about_as_dsg_would() {
    let told: Vec<String> =
        asked("Two small red circles left of a blue square. The square is at the top. The background is shaded gray.")
            .iter()
            .map(|q| format!("{} | {} | {:?} | {}", q.id, q.tuple(), q.parents, q.text()))
            .collect();
    let expected = [
        "1 | entity - whole (circle) | [] | Is there a circle?",
        "2 | attribute - color (circle, red) | [1] | Is there a red circle?",
        "3 | other - count (red circles, ==2) | [2] | Are there exactly two red circles?",
        "4 | attribute - size (red circles, small) | [2] | Are the red circles small?",
        "5 | entity - whole (square) | [] | Is there a square?",
        "6 | attribute - color (square, blue) | [5] | Is there a blue square?",
        "7 | relation - spatial (blue square, at the top) | [6] | Is the blue square at the top?",
        "8 | relation - spatial (red circles, blue square, left of) | [2, 6] | Are the red circles left of the blue square?",
        "9 | global (gray background) | [] | Is the background gray?",
        "10 | global (shaded background) | [] | Is the background shaded?",
    ];
    assert_eq!(told, expected);
    // A shape that is named twice is asked for once.
    let twice = asked("an orange star and a pink star");
    assert_eq!(twice.len(), 3);
    assert_eq!(twice[1].text(), "Is there an orange star?");
    assert_eq!(twice[2].parents, [1]);
}

#[test]
fn the_caption_and_the_description_lead_to_the_same_questions() {
    for skill in Skill::ALL {
        for index in 0..1000 {
            let prompt = skill.prompt(Split::HeldOut, 8, index);
            let sorted = |mut texts: Vec<String>| {
                texts.sort();
                texts
            };
            let texts = |questions: Vec<Question>| sorted(questions.iter().map(Question::text).collect());
            let read = asked(&prompt.caption);
            assert!(read.iter().all(|q| q.parents.iter().all(|&parent| parent < q.id)));
            // A relation may be told from either side, so that only the others must be word for word the same.
            let meant = texts(questions(&prompt.description));
            let read = texts(read);
            assert_eq!(read.len(), meant.len(), "{}", prompt.caption);
            let differ: Vec<_> = read.iter().filter(|text| !meant.contains(text)).collect();
            assert!(differ.iter().all(|text| text.contains(" the ") && differ.len() == 1), "{differ:?}");
        }
    }
}

/// For each image: captions that are true of it, and captions of which some questions must be answered "no".
#[test]
fn what_is_true_is_confirmed_and_what_is_not_is_denied() {
    type Denied = [(&'static str, &'static [usize])];
    let cases: [(&str, &[&str], &Denied); 7] = [
        (
            "a red circle left of a blue square on a plain white background",
            &["a blue square right of a red circle", "a circle", "one square", "a red circle and a blue square"],
            &[
                ("a blue circle and a red square", &[2, 4]),
                ("a red circle right of a blue square", &[5]),
                ("a red circle above a blue square", &[5]),
                ("two red circles", &[3]),
                ("a red star", &[1, 2]),
                ("a red circle on a shaded black background", &[3, 4]),
                ("a red circle inside a blue square", &[5]),
            ],
        ),
        (
            "a yellow star inside a purple heart on a green background",
            &["a purple heart with a yellow star inside it", "a yellow star on a green background"],
            &[
                ("a purple heart inside a yellow star", &[5]),
                ("a yellow star left of a purple heart", &[5]),
                ("a yellow star on a purple background", &[3]),
            ],
        ),
        (
            "three green triangles and one cyan cross",
            &["three triangles", "one cross", "a green triangle"],
            &[("two green triangles", &[3]), ("four triangles", &[2]), ("three green crosses", &[2, 3])],
        ),
        (
            "a large pink diamond at the top on a shaded gray background",
            &["a huge diamond", "a pink diamond near the top"],
            &[
                ("a small pink diamond", &[3]),
                ("a diamond at the bottom", &[2]),
                ("a diamond in the middle", &[2]),
                ("a diamond on a plain gray background", &[3]),
            ],
        ),
        (
            "a green triangle and nothing else",
            &["A green triangle stands alone.", "a triangle", "There is a green triangle. Nothing else can be seen."],
            &[("a red star and nothing else", &[1, 2, 3])],
        ),
        (
            "a yellow circle and a red heart",
            &["a red heart and a yellow circle and nothing else", "a red heart"],
            &[("a red heart and nothing else", &[3]), ("A yellow circle stands alone.", &[3])],
        ),
        (
            "a small orange square at the right",
            &["a tiny square", "a little orange square on the right side"],
            &[("a big orange square", &[3]), ("an orange square on the left", &[3])],
        ),
    ];
    for (shown, yes, no) in cases {
        let view = View::of(&image(shown));
        for caption in yes.iter().chain([&shown]) {
            let verdict = judge(&view, &asked(caption));
            assert_eq!(verdict.score(), 1.0, "`{caption}` of `{shown}`: {verdict:?}\n{view:?}");
        }
        for (caption, denied) in no {
            let verdict = judge(&view, &asked(caption));
            let said_no: Vec<_> = (1..=verdict.gated.len()).filter(|id| !verdict.gated[id - 1]).collect();
            assert_eq!(&said_no, denied, "`{caption}` of `{shown}`\n{view:?}");
        }
    }
}

#[test]
fn a_no_takes_all_that_depends_on_it_along() {
    let questions = asked("a red circle left of a blue square on a white background");
    assert_eq!(questions.len(), 6);
    let mut answers = vec![true; 6];
    answers[0] = false;
    let verdict = gate(&questions, answers);
    assert_eq!(verdict.answers, [false, true, true, true, true, true]);
    assert_eq!(verdict.gated, [false, false, true, true, false, true]);
    assert_eq!(verdict.score(), 0.5);
    assert_eq!(gate(&[], Vec::new()).score(), 0.0);
}

/// Paints what `inside` says of points in units of `size` around the centre, in blue on white.
fn paint(size: f32, inside: impl Fn(f32, f32) -> bool) -> RgbImage {
    let mix = |share: f32, [from, to]: [u8; 2]| (f32::from(from) + share * (f32::from(to) - f32::from(from))) as u8;
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let at = |pixel: u32, sample: u32| (pixel as f32 + (sample as f32 + 0.5) / 4.0 - 31.7) / size;
        let hits = (0..16).filter(|i| inside(at(x, i % 4), at(y, i / 4))).count();
        let share = hits as f32 / 16.0;
        Rgb([[244, 44], [244, 84], [244, 216]].map(|ends| mix(share, ends)))
    })
}

/// What is no shape of this world, and what still is one though it was drawn badly.
#[test]
fn other_shapes_have_no_name() {
    let ellipse = |ratio: f32| move |x: f32, y: f32| x * x / (ratio * ratio) + y * y <= 1.0;
    let box_of = |w: f32, h: f32| move |x: f32, y: f32| x.abs() <= w && y.abs() <= h;
    let disc = |x: f32, y: f32| x * x + y * y <= 1.0;
    type Inside = Box<dyn Fn(f32, f32) -> bool>;
    let cases: [(&str, Option<Shape>, Inside); 13] = [
        ("slightly oval", Some(Shape::Circle), Box::new(ellipse(1.15))),
        ("oval", None, Box::new(ellipse(1.4))),
        ("nearly a square", Some(Shape::Square), Box::new(box_of(1.1, 1.0))),
        ("brick", None, Box::new(box_of(1.4, 1.0))),
        ("bar", None, Box::new(box_of(1.6, 0.4))),
        ("ring", None, Box::new(move |x, y| disc(x, y) && !disc(1.8 * x, 1.8 * y))),
        ("half a disc", None, Box::new(move |x, y| disc(x, y) && y < 0.0)),
        ("moon", None, Box::new(move |x, y| disc(x, y) && !disc(1.2 * x - 0.6, 1.2 * y))),
        ("triangle on its tip", None, Box::new(|x, y| y >= -0.9 && x.abs() <= 0.6 * (0.95 - y))),
        ("half a square", None, Box::new(|x, y| x >= -0.9 && y <= 0.9 && y >= x)),
        ("letter L", None, Box::new(|x, y| x.abs().max(y.abs()) <= 1.0 && (x <= -0.3 || y >= 0.3))),
        ("letter T", None, Box::new(|x, y| x.abs().max(y.abs()) <= 1.0 && (x.abs() <= 0.3 || y <= -0.3))),
        ("two discs that touch", None, Box::new(move |x, y| disc(x - 0.9, y) || disc(x + 0.9, y))),
    ];
    for (name, shape, inside) in &cases {
        for size in [7.0, 11.0, 15.0] {
            let view = View::of(&paint(size, inside));
            let seen: Vec<_> = view.found.iter().map(|found| (found.shape, found.colour)).collect();
            assert_eq!(seen, [(*shape, Colour::Blue)], "{name} of size {size}");
        }
    }
}

#[test]
fn odd_images_are_looked_at_without_trouble() {
    let noise = |x: u32, y: u32| Rgb([x, y, x ^ y].map(|v| (v.wrapping_mul(0x9e37_79b9) >> 13) as u8));
    for image in [
        RgbImage::new(1, 1),
        RgbImage::new(64, 64),
        RgbImage::from_fn(64, 64, noise),
        RgbImage::from_fn(64, 64, |x, _| Rgb([if x < 32 { 255 } else { 0 }; 3])),
        RgbImage::from_fn(33, 90, |x, y| Rgb([(7 * x) as u8, (2 * y) as u8, 128])),
    ] {
        let view = View::of(&image);
        assert!(view.found.iter().all(|found| found.size > 0.0 && found.x.is_finite()), "{view:?}");
    }
    // A larger image is scaled, and a frame around one is not its background.
    let mut image = image("a red heart on a plain white background");
    let large = image::imageops::resize(&image, 256, 256, image::imageops::FilterType::CatmullRom);
    let heart = |view: View| (view.background, view.found.iter().any(|found| found.shape == Some(Shape::Heart)));
    assert_eq!(heart(View::of(&large)), (Colour::White, true));
    for i in 0..64 {
        for (x, y) in [(i, 0), (i, 63), (0, i), (63, i)] {
            image.put_pixel(x, y, Rgb([0; 3]));
        }
    }
    assert_eq!(heart(View::of(&image)), (Colour::White, true));
}
