//! A device whose new memory holds garbage, inside buffers and around them: what a kernel leaves unwritten differs with the
//! garbage, and what it writes outside its buffers is seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::forwarded::forwarded;
use super::graph::Command;
use super::{Backend, Gpu};
use crate::error::{Error, Result};

/// Bytes on both sides of a buffer that nothing may write.
pub const GUARD_BYTES: usize = 4 << 10;
/// Memory at addresses this far apart holds the same garbage: no power of two, so that the rows of a matrix differ.
const PERIOD: usize = (64 << 10) - 15;

/// The buffers of a guarded device.
#[derive(Clone)]
pub struct Guards(Arc<State>);

struct State {
    inner: Gpu,
    garbage: Vec<u8>,
    lent: Mutex<Lent>,
}

#[derive(Default)]
struct Lent {
    /// Address and bytes of each.
    buffers: Vec<(u64, usize)>,
    /// What went wrong where nobody could be told.
    failure: Option<Error>,
}

impl Gpu {
    /// The same device under another identity, with garbage by `seed`. It takes all memory anew and hands nothing on.
    pub fn guarded(&self, seed: u64) -> (Self, Guards) {
        let state = State { inner: self.clone(), garbage: garbage(seed), lent: Mutex::default() };
        let guards = Guards(Arc::new(state));
        (Self::with_gap(Guarded(guards.clone()), GUARD_BYTES as u64), guards)
    }
}

/// By SplitMix64 (Steele, Lea and Flood 2014).
fn garbage(seed: u64) -> Vec<u8> {
    let words = (0..PERIOD.div_ceil(8) as u64).map(|i| {
        let mut x = (seed << 32 | i).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(PERIOD).collect()
}

impl Guards {
    /// What was written outside the buffers, as a sentence; none where nothing was.
    ///
    /// # Errors
    /// What the device says.
    pub fn broken(&self) -> Result<Option<String>> {
        let mut lent = self.lent();
        if let Some(failure) = lent.failure.take() {
            return Err(failure);
        }
        for &(address, bytes) in &lent.buffers {
            let sides = [("in front of", address - GUARD_BYTES as u64), ("behind", address + bytes as u64)];
            for (side, from) in sides {
                let mut there = vec![0; GUARD_BYTES];
                self.0.inner.0.backend.download(from, &mut there)?;
                let expected = self.bytes(from, GUARD_BYTES);
                if let Some(at) = there.iter().zip(&expected).position(|(a, b)| a != b) {
                    let away = if side == "behind" { at } else { GUARD_BYTES - at };
                    let sentence = format!("writes {side} a buffer of {bytes} bytes, {away} bytes away from it");
                    return Ok(Some(sentence));
                }
            }
        }
        Ok(None)
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.0.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The garbage at `address`.
    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        let mut start = (address % PERIOD as u64) as usize;
        while bytes.len() < len {
            let piece = &self.0.garbage[start..];
            bytes.extend_from_slice(&piece[..piece.len().min(len - bytes.len())]);
            start = 0;
        }
        bytes
    }
}

struct Guarded(Guards);

impl Guarded {
    fn backend(&self) -> &dyn Backend {
        &*self.0.0.inner.0.backend
    }
}

impl Backend for Guarded {
    forwarded!();

    fn renew(&self, address: u64, bytes: usize) {
        // What guards a small one may reach into the slack behind it, and no further.
        let (start, len) = (address - GUARD_BYTES as u64, bytes + 2 * GUARD_BYTES);
        let filled = self.backend().upload(&self.0.bytes(start, len), start);
        let mut lent = self.0.lent();
        lent.buffers.push((address, bytes));
        lent.failure = lent.failure.take().or(filled.err());
    }

    fn queue(&self, command: &Command) -> Result<()> {
        self.backend().queue(command)
    }
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use super::*;
    use crate::device::gpu::{Checks, Order};
    use crate::dtype::DType;

    #[test]
    fn garbage_is_kept_around_buffers_and_differs_by_seed() {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).unwrap();
        let values = |seed| {
            let (guarded, guards) = gpu.guarded(seed);
            let buffers = [3, 1000].map(|len| guarded.buffer(DType::Bf16, len).unwrap());
            assert_eq!(guards.broken().unwrap(), None);
            let bits: Vec<u16> = buffers[1].download::<half::bf16>().unwrap().iter().map(|x| x.to_bits()).collect();
            // One byte, at the place where a row too many begins.
            let end = buffers[0].address() + buffers[0].byte_len() as u64;
            gpu.0.backend.upload(&[!guards.bytes(end, 1)[0]], end).unwrap();
            let said = guards.broken().unwrap().unwrap();
            assert!(said.contains("writes behind a buffer of 6 bytes, 0 bytes away"), "{said}");
            bits
        };
        assert_ne!(values(1), values(2));
    }

    #[test]
    fn memory_is_not_handed_on() {
        let gpu = Gpu::simulator(Checks::Off, Order::Forwards).unwrap();
        let (guarded, _) = gpu.guarded(0);
        let first = guarded.buffer(DType::F32, 8).unwrap().address();
        let second = guarded.buffer(DType::F32, 8).unwrap().address();
        assert!(second >= first + 2 * GUARD_BYTES as u64);
    }
}
