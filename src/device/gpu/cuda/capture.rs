//! CUDA graphs, and the time that a device takes by its own clock.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::Queue;
use crate::error::{Error, Result};

/// An executable graph.
pub struct Captured {
    queue: Arc<Queue>,
    graph: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current.
unsafe impl Send for Captured {}
// SAFETY: launches of it are serialised by the driver.
unsafe impl Sync for Captured {}

impl Captured {
    /// Of what `work` puts into the stream.
    pub fn new(queue: &Arc<Queue>, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // Other threads may go on calling the driver.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the process, here and below.
        queue.call("beginning a graph", || unsafe { result::stream::begin_capture(queue.stream, mode) })?;
        let worked = work();
        // Also after a failure: the stream is of no use before its capture ends.
        let ended = queue.call("ending a graph", || unsafe { result::stream::end_capture(queue.stream) });
        let graph = match (worked, ended) {
            (Err(e), Ok(graph)) => {
                // SAFETY: just made. The failure that matters is the other one.
                let _ = queue.call("dropping a graph", || unsafe { result::graph::destroy(graph) });
                return Err(e);
            }
            (Err(e), Err(_)) => return Err(e),
            (Ok(()), ended) => ended?,
        };
        if graph.is_null() {
            return Err(Error::Failed(format!("{}: a graph of nothing", queue.name)));
        }
        // SAFETY: the graph was just made, and nobody else has it.
        let executable = queue.call("instantiating a graph", || unsafe {
            result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0))
        });
        // SAFETY: an executable graph does not need the one that it was made from.
        queue.call("dropping a graph", || unsafe { result::graph::destroy(graph) })?;
        Ok(Self { queue: queue.clone(), graph: executable? })
    }

    /// Queues it.
    pub fn launch(&self) -> Result<()> {
        // SAFETY: both live.
        self.queue.call("launching a graph", || unsafe { result::graph::launch(self.graph, self.queue.stream) })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // A failure here is one of an earlier call, which the next call that can tell will tell.
        let _ = self.queue.wait();
        // SAFETY: it does not run, and is not used after this.
        let _ = self.queue.call("dropping a graph", || unsafe { result::graph::exec_destroy(self.graph) });
    }
}

/// Seconds from the first to the last thing that `work` puts into the stream.
pub fn seconds(queue: &Queue, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let (begin, end) = (Event::new(queue)?, Event::new(queue)?);
    begin.record()?;
    work()?;
    end.record()?;
    // SAFETY: both are alive, and were recorded in one stream.
    queue.call("timing", || unsafe {
        result::event::synchronize(end.event)?;
        Ok(f64::from(result::event::elapsed(begin.event, end.event)?) / 1e3)
    })
}

struct Event<'a> {
    queue: &'a Queue,
    event: sys::CUevent,
}

impl<'a> Event<'a> {
    fn new(queue: &'a Queue) -> Result<Self> {
        let create = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = queue.call("creating an event", create)?;
        Ok(Self { queue, event })
    }

    fn record(&self) -> Result<()> {
        // SAFETY: event and stream live.
        self.queue.call("recording an event", || unsafe { result::event::record(self.event, self.queue.stream) })
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: not used after this; the driver keeps what is still to happen.
        let _ = self.queue.call("dropping an event", || unsafe { result::event::destroy(self.event) });
    }
}
