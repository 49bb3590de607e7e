//! Work that is recorded once and replayed: on a GPU as a CUDA graph, which costs the host one call instead of one a
//! kernel; on the simulator as the list of what was recorded, so that tests show there what a replay gives.

use std::any::Any;

use super::Gpu;
use super::argument::Launch;
use crate::error::{Error, Result};

/// What a device does in order.
#[derive(Clone)]
pub(super) enum Command {
    Launch(Launch),
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    /// Sets bytes to zero.
    Clear {
        to: u64,
        bytes: usize,
    },
}

/// Commands with all their arguments: addresses, sizes, numbers. What may differ from one replay to the next is what lies
/// in memory that they read.
pub struct Graph {
    gpu: Gpu,
    commands: Vec<Command>,
    captured: Option<Box<dyn Any + Send + Sync>>,
    state: u64,
}

impl Gpu {
    /// Records what `work` launches, instead of doing it. Buffers of its own are given back when it ends: their memory is
    /// used by replays, which come in order with everything else.
    ///
    /// # Errors
    /// What `work` or the device say; [`Error::Failed`] where `work` moves numbers from or to the host, or leaves buffers
    /// behind, or takes away some that were there: then its addresses would not hold next time.
    pub fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.not_recording("is recorded once more")?;
        let before = self.0.arena().buffers_state();
        *self.0.recording() = Some(Vec::new());
        let done = work();
        let commands = self.0.recording().take().unwrap_or_default();
        done?;
        let arena = self.0.arena();
        if arena.buffers_state() != before {
            let message = "work that is recorded to be replayed leaves other buffers behind than it found";
            return Err(Error::Failed(format!("{}: {message}", self.name())));
        }
        let state = arena.state();
        drop(arena);
        Ok(Graph { gpu: self.clone(), captured: self.0.backend.capture(&commands)?, commands, state })
    }
}

impl Graph {
    /// Whether all buffers are where they were when this was recorded. Where they are not, the addresses in it may be
    /// somebody else's.
    pub fn holds(&self) -> bool {
        self.gpu.0.arena().state() == self.state
    }

    /// Does it once more.
    ///
    /// # Errors
    /// [`Error::Failed`] where it no longer [holds](Graph::holds); what the device says.
    pub fn replay(&self) -> Result<()> {
        if !self.holds() {
            let message = "recorded work is replayed after buffers came or went";
            return Err(Error::Failed(format!("{}: {message}", self.gpu.name())));
        }
        match &self.captured {
            Some(captured) => self.gpu.0.backend.replay(&**captured),
            None => self.commands.iter().try_for_each(|command| self.gpu.0.backend.queue(command)),
        }
    }
}

#[cfg(all(test, feature = "simulator"))]
impl Graph {
    /// What is replayed, with every number that is fixed in it.
    pub fn commands(&self) -> Vec<String> {
        let text = |command: &Command| match command {
            Command::Launch(launch) => {
                let (kernel, dtype) = (launch.kernel.name, launch.scalar.name());
                let (grid, block, dynamic) = (launch.grid, launch.block, launch.dynamic_bytes);
                format!("{kernel} {dtype} {grid:?} {block} {dynamic} {:?}", launch.arguments)
            }
            Command::Copy { from, to, bytes } => format!("copy {from:x} {to:x} {bytes}"),
            Command::Clear { to, bytes } => format!("clear {to:x} {bytes}"),
        };
        self.commands.iter().map(text).collect()
    }
}

#[cfg(all(test, feature = "simulator"))]
impl Gpu {
    /// What [`CachedGraph::Done`] remembers.
    pub fn memory_state(&self) -> u64 {
        self.0.arena().state()
    }
}

/// Work that is done again and again: once as it comes, then recorded, then replayed; and so from the beginning where
/// buffers came or went in the meantime.
#[derive(Default)]
pub enum CachedGraph {
    #[default]
    New,
    /// Was done, and left the memory in this state.
    Done(u64),
    Recorded(Graph),
}

impl CachedGraph {
    /// Does `work`, which must be the same every time and may depend on numbers in the device's memory only.
    ///
    /// # Errors
    /// As [`Gpu::record`] and [`Graph::replay`].
    pub fn run(&mut self, gpu: &Gpu, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let state = gpu.0.arena().state();
        match self {
            CachedGraph::Recorded(graph) if graph.holds() => return graph.replay(),
            CachedGraph::Done(before) if *before == state => {
                let graph = gpu.record(work)?;
                graph.replay()?;
                *self = CachedGraph::Recorded(graph);
            }
            _ => {
                *self = CachedGraph::New;
                work()?;
                *self = CachedGraph::Done(gpu.0.arena().state());
            }
        }
        Ok(())
    }

    /// What is replayed, where it has come to that.
    #[cfg(all(test, feature = "simulator"))]
    pub fn graph(&self) -> Option<&Graph> {
        match self {
            CachedGraph::Recorded(graph) => Some(graph),
            _ => None,
        }
    }
}
