//! Data to stdout, progress to stderr.

use crate::failure::{Failure, Kind, Outcome};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writes to stdout. A reader that closes the pipe ends the program quietly.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Failure::new(Kind::Input, format!("stdout: {error}"))),
    }
}

/// Prints an object with the schema of the verb in front.
pub(crate) fn print_json(verb: &str, value: Value) -> Outcome {
    let mut object = Map::new();
    object.insert("schema".to_owned(), Value::String(format!("ssmc.{verb}.v1")));
    if let Value::Object(fields) = value {
        object.extend(fields);
    }
    print(&format!("{:#}\n", Value::Object(object)))
}

/// Whether stderr shows errors and warnings only.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows errors and warnings only from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// A line for people on stderr, unless they asked for quiet.
pub(crate) fn note(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        eprintln!("{text}");
    }
}

/// A bar of steps of which some are done; shown only if stderr is a terminal and nobody asked for quiet.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar without steps so far.
    pub(crate) fn new() -> Self {
        if QUIET.load(Ordering::Relaxed) || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} [{elapsed}] {msg}");
        let bar = ProgressBar::new(0);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// There are this many more steps.
    pub(crate) fn expect(&self, steps: usize) {
        self.0.inc_length(steps as u64);
    }

    /// One step is done.
    pub(crate) fn advance(&self) {
        self.0.inc(1);
    }

    /// Says what is going on.
    pub(crate) fn say(&self, text: impl Into<String>) {
        self.0.set_message(text.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Rows as columns; numbers of the first row's width are not aligned specially.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..=9_999_999_999 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
