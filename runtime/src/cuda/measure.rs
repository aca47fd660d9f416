//! Times of launches by the clock of the device.

use std::sync::Arc;
use std::time::Duration;

use super::memory::DeviceMemory;
use super::stream::{Event, Graph};
use super::{Gpu, GpuKernel};
use crate::error::RuntimeError;
use crate::plan::Call;

/// More than the second-level cache of any device holds.
const CACHE_BYTES: usize = 256 << 20;

/// Calls that are timed together at least.
const CALLS: usize = 8;

/// What is copied to measure the rate of copies.
const COPY_BYTES: usize = 2 << 30;

/// Copies of which the median counts.
const COPIES: usize = 10;

/// What a device is and how fast it copies.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuFacts {
    /// Its name.
    pub name: String,
    /// Bytes read and written per second by a copy from the device to itself.
    pub copy_rate: f64,
    /// Number of multiprocessors.
    pub multiprocessors: i32,
    /// The clock that multiprocessors reach at most, in Hz.
    pub clock: f64,
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// Runs `launch` between two events each time, after `prepare`; the median in seconds.
fn timed(
    gpu: &mut Gpu,
    repetitions: usize,
    prepare: impl Fn() -> Result<(), RuntimeError>,
    mut launch: impl FnMut(&mut Gpu) -> Result<(), RuntimeError>,
) -> Result<f64, RuntimeError> {
    let mut events = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        prepare()?;
        let start = Event::record(&gpu.device)?;
        launch(gpu)?;
        events.push((start, Event::record(&gpu.device)?));
    }
    gpu.finish("measuring")?;
    let seconds = events.iter().map(|(start, end)| start.seconds_to(end)).collect::<Result<_, _>>()?;
    Ok(median(seconds))
}

impl Gpu {
    /// The time of one launch: once as it comes, or the median of several with an empty cache each.
    pub(crate) fn measure(
        &mut self,
        kernel: GpuKernel,
        call: &Call<'_>,
        repetitions: usize,
        name: impl Fn() -> String,
    ) -> Result<Duration, RuntimeError> {
        let launch = |gpu: &mut Gpu| gpu.launch(kernel, call, &name);
        let seconds = if repetitions <= 1 {
            timed(self, 1, || Ok(()), launch)?
        } else {
            let flushed = DeviceMemory::zeroed(&self.device, "emptying the cache", CACHE_BYTES)?;
            self.launch(kernel, call, &name)?;
            timed(self, repetitions, || Ok(flushed.fill(0)?), launch)?
        };
        Ok(Duration::from_secs_f64(seconds))
    }

    /// Memory for calls that follow each other, of `len` bytes each, and for how many: more than the cache holds.
    pub(crate) fn memory_of_calls(&self, len: usize) -> Result<(DeviceMemory, usize), RuntimeError> {
        let n = CACHE_BYTES.div_ceil(len.max(1)).clamp(2, 64);
        Ok((DeviceMemory::zeroed(&self.device, "calls that follow each other", n * len)?, n))
    }

    /// The time of one of the calls that `launch` starts by their number, which follow each other; `n` of them have memory
    /// of their own. They are recorded together, and the median of several recordings counts.
    pub(crate) fn measure_calls(
        &mut self,
        n: usize,
        repetitions: usize,
        mut launch: impl FnMut(&mut Self, usize) -> Result<(), RuntimeError>,
    ) -> Result<Duration, RuntimeError> {
        let calls = n * CALLS.div_ceil(n);
        let device = Arc::clone(&self.device);
        let graph = Graph::record(&device, || (0..calls).try_for_each(|i| launch(self, i % n)))?;
        // SAFETY: what `launch` used lives as long as its borrow, which this function keeps.
        let start = || unsafe { graph.launch("measuring calls") };
        start()?;
        let seconds = timed(self, repetitions, || Ok(()), |_| Ok(start()?))?;
        Ok(Duration::from_secs_f64(seconds / calls as f64))
    }

    /// What the device is; measures the rate of its copies.
    pub(crate) fn facts(&mut self) -> Result<GpuFacts, RuntimeError> {
        self.enter()?;
        let memory = DeviceMemory::zeroed(&self.device, "a copy", COPY_BYTES)?;
        let seconds = timed(self, COPIES, || Ok(()), |_| Ok(memory.copy_half()?))?;
        let (multiprocessors, clock) = self.device.multiprocessors()?;
        Ok(GpuFacts {
            name: self.name.clone(),
            copy_rate: COPY_BYTES as f64 / seconds,
            multiprocessors,
            clock,
        })
    }
}
