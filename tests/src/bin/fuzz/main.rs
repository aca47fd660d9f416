//! Mutates the seeds without coverage feedback: `ssmc-fuzz TARGET SECONDS [SEED [MODEL.onnx ..]]`. For machines without
//! the nightly compiler that cargo-fuzz needs. Further models are seeds too. Every seed is tried unchanged first.
//!
//! A model that panics, takes too long or too much memory is written to `ssmc-fuzz-TARGET-N.onnx` in the current folder.

mod memory;

use ssmc_tests::fuzz::{Fuzzer, Mutator, TARGETS, Target, seeds};
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is slower hangs.
const MOST_TIME: Duration = Duration::from_secs(10);
/// The most bytes in use for each byte of the file.
const MOST_PER_BYTE: usize = 64;
/// Bytes that any file may take, however small.
const BASE: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ssmc-fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

/// What one model took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    size: usize,
    panicked: bool,
    time: Duration,
    bytes: usize,
}

impl Cost {
    /// Runs a target on a model.
    fn of(fuzzer: &Fuzzer, target: &Target, model: &[u8]) -> Self {
        let start = cpu_time();
        let (outcome, bytes) =
            memory::peak(|| catch_unwind(AssertUnwindSafe(|| (target.1)(fuzzer, model))).is_err());
        Self { size: model.len(), panicked: outcome, time: cpu_time().saturating_sub(start), bytes }
    }

    fn fault(&self) -> Option<&'static str> {
        if self.panicked {
            Some("panics")
        } else if self.time > MOST_TIME {
            Some("hangs")
        } else if self.bytes > BASE + MOST_PER_BYTE * self.size {
            Some("fills the memory")
        } else {
            None
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.bytes / self.size.max(1);
        write!(f, "{:.1?}, {} KiB, {ratio} times its {} bytes", self.time, self.bytes >> 10, self.size)
    }
}

/// The number of faults found.
fn run(args: &[String]) -> Result<usize, Box<dyn Error>> {
    let [name, seconds, rest @ ..] = args else {
        return Err("usage: ssmc-fuzz TARGET SECONDS [SEED [MODEL.onnx ..]]".into());
    };
    let known = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let target = TARGETS.iter().find(|(known, _)| known == name);
    let target = target.ok_or_else(|| format!("expected one of {}, found {name}", known()))?;
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut mutator = Mutator::new(rest.first().map_or(Ok(0), |seed| seed.parse())?);
    let fuzzer = Fuzzer::new()?;
    let mut pool: Vec<Vec<u8>> = seeds().into_iter().map(|(_, bytes)| bytes).collect();
    for path in rest.iter().skip(1) {
        pool.push(std::fs::read(path).map_err(|error| format!("{path}: {error}"))?);
    }
    let (mut runs, mut faults) = (0u64, 0);
    let (mut slowest, mut largest) = (Cost::default(), Cost::default());
    let mut unchanged = pool.iter();
    loop {
        let model = match unchanged.next() {
            Some(seed) => seed.clone(),
            None if Instant::now() < end => mutator.next(&pool),
            None => break,
        };
        let cost = Cost::of(&fuzzer, target, &model);
        if let Some(fault) = cost.fault() {
            let path = format!("ssmc-fuzz-{name}-{faults}.onnx");
            std::fs::write(&path, &model)?;
            eprintln!("{path}: {fault} ({cost})");
            faults += 1;
        }
        runs += 1;
        if cost.time > slowest.time {
            slowest = cost;
        }
        if cost.bytes > largest.bytes {
            largest = cost;
        }
    }
    println!("{name}: {runs} models, {faults} faults; slowest {slowest}; most memory {largest}");
    Ok(faults)
}

/// The processor time of this thread: a busy machine is no hang. Where the system does not say, the time that passed.
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let own = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = own.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// The models of a folder of cases.
    fn models(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("the folder of the corpus");
        let mut paths: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path().join("model.onnx"))).collect();
        paths.retain(|path| path.is_file());
        paths.sort();
        paths
    }

    /// Every seed, and every model of the corpus if there is one, keeps within the bounds.
    #[test]
    fn models_keep_within_the_bounds() {
        let fuzzer = Fuzzer::new().expect("a folder for models");
        let mut pool: Vec<(String, Vec<u8>)> =
            seeds().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        if let Some(folder) = std::env::var_os("SSMC_CORPUS") {
            for path in models(Path::new(&folder)) {
                pool.push((path.display().to_string(), fs::read(&path).expect("a model of the corpus")));
            }
        }
        let _alone = memory::alone();
        for target in TARGETS {
            for (name, bytes) in &pool {
                let cost = Cost::of(&fuzzer, target, bytes);
                assert_eq!(cost.fault(), None, "{} of {name}: {cost}", target.0);
            }
        }
    }
}
