//! The simulated device's memory.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;

use memmap2::MmapMut;

/// Host memory that kernels see as the device's, and which of its bytes hold a value.
pub struct Memory {
    pub data: Pages,
    pub written: Pages,
}

/// The allocation around an address, and the address's distance from its start.
pub fn around(memory: &BTreeMap<u64, Memory>, address: u64, bytes: usize) -> (&Memory, usize) {
    let found = memory.range(..=address).next_back();
    let found = found.map(|(start, memory)| (memory, (address - start) as usize));
    let inside = found.filter(|(memory, offset)| offset + bytes <= memory.data.len());
    inside.expect("buffers stay inside their allocation")
}

/// Pages of the system, which are zero, and taken only when first written. They begin at a multiple of 256, as the driver's
/// allocations do.
pub struct Pages(UnsafeCell<MmapMut>);

// SAFETY: the bytes are plain memory; who may touch them when is said where they are touched.
unsafe impl Send for Pages {}

impl Pages {
    /// None where the system has no room. There is at least one byte.
    pub fn zeroed(bytes: usize) -> Option<Self> {
        Some(Self(UnsafeCell::new(MmapMut::map_anon(bytes).ok()?)))
    }

    pub fn start(&self) -> *mut u8 {
        // SAFETY: nothing else refers to the mapping while its address is taken; the bytes are reached through raw pointers
        // only.
        unsafe { (&mut *self.0.get()).as_mut_ptr() }
    }

    pub fn len(&self) -> usize {
        // SAFETY: as in `start`.
        unsafe { (&*self.0.get()).len() }
    }

    pub fn fill(&self, at: usize, bytes: usize, value: u8) {
        assert!(at + bytes <= self.len(), "inside the allocation");
        // SAFETY: just checked; nothing else refers to the bytes.
        unsafe { std::ptr::write_bytes(self.start().add(at), value, bytes) };
    }
}
