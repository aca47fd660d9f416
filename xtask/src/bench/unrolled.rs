//! A recurrence that was written out step by step, against the same weights from safetensors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ssmc_npz::Array;

use super::{COMPILE_SECONDS, Tools, numbers, tokens};
use crate::corpus::error_over_peak;
use crate::{Result, process};

/// How much slower the written-out model may run.
const SLOWER: f64 = 1.1;
/// Processes per model, and calls in each; the fastest call counts.
const ROUNDS: usize = 3;
const CALLS: usize = 4;

/// Makes a model of `layers` layers, written out over `steps` steps, and whether it keeps its limits.
pub(super) fn run(tools: &Tools, folder: &Path, steps: usize, layers: usize) -> Result<bool> {
    let model = folder.join("model");
    let size = [steps.to_string(), layers.to_string()];
    process::check(Command::new(&tools.synthetic).arg(&model).args(["mamba-130m", "f32"]).args(size))?;
    let [written_out, weights] =
        [("written-out", model.join("model.onnx")), ("weights", model)].map(|(name, model)| Candidate {
            model,
            artefact: folder.join(name).with_extension("ssmc"),
            outputs: folder.join(name).with_extension("npz"),
        });
    let seconds = [written_out.compile(tools)?, weights.compile(tools)?];

    let inputs = folder.join("inputs.npz");
    ssmc_npz::write(&inputs, [("input_ids", &Array::i64s(&[1, steps], &tokens(steps)))])?;
    let (mut best, mut last) = ([f64::INFINITY; 2], [vec![], vec![]]);
    for _ in 0..ROUNDS {
        for (i, candidate) in [&written_out, &weights].into_iter().enumerate() {
            let (fastest, logits) = candidate.run(tools, &inputs)?;
            best[i] = best[i].min(fastest);
            last[i] = logits;
        }
    }
    let error = error_over_peak(&last[0], &last[1]);
    println!(
        "{layers} layers of {steps} steps, {} MB of ONNX",
        fs::metadata(&written_out.model)?.len() / 1_000_000
    );
    println!();
    println!("| what | written out | from safetensors | ratio | limit |");
    println!("| --- | --- | --- | --- | --- |");
    println!("| compile | {:.1} s | {:.1} s | | {COMPILE_SECONDS} s |", seconds[0], seconds[1]);
    println!(
        "| forward of {steps} tokens | {:.3} s | {:.3} s | {:.3} | {SLOWER} |",
        best[0],
        best[1],
        best[0] / best[1]
    );
    println!("| difference over peak | {error:.1e} | | | {:.0e} |", super::TOLERANCE);
    Ok(seconds[0] <= COMPILE_SECONDS && best[0] <= SLOWER * best[1] && error <= super::TOLERANCE)
}

#[derive(Debug)]
struct Candidate {
    model: PathBuf,
    artefact: PathBuf,
    outputs: PathBuf,
}

impl Candidate {
    /// Seconds of compiling.
    fn compile(&self, tools: &Tools) -> Result<f64> {
        let start = Instant::now();
        process::check(
            Command::new(&tools.ssmc).arg("compile").arg(&self.model).arg("-o").arg(&self.artefact),
        )?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds of the fastest call, and the logits.
    fn run(&self, tools: &Tools, inputs: &Path) -> Result<(f64, Vec<f64>)> {
        let mut run = Command::new(&tools.runner);
        run.arg(&self.artefact);
        for _ in 0..CALLS {
            run.arg("run").arg(inputs).arg(&self.outputs);
        }
        let said = String::from_utf8(process::capture(&mut run)?.stdout)?;
        let mut fastest = f64::INFINITY;
        for line in said.lines() {
            let [seconds] = numbers(line, "ran")?;
            fastest = fastest.min(seconds);
        }
        let outputs = ssmc_npz::read(&self.outputs)?;
        let logits = outputs.get("logits").ok_or("runner: no logits")?;
        Ok((fastest, logits.to_f64()))
    }
}
