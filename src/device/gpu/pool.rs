//! Freed memory of a GPU, kept for the next buffer of the same length: a step asks for the same lengths again and again,
//! and the driver waits for the device when it allocates or frees. Launches are in the order of one stream, so memory may
//! be written anew while kernels that read it are still to run before.

use std::collections::HashMap;

#[derive(Default)]
pub struct Pool {
    free: HashMap<usize, Vec<u64>>,
    /// The length of every allocation, in use or not.
    lengths: HashMap<u64, usize>,
}

impl Pool {
    /// An allocation of exactly this length that nobody uses.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        self.free.get_mut(&bytes)?.pop()
    }

    /// Takes note of a new allocation, which is in use.
    pub fn add(&mut self, address: u64, bytes: usize) {
        self.lengths.insert(address, bytes);
    }

    /// Takes an allocation back.
    pub fn give(&mut self, address: u64) {
        if let Some(&bytes) = self.lengths.get(&address) {
            self.free.entry(bytes).or_default().push(address);
        }
    }

    /// Forgets all that is not in use, for its memory to be given back to the driver.
    pub fn drain(&mut self) -> Vec<u64> {
        let unused: Vec<u64> = self.free.drain().flat_map(|(_, addresses)| addresses).collect();
        for address in &unused {
            self.lengths.remove(address);
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round() {
        let mut pool = Pool::default();
        assert_eq!(pool.take(8), None);
        pool.add(0x100, 8);
        pool.add(0x200, 8);
        pool.add(0x300, 16);
        pool.give(0x100);
        pool.give(0x300);
        assert_eq!(pool.take(8), Some(0x100));
        assert_eq!(pool.take(8), None, "another length, or what is in use");
        pool.give(0x200);
        let mut unused = pool.drain();
        unused.sort_unstable();
        assert_eq!(unused, [0x200, 0x300]);
        assert_eq!(pool.take(16), None);
        // What was in use meanwhile is still known.
        pool.give(0x100);
        assert_eq!(pool.take(8), Some(0x100));
    }
}
