//! Benchmarks: time and memory beside what the machine allows.

mod cpu;
mod gpu;
mod memory;
mod unrolled;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ssmc_npz::Array;

use crate::args::Args;
use crate::corpus::error_over_peak;
use crate::{Result, process};

/// Tokens read by `prefill` and then by `step`.
const PREFILL: usize = 2048;
const STEPS: usize = 128;
/// Largest difference of step from forward, over the peak of forward.
const TOLERANCE: f64 = 1e-4;
/// What compiling may take: seconds, and memory over the size of the weights.
const COMPILE_SECONDS: f64 = 60.0;
const COMPILE_MEMORY: f64 = 3.0;

/// `bench spine` and `bench unrolled`, whether they keep their limits; `bench gpu`, whether all results are right; or
/// `bench cpu`, whether everything is reached that must be.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    const OPTIONS: &[&str] = &[
        "bin", "dir", "storage", "shape", "profile", "filter", "peers", "rounds", "threads", "steps",
        "layers", "append", "tools", "rows",
    ];
    let args = Args::parse(args, OPTIONS)?;
    let task = match args.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [task @ ("spine" | "unrolled" | "cpu")] => task,
        ["gpu"] => return gpu::run(&args),
        _ => return Err("expected spine, unrolled, cpu or gpu".into()),
    };
    let temporary = tempfile::tempdir()?;
    let folder = args.get("dir").map_or(temporary.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let profile = args.get("profile").unwrap_or("release");
    let tools = Tools {
        ssmc: match args.get("bin") {
            Some(path) => PathBuf::from(path),
            None => process::build("ssmc", "ssmc", profile, &[])?,
        },
        runner: process::build("ssmc-runner", "ssmc-runner", profile, &[])?,
        synthetic: process::build("ssmc-tests", "ssmc-synthetic", profile, &["--no-default-features"])?,
    };
    if task == "cpu" {
        let kernels = process::build("ssmc-tests", "ssmc-cpu-kernels", profile, &[])?;
        return cpu::run(&tools, &kernels, &folder, &args);
    }
    if task == "unrolled" {
        let number = |key, default| args.get(key).map_or(Ok(default), str::parse);
        return unrolled::run(&tools, &folder, number("steps", 256)?, number("layers", 24)?);
    }
    let shape = args.get("shape").unwrap_or("mamba-130m");
    spine(&tools, &folder, shape, args.get("storage").unwrap_or("f32"))
}

#[derive(Debug)]
struct Tools {
    ssmc: PathBuf,
    runner: PathBuf,
    synthetic: PathBuf,
}

fn spine(tools: &Tools, folder: &Path, shape: &str, storage: &str) -> Result<bool> {
    let (model, artefact) = (folder.join("model"), folder.join("model.ssmc"));
    process::check(Command::new(&tools.synthetic).arg(&model).args([shape, storage]))?;
    let weights = fs::metadata(model.join("model.safetensors"))?.len() as f64;

    let start = Instant::now();
    let mut compile = Command::new(&tools.ssmc);
    compile.arg("compile").arg(&model).arg("-o").arg(&artefact);
    let peak = memory::peak(&mut compile)? as f64;
    let seconds = start.elapsed().as_secs_f64();

    let (inputs, outputs) = (folder.join("inputs.npz"), folder.join("outputs.npz"));
    let len = PREFILL + STEPS;
    ssmc_npz::write(&inputs, [("input_ids", &Array::i64s(&[1, len], &tokens(len)))])?;
    let mut run = Command::new(&tools.runner);
    run.arg(&artefact);
    run.args(["cost", "prefill", &PREFILL.to_string(), "cost", "step", "1", "limits", "0"]);
    run.args(["continue", &STEPS.to_string()]).arg(&inputs).arg(&outputs);
    let said = String::from_utf8(process::capture(&mut run)?.stdout)?;
    let [forward, prefill, steps] = numbers(&said, "continued")?;
    let [prefill_flops, prefill_bytes] = numbers(&said, "cost\tprefill")?;
    let [step_flops, step_bytes] = numbers(&said, "cost\tstep")?;
    let logits = ssmc_npz::read(&outputs)?;
    let of = |name: &str| logits.get(name).map(Array::to_f64).ok_or(format!("runner: no {name}"));
    let error = error_over_peak(&of("step")?, &of("forward")?);

    let [best_bytes, best_flops, _, _, _, threads] = numbers(&said, "limits")?;
    let seconds_at_best = |flops: f64, bytes: f64| (flops / best_flops).max(bytes / best_bytes);
    println!("shape {shape}, weights {storage}, {:.0} MB, {threads} threads", weights / 1e6);
    println!("machine: {:.1} GB/s, {:.0} GFLOP/s (f32)", best_bytes / 1e9, best_flops / 1e9);
    println!();
    println!("| what | found | limit or floor |");
    println!("| --- | --- | --- |");
    println!("| compile | {seconds:.1} s | {COMPILE_SECONDS} s |");
    println!("| compile, peak memory over weights | {:.2} | {COMPILE_MEMORY} |", peak / weights);
    println!(
        "| prefill {PREFILL} + {STEPS} steps against forward, error over peak | {error:.1e} | {TOLERANCE:.0e} |"
    );
    println!("| forward of {len} tokens | {:.0} tokens/s | |", len as f64 / forward);
    println!(
        "| prefill of {PREFILL} tokens | {:.0} tokens/s | {:.0} tokens/s |",
        PREFILL as f64 / prefill,
        PREFILL as f64 / seconds_at_best(prefill_flops, prefill_bytes)
    );
    println!(
        "| step | {:.1} tokens/s | {:.1} tokens/s |",
        STEPS as f64 / steps,
        1.0 / seconds_at_best(step_flops, step_bytes)
    );
    Ok(seconds <= COMPILE_SECONDS && peak <= COMPILE_MEMORY * weights && error <= TOLERANCE)
}

/// Token ids that do not repeat soon.
fn tokens(len: usize) -> Vec<i64> {
    (0..len as i64).map(|i| (i * 7919 + 17) % 50000).collect()
}

/// The numbers of the line that starts with `key`.
fn numbers<const N: usize>(said: &str, key: &str) -> Result<[f64; N]> {
    let line = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
    let line = line.ok_or_else(|| format!("runner: no line {key:?}"))?;
    let values: Vec<f64> = line.split('\t').map(str::parse).collect::<Result<_, _>>()?;
    values.try_into().map_err(|_| format!("runner: expected {N} numbers in {line:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_numbers() {
        let said = "cost\tstep\t1\t2\ncontinued\t0.5\t1\t2\n";
        assert_eq!(numbers(said, "cost\tstep").unwrap(), [1.0, 2.0]);
        assert!(numbers::<3>(said, "cost\tstep").is_err());
        assert!(numbers::<1>(said, "cost\tprefill").is_err());
    }

    #[test]
    fn tokens_are_ids_of_the_vocabulary() {
        let ids = tokens(PREFILL + STEPS);
        assert!(ids.iter().all(|id| (0..50000).contains(id)));
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    }
}
