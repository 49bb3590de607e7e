//! The memory of a GPU: a few large segments from the driver, cut into buffers and put together again here. Where a buffer
//! lies depends on the segments and on the other buffers alone, never on what was there before: a step that asks for the
//! same lengths in the same order gets the same addresses. Launches are in the order of one stream, so memory may be handed
//! on while kernels that read it are still to run before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Buffers begin at multiples of this, as the driver's own allocations do.
const ALIGNMENT: u64 = 256;
/// Segments have at least and, unless one buffer needs more, at most so many bytes.
const SEGMENT_BYTES: [u64; 2] = [2 << 20, 1 << 30];

/// Bytes of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In buffers, now and at most.
    pub in_use: u64,
    pub peak: u64,
    /// Taken from the driver, now.
    pub reserved: u64,
    /// How often memory was taken from the driver.
    pub growths: u64,
}

#[derive(Default)]
pub struct Arena {
    /// Bytes by start, in all maps.
    segments: BTreeMap<u64, u64>,
    used: HashMap<u64, u64>,
    /// No two of them touch, unless they are of different segments.
    free: BTreeMap<u64, u64>,
    /// The same, the smallest first: bytes and start.
    by_size: BTreeSet<(u64, u64)>,
    usage: Usage,
    buffers_state: u64,
    segments_state: u64,
}

impl Arena {
    /// What a buffer of `bytes` takes.
    pub fn rounded(bytes: usize) -> u64 {
        (bytes.max(1) as u64).next_multiple_of(ALIGNMENT)
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// A number that two moments share where the same buffers lie at the same addresses.
    pub fn buffers_state(&self) -> u64 {
        self.buffers_state
    }

    /// A number that two moments share where the next buffers will lie at the same addresses too.
    pub fn state(&self) -> u64 {
        self.buffers_state ^ self.segments_state.rotate_left(32)
    }

    /// The smallest free range that holds `bytes` (of [`Arena::rounded`]), at the lowest address.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let &(length, start) = self.by_size.range((bytes, 0)..).next()?;
        self.remove_free(start, length);
        if length > bytes {
            self.add_free(start + bytes, length - bytes);
        }
        self.used.insert(start, bytes);
        self.buffers_state = self.buffers_state.wrapping_add(mixed(start, bytes));
        self.usage.in_use += bytes;
        self.usage.peak = self.usage.peak.max(self.usage.in_use);
        Some(start)
    }

    /// Takes a buffer back, and joins it with what is free beside it.
    pub fn give(&mut self, address: u64) {
        let Some(bytes) = self.used.remove(&address) else {
            return;
        };
        self.buffers_state = self.buffers_state.wrapping_sub(mixed(address, bytes));
        self.usage.in_use -= bytes;
        let (mut start, mut end) = (address, address + bytes);
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
            && !self.segments.contains_key(&start)
        {
            self.remove_free(before, length);
            start = before;
        }
        if let Some(&length) = self.free.get(&end)
            && !self.segments.contains_key(&end)
        {
            self.remove_free(end, length);
            end += length;
        }
        self.add_free(start, end - start);
    }

    /// Bytes of the segment that should be taken for a buffer of `bytes`: segments grow with what is held, so that they
    /// stay few.
    pub fn next_segment(&self, bytes: u64) -> u64 {
        let [least, most] = SEGMENT_BYTES;
        bytes.max((self.usage.reserved / 2).clamp(least, most).next_multiple_of(ALIGNMENT))
    }

    /// Takes a new segment into use.
    pub fn grow(&mut self, start: u64, bytes: u64) {
        self.segments.insert(start, bytes);
        self.segments_state = self.segments_state.wrapping_add(mixed(start, bytes));
        self.usage.reserved += bytes;
        self.usage.growths += 1;
        self.add_free(start, bytes);
    }

