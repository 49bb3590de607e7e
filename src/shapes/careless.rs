//! Captions as the web has them: written by somebody who looked at the image, but not closely. A model that learnt from
//! such captions can draw more than it is told apart by words: what precise captions bring out.

use super::description::{Colour, Description, Place, Shading, Size, Thing};
use super::rng::Rng;
use crate::error::{Error, Result};

/// How often a careless caption errs: shares from 0 to 1, each of the captions that claim such a thing at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Careless {
    /// Relations and places are told from the wrong side.
    pub relations: f32,
    /// Numbers are others.
    pub counts: f32,
    /// Small things are called large, and large ones small.
    pub sizes: f32,
    /// Two things have each other's colour.
    pub swaps: f32,
    /// The colour of a single thing is another one that its shape usually has.
    pub colours: f32,
    /// A thing's colour is any at all.
    pub any_colours: f32,
    /// The background has another neutral colour, and is plain where it is shaded.
    pub backgrounds: f32,
    /// A size or the background is not told.
    pub omitted: f32,
    /// A thing is told without its colour.
    pub generic: f32,
}

impl Careless {
    /// What every share is called, in the order of [`Careless::shares`].
    const NAMES: [&str; 9] =
        ["relations", "counts", "sizes", "swaps", "colours", "any-colours", "backgrounds", "omitted", "generic"];

    fn shares(&mut self) -> [&mut f32; 9] {
        [
            &mut self.relations,
            &mut self.counts,
            &mut self.sizes,
            &mut self.swaps,
            &mut self.colours,
            &mut self.any_colours,
            &mut self.backgrounds,
            &mut self.omitted,
            &mut self.generic,
        ]
    }

    /// From `counts=0.4,sizes=0.4`; what is not named is 0.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that does not exist, and for a share that is not between 0 and 1.
    pub fn parse(text: &str) -> Result<Self> {
        let mut careless = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let wrong = |what: String| Error::Usage(format!("--careless {part}: {what}"));
            let (name, share) = part.split_once('=').ok_or_else(|| wrong("expected NAME=SHARE".into()))?;
            let known = Self::NAMES.iter().position(|known| *known == name.trim());
            let known = known
                .ok_or_else(|| wrong(format!("no share is called `{}`; there are {}", name, Self::NAMES.join(", "))))?;
            let share = share.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
            *careless.shares()[known] = share.ok_or_else(|| wrong("expected a share from 0 to 1".into()))?;
        }
        Ok(careless)
    }

    /// What a careless writer says of an image that shows `description`.
    pub(crate) fn describe(&self, description: &Description, rng: &mut Rng) -> Description {
        let mut told = description.clone();
        if rng.chance(self.relations) {
            for claim in &mut told.claims {
                match claim.relation.inverse() {
                    Some(inverse) => claim.relation = inverse,
                    None => std::mem::swap(&mut claim.subject, &mut claim.object),
                }
            }
        }
        if rng.chance(self.relations) {
            for thing in &mut told.things {
                thing.place = thing.place.map(|place| elsewhere(place, rng));
            }
        }
        self.miscount(&mut told, rng);
        if rng.chance(self.sizes) {
            for thing in &mut told.things {
                thing.size = thing.size.map(|size| if size == Size::Small { Size::Large } else { Size::Small });
            }
        }
        self.recolour(&mut told, rng);
        if let Some(backdrop) = &mut told.backdrop
            && rng.chance(self.backgrounds)
        {
            backdrop.colour = rng.choose(&Colour::NEUTRALS);
            backdrop.shading = backdrop.shading.map(|shading| match shading {
                Shading::Plain => Shading::Shaded,
                Shading::Shaded => Shading::Plain,
            });
        }
        self.leave_out(&mut told, rng);
        told
    }

    fn miscount(&self, told: &mut Description, rng: &mut Rng) {
        let wrong = rng.chance(self.counts);
        // "one star" alone is no caption about numbers.
        let fewest = if told.things.len() == 1 { 2 } else { 1 };
        for thing in told.things.iter_mut().filter(|_| wrong) {
            if let Some(count) = &mut thing.count {
                let others: Vec<u8> = (fewest..=4).filter(|other| other != count).collect();
                *count = rng.choose(&others);
            }
        }
    }

    fn recolour(&self, told: &mut Description, rng: &mut Rng) {
        let any = |thing: &mut Thing, rng: &mut Rng, hues: &[Colour]| {
            thing.colour = thing.colour.map(|_| rng.choose(hues));
        };
        for thing in &mut told.things {
            if rng.chance(self.any_colours) {
                any(thing, rng, &Colour::HUES);
            }
        }
        let (swapped, recoloured) = (rng.chance(self.swaps), rng.chance(self.colours));
        match &mut told.things[..] {
            [thing] if recoloured => any(thing, rng, thing.shape.usual_colours()),
            [first, second, ..] if swapped => std::mem::swap(&mut first.colour, &mut second.colour),
            _ => {}
        }
    }

    fn leave_out(&self, told: &mut Description, rng: &mut Rng) {
        for thing in &mut told.things {
            if rng.chance(self.omitted) {
                thing.size = None;
            }
            if rng.chance(self.generic) {
                thing.colour = None;
            }
        }
        if rng.chance(self.omitted) {
            told.backdrop = None;
        }
    }
}

