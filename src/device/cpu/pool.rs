//! Host memory for tensors and for what ops need in between. Freed buffers are handed to the next caller that asks for the
//! same length: a training step asks for the same sizes again and again, and fresh pages from the system cost more than
//! most ops.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use crate::dtype::{DType, Element};

/// Buffers below this many bytes go through the allocator, which serves them well.
const SMALLEST_POOLED_BYTES: usize = 8 << 10;
/// What the pool may hold on to.
const POOL_LIMIT_BYTES: usize = 1 << 30;

#[derive(Default)]
struct Pool {
    shelves: HashMap<(DType, usize), Shelf>,
    /// Of all that is free.
    bytes: usize,
}

/// Buffers of one type and length.
#[derive(Default)]
struct Shelf {
    free: Vec<Box<dyn Any + Send>>,
    /// How many [`buffer`] gave out that have not come back. No more are taken than that: vectors that were made elsewhere,
    /// a batch at every step perhaps, would pile up here, with nobody to ask for them.
    lent: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

impl Pool {
    /// A buffer that is free; one that is not there is counted as lent too, because the caller makes it.
    fn lend<T: Element>(&mut self, len: usize) -> Option<Vec<T>> {
        let shelf = self.shelves.entry((T::DTYPE, len)).or_default();
        shelf.lent += 1;
        let found = shelf.free.pop()?;
        self.bytes -= len * size_of::<T>();
        Some(*found.downcast::<Vec<T>>().expect("the key holds the element type"))
    }

    fn take_back<T: Element>(&mut self, data: Vec<T>) {
        let bytes = data.len() * size_of::<T>();
        let Some(shelf) = self.shelves.get_mut(&(T::DTYPE, data.len())) else {
            return;
        };
        if shelf.lent > 0 && self.bytes + bytes <= POOL_LIMIT_BYTES {
            shelf.lent -= 1;
            shelf.free.push(Box::new(data));
            self.bytes += bytes;
        }
    }
}

/// A vector of `len` elements with unspecified (but initialised) values, for a caller that writes all of them.
pub fn buffer<T: Element>(len: usize) -> Vec<T> {
    let pooled = len * size_of::<T>() >= SMALLEST_POOLED_BYTES;
    let found = match pooled {
        true => POOL.lock().expect("no code panics while it holds the pool").lend(len),
        false => None,
    };
    found.unwrap_or_else(|| vec![T::default(); len])
}

/// Gives a buffer back for reuse.
pub fn recycle<T: Element>(data: Vec<T>) {
    if data.len() * size_of::<T>() >= SMALLEST_POOLED_BYTES {
        POOL.lock().expect("no code panics while it holds the pool").take_back(data);
    }
}

/// Hands every pooled buffer back to the system, for a caller that is about to need other sizes.
pub fn release_pool() {
    *POOL.lock().expect("no code panics while it holds the pool") = Pool::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_takes_back_as_many_as_it_lent_and_no_more() {
        const LEN: usize = 4096;
        let mut pool = Pool::default();
        (0..3).for_each(|_| pool.take_back(vec![0f32; LEN]));
        assert_eq!(pool.bytes, 0);
        assert!(pool.lend::<f32>(LEN).is_none() && pool.lend::<f32>(LEN).is_none());
        (0..3).for_each(|_| pool.take_back(vec![0f32; LEN]));
        assert_eq!(pool.bytes, 2 * LEN * size_of::<f32>());
        assert!(pool.lend::<f32>(LEN).is_some() && pool.lend::<f32>(LEN).is_some());
        assert!(pool.lend::<f32>(LEN).is_none());
        assert_eq!(pool.bytes, 0);
    }
}
