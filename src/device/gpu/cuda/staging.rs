//! Pinned host memory, from which the device copies while the host goes on.

use std::ffi::c_void;
use std::sync::Arc;

use super::Queue;
use super::driver::{self, Code, Handle, value, written};
use crate::device::memory::format_bytes;
use crate::error::{Error, Result};

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
    done: Handle,
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
            let made = Slot::new(&self.queue, data.len())?;
            *slot = Some(made.ok_or_else(|| {
                let name = &self.queue.name;
                Error::OutOfMemory(format!(
                    "{name} is out of memory: no {} of pinned memory",
                    format_bytes(data.len() as u64)
                ))
            })?);
        }
        let Some(slot) = slot else { return Ok(()) };
        self.queue.call("staging for the device", || {
            // SAFETY: the event is the slot's, and the memory has room for the data; the copy before it has been waited for,
            // so that nobody reads what is written here.
            unsafe {
                driver::event_wait(slot.done)?;
                let pinned = std::slice::from_raw_parts_mut(slot.memory.cast::<u8>(), data.len());
                pinned.copy_from_slice(data);
                driver::copy_to_device(to, slot.memory, data.len(), self.queue.stream)?;
                driver::event_record(slot.done, self.queue.stream)
            }
        })
    }
}

impl Slot {
    /// None where there is no room.
    fn new(queue: &Queue, bytes: usize) -> Result<Option<Self>> {
        queue.call("allocating pinned memory", || {
            let null = std::ptr::null_mut();
            // SAFETY: writes one pointer.
            let done = written(null, |event| unsafe { driver::event_create(event, value::EVENT_WITHOUT_TIME) })?;
            // SAFETY: freed once, with the slot, and written before it is read.
            let memory = written(null, |memory| unsafe { driver::allocate_pinned(memory, bytes, 0) });
            let memory = memory.inspect_err(|_| {
                // SAFETY: just created. The failure that matters is the other one.
                let _ = unsafe { driver::event_destroy(done) };
            });
            match memory {
                Err(Code::OUT_OF_MEMORY) => Ok(None),
                memory => Ok(Some(Self { memory: memory?, bytes, done })),
            }
        })
    }

    /// Waits for the last copy.
    fn free(self, queue: &Queue) -> Result<()> {
        // SAFETY: both are the slot's, which is gone after this.
        queue.call("freeing pinned memory", || unsafe {
            driver::event_wait(self.done)?;
            driver::event_destroy(self.done)?;
            driver::free_pinned(self.memory)
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
