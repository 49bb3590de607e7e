//! CUDA graphs, and the time that a device takes by its own clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::driver::{self, Handle, value, written};
use super::{Last, Queue};
use crate::error::{Error, Result};

/// An executable graph.
pub struct Captured {
    queue: Arc<Queue>,
    graph: Handle,
}

// SAFETY: the driver's handles may be used from any thread on which the context is current.
unsafe impl Send for Captured {}
// SAFETY: launches of it are serialised by the driver.
unsafe impl Sync for Captured {}

impl Captured {
    /// Of what `work` puts into the stream.
    pub fn new(queue: &Arc<Queue>, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        // SAFETY: the stream lives as long as the process, here and below.
        let begin = || unsafe { driver::capture_begin(queue.stream, value::CAPTURE_THREAD_LOCAL) };
        queue.call("beginning a graph", begin)?;
        queue.capturing.store(true, Ordering::Relaxed);
        let worked = work();
        queue.capturing.store(false, Ordering::Relaxed);
        // Also after a failure: the stream is of no use before its capture ends.
        let end = || written(std::ptr::null_mut(), |graph| unsafe { driver::capture_end(queue.stream, graph) });
        let ended = queue.call("ending a graph", end);
        let graph = match (worked, ended) {
            (Err(e), Ok(graph)) => {
                // SAFETY: just made. The failure that matters is the other one.
                let _ = queue.call("dropping a graph", || unsafe { driver::graph_destroy(graph) });
                return Err(e);
            }
            (Err(e), Err(_)) => return Err(e),
            (Ok(()), ended) => ended?,
        };
        if graph.is_null() {
            return Err(Error::Failed(format!("{}: a graph of nothing", queue.name)));
        }
        // SAFETY: the graph was just made, and nobody else has it.
        let instantiate =
            || written(std::ptr::null_mut(), |executable| unsafe { driver::graph_instantiate(executable, graph, 0) });
        let executable = queue.call("instantiating a graph", instantiate);
        // SAFETY: an executable graph does not need the one that it was made from.
        queue.call("dropping a graph", || unsafe { driver::graph_destroy(graph) })?;
        Ok(Self { queue: queue.clone(), graph: executable? })
    }

    /// Queues it.
    pub fn launch(&self) -> Result<()> {
        // SAFETY: both live.
        self.queue.call("launching a graph", || unsafe { driver::graph_launch(self.graph, self.queue.stream) })?;
        self.queue.launched(Last::Graph)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // A failure here is one of an earlier call, which the next call that can tell will tell.
        let _ = self.queue.wait();
        // SAFETY: it does not run, and is not used after this.
        let _ = self.queue.call("dropping a graph", || unsafe { driver::graph_executable_destroy(self.graph) });
    }
}

/// Seconds from the first to the last thing that `work` puts into the stream.
pub fn seconds(queue: &Queue, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let (begin, end) = (Event::new(queue)?, Event::new(queue)?);
    begin.record()?;
    work()?;
    end.record()?;
    // SAFETY: both are alive, and were recorded in one stream.
    let milliseconds = queue.call("timing", || unsafe {
        driver::event_wait(end.event)?;
        written(0.0, |milliseconds| driver::event_elapsed(milliseconds, begin.event, end.event))
    })?;
    Ok(f64::from(milliseconds) / 1e3)
}

struct Event<'a> {
    queue: &'a Queue,
    event: Handle,
}

impl<'a> Event<'a> {
    fn new(queue: &'a Queue) -> Result<Self> {
        // SAFETY: writes one pointer.
        let create = || written(std::ptr::null_mut(), |event| unsafe { driver::event_create(event, 0) });
        let event = queue.call("creating an event", create)?;
        Ok(Self { queue, event })
    }

    fn record(&self) -> Result<()> {
        // SAFETY: event and stream live.
        self.queue.call("recording an event", || unsafe { driver::event_record(self.event, self.queue.stream) })
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: not used after this; the driver keeps what is still to happen.
        let _ = self.queue.call("dropping an event", || unsafe { driver::event_destroy(self.event) });
    }
}
