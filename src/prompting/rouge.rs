//! ROUGE-L F between captions, and the pool that new captions must differ from.
//!
//! Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", as Google's `rouge-score` 0.1 computes
//! `rougeL` without stemming. Whether a score is above a threshold is decided on the rounded double, so the formula is
//! evaluated in that package's order.

use std::collections::HashMap;

/// The tokens of a text: lower case, cut at everything outside `[a-z0-9]`. `light-bulbs` is two, `café` is `caf`.
pub fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()));
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// ROUGE-L F of two texts; the pool's entry is the prediction, the candidate the target.
pub fn rouge_l(candidate: &str, entry: &str) -> f64 {
    let mut pool = Pool::default();
    let (candidate, entry) = (pool.read(candidate), pool.read(entry));
    pool.pattern.set(&candidate, pool.vocabulary.len());
    f_measure(pool.pattern.common(&entry), candidate.len(), entry.len())
}

/// F of a common subsequence of `common` tokens between a candidate of `n` and an entry of `m` tokens.
pub fn f_measure(common: usize, n: usize, m: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / m as f64;
    let recall = common as f64 / n as f64;
    2.0 * precision * recall / (precision + recall)
}

/// The entry that a candidate resembles most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// Its place in the pool.
    pub index: usize,
    pub f: f64,
}

/// Texts that a candidate is compared with. Everything is exact: an entry is passed over only where it cannot reach the
/// threshold.
#[derive(Debug, Default)]
pub struct Pool {
    vocabulary: HashMap<String, u32>,
    /// The tokens of all entries, one after the other.
    flat: Vec<u32>,
    entries: Vec<Entry>,
    /// For each token, the entries that hold it, in order.
    holders: Vec<Vec<u32>>,
    searches: u32,
    /// Tokens of the longest entry.
    longest: usize,
    pattern: Pattern,
}

/// What decides whether an entry is compared, together in memory.
#[derive(Debug)]
struct Entry {
    start: usize,
    len: u32,
    /// The last search that looked at it.
    looked_at: u32,
    signature: u64,
}

/// A set of bits for a set of tokens: one bit a token, shared by the tokens that are equal modulo 64.
fn signature(ids: &[u32]) -> u64 {
    ids.iter().fold(0, |bits, id| bits | 1 << (id % 64))
}

impl Pool {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends an entry.
    pub fn insert(&mut self, text: &str) {
        let index = self.len() as u32;
        let ids = self.read(text);
        for &id in &ids {
            let holders = &mut self.holders[id as usize];
            if holders.last() != Some(&index) {
                holders.push(index);
            }
        }
        self.longest = self.longest.max(ids.len());
        self.entries.push(Entry {
            start: self.flat.len(),
            len: ids.len() as u32,
            looked_at: 0,
            signature: signature(&ids),
        });
        self.flat.extend(ids);
    }

    /// The entry with the largest F above `threshold` (the first of equals), or `None` if no entry is above it.
    ///
    /// A common subsequence of at least `t` of the candidate's `n` tokens includes one of any `n - t + 1` of them. So
    /// only the entries that hold one of the candidate's `n - t + 1` rarest tokens are looked at. Of those, the ones are
    /// compared whose length and signature leave room for enough common tokens.
    pub fn nearest_above(&mut self, text: &str, threshold: f64) -> Option<Nearest> {
        let candidate = self.read(text);
        let n = candidate.len();
        // What must be common with an entry of m tokens, the least such number, and the lengths that can reach it.
        let longest = self.longest.min(longest_reached(n, threshold));
        let needed: Vec<Option<usize>> = (0..=longest).map(|m| common_needed(n, m, threshold)).collect();
        let least = needed.iter().flatten().min().copied()?;

        self.pattern.set(&candidate, self.vocabulary.len());
        let bits = signature(&candidate);
        // Tokens beyond one a bit of the signature: all of them might be common.
        let repeated = n - bits.count_ones() as usize;
        let mut probes = candidate;
        probes.sort_by_key(|&id| (self.holders[id as usize].len(), id));
        probes.truncate(n - least + 1);
        probes.dedup();

        self.searches += 1;
        let mut nearest: Option<Nearest> = None;
        for index in probes.iter().flat_map(|&id| &self.holders[id as usize]) {
            let index = *index as usize;
            let entry = &mut self.entries[index];
            if std::mem::replace(&mut entry.looked_at, self.searches) == self.searches {
                continue;
            }
            let m = entry.len as usize;
            let Some(Some(needed)) = needed.get(m) else {
                continue;
            };
            if (entry.signature & bits).count_ones() as usize + repeated < *needed {
                continue;
            }
            let common = self.pattern.common(&self.flat[entry.start..][..m]);
            if common < *needed {
                continue;
            }
            let f = f_measure(common, n, m);
            if nearest.is_none_or(|best| f > best.f || (f == best.f && index < best.index)) {
                nearest = Some(Nearest { index, f });
            }
        }
        nearest
    }