    /// Forgets the segments without a buffer, for their memory to be given back to the driver.
    pub fn drain(&mut self) -> Vec<u64> {
        let unused = self.segments.iter().filter(|&(start, bytes)| self.free.get(start) == Some(bytes));
        let unused: Vec<(u64, u64)> = unused.map(|(&start, &bytes)| (start, bytes)).collect();
        for &(start, bytes) in &unused {
            self.remove_free(start, bytes);
            self.segments.remove(&start);
            self.segments_state = self.segments_state.wrapping_sub(mixed(start, bytes));
            self.usage.reserved -= bytes;
        }
        unused.into_iter().map(|(start, _)| start).collect()
    }

    /// The segments.
    pub fn segments(&self) -> impl Iterator<Item = u64> {
        self.segments.keys().copied()
    }

    fn add_free(&mut self, start: u64, bytes: u64) {
        self.free.insert(start, bytes);
        self.by_size.insert((bytes, start));
    }

    fn remove_free(&mut self, start: u64, bytes: u64) {
        self.free.remove(&start);
        self.by_size.remove(&(bytes, start));
    }
}

/// A hash of two numbers (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
fn mixed(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn memory_goes_round_and_grows_together() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(KIB), None);
        arena.grow(0x1_0000, 4 * KIB);
        let empty = arena.state();
        let a = arena.take(KIB).unwrap();
        let b = arena.take(KIB).unwrap();
        let c = arena.take(2 * KIB).unwrap();
        assert_eq!([a, b, c], [0x1_0000, 0x1_0400, 0x1_0800]);
        assert_eq!(arena.take(Arena::rounded(1)), None);
        arena.give(a);
        arena.give(c);
        assert_eq!(arena.take(2 * KIB), Some(c), "the smallest that holds it");
        arena.give(c);
        arena.give(b);
        assert_eq!(arena.state(), empty);
        assert_eq!(arena.take(4 * KIB), Some(a), "all of it is one range again");
        assert_eq!(arena.usage(), Usage { in_use: 4 * KIB, peak: 4 * KIB, reserved: 4 * KIB, growths: 1 });
    }

    #[test]
    fn segments_that_touch_stay_apart() {
        let mut arena = Arena::default();
        arena.grow(0x1_0000, KIB);
        arena.grow(0x1_0400, KIB);
        assert_eq!(arena.take(2 * KIB), None, "no buffer lies in two segments");
        let (a, b) = (arena.take(KIB).unwrap(), arena.take(KIB).unwrap());
        arena.give(a);
        arena.give(b);
        assert_eq!(arena.take(2 * KIB), None);
        let a = arena.take(512).unwrap();
        let before = arena.state();
        assert_eq!(arena.drain(), [0x1_0400], "the other holds a buffer");
        assert_ne!(arena.state(), before);
        assert_eq!(arena.usage().reserved, KIB);
        arena.give(a);
        assert_eq!(arena.drain(), [0x1_0000]);
    }

    /// The same requests from the same state get the same addresses, whatever happened before.
    #[test]
    fn addresses_repeat() {
        let mut arena = Arena::default();
        arena.grow(1 << 20, 1 << 20);
        let kept = arena.take(3 * KIB).unwrap();
        let mut step = |order: [usize; 3]| {
            let before = arena.state();
            let mut addresses = Vec::new();
            for bytes in [KIB, 5 * KIB, 2 * KIB] {
                addresses.push(arena.take(bytes).unwrap());
            }
            arena.give(addresses[1]);
            addresses.push(arena.take(4 * KIB).unwrap());
            let last = arena.take(KIB).unwrap();
            for i in order {
                arena.give(addresses[[0, 2, 3][i]]);
            }
            arena.give(last);
            assert_eq!(arena.state(), before);
            addresses
        };
        let first = step([0, 1, 2]);
        assert_eq!(first, step([2, 0, 1]));
        assert_eq!(first, step([1, 2, 0]));
        arena.give(kept);
        assert_eq!(arena.usage().in_use, 0);
    }
}
