//! The choices that one example needs, counted off Philox words: a function of (seed, purpose, skill, split, index).

use crate::tensor::random::{self, Stream};

/// What the choices are for; two purposes never share words.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// What the caption claims, and its wording.
    Prompt = 0,
    /// Where things are drawn, and their exact colours and sizes.
    Layout = 1,
    /// What a careless caption gets wrong, and its wording.
    Careless = 2,
}

/// A source of choices.
pub struct Rng {
    words: Box<dyn Iterator<Item = u32> + Send>,
}

impl Rng {
    /// The choices of example `index` of the numbered `kind` of examples.
    pub(super) fn new(seed: u64, purpose: Purpose, kind: u32, index: u64) -> Self {
        let step = u64::from(kind) << 32 | purpose as u64;
        Self { words: Box::new(random::words(seed, Stream::Shapes, index, step, 0).flatten()) }
    }

    /// The choices for image `index` to a caption that is not of a skill.
    pub fn of_caption(seed: u64, index: u64) -> Self {
        Self::new(seed, Purpose::Layout, u32::MAX, index)
    }

    /// The choices for careless caption `index`.
    pub(crate) fn of_careless(seed: u64, index: u64) -> Self {
        Self::new(seed, Purpose::Careless, u32::MAX, index)
    }

    /// In 0..n, for `n` from 1 on. The bias is below `n / 2^32`.
    pub fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0, "nothing to choose from");
        let word = self.words.next().expect("Philox words do not end");
        ((u64::from(word) * n as u64) >> 32) as usize
    }

    /// In [0, 1), a multiple of 2^-24.
    pub fn unit(&mut self) -> f32 {
        let word = self.words.next().expect("Philox words do not end");
        (word >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// In [low, high).
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One of several.
    pub fn choose<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }
}
