//! Which samples a micro-batch holds: a seeded shuffle an epoch, and a position that follows from the number of the
//! micro-batch alone, so that a resumed run needs no stored state.

use super::draw::{Draw, Purpose};
use crate::error::{Error, Result};

/// One place in the order of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Index into the dataset.
    pub index: usize,
    /// How often the whole dataset was gone through before.
    pub epoch: u64,
}

/// The order of samples. Batches are always full: one may end an epoch and begin the next.
#[derive(Debug)]
pub struct Loader {
    len: usize,
    batch_size: usize,
    seed: u64,
    /// The epoch last asked for, and its order.
    order: Option<(u64, Vec<u32>)>,
}

impl Loader {
    /// # Errors
    /// [`Error::Usage`] for no samples, more than 2^32, or a batch size of 0.
    pub fn new(len: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if len == 0 || u32::try_from(len).is_err() {
            return Err(Error::Usage(format!("{len} training samples: expected 1 to 4294967295")));
        }
        if batch_size == 0 {
            return Err(Error::Usage("batch-size is 0, expected at least 1".into()));
        }
        let order = None;
        Ok(Self { len, batch_size, seed, order })
    }

    /// The samples of micro-batch `number`, counted from 0 over the whole run: step s of a run that accumulates `a` of
    /// them asks for `s * a .. (s + 1) * a`.
    pub fn batch(&mut self, number: u64) -> Vec<Item> {
        let first = number * self.batch_size as u64;
        (first..first + self.batch_size as u64).map(|position| self.item(position)).collect()
    }

    /// The sample at `position` of the endless order.
    pub fn item(&mut self, position: u64) -> Item {
        let epoch = position / self.len as u64;
        let offset = (position % self.len as u64) as usize;
        let index = match &self.order {
            Some((known, order)) if *known == epoch => order[offset],
            _ => {
                let order = shuffled(self.len, self.seed, epoch);
                self.order.insert((epoch, order)).1[offset]
            }
        } as usize;
        Item { index, epoch }
    }

    /// Whether the caption at `position` is replaced by the empty one, with the given probability.
    pub fn drops_caption(&self, position: u64, probability: f64) -> bool {
        Draw::new(self.seed, Purpose::CaptionDropout, position, 0).unit() < probability
    }
}

/// Fisher-Yates.
fn shuffled(len: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    let mut draw = Draw::new(seed, Purpose::Shuffle, epoch, 0);
    for i in (1..len).rev() {
        order.swap(i, draw.below(i as u64 + 1) as usize);
    }
    order
}
