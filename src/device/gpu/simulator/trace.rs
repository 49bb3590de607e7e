//! Which bytes one block of a launch loads and stores: what an analysis of machine code is compared with.

use std::ops::Range as Bytes;

use serde::Serialize;

use super::super::argument::Argument;
use super::super::dry_run::ListedLaunch;
use super::{Backend, Checks, Order, Role, Simulator};
use crate::error::{Error, Result};

/// Bits of `kernels/sim/runtime.h`.
const LOADED: u8 = 2;
const STORED: u8 = 4;
/// Buffers of a device begin at multiples of this.
const ALIGNMENT: u64 = 256;
/// Kept free around each buffer: an access nearby counts as one that leaves the buffer.
const MARGIN: usize = 1 << 20;

/// What a block did with one argument's memory: ranges of bytes, `[start, end]` with the end excluded, in order.
#[derive(Debug, Serialize)]
pub struct Touched {
    /// Position among the kernel's parameters.
    pub parameter: usize,
    pub loaded: Vec<[usize; 2]>,
    pub stored: Vec<[usize; 2]>,
}

/// What inputs hold: 1.0 in bf16, which two of them are nearly in f32. The analysis of machine code loads the same.
const ONE: [u8; 2] = [0x80, 0x3f];

/// Runs block `block` of the launch alone, with every access checked, on memory of its own that holds `ONE`s.
///
/// # Errors
/// [`Error::Usage`] where this build cannot run or does not know the launch, or the grid has no such block;
/// [`Error::Failed`] where the system has no room, or a check fails.
pub fn trace(listed: &ListedLaunch, block: [u32; 3]) -> Result<Vec<Touched>> {
    let simulator = Simulator::open(Checks::On, Order::Forwards)?;
    let mut launch = listed.launch()?;
    if block.iter().zip(launch.grid).any(|(&at, blocks)| at >= blocks) {
        return Err(Error::Usage(format!("{}: the grid {:?} has no block {block:?}", listed.kernel, launch.grid)));
    }
    for argument in &mut launch.arguments {
        if let Argument::Memory { address, bytes, .. } | Argument::Map { address, bytes, .. } = argument {
            let offset = *address % ALIGNMENT;
            let start = simulator.allocate(*bytes + offset as usize + 2 * MARGIN)?;
            let start = start.ok_or_else(|| Error::Failed(format!("no room for {bytes} bytes")))?;
            *address = start + MARGIN as u64 + offset;
        }
    }
    for argument in &launch.arguments {
        if let Some((address, bytes, Role::Input | Role::Update)) = argument.memory() {
            simulator.upload(&ONE.iter().copied().cycle().take(bytes).collect::<Vec<u8>>(), address)?;
        }
    }
    let ranges = simulator.ranges(&launch);
    let [x, y, z] = block.map(|at| at as usize);
    let [width, height, _] = launch.grid.map(|blocks| blocks as usize);
    simulator.run(&launch, &ranges, Some((z * height + y) * width + x))?;
    let touched = |range: &super::Range| {
        // SAFETY: `ranges` took pointer and length from an allocation of the simulator; the kernel has ended.
        let marks = unsafe { std::slice::from_raw_parts(range.written, range.bytes) };
        let bytes = |bit| runs(marks, bit).map(|run| [run.start, run.end]).collect();
        Touched { parameter: range.parameter, loaded: bytes(LOADED), stored: bytes(STORED) }
    };
    Ok(ranges.iter().map(touched).collect())
}

/// Where `marks` have the bit.
fn runs(marks: &[u8], bit: u8) -> impl Iterator<Item = Bytes<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + marks[at..].iter().position(|mark| mark & bit != 0)?;
        let end = marks[start..].iter().position(|mark| mark & bit == 0).map_or(marks.len(), |len| start + len);
        at = end;
        Some(start..end)
    })
}

#[cfg(all(test, feature = "simulator"))]
mod tests {
    use super::super::super::dry_run::ListedArgument as A;
    use super::*;

    fn launch(role: fn(u64, usize) -> A) -> ListedLaunch {
        ListedLaunch {
            kernel: "add_forward".into(),
            dtype: "bf16".into(),
            grid: [2, 1, 1],
            block: 256,
            shared: 0,
            arguments: vec![role(4096, 8000), A::Input(1 << 20, 8000), A::Input((1 << 30) + 8, 8000), A::Long(4000)],
        }
    }

    #[test]
    fn a_block_is_told_apart_from_the_others() {
        let all = |block: u32| {
            let touched = trace(&launch(A::Output), [block, 0, 0]).unwrap();
            touched.into_iter().map(|t| (t.parameter, t.loaded, t.stored)).collect::<Vec<_>>()
        };
        // 256 threads with 16 bytes each, and what is left.
        for (block, bytes) in [(0, [0, 4096]), (1, [4096, 8000])] {
            let read = |parameter| (parameter, vec![bytes], vec![]);
            assert_eq!(all(block), [(0, vec![], vec![bytes]), read(1), read(2)]);
        }
    }

    #[test]
    fn what_cannot_be_traced_is_told() {
        let error = |launch: &ListedLaunch, block| trace(launch, block).unwrap_err().to_string();
        assert!(error(&launch(A::Output), [2, 0, 0]).contains("no block [2, 0, 0]"));
        let mut short = launch(A::Output);
        short.arguments[1] = A::Input(1 << 20, 100);
        assert!(error(&short, [0; 3]).contains("out of bounds"));
    }
}
