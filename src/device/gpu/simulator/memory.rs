//! The simulated device's memory.

use std::collections::BTreeMap;

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

/// Bytes on the heap at a multiple of 256, as the driver aligns allocations.
pub struct Pages {
    pub start: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: the bytes are plain memory; who may touch them when is said where they are touched.
unsafe impl Send for Pages {}

impl Pages {
    pub fn filled(bytes: usize, value: u8) -> Self {
        let layout = std::alloc::Layout::from_size_align(bytes, 256).expect("a length below the address space");
        // SAFETY: the layout is not empty: buffers have at least one byte.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        let pages = Self { start, layout };
        if value != 0 {
            pages.fill(0, bytes, value);
        }
        pages
    }

    pub fn len(&self) -> usize {
        self.layout.size()
    }

    pub fn fill(&self, at: usize, bytes: usize, value: u8) {
        assert!(at + bytes <= self.len(), "inside the allocation");
        // SAFETY: just checked; nothing else refers to the bytes, which are reached through raw pointers only.
        unsafe { std::ptr::write_bytes(self.start.add(at), value, bytes) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.start, self.layout) };
    }
}
