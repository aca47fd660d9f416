//! `bench cpu`: our programs and peers, interleaved in rounds, beside what the machine allows in the same rounds.

mod ours;
mod peers;
mod report;
mod works;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Tools;
use crate::args::Args;
use crate::{Result, process};
use ours::Ours;
use peers::Peers;
use report::{Row, table};
use works::{WORKS, Work};

/// What all threads of one round reach, per second.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes: f64,
    flops: f64,
    halves: f64,
    integers: f64,
    exponentials: f64,
}

impl Limits {
    /// Operations per second with weights in a format.
    fn rate(&self, format: &str) -> f64 {
        match format {
            "bf16" if self.halves > 0.0 => self.halves,
            "int8" | "int4" if self.integers > 0.0 => self.integers,
            _ => self.flops,
        }
    }

    fn describe(&self) -> String {
        format!(
            "read {:.1} GB/s; {:.0} GFLOP/s in f32, {:.0} in bf16 dots, {:.0} Gop/s in byte dots; {:.1} G exponentials/s",
            self.bytes / 1e9,
            self.flops / 1e9,
            self.halves / 1e9,
            self.integers / 1e9,
            self.exponentials / 1e9
        )
    }
}

/// Runs all rounds and prints the table. Whether everything that must be reached was, is in the table; a peer that was
/// asked for and is not there is a fault.
pub(super) fn run(tools: &Tools, kernels: &Path, folder: &Path, args: &Args) -> Result<bool> {
    let rounds: usize = args.get("rounds").unwrap_or("3").parse()?;
    let steps: usize = args.get("steps").unwrap_or("64").parse()?;
    let threads: Vec<usize> = args
        .get("threads")
        .unwrap_or("1,2")
        .split(',')
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let filter = args.get("filter").unwrap_or("");
    let works: Vec<&'static Work> = WORKS.iter().filter(|work| work.name.contains(filter)).collect();
    let mut ours = Ours::new(tools, kernels, folder, steps);
    for work in &works {
        ours.prepare(work)?;
    }
    let peers = args.get("peers").map(|dir| Peers::new(Path::new(dir), steps)).transpose()?;

    let mut report = machine()?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 1..=rounds.max(1) {
        for &n in &threads {
            let limits = ours.limits(n)?;
            let line = format!("round {round}, {n} threads, load {}: {}", load(), limits.describe());
            eprintln!("{line}");
            writeln!(report, "{line}")?;
            for work in &works {
                let is_due = !work.is_single() || (round == 1 && Some(&n) == threads.last());
                if !is_due {
                    continue;
                }
                let measured = ours.measure(work, n, &limits)?;
                let row = find(&mut rows, work, n);
                row.ours.push(measured.value);
                row.limits.extend(measured.limit);
                if let Some(peers) = &peers {
                    for peer in work.peers {
                        row.peer(*peer, peers.measure(*peer, work, n)?);
                    }
                }
                eprintln!("  {}", row.summary());
            }
        }
    }
    report.push_str(&table(&rows));
    println!("{report}");
    if let Some(path) = args.get("append") {
        let mut text = fs::read_to_string(path)?;
        write!(text, "\n{report}")?;
        fs::write(path, text)?;
    }
    Ok(rows.iter().all(Row::is_met))
}

/// The processor and the date.
fn machine() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let count = info.lines().filter(|line| line.starts_with("processor")).count();
    let date = process::capture(Command::new("date").args(["-u", "+%F %H:%M UTC"]))?.stdout;
    Ok(format!(
        "{}, {count} processors of {} (family {}, model {})\n\n",
        String::from_utf8_lossy(&date).trim(),
        field("model name"),
        field("cpu family"),
        field("model\t"),
    ))
}

/// Busy processes, on average over the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn find<'r>(rows: &'r mut Vec<Row>, work: &'static Work, threads: usize) -> &'r mut Row {
    let at = rows.iter().position(|row| row.work.name == work.name && row.threads == threads);
    let at = at.unwrap_or_else(|| {
        rows.push(Row::new(work, threads));
        rows.len() - 1
    });
    &mut rows[at]
}
