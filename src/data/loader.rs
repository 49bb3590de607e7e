//! Which samples a micro-batch holds: a seeded shuffle an epoch, and a position that follows from the number of the
//! micro-batch alone, so that a resumed run needs no stored state.

use super::rng::{Purpose, Rng};
use crate::error::{Error, Result};

/// The number of an epoch, that of its first batch, and its batches: a bucket, and which of its batches.
type Epoch = (u64, u64, Vec<(usize, u64)>);

/// One place in the order of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Index into the visits of an epoch.
    pub index: usize,
    /// How often its bucket was gone through before.
    pub epoch: u64,
}

/// The order of visits. Batches are always full, and all of one bucket: one may end an epoch of its bucket and begin the
/// next.
#[derive(Debug)]
pub struct Loader {
    buckets: Vec<Bucket>,
    batch_size: usize,
    seed: u64,
    /// The epoch whose batches were last asked for.
    batches: Option<Epoch>,
}

/// The visits of one size of images.
#[derive(Debug)]
struct Bucket {
    visits: Vec<u32>,
    /// The epoch last asked for, and its order.
    order: Option<(u64, Vec<u32>)>,
}

impl Loader {
    /// One bucket of `len` visits.
    ///
    /// # Errors
    /// As [`Loader::with_buckets`].
    pub fn new(len: usize, batch_size: usize, seed: u64) -> Result<Self> {
        let Ok(visits) = u32::try_from(len) else {
            return Err(too_many(len));
        };
        Self::with_buckets(vec![(0..visits).collect()], batch_size, seed)
    }

    /// Visits by bucket.
    ///
    /// # Errors
    /// [`Error::Usage`] for no visits, more than 2^32, or a batch size of 0.
    pub fn with_buckets(buckets: Vec<Vec<u32>>, batch_size: usize, seed: u64) -> Result<Self> {
        let len: usize = buckets.iter().map(Vec::len).sum();
        if len == 0 || u32::try_from(len).is_err() {
            return Err(too_many(len));
        }
        if batch_size == 0 {
            return Err(Error::Usage("batch-size is 0, expected at least 1".into()));
        }
        let filled = buckets.into_iter().filter(|visits| !visits.is_empty());
        let buckets = filled.map(|visits| Bucket { visits, order: None }).collect();
        Ok(Self { buckets, batch_size, seed, batches: None })
    }

    /// The samples of micro-batch `number`, counted from 0 over the whole run: step s of a run that accumulates `a` of
    /// them asks for `s * a .. (s + 1) * a`.
    pub fn batch(&mut self, number: u64) -> Vec<Item> {
        let (bucket, number) = match self.buckets.len() {
            1 => (0, number),
            _ => self.bucket_of(number),
        };
        let first = number * self.batch_size as u64;
        (first..first + self.batch_size as u64).map(|position| self.in_bucket(bucket, position)).collect()
    }

    /// The sample at `position` of the endless order.
    pub fn item(&mut self, position: u64) -> Item {
        let batch_size = self.batch_size as u64;
        self.batch(position / batch_size)[(position % batch_size) as usize]
    }

    /// The bucket of a batch, and which of that bucket's batches it is.
    fn bucket_of(&mut self, number: u64) -> (usize, u64) {
        if let Some((_, first, batches)) = &self.batches
            && let Some(offset) = number.checked_sub(*first)
            && let Some(found) = batches.get(offset as usize)
        {
            return *found;
        }
        // The last epoch that begins at `number` or before: an epoch may be too short for a batch.
        let (mut low, mut high) = (0, 1);
        while self.batches_before(high) <= number {
            (low, high) = (high, high * 2);
        }
        while low + 1 < high {
            let middle = low.midpoint(high);
            match self.batches_before(middle) <= number {
                true => low = middle,
                false => high = middle,
            }
        }
        let first = self.batches_before(low);
        let mut batches = Vec::new();
        for bucket in 0..self.buckets.len() {
            let range = self.of_bucket_before(bucket, low)..self.of_bucket_before(bucket, low + 1);
            batches.extend(range.map(|number| (bucket, number)));
        }
        let mut rng = Rng::new(self.seed, Purpose::Batches, low, 0);
        for i in (1..batches.len()).rev() {
            batches.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let found = batches[(number - first) as usize];
        self.batches = Some((low, first, batches));
        found
    }

    /// Batches of all buckets before an epoch.
    fn batches_before(&self, epoch: u64) -> u64 {
        (0..self.buckets.len()).map(|bucket| self.of_bucket_before(bucket, epoch)).sum()
    }

    /// Full batches that one bucket has given before an epoch; what is left over goes into its next one.
    fn of_bucket_before(&self, bucket: usize, epoch: u64) -> u64 {
        epoch * self.buckets[bucket].visits.len() as u64 / self.batch_size as u64
    }

    fn in_bucket(&mut self, number: usize, position: u64) -> Item {
        let seed = self.seed;
        let Bucket { visits, order } = &mut self.buckets[number];
        let epoch = position / visits.len() as u64;
        let offset = (position % visits.len() as u64) as usize;
        let place = match order {
            Some((known, order)) if *known == epoch => order[offset],
            _ => {
                let shuffled = shuffled(visits.len(), seed, epoch, number as u64);
                order.insert((epoch, shuffled)).1[offset]
            }
        };
        Item { index: visits[place as usize] as usize, epoch }
    }
}

fn too_many(len: usize) -> Error {
    Error::Usage(format!("{len} training samples: expected 1 to 4294967295"))
}

/// Fisher-Yates.
fn shuffled(len: usize, seed: u64, epoch: u64, bucket: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    let mut rng = Rng::new(seed, Purpose::Shuffle, epoch, bucket);
    for i in (1..len).rev() {
        order.swap(i, rng.below(i as u64 + 1) as usize);
    }
    order
}
