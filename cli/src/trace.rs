//! Times as a file that chrome://tracing and Perfetto show.

use crate::failure::Outcome;
use crate::file;
use serde_json::{Value, json};
use ssmc::Span;
use ssmc_runtime::LaunchProfile;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The one process of a trace.
const PROCESS: u32 = 1;

/// Spans of time on named tracks; nothing is collected if there is no file to write.
pub(crate) struct Trace {
    path: Option<PathBuf>,
    zero: Instant,
    tracks: Vec<String>,
    events: Vec<Value>,
}

impl Trace {
    /// A trace that starts now.
    pub(crate) fn new(path: Option<&Path>) -> Self {
        let path = path.map(Path::to_owned);
        Self { path, zero: Instant::now(), tracks: Vec::new(), events: Vec::new() }
    }

    /// Whether there is a file to write.
    pub(crate) fn is_on(&self) -> bool {
        self.path.is_some()
    }

    /// Adds a part of compiling.
    pub(crate) fn span(&mut self, span: &Span) {
        self.add(&span.track, &span.name, span.start, span.time, json!({}));
    }

    /// Adds the launches of a run that began at `start`, one after another.
    pub(crate) fn launches(&mut self, program: &str, start: Instant, profile: &[LaunchProfile]) {
        let track = format!("run {program}");
        let mut at = start;
        for launch in profile {
            let facts = json!({
                "launch": launch.launch, "grid": launch.grid, "flops": launch.flops, "bytes": launch.bytes,
                "recurrence": launch.recurrence, "nodes": launch.nodes, "locations": launch.locations,
            });
            self.add(&track, &launch.kernel, at, launch.time, facts);
            at += launch.time;
        }
    }

    fn add(&mut self, track: &str, name: &str, start: Instant, time: Duration, facts: Value) {
        if !self.is_on() {
            return;
        }
        let thread = self.tracks.iter().position(|known| known == track).unwrap_or_else(|| {
            self.tracks.push(track.to_owned());
            self.tracks.len() - 1
        });
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        self.events.push(json!({
            "name": name, "cat": "ssmc", "ph": "X", "pid": PROCESS, "tid": thread,
            "ts": micros(start.saturating_duration_since(self.zero)), "dur": micros(time), "args": facts,
        }));
    }

    /// Writes what has been collected, in place of what an earlier call wrote.
    pub(crate) fn write(&self) -> Outcome {
        let Some(path) = &self.path else { return Ok(()) };
        let name = |(thread, track): (usize, &String)| json!({"name": "thread_name", "ph": "M", "pid": PROCESS, "tid": thread, "args": {"name": track}});
        let mut events: Vec<Value> = self.tracks.iter().enumerate().map(name).collect();
        events.extend(self.events.iter().cloned());
        let text = json!({"displayTimeUnit": "ms", "traceEvents": events}).to_string();
        file::write(path, text.as_bytes())
    }
}
