//! Pinned host memory, from which the device copies while the host goes on.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::Queue;
use crate::error::Result;

/// Copies that may be on their way at once.
const SLOTS: usize = 4;

pub struct Staging {
    queue: Arc<Queue>,
    slots: [Option<Slot>; SLOTS],
    next: usize,
}

struct Slot {
    memory: *mut c_void,
    bytes: usize,
    /// Reached when the last copy out of it is done.
    done: sys::CUevent,
}

// SAFETY: the memory belongs to its slot, and the driver's handles may be used from any thread.
unsafe impl Send for Slot {}

impl Staging {
    pub fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: queue.clone(), slots: [const { None }; SLOTS], next: 0 }
    }

    /// Queues a copy of `data` to the device; waits only where all slots are on their way.
    pub fn copy(&mut self, data: &[u8], to: u64) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let slot = &mut self.slots[self.next];
        self.next = (self.next + 1) % SLOTS;
        if slot.as_ref().is_none_or(|slot| slot.bytes < data.len()) {
            if let Some(old) = slot.take() {
                old.free(&self.queue)?;
            }
            *slot = Some(Slot::new(&self.queue, data.len())?);
        }
        let Some(slot) = slot else { return Ok(()) };
        self.queue.call("staging for the device", || {
            // SAFETY: the event is the slot's, and the memory has room for the data; the copy before it has been waited for,
            // so that nobody reads what is written here.
            unsafe {
                result::event::synchronize(slot.done)?;
                let pinned = std::slice::from_raw_parts_mut(slot.memory.cast::<u8>(), data.len());
                pinned.copy_from_slice(data);
                result::memcpy_htod_async(to, pinned, self.queue.stream)?;
                result::event::record(slot.done, self.queue.stream)
            }
        })
    }
}

impl Slot {
    fn new(queue: &Queue, bytes: usize) -> Result<Self> {
        queue.call("allocating pinned memory", || {
            let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            // SAFETY: freed once, with the slot, and written before it is read.
            let memory = unsafe { result::malloc_host(bytes, 0) };
            let memory = memory.inspect_err(|_| {
                // SAFETY: just created. The failure that matters is the other one.
                let _ = unsafe { result::event::destroy(done) };
            })?;
            Ok(Self { memory, bytes, done })
        })
    }

    /// Waits for the last copy.
    fn free(self, queue: &Queue) -> Result<()> {
        // SAFETY: both are the slot's, which is gone after this.
        queue.call("freeing pinned memory", || unsafe {
            result::event::synchronize(self.done)?;
            result::event::destroy(self.done)?;
            result::free_host(self.memory)
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            // A failure here is one of an earlier call, and nobody is left to be told.
            let _ = slot.free(&self.queue);
        }
    }
}
