//! VISOR's shares. Source: Gokhale et al. 2022, arXiv:2212.10015, section 3, and the authors' script.

use serde::Serialize;

use super::Relation;

/// What a prompt asks of its images.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub id: String,
    pub relation: Relation,
    pub a: String,
    pub b: String,
    /// The second object of between.
    pub c: Option<String>,
    pub questions: Asking,
}

/// Which of a prompt's questions are about one relation.
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    /// Those about the objects, in the order of the relation.
    pub objects: Vec<usize>,
    pub relation: usize,
}

/// What was seen in one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub a: bool,
    /// All objects but the first.
    pub b: bool,
    /// `None` where the judge cannot tell.
    pub holds: Option<bool>,
    /// Whether the opposite relation holds, where there is one.
    pub opposite: Option<bool>,
}

/// Shares in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub prompts: usize,
    #[serde(rename = "pictures")]
    pub images: usize,
    /// Images with both objects.
    #[serde(rename = "OA")]
    pub both: f64,
    #[serde(rename = "object_A")]
    pub object_a: f64,
    #[serde(rename = "object_B")]
    pub object_b: f64,
    /// Of the images with both objects, those with the relation; `None` where there is none.
    pub cond: Option<f64>,
    /// Images with the relation.
    pub uncond: f64,
    /// Prompts with at least 1, 2, 3 and 4 good images.
    #[serde(rename = "VISOR_1")]
    pub visor_1: f64,
    #[serde(rename = "VISOR_2")]
    pub visor_2: f64,
    #[serde(rename = "VISOR_3")]
    pub visor_3: f64,
    #[serde(rename = "VISOR_4")]
    pub visor_4: f64,
    /// Prompts with fewer than four images: they cannot reach VISOR_4, but count in it.
    pub short_prompts: usize,
    /// Images in which the opposite relation holds and the asked one does not.
    pub opposite: usize,
}

/// What was seen of a prompt of two relations: all of its objects, and both relations.
pub fn both(first: Seen, second: Seen) -> Seen {
    let holds = first.holds.zip(second.holds).map(|(first, second)| first && second);
    Seen { a: first.a, b: first.b && second.a && second.b, holds, opposite: None }
}

/// The shares over prompts with their images. `None` if there is no image, or a relation that the judge cannot tell.
pub fn summary<'a>(prompts: impl IntoIterator<Item = &'a [Seen]>) -> Option<Summary> {
    let prompts: Vec<&[Seen]> = prompts.into_iter().filter(|images| !images.is_empty()).collect();
    let all = || prompts.iter().copied().flatten();
    if prompts.is_empty() || all().any(|seen| seen.holds.is_none()) {
        return None;
    }
    let good = |seen: &&Seen| seen.a && seen.b && seen.holds == Some(true);
    let count = |of: &dyn Fn(&&Seen) -> bool| all().filter(|seen| of(seen)).count();
    let images = all().count();
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
    let (both, held) = (count(&|seen| seen.a && seen.b), count(&good));
    let at_least = |m: usize| {
        let reached = prompts.iter().filter(|images| images.iter().filter(good).count() >= m);
        share(reached.count(), prompts.len())
    };
    Some(Summary {
        prompts: prompts.len(),
        images,
        both: share(both, images),
        object_a: share(count(&|seen| seen.a), images),
        object_b: share(count(&|seen| seen.b), images),
        cond: (both > 0).then(|| share(held, both)),
        uncond: share(held, images),
        visor_1: at_least(1),
        visor_2: at_least(2),
        visor_3: at_least(3),
        visor_4: at_least(4),
        short_prompts: prompts.iter().filter(|images| images.len() < 4).count(),
        opposite: count(&|seen| seen.opposite == Some(true) && !good(seen)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spatial::detections::{Detection, THRESHOLD, seen};

    fn at(label: &str, x: f64) -> Detection {
        Detection { label: label.into(), score: 0.5, at: [x - 1.0, 0.0, x + 1.0, 2.0] }
    }

    #[test]
    fn of_a_cat_to_the_left_of_a_dog() {
        let (a, b) = ("cat".to_owned(), "dog".to_owned());
        let questions = Asking { objects: vec![1, 2], relation: 3 };
        let asked = Asked { id: "0".into(), relation: Relation::LeftOf, a, b, c: None, questions };
        let images = [
            vec![at("cat", 10.0), at("dog", 50.0)],
            vec![at("dog", 10.0), at("cat", 50.0)],
            vec![at("cat", 10.0)],
            vec![at("cat", 60.0), at("cat", 5.0), at("dog", 40.0)],
        ];
        let images: Vec<Seen> = images.iter().map(|found| seen(&asked, found, THRESHOLD)).collect();
        let s = summary([&images[..]]).unwrap();
        assert_eq!((s.both, s.uncond, s.visor_2, s.visor_3, s.short_prompts), (75.0, 50.0, 100.0, 0.0, 0));
        assert!((s.cond.unwrap() - 200.0 / 3.0).abs() < 1e-9);
        let mean = (s.visor_1 + s.visor_2 + s.visor_3 + s.visor_4) / 4.0;
        assert_eq!(s.uncond, mean, "with four images for every prompt");
        assert_eq!(s.opposite, 1);
        let weak = |score| Detection { score, ..at("cat", 0.0) };
        assert!(!seen(&asked, &[weak(0.1)], THRESHOLD).a);
        assert!(seen(&asked, &[weak(0.100_000_1)], THRESHOLD).a);
        assert_eq!(summary([&[][..]]), None);
    }
}
