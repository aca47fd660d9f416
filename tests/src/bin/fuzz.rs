//! Mutates the seeds without coverage feedback: `ssmc-fuzz TARGET SECONDS [SEED [MODEL.onnx ..]]`. For machines without
//! the nightly compiler that cargo-fuzz needs. Further models are seeds too.
//!
//! A model that panics or takes too long is written to `ssmc-fuzz-TARGET-N.onnx` in the current folder.

use ssmc_tests::fuzz::{Fuzzer, Mutator, TARGETS, seeds};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is slower hangs.
const MOST: Duration = Duration::from_secs(10);

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

/// The number of faults found.
fn run(args: &[String]) -> Result<usize, Box<dyn Error>> {
    let [name, seconds, rest @ ..] = args else {
        return Err("usage: ssmc-fuzz TARGET SECONDS [SEED [MODEL.onnx ..]]".into());
    };
    let known = || TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let target = TARGETS.iter().find(|(known, _)| known == name);
    let (_, target) = target.ok_or_else(|| format!("expected one of {}, found {name}", known()))?;
    let end = Instant::now() + Duration::from_secs(seconds.parse()?);
    let mut mutator = Mutator::new(rest.first().map_or(Ok(0), |seed| seed.parse())?);
    let fuzzer = Fuzzer::new()?;
    let mut pool: Vec<Vec<u8>> = seeds().into_iter().map(|(_, bytes)| bytes).collect();
    for path in rest.iter().skip(1) {
        pool.push(std::fs::read(path).map_err(|error| format!("{path}: {error}"))?);
    }
    let (mut runs, mut faults, mut slowest) = (0u64, 0, Duration::ZERO);
    while Instant::now() < end {
        let bytes = mutator.next(&pool);
        let start = Instant::now();
        let panicked = catch_unwind(AssertUnwindSafe(|| target(&fuzzer, &bytes))).is_err();
        let time = start.elapsed();
        if panicked || time > MOST {
            let path = format!("ssmc-fuzz-{name}-{faults}.onnx");
            std::fs::write(&path, &bytes)?;
            eprintln!("{path}: {} after {time:.1?}", if panicked { "panics" } else { "hangs" });
            faults += 1;
        }
        runs += 1;
        slowest = slowest.max(time);
    }
    println!("{name}: {runs} models, {faults} faults, the slowest took {slowest:.1?}");
    Ok(faults)
}
