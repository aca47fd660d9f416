//! Time and work per launch.

use std::time::{Duration, Instant};

use ssmc_artifact::{Expr, Manifest, Program};

use crate::error::RuntimeError;
use crate::observe::{LaunchObserver, LaunchView};

/// One launch of a profiled run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchProfile {
    /// Index in the program's launch list.
    pub launch: usize,
    /// Name of the kernel, or of what a library did instead.
    pub kernel: String,
    /// Whether a library did the launch.
    pub by_library: bool,
    /// Graph nodes that the launch computes.
    pub nodes: Vec<String>,
    /// Where they come from in the model's files.
    pub locations: Vec<String>,
    /// Class of the recurrences computed; empty if none.
    pub recurrence: String,
    /// Blocks run.
    pub grid: i64,
    /// Time from the start of the launch until all threads had finished; on a GPU by the clock of the device.
    pub time: Duration,
    /// Arithmetic operations, if the compiler states them.
    pub flops: Option<i64>,
    /// Bytes read and written, if the compiler states them.
    pub bytes: Option<i64>,
}

/// Measurements of one run.
#[derive(Default)]
pub(crate) struct Profiler {
    started: Option<Instant>,
    /// How often launches on a GPU are run; 0 counts as once.
    repetitions: usize,
    launches: Vec<(Duration, i64)>,
}

impl LaunchObserver for Profiler {
    fn reads_buffers(&self) -> bool {
        false
    }

    fn repetitions(&self) -> usize {
        self.repetitions.max(1)
    }

    fn before(&mut self, _launch: &LaunchView<'_>) {
        self.started = Some(Instant::now());
    }

    fn after(&mut self, launch: &LaunchView<'_>) {
        let elapsed = || self.started.map_or(Duration::ZERO, |started| started.elapsed());
        let time = match launch.time {
            Some(time) => time,
            None if launch.grid == 0 => Duration::ZERO,
            None => elapsed(),
        };
        self.launches.push((time, launch.grid));
    }
}

impl Profiler {
    /// For this many runs of each launch on a GPU.
    pub(crate) fn repeating(repetitions: usize) -> Self {
        Self { repetitions, ..Self::default() }
    }

    /// Joins the measurements with what the launch list says for the symbol values `symbols`; `in_library` names what a
    /// library did instead of a kernel.
    pub(crate) fn finish(
        self,
        manifest: &Manifest,
        (program, symbols): (&Program, &[i64]),
        in_library: &dyn Fn(usize) -> Option<String>,
    ) -> Result<Vec<LaunchProfile>, RuntimeError> {
        let mut profiles = Vec::with_capacity(self.launches.len());
        for (index, (launch, (time, grid))) in program.launches.iter().zip(self.launches).enumerate() {
            // An alternative for other sizes, or nothing to do.
            if grid == 0 {
                continue;
            }
            let value = |expr: &Option<Expr>| {
                expr.as_ref().map(|expr| expr.eval(symbols)).transpose().map_err(|source| {
                    RuntimeError::Size { what: format!("launch {index} of program {}", program.name), source }
                })
            };
            let in_library = in_library(index);
            profiles.push(LaunchProfile {
                launch: index,
                by_library: in_library.is_some(),
                kernel: in_library.unwrap_or_else(|| manifest.kernels[launch.kernel as usize].name.clone()),
                nodes: launch.nodes.clone(),
                locations: launch.locations.clone(),
                recurrence: launch.recurrence.clone(),
                grid,
                time,
                flops: value(&launch.flops)?,
                bytes: value(&launch.bytes)?,
            });
        }
        Ok(profiles)
    }
}
