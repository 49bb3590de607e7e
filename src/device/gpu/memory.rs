//! Memory for buffers: from the arena, which takes more from the driver when it must.

use super::arena::{Arena, Usage};
use super::{Gpu, Shared};
use crate::device::memory::format_bytes;
use crate::error::{Error, Result};

impl Gpu {
    /// What the buffers take.
    pub fn usage(&self) -> Usage {
        self.0.arena().usage()
    }

    /// Bytes that new buffers may take: what the device has free, and what is held ready. None where nobody knows.
    ///
    /// # Errors
    /// What the device says.
    pub fn available(&self) -> Result<Option<u64>> {
        let usage = self.usage();
        let room = self.0.backend.room()?;
        Ok(room.map(|[free, _]| free + (usage.reserved - usage.in_use)))
    }

    /// Takes so much memory from the driver that buffers can have `bytes` in all, in one piece; as much as there is where
    /// that is less.
    ///
    /// # Errors
    /// What the device says.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        let mut arena = self.0.arena();
        let missing = bytes.saturating_sub(arena.usage().reserved);
        // The driver needs some itself, for modules and graphs.
        let room = self.0.backend.room()?.map_or(missing, |[free, _]| missing.min(free / 16 * 15));
        let rounded = Arena::rounded(room as usize);
        if room > 0
            && let Some(address) = self.0.backend.allocate(rounded as usize)?
        {
            arena.grow(address, rounded);
        }
        Ok(())
    }

    /// Memory for a buffer.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        let shared = &*self.0;
        let needed = Arena::rounded(bytes) + 2 * shared.gap;
        let mut arena = shared.arena();
        let address = match arena.take(needed) {
            Some(address) => address,
            None => {
                shared.grow(&mut arena, needed)?;
                let address = arena.take(needed);
                address.ok_or_else(|| Error::Failed(format!("{}: no room where there was some", self.name())))?
            }
        };
        let address = address + shared.gap;
        shared.backend.renew(address, bytes);
        Ok(address)
    }

    pub(super) fn release(&self, address: u64) {
        if self.0.gap == 0 {
            self.0.arena().give(address);
        }
    }
}

impl Shared {
    /// Takes memory from the driver for a buffer of `needed` bytes; with some to spare where there is room for that.
    fn grow(&self, arena: &mut Arena, needed: u64) -> Result<()> {
        for bytes in [arena.next_segment(needed), needed] {
            if let Some(address) = self.backend.allocate(bytes as usize)? {
                arena.grow(address, bytes);
                return Ok(());
            }
        }
        // What is recorded may refer to memory that no buffer holds any more: its replay is to use it again.
        if self.recording().is_none() {
            for unused in arena.drain() {
                self.backend.free(unused);
            }
        }
        match self.backend.allocate(needed as usize)? {
            Some(address) => {
                arena.grow(address, needed);
                Ok(())
            }
            None => Err(self.out_of_memory(arena.usage(), needed)),
        }
    }

