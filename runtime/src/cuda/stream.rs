//! The order of launches: events in it, and launches recorded once to be started together.
#![expect(unsafe_code, reason = "the driver is a C library")]

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::GpuError;
use super::driver::{Device, failed};

/// A place in the order of launches whose time is taken.
#[derive(Debug)]
pub(super) struct Event(sys::CUevent);

impl Event {
    /// Takes the time at which everything launched so far has ended.
    pub(super) fn record(device: &Device) -> Result<Event, GpuError> {
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("making an event"))?;
        let event = Event(event);
        // SAFETY: the event was just made.
        unsafe { result::event::record(event.0, device.stream()) }.map_err(failed("recording an event"))?;
        Ok(event)
    }

    /// Seconds from this event to a later one, both of which have been reached.
    pub(super) fn seconds_to(&self, later: &Event) -> Result<f64, GpuError> {
        // SAFETY: both events live and are of the same stream.
        let ms = unsafe { result::event::elapsed(self.0, later.0) }.map_err(failed("reading an event"))?;
        Ok(f64::from(ms) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `record`. There is nobody to tell of a failure.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Recorded launches that start together.
#[derive(Debug)]
pub(super) struct Graph {
    device: Arc<Device>,
    exec: sys::CUgraphExec,
}

// SAFETY: the handle is a plain number for the driver, which may be called from any thread that has set the context.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Records what `launch` puts into the device's stream, without running it.
    pub(super) fn record<E: From<GpuError>>(
        device: &Arc<Device>,
        launch: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::begin_capture(device.stream(), mode) }
            .map_err(failed("beginning to record launches"))?;
        let launched = launch();
        // SAFETY: as above. A recording is ended whether the launches succeeded or not.
        let graph = unsafe { result::stream::end_capture(device.stream()) };
        launched?;
        let graph = graph.map_err(failed("recording launches"))?;
        // SAFETY: the graph came from the driver and is not used after it is destroyed.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            exec.map_err(failed("preparing recorded launches"))?
        };
        Ok(Self { device: Arc::clone(device), exec })
    }

    /// Starts the launches.
    ///
    /// # Safety
    /// What the launches need is live: the module and the memory that their arguments point to.
    pub(super) unsafe fn launch(&self, what: &str) -> Result<(), GpuError> {
        // SAFETY: by the contract of this function; the graph lives as long as `self`.
        unsafe { result::graph::launch(self.exec, self.device.stream()) }.map_err(failed(what))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: made in `record`. There is nobody to tell of a failure.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}