    /// The numbers of a text's tokens; new tokens get the next numbers.
    fn read(&mut self, text: &str) -> Vec<u32> {
        let number = |token: String| {
            let next = self.vocabulary.len() as u32;
            let id = *self.vocabulary.entry(token).or_insert(next);
            if id == next {
                self.holders.push(Vec::new());
            }
            id
        };
        tokens(text).into_iter().map(number).collect()
    }
}

/// No entry longer than this is above `threshold` for a candidate of `n` tokens, as F is at most `2 n / (n + m)`. Two
/// more than the solution, for the rounding.
fn longest_reached(n: usize, threshold: f64) -> usize {
    (2.0 * n as f64 / threshold - n as f64 + 2.0) as usize
}

/// The least number of common tokens with which F is above `threshold`, if there is one.
fn common_needed(n: usize, m: usize, threshold: f64) -> Option<usize> {
    // F is 2 L / (n + m) but for rounding: begin just below the solution of that.
    let start = (threshold * (n + m) as f64 / 2.0) as usize;
    (start.saturating_sub(1).max(1)..=n.min(m)).find(|&common| f_measure(common, n, m) > threshold)
}

/// A candidate as one bit mask a token, for the bit-parallel longest common subsequence.
/// Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
#[derive(Debug, Default)]
struct Pattern {
    /// The candidate's tokens.
    tokens: Vec<u32>,
    /// For each token of the vocabulary, the number of its mask; 0 is the empty mask.
    mask_of: Vec<u32>,
    /// `words` words a mask: bit i is set where token i of the candidate is this one.
    masks: Vec<u64>,
    words: usize,
}

impl Pattern {
    fn set(&mut self, candidate: &[u32], vocabulary: usize) {
        for &id in &self.tokens {
            self.mask_of[id as usize] = 0;
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(candidate);
        self.mask_of.resize(vocabulary, 0);
        self.words = candidate.len().div_ceil(64);
        self.masks.clear();
        self.masks.resize(self.words, 0);
        for (i, &id) in candidate.iter().enumerate() {
            let mask = &mut self.mask_of[id as usize];
            if *mask == 0 {
                *mask = (self.masks.len() / self.words) as u32;
                self.masks.resize(self.masks.len() + self.words, 0);
            }
            self.masks[*mask as usize * self.words + i / 64] |= 1 << (i % 64);
        }
    }

    /// The length of the longest common subsequence with `entry`.
    fn common(&self, entry: &[u32]) -> usize {
        if self.words == 1 {
            let mut v = u64::MAX;
            for &id in entry {
                let matches = v & self.masks[self.mask_of[id as usize] as usize];
                v = v.wrapping_add(matches) | (v ^ matches);
            }
            return v.count_zeros() as usize;
        }
        let mut v = vec![u64::MAX; self.words];
        for &id in entry {
            let mask = &self.masks[self.mask_of[id as usize] as usize * self.words..];
            let mut carry = false;
            for (v, mask) in v.iter_mut().zip(mask) {
                let matches = *v & mask;
                let (sum, over) = v.overflowing_add(matches);
                let (sum, over_again) = sum.overflowing_add(u64::from(carry));
                carry = over || over_again;
                *v = sum | (*v ^ matches);
            }
        }
        // Bits above the candidate's length are in no mask and stay set...
        v.iter().map(|word| word.count_zeros() as usize).sum()
    }
}
