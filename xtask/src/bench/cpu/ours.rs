//! Our side: models made from a seed, compiled for this machine, and what they take.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::super::{Tools, memory, numbers};
use super::Limits;
use super::works::{Kind, Work};
use crate::{Result, process};

/// Tokens of a prefill, and of a block of a longer one.
const LEN: usize = 512;
/// Tokens over which the time of one must not grow.
const LONGEST: usize = 131_072;
/// Steps of each of two jobs at once, and how often they are started.
const JOINT_STEPS: usize = 384;
const JOINT_TURNS: usize = 3;
/// Tokens of the prefill whose memory is measured.
const LONG: usize = 2048;
/// Steps times channels of the scan that is measured alone, and times states.
const SCAN_CELLS: f64 = 2048.0 * 1536.0;
const SCAN_STATES: f64 = 16.0 * SCAN_CELLS;
/// Functions of each step and channel that cost what an exponential does: the exponential and the logarithm of softplus,
/// and the exponential of the gate.
const SCAN_FUNCTIONS: f64 = 3.0;
/// Vector operations of the recurrence for each state and step besides the exponential: the exponent, the input, the
/// state and the read-out. Each takes the place of a fused multiply-add.
const SCAN_OPERATIONS: f64 = 4.0;
/// Operations of the product that is measured alone.
const PRODUCT_FLOPS: f64 = 2.0 * 2048.0 * 2048.0 * 2048.0;

/// An artefact and what its programs cost.
struct Built {
    artefact: PathBuf,
    /// Bytes of the weights in f32.
    weights: u64,
    /// Operations and bytes of a prefill of [`LEN`] tokens, and of a step.
    prefill: [f64; 2],
    step: [f64; 2],
}

/// One measurement, in the unit of the row, and what the machine allowed then.
pub(super) struct Measured {
    pub(super) value: f64,
    pub(super) limit: Option<f64>,
}

pub(super) struct Ours<'t> {
    tools: &'t Tools,
    kernels: &'t Path,
    folder: &'t Path,
    steps: usize,
    built: BTreeMap<(&'static str, &'static str), Built>,
}

impl<'t> Ours<'t> {
    pub(super) fn new(tools: &'t Tools, kernels: &'t Path, folder: &'t Path, steps: usize) -> Self {
        Self { tools, kernels, folder, steps, built: BTreeMap::new() }
    }

    /// Makes and compiles the model of a row, unless it was.
    pub(super) fn prepare(&mut self, work: &Work) -> Result<()> {
        let (shape, format) = (work.shape, work.format);
        if shape.is_empty() || self.built.contains_key(&(shape, format)) {
            return Ok(());
        }
        let model = self.folder.join(shape);
        if !model.join("config.json").is_file() {
            process::check(Command::new(&self.tools.synthetic).arg(&model).args([shape, "f32"]))?;
        }
        let artefact = self.folder.join(format!("{shape}-{format}.ssmc"));
        let mut compile = Command::new(&self.tools.ssmc);
        compile.arg("compile").arg(&model).arg("-o").arg(&artefact);
        compile.args(["--weights", format, "--target-cpu", "native", "--no-golden", "--quiet"]);
        process::capture(&mut compile)?;
        let said = self.runner(&artefact, 0, &["cost", "prefill", &LEN.to_string(), "cost", "step", "1"])?;
        let built = Built {
            weights: fs::metadata(model.join("model.safetensors"))?.len(),
            prefill: numbers(&said, "cost\tprefill")?,
            step: numbers(&said, "cost\tstep")?,
            artefact,
        };
        self.built.insert((shape, format), built);
        Ok(())
    }

    fn runner(&self, artefact: &Path, threads: usize, jobs: &[&str]) -> Result<String> {
        Ok(String::from_utf8(process::capture(&mut self.job(artefact, threads, jobs))?.stdout)?)
    }

    fn job(&self, artefact: &Path, threads: usize, jobs: &[&str]) -> Command {
        let mut command = Command::new(&self.tools.runner);
        command.args(["--threads", &threads.to_string()]).arg(artefact).args(jobs);
        command
    }

    /// What the machine allows now.
    pub(super) fn limits(&self, threads: usize) -> Result<Limits> {
        let mut command = Command::new(&self.tools.runner);
        command.args(["limits", &threads.to_string()]);
        let said = String::from_utf8(process::capture(&mut command)?.stdout)?;
        let [bytes, flops, halves, integers, exponentials, _] = numbers(&said, "limits")?;
        Ok(Limits { bytes, flops, halves, integers, exponentials })
    }

