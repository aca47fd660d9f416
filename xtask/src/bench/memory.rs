//! The memory that a program takes.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Result;

/// Runs the command, which must succeed, and returns its peak resident memory in bytes. What it prints is dropped.
///
/// The kernel keeps the peak of a running process; it is read every few milliseconds, so only growth in the last of
/// them is missed.
pub(super) fn peak(command: &mut Command) -> Result<u64> {
    const INTERVAL: Duration = Duration::from_millis(5);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The file has no such line once the process has ended.
        if let Some(bytes) = fs::read_to_string(&status).ok().and_then(|text| high_water_mark(&text)) {
            peak = bytes.max(peak);
        }
        match child.try_wait()? {
            None => thread::sleep(INTERVAL),
            Some(code) if code.success() => break,
            Some(code) => return Err(format!("{}: {code}", command.get_program().to_string_lossy()).into()),
        }
    }
    if peak == 0 { Err("the memory of processes cannot be read here".into()) } else { Ok(peak) }
}

/// `VmHWM` in bytes.
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(high_water_mark("Name:\tx\n"), None);
    }

    #[test]
    fn failures_are_reported() {
        assert!(peak(&mut Command::new("false")).is_err());
        assert!(peak(Command::new("sleep").arg("0.05")).unwrap() > 0);
    }
}
