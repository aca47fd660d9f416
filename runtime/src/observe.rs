//! Looking at the launches of a run from outside.

use std::time::Duration;

/// A launch and the memory of its arguments.
#[derive(Debug)]
pub struct LaunchView<'a> {
    /// Index in the program's launch list.
    pub launch: usize,
    /// Blocks to run.
    pub grid: i64,
    /// The kernel's dims.
    pub dims: &'a [i64],
    /// For each parameter the bytes from its address to the end of its buffer. A slot of the arena is as long
    /// as the largest call of the session needs. Parameters may overlap. Empty on a GPU if the observer does not
    /// read buffers.
    pub args: Vec<&'a [u8]>,
    /// How long the launch took by the clock of the device, if it has one; only after it.
    pub time: Option<Duration>,
}

/// Sees every launch of a run before it starts and after it has finished.
pub trait LaunchObserver {
    /// The launch is about to start.
    fn before(&mut self, launch: &LaunchView<'_>);

    /// Whether [`LaunchView::args`] are wanted; without them, launches on a GPU copy nothing and are timed truly.
    fn reads_buffers(&self) -> bool {
        true
    }

    /// How often a launch on a GPU is run to be timed. More than once, a launch that reads what it writes leaves other
    /// results than a run.
    fn repetitions(&self) -> usize {
        1
    }

    /// All blocks of the launch have run.
    fn after(&mut self, launch: &LaunchView<'_>);
}