    pub(super) fn measure(&self, work: &Work, threads: usize, limits: &Limits) -> Result<Measured> {
        let key = (work.shape, work.format);
        match work.kind {
            Kind::Prefill | Kind::Step => {
                let rates = self.model(work, threads)?;
                let built = &self.built[&key];
                let (i, [flops, bytes], tokens) = match work.kind {
                    Kind::Prefill => (0, built.prefill, LEN as f64),
                    _ => (1, built.step, 1.0),
                };
                let limit = tokens / (flops / limits.rate(work.format)).max(bytes / limits.bytes);
                Ok(Measured { value: rates[i], limit: Some(limit) })
            }
            Kind::Scan => {
                let [seconds, _] = self.kernel("scan", threads)?;
                let floor = (SCAN_STATES + SCAN_FUNCTIONS * SCAN_CELLS) / limits.exponentials
                    + SCAN_OPERATIONS * 2.0 * SCAN_STATES / limits.flops;
                Ok(Measured { value: 1e3 * seconds, limit: Some(1e3 * floor) })
            }
            Kind::Product => {
                let [seconds, _] = self.kernel("product", threads)?;
                Ok(Measured { value: PRODUCT_FLOPS / seconds / 1e9, limit: Some(limits.flops / 1e9) })
            }
            Kind::Load => {
                let said = self.runner(&self.built[&key].artefact, threads, &["load", &LEN.to_string()])?;
                let [seconds] = numbers(&said, "loaded")?;
                Ok(Measured { value: 1e3 * seconds, limit: None })
            }
            Kind::Memory => {
                let built = &self.built[&key];
                let jobs = ["prefill", &LONG.to_string(), &LEN.to_string(), "1"];
                let peak = memory::peak(&mut self.job(&built.artefact, threads, &jobs))?;
                let value = (peak as f64 - built.weights as f64) / 1e6;
                Ok(Measured { value, limit: None })
            }
            Kind::Together => Ok(Measured { value: self.together(&self.built[&key], threads)?, limit: None }),
            Kind::Growth => Ok(Measured { value: self.growth(&self.built[&key], threads)?, limit: None }),
        }
    }

    /// Tokens per second of prefill and step.
    fn model(&self, work: &Work, threads: usize) -> Result<[f64; 2]> {
        let (repetitions, steps) = match work.kind {
            Kind::Prefill => (3, 1),
            _ => (1, self.steps),
        };
        let built = &self.built[&(work.shape, work.format)];
        Self::rates(&process::capture(&mut self.bench(built, threads, (repetitions, steps)))?.stdout)
    }

    fn bench(&self, built: &Built, threads: usize, (repetitions, steps): (usize, usize)) -> Command {
        let mut command = Command::new(&self.tools.ssmc);
        command.arg("--json").arg("bench").arg(&built.artefact).arg("--no-profile");
        command.args(["--repetitions", &repetitions.to_string(), "--steps", &steps.to_string()]);
        command.args(["--len", &LEN.to_string(), "--threads", &threads.to_string()]);
        command
    }

    /// Tokens per second of prefill and step, as `ssmc bench` says them.
    fn rates(said: &[u8]) -> Result<[f64; 2]> {
        let said: Value = serde_json::from_slice(said)?;
        let rate = |name: &str| -> Result<f64> {
            let programs = said["programs"].as_array().ok_or("ssmc bench: no programs")?;
            let program = programs.iter().find(|p| p["program"] == name);
            let rate = program.and_then(|p| p["tokens_per_second"].as_f64());
            Ok(rate.ok_or_else(|| format!("ssmc bench: no rate of {name}"))?)
        };
        Ok([rate("prefill")?, rate("step")?])
    }

    /// Seconds of a kernel alone, and its error.
    fn kernel(&self, name: &str, threads: usize) -> Result<[f64; 2]> {
        let mut command = Command::new(self.kernels);
        command.args([name, &threads.to_string()]);
        numbers(&String::from_utf8(process::capture(&mut command)?.stdout)?, name)
    }

    /// By how many percent two jobs that decode at the same time get on slower with `threads` threads each than with one.
    /// Pairs of both kinds take turns.
    fn together(&self, built: &Built, threads: usize) -> Result<f64> {
        let both = |threads: usize| -> Result<f64> {
            let start = || {
                self.bench(built, threads, (1, JOINT_STEPS))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
            };
            let (first, second) = (start()?, start()?);
            let mut sum = 0.0;
            for output in [first.wait_with_output()?, second.wait_with_output()?] {
                if !output.status.success() {
                    return Err(format!("ssmc bench beside another: {}", output.status).into());
                }
                sum += Self::rates(&output.stdout)?[1];
            }
            Ok(sum)
        };
        let (mut one, mut all) = (0.0, 0.0);
        for _ in 0..JOINT_TURNS {
            one += both(1)?;
            all += both(threads)?;
        }
        eprintln!(
            "  two jobs at once: {:.1} tokens/s with a thread each, {:.1} with {threads}",
            one / JOINT_TURNS as f64,
            all / JOINT_TURNS as f64
        );
        Ok(100.0 * (one / all - 1.0))
    }

    /// By how many percent a token takes longer in a long prefill than in one of [`LEN`] tokens, or less. Blocks of both
    /// take turns: minutes of a machine differ by more than what is looked for.
    fn growth(&self, built: &Built, threads: usize) -> Result<f64> {
        let jobs = ["growth", &LONGEST.to_string(), &LEN.to_string()];
        let said = self.runner(&built.artefact, threads, &jobs)?;
        let mut ratios = Vec::new();
        for line in said.lines().filter(|line| line.starts_with("growth\t")) {
            let [tokens, long, short] = numbers(line, "growth")?;
            eprintln!(
                "  prefill of {tokens} tokens: {:.1} tokens/s, of as many by {LEN}: {:.1}",
                tokens / long,
                tokens / short
            );
            // The first block of each is the first of the session.
            if tokens > LEN as f64 {
                ratios.push(long / short);
            }
        }
        if ratios.is_empty() {
            return Err("ssmc-runner: no growth".into());
        }
        Ok(growth(&ratios))
    }
}

/// The greatest deviation from 1, in percent.
fn growth(ratios: &[f64]) -> f64 {
    ratios.iter().map(|ratio| 100.0 * (ratio - 1.0).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::growth;

    #[test]
    fn deviations_count_in_both_directions() {
        assert!((growth(&[1.05, 0.9]) - 10.0).abs() < 1e-9);
        assert_eq!(growth(&[1.0]), 0.0);
    }
}