impl std::fmt::Display for Careless {
    /// As [`Careless::parse`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mut copy = *self;
        let shares: Vec<_> = Self::NAMES.iter().zip(copy.shares()).map(|(name, share)| (name, *share)).collect();
        let told = shares.iter().filter(|(_, share)| *share > 0.0).map(|(name, share)| format!("{name}={share}"));
        f.write_str(&told.collect::<Vec<_>>().join(","))
    }
}

/// The opposite side; for the middle, any side.
fn elsewhere(place: Place, rng: &mut Rng) -> Place {
    match place {
        Place::Top => Place::Bottom,
        Place::Bottom => Place::Top,
        Place::Left => Place::Right,
        Place::Right => Place::Left,
        Place::Middle => rng.choose(&[Place::Top, Place::Bottom, Place::Left, Place::Right]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Skill, Split};

    /// The share of 4000 captions of `skill` of which `claims` says that a careless writer changed them.
    fn share(careless: &str, skill: Skill, claims: fn(&Description) -> String) -> f64 {
        let careless = Careless::parse(careless).unwrap();
        let (mut all, mut changed) = (0, 0);
        for index in 0..4000 {
            let shown = skill.prompt(Split::Train, 3, index).description;
            let told = careless.describe(&shown, &mut Rng::of_careless(5, index));
            all += 1;
            changed += usize::from(claims(&shown) != claims(&told));
        }
        changed as f64 / all as f64
    }

    fn near(measured: f64, expected: f64) {
        // Four standard deviations of a share of 4000.
        assert!((measured - expected).abs() < 0.032, "{measured}, not {expected}");
    }

    #[test]
    fn captions_err_as_often_as_they_are_told_to() {
        let counts = |d: &Description| format!("{:?}", d.things.iter().map(|thing| thing.count).collect::<Vec<_>>());
        let sides = |d: &Description| {
            format!("{:?} {:?}", d.claims, d.things.iter().map(|thing| thing.place).collect::<Vec<_>>())
        };
        let all = |d: &Description| format!("{d:?}");
        near(share("counts=0.4", Skill::Counting, counts), 0.4);
        near(share("counts=1", Skill::Counting, counts), 1.0);
        // Every spatial caption has either a relation or a place.
        near(share("relations=0.4", Skill::Spatial, sides), 0.4);
        near(share("relations=1", Skill::Spatial, sides), 1.0);
        // Of eight colours one is the right one.
        let colours = |d: &Description| format!("{:?}", d.things[0].colour);
        near(share("any-colours=0.4", Skill::Everyday, colours), 0.35);
        near(share("generic=0.3", Skill::Everyday, colours), 0.3);
        for skill in Skill::ALL {
            assert_eq!(share("", skill, all), 0.0);
        }
        // What is not named stays.
        assert_eq!(share("relations=1,sizes=1,backgrounds=1", Skill::Everyday, colours), 0.0);
    }

    #[test]
    fn shares_are_read_and_written() {
        let text = "relations=0.4,counts=0.25,omitted=1";
        assert_eq!(Careless::parse(text).unwrap().to_string(), text);
        assert_eq!(Careless::parse("").unwrap(), Careless::default());
        for (text, said) in [
            ("count=0.4", "no share is called `count`"),
            ("counts=1.5", "from 0 to 1"),
            ("counts=some", "from 0 to 1"),
            ("counts=NaN", "from 0 to 1"),
            ("counts", "NAME=SHARE"),
        ] {
            let refused = Careless::parse(text).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
