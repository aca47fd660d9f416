//! Other programs, in a folder that was set up before.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::super::numbers;
use super::works::{Kind, Peer, Work};
use crate::{Result, process};

/// Where the peers are: `llama-bench` at the top or in `build-llama-gcc/bin`, models in `gguf/SHAPE-TYPE.gguf`, the
/// program `ggml_ops`, `onnx/SHAPE-{scan-L512,step-L1}.onnx`, and a Python with numpy and onnxruntime as `venv/bin/python`
/// here or beside this folder.
pub(super) struct Peers {
    dir: PathBuf,
    llama: PathBuf,
    python: PathBuf,
    steps: usize,
}

impl Peers {
    /// # Errors
    /// If a program is not there: a row without its peer would look as if there were none.
    pub(super) fn new(dir: &Path, steps: usize) -> Result<Self> {
        let dir = dir.canonicalize().map_err(|error| format!("--peers {}: {error}", dir.display()))?;
        let one_of = |places: [&str; 2]| -> Result<PathBuf> {
            let found = places.iter().map(|place| dir.join(place)).find(|path| path.is_file());
            Ok(found
                .ok_or_else(|| format!("--peers {}: no {} or {}", dir.display(), places[0], places[1]))?)
        };
        let llama = one_of(["llama-bench", "build-llama-gcc/bin/llama-bench"])?;
        let python = one_of(["venv/bin/python", "../venv/bin/python"])?;
        one_of(["ggml_ops", "ggml_ops"])?;
        Ok(Self { llama, python, dir, steps })
    }

    /// What the peer reaches in the unit of the row.
    pub(super) fn measure(&self, peer: Peer, work: &Work, threads: usize) -> Result<f64> {
        match peer {
            Peer::LlamaCpp => self.llama(work, threads),
            Peer::OnnxRuntime => {
                let (form, runs) = match work.kind {
                    Kind::Step => ("step-L1", self.steps),
                    _ => ("scan-L512", 3),
                };
                let model = self.dir.join("onnx").join(format!("{}-{form}.onnx", work.shape));
                let model = model.to_string_lossy();
                self.python(&["onnxruntime", &threads.to_string(), &model, &runs.to_string()], threads)
            }
            Peer::Numpy => self.python(&["numpy", "2048"], threads),
            Peer::Ggml => self.ggml(threads),
        }
    }

    /// Tokens per second of llama.cpp on the same shape in the format like ours.
    fn llama(&self, work: &Work, threads: usize) -> Result<f64> {
        let like = match work.format {
            "int8" => "q8_0",
            "int4" => "q4_0",
            other => other,
        };
        let model = self.dir.join("gguf").join(format!("{}-{like}.gguf", work.shape));
        let mut command = Command::new(&self.llama);
        command.arg("-m").arg(&model).args(["-t", &threads.to_string(), "-r", "1", "-o", "jsonl"]);
        match work.kind {
            Kind::Step => command.args(["-p", "0", "-n", &self.steps.to_string()]),
            _ => command.args(["-p", "512", "-n", "0"]),
        };
        let said = String::from_utf8(process::capture(&mut command)?.stdout)?;
        let line = said.lines().next().ok_or("llama-bench said nothing")?;
        let test: Value = serde_json::from_str(line)?;
        Ok(test["avg_ts"].as_f64().ok_or("llama-bench: no rate")?)
    }

    /// The number that the script beside this file prints.
    fn python(&self, args: &[&str], threads: usize) -> Result<f64> {
        let mut command = Command::new(&self.python);
        command.arg(process::root().join("scripts/bench_peers.py")).args(args);
        command.env("OPENBLAS_NUM_THREADS", threads.to_string());
        // Choices of an old kernel, made for old versions of OpenBLAS, would slow it down.
        command.env_remove("OPENBLAS_CORETYPE").env_remove("OPENBLAS_L2_SIZE");
        let said = String::from_utf8(process::capture(&mut command)?.stdout)?;
        let [rate] = numbers(&said, "rate")?;
        Ok(rate)
    }

    /// Milliseconds of ggml's scan.
    fn ggml(&self, threads: usize) -> Result<f64> {
        let mut command = Command::new(self.dir.join("ggml_ops"));
        command.args([&threads.to_string(), "3"]);
        ggml_scan(&String::from_utf8(process::capture(&mut command)?.stdout)?)
    }
}

/// The median of the long scan of Mamba-1, in milliseconds.
fn ggml_scan(said: &str) -> Result<f64> {
    let is_it = |line: &&str| line.starts_with("ssm_scan mamba1") && line.contains("tokens=2048");
    let line = said.lines().find(is_it).ok_or("ggml_ops: no scan of 2048 tokens")?;
    let median = line.split_whitespace().find_map(|word| word.strip_prefix("median="));
    Ok(median.ok_or("ggml_ops: no median")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::ggml_scan;

    #[test]
    fn the_scan_is_found() {
        let said = "load 0.5\nssm_scan mamba1 1536x16     threads=1 tokens=512 median=50.1 min=1 max=2 ms\n\
                    ssm_scan mamba1 1536x16     threads=1 tokens=2048 median=199.5 min=1 max=2 ms, 97 us/token\n";
        assert_eq!(ggml_scan(said).unwrap(), 199.5);
        assert!(ggml_scan("load 0.5\n").is_err());
    }
}
