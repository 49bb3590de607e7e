//! What holds for a part of a dataset: how often its images count, and how their captions vary from visit to visit.

use crate::data::rng::{Purpose, Rng};

/// The settings of a part of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// Visits of an image in an epoch.
    pub repeats: u32,
    /// Whether these are regularisation images, which show the class and not the subject.
    pub is_reg: bool,
    /// The caption of images that have none.
    pub class_tokens: Option<String>,
    pub variation: Variation,
}

impl Default for Subset {
    fn default() -> Self {
        Self { repeats: 1, is_reg: false, class_tokens: None, variation: Variation::default() }
    }
}

/// How a caption differs from visit to visit. Source: sd-scripts `library/train_util.py`, `process_caption`.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// Puts tags into a random order.
    pub shuffle: bool,
    /// What stands between tags.
    pub separator: String,
    /// Tags at the beginning that stay where they are.
    pub keep_tokens: usize,
    /// The share of visits with an empty caption.
    pub dropout: f64,
    /// The share of tags that are left out, of those that are not kept.
    pub tag_dropout: f64,
    /// Put before every caption, with a space.
    pub prefix: String,
    /// Put behind every caption, with a space.
    pub suffix: String,
}

impl Default for Variation {
    fn default() -> Self {
        Self {
            shuffle: false,
            separator: ",".into(),
            keep_tokens: 0,
            dropout: 0.0,
            tag_dropout: 0.0,
            prefix: String::new(),
            suffix: String::new(),
        }
    }
}

impl Variation {
    /// Whether a caption has more forms than itself and the empty one.
    pub fn has_many_forms(&self) -> bool {
        self.shuffle || self.tag_dropout > 0.0
    }

    /// The caption without anything that is drawn.
    pub fn whole(&self, caption: &str) -> String {
        let parts = [self.prefix.as_str(), caption, self.suffix.as_str()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The caption of the visit at `position` of a run: the same for the same seed and position.
    pub fn at(&self, caption: &str, seed: u64, position: u64) -> String {
        if self.dropout > 0.0 && Rng::new(seed, Purpose::CaptionDropout, position, 0).unit() < self.dropout {
            return String::new();
        }
        let whole = self.whole(caption);
        if !self.has_many_forms() {
            return whole;
        }
        let mut tags: Vec<&str> = whole.split(&self.separator).map(str::trim).collect();
        let mut free = tags.split_off(self.keep_tokens.min(tags.len()));
        let mut rng = Rng::new(seed, Purpose::Tags, position, 0);
        if self.shuffle {
            for i in (1..free.len()).rev() {
                free.swap(i, rng.below(i as u64 + 1) as usize);
            }
        }
        free.retain(|_| rng.unit() >= self.tag_dropout);
        tags.extend(free);
        tags.join(&format!("{} ", self.separator.trim_end()))
    }
}