    fn out_of_memory(&self, usage: Usage, needed: u64) -> Error {
        let name = self.backend.name();
        let room = match self.backend.room() {
            Ok(Some([free, total])) => format!("{} of {} are free", format_bytes(free), format_bytes(total)),
            _ => "the rest is in use".into(),
        };
        Error::OutOfMemory(format!(
            "{name} is out of memory: {} more are needed, selma holds {} of which {} are in use, and {room}. What would \
             help: a smaller --batch-size, a smaller image, --precision bf16, in training --checkpointing; or ending other \
             programs on the device",
            format_bytes(needed),
            format_bytes(usage.reserved),
            format_bytes(usage.in_use)
        ))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for segment in self.arena().segments() {
            self.backend.free(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::device::gpu::Backend;
    use crate::device::gpu::graph::Command;
    use crate::dtype::DType;

    /// A device that has nothing but so much memory, and knows what is taken of it.
    #[derive(Clone)]
    struct Small {
        bytes: u64,
        taken: Arc<Mutex<Vec<(u64, u64)>>>,
    }

    impl Small {
        fn free_bytes(&self) -> u64 {
            let taken = self.taken.lock().unwrap();
            self.bytes - taken.iter().map(|(_, bytes)| bytes).sum::<u64>()
        }
    }

    impl Backend for Small {
        fn name(&self) -> String {
            "a small device".into()
        }

        fn is_simulated(&self) -> bool {
            true
        }

        fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
            if bytes as u64 > self.free_bytes() {
                return Ok(None);
            }
            let mut taken = self.taken.lock().unwrap();
            let address = taken.iter().map(|(start, bytes)| start + bytes).max().unwrap_or(1 << 20);
            taken.push((address, bytes as u64));
            Ok(Some(address))
        }

        fn free(&self, address: u64) {
            self.taken.lock().unwrap().retain(|&(start, _)| start != address);
        }

        fn room(&self) -> Result<Option<[u64; 2]>> {
            Ok(Some([self.free_bytes(), self.bytes]))
        }

        fn upload(&self, _: &[u8], _: u64) -> Result<()> {
            Ok(())
        }

        fn stage(&self, _: &[u8], _: u64) -> Result<()> {
            Ok(())
        }

        fn download(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }

        fn queue(&self, _: &Command) -> Result<()> {
            Ok(())
        }

        fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
            work().map(|()| 0.0)
        }
    }

    fn device(bytes: u64) -> (Small, Gpu) {
        let taken = Arc::default();
        let small = Small { bytes, taken };
        (small.clone(), Gpu::over(small))
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn what_does_not_fit_is_told_with_what_would_help() {
        let (_, gpu) = device(8 << 20);
        let kept = gpu.buffer(DType::F32, MIB).unwrap();
        let error = gpu.buffer(DType::F32, 2 * MIB).unwrap_err().to_string();
        for words in [
            "a small device is out of memory: 8 MiB more",
            "holds 4 MiB of which 4 MiB are in use",
            "4 MiB of 8 MiB are free",
            "--batch-size",
            "--checkpointing",
        ] {
            assert!(error.contains(words), "{error}");
        }
        // What is left can still be had.
        let rest = gpu.buffer(DType::F32, MIB).unwrap();
        drop((kept, rest));
    }

    #[test]
    fn memory_that_nobody_uses_makes_room_for_a_larger_piece() {
        let (small, gpu) = device(8 << 20);
        let halves = [0, 1].map(|_| gpu.buffer(DType::F32, MIB).unwrap());
        assert_eq!(small.free_bytes(), 0);
        drop(halves);
        assert_eq!(small.free_bytes(), 0, "held ready");
        assert_eq!(gpu.available().unwrap(), Some(8 << 20));
        let all = gpu.buffer(DType::F32, 2 * MIB).unwrap();
        assert_eq!(gpu.usage().in_use, 8 << 20);
        drop(all);
        drop(gpu);
        assert_eq!(small.free_bytes(), 8 << 20, "given back");
    }

    #[test]
    fn memory_of_recorded_work_is_not_given_back() {
        let (small, gpu) = device(8 << 20);
        let recorded = gpu.record(|| {
            // Held by no buffer any more, and written by what is recorded.
            gpu.buffer(DType::F32, MIB)?.clear()?;
            gpu.buffer(DType::F32, 2 * MIB).map(drop)
        });
        assert!(recorded.err().is_some_and(|error| error.to_string().contains("out of memory")));
        assert_eq!(small.free_bytes(), 4 << 20);
        gpu.buffer(DType::F32, 2 * MIB).unwrap();
    }

    #[test]
    fn what_is_reserved_is_one_piece() {
        let (small, gpu) = device(8 << 20);
        gpu.reserve(6 << 20).unwrap();
        gpu.reserve(5 << 20).unwrap();
        assert_eq!(small.free_bytes(), 2 << 20);
        let buffer = gpu.buffer(DType::F32, 3 * MIB / 2).unwrap();
        assert_eq!(gpu.usage().growths, 1);
        drop(buffer);
    }
}
