//! `bench gpu`: single kernels, then whole models, on the GPU of this machine.
//!
//! Kernels are measured and checked by `ssmc-gpu-bench`. Models are made from a seed by `ssmc-synthetic`, in bf16, and
//! measured by `ssmc bench`: decoding greedily with the tokens on the device, and reading sequences. The floor of a model is
//! what its launches read and write at the rate of copies of that run, or for reading a sequence their arithmetic at the
//! rate of the matrix units if that is more. A row that cannot be measured says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::args::Args;
use crate::{Result, process};

/// Operations per second of dense products of bf16 that cuBLAS reaches on the card of the peer's figures.
const MATRIX_RATE: f64 = 750e12;

/// A program of a model and what others and we are to reach, in milliseconds.
struct Row {
    shape: &'static str,
    /// `greedy` or `prefill`.
    program: &'static str,
    batch: usize,
    len: usize,
    must: f64,
    aim: f64,
    peer: f64,
    /// Further arguments of `ssmc bench`.
    options: &'static [&'static str],
    /// What multiplies large matrices; each has a line of its own.
    gemms: &'static [&'static str],
}

/// Our own kernels alone, or cublasLt too.
const OWN: &[&str] = &["own"];
const EITHER: &[&str] = &["own", "cublaslt"];

/// Peer: `mamba_ssm` 2.3.2, decoding by CUDA graphs, on a card of the same model.
const ROWS: [Row; 8] = [
    Row {
        shape: "mamba-130m",
        program: "greedy",
        batch: 1,
        len: 8,
        must: 0.25,
        aim: 0.13,
        peer: 0.793,
        options: &[],
        gemms: OWN,
    },
    Row {
        shape: "mamba-2.8b",
        program: "greedy",
        batch: 1,
        len: 8,
        must: 2.4,
        aim: 2.0,
        peer: 3.88,
        options: &[],
        gemms: OWN,
    },
    Row {
        shape: "mamba2-130m",
        program: "greedy",
        batch: 1,
        len: 8,
        must: 0.0,
        aim: 0.0,
        peer: 0.671,
        options: &[],
        gemms: OWN,
    },
    Row {
        shape: "mamba2-2.7b",
        program: "greedy",
        batch: 1,
        len: 8,
        must: 0.0,
        aim: 0.0,
        peer: 3.66,
        options: &[],
        gemms: OWN,
    },
    Row {
        shape: "mamba2-2.7b",
        program: "greedy",
        batch: 64,
        len: 8,
        must: 7.0,
        aim: 6.0,
        peer: 9.97,
        options: HALVES_AND_STATES,
        gemms: OWN,
    },
    Row {
        shape: "mamba-130m",
        program: "prefill",
        batch: 1,
        len: 2048,
        must: 4.0,
        aim: 2.2,
        peer: 20.6,
        options: HALVES,
        gemms: OWN,
    },
    Row {
        shape: "mamba-2.8b",
        program: "prefill",
        batch: 8,
        len: 2048,
        must: 200.0,
        aim: 170.0,
        peer: 239.0,
        options: HALVES,
        gemms: EITHER,
    },
    Row {
        shape: "mamba2-2.7b",
        program: "prefill",
        batch: 8,
        len: 2048,
        must: 175.0,
        aim: 155.0,
        peer: 210.0,
        options: HALVES,
        gemms: EITHER,
    },
];

/// As the peer: values between kernels in half precision.
const HALVES: &[&str] = &["--compute-dtype", "bf16"];

/// As the peer's states too.
const HALVES_AND_STATES: &[&str] = &["--compute-dtype", "bf16", "--state-dtype", "bf16"];

/// Steps that are decoded, and how often sequences are read: the first calls record graphs, of which the median is to
/// know nothing.
const STEPS: &str = "128";
const REPETITIONS: &str = "15";

/// Runs the programs of `--tools`, or builds them. `--rows kernels` and `--rows models` leave the others out.
pub(super) fn run(args: &Args) -> Result<bool> {
    let tools = Tools::find(args)?;
    let filter = args.get("filter").unwrap_or("");
    let wants = |rows: &str| args.get("rows").is_none_or(|only| only == rows);
    let mut are_right = true;
    if wants("kernels") {
        are_right = Command::new(&tools.kernels).arg(filter).status()?.success();
    }
    if wants("models") {
        let temporary = tempfile::tempdir()?;
        let folder = args.get("dir").map_or(temporary.path().to_owned(), PathBuf::from);
        fs::create_dir_all(&folder)?;
        models(&tools, &folder, filter)?;
    }
    Ok(are_right)
}

struct Tools {
    kernels: PathBuf,
    ssmc: PathBuf,
    synthetic: PathBuf,
}

impl Tools {
    fn find(args: &Args) -> Result<Self> {
        if let Some(folder) = args.get("tools").map(Path::new) {
            let tool = |name: &str| folder.join(name);
            return Ok(Self {
                kernels: tool("ssmc-gpu-bench"),
                ssmc: tool("ssmc"),
                synthetic: tool("ssmc-synthetic"),
            });
        }
        let profile = args.get("profile").unwrap_or("release");
        let build = |package: &str, name: &str, features: &str| {
            process::build(package, name, profile, &["--no-default-features", "--features", features])
        };
        Ok(Self {
            kernels: build("ssmc-tests", "ssmc-gpu-bench", "cuda")?,
            ssmc: build("ssmc", "ssmc", "bin,cuda")?,
            synthetic: build("ssmc-tests", "ssmc-synthetic", "cuda")?,
        })
    }
}

/// Prints the rows of whole models.
fn models(tools: &Tools, folder: &Path, filter: &str) -> Result<()> {
    println!("\n| model | ms | floor ms | must ms | aim ms | peer ms | ours / peer | launches |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut made: Option<&str> = None;
    let mut rows: Vec<&Row> = ROWS.iter().filter(|row| row.name().contains(filter)).collect();
    // Rows of a model stand together: the large ones do not lie beside each other.
    rows.sort_by_key(|row| row.shape);
    let model = folder.join("model");
    for row in rows {
        if made != Some(row.shape) {
            if model.exists() {
                fs::remove_dir_all(&model)?;
            }
            process::check(Command::new(&tools.synthetic).arg(&model).args([row.shape, "bf16"]))?;
            made = Some(row.shape);
        }
        for gemm in row.gemms {
            let name = row.name_with(gemm);
            match row.measure(tools, &model, gemm) {
                Ok(found) => println!("{}", row.line(&name, &found)),
                Err(reason) => println!("| {name} | cannot be had: {reason} | | | | | | |"),
            }
        }
    }
    Ok(())
}

/// What a row took and what its launches do.
#[derive(Debug, PartialEq)]
struct Found {
    seconds: f64,
    floor: f64,
    launches: usize,
}

impl Row {
    fn name(&self) -> String {
        let what = if self.program == "greedy" { "decode" } else { self.program };
        let len = if self.program == "greedy" { String::new() } else { format!(" L{}", self.len) };
        let options = self.options.iter().map(|option| format!(" {option}")).collect::<String>();
        format!("{} {what} B{}{len}{options}", self.shape, self.batch)
    }

    /// The name of the line of a gemm.
    fn name_with(&self, gemm: &str) -> String {
        if self.gemms.len() > 1 { format!("{} --gemm {gemm}", self.name()) } else { self.name() }
    }

    fn measure(&self, tools: &Tools, model: &Path, gemm: &str) -> Result<Found> {
        let mut bench = Command::new(&tools.ssmc);
        bench.arg("bench").arg(model).args(["--target", "cuda", "--gpu", "sm_90a", "--json", "--quiet"]);
        bench.args(["--batch", &self.batch.to_string(), "--len", &self.len.to_string()]);
        bench.args(["--steps", STEPS, "--repetitions", REPETITIONS]).args(self.options);
        bench.args(["--gemm", gemm]);
        let said = process::capture(&mut bench)?.stdout;
        found(&serde_json::from_slice(&said)?, self.program)
    }

    fn line(&self, name: &str, found: &Found) -> String {
        let ms = |seconds: f64| format!("{:.3}", 1e3 * seconds);
        let or_dash = |ms: f64| if ms > 0.0 { format!("{ms}") } else { "-".to_owned() };
        format!(
            "| {name} | {} | {} | {} | {} | {} | {:.2} | {} |",
            ms(found.seconds),
            ms(found.floor),
            or_dash(self.must),
            or_dash(self.aim),
            or_dash(self.peer),
            1e3 * found.seconds / self.peer,
            found.launches,
        )
    }
}

/// The figures of a program among those that `ssmc bench` prints. Decoding is a step and the choice behind it.
fn found(said: &Value, program: &str) -> Result<Found> {
    let named = |name: &str| {
        let programs = said["programs"].as_array().into_iter().flatten();
        programs.into_iter().find(|p| p["program"] == name).ok_or(format!("no program {name} was measured"))
    };
    let number = |value: &Value, what: &str| value.as_f64().ok_or(format!("no {what} was measured"));
    let seconds = number(&named(program)?["median_seconds"], "time")?;
    let work = named(if program == "greedy" { "step" } else { program })?;
    let copy = number(&said["gpu"]["copy_bytes_per_second"], "rate of copies")?;
    let kernels = work["kernels"].as_array().ok_or("no kernel was measured")?;
    let sum = |key: &str| kernels.iter().filter_map(|kernel| kernel[key].as_f64()).sum::<f64>();
    let floor = (sum("bytes") / copy).max(if program == "greedy" { 0.0 } else { sum("flops") / MATRIX_RATE });
    Ok(Found { seconds, floor, launches: sum("launches") as usize })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_of_a_program() {
        let said = json!({
            "gpu": {"name": "a card", "copy_bytes_per_second": 2e12},
            "programs": [
                {"program": "prefill", "median_seconds": 0.5, "kernels": [
                    {"bytes": 4e9, "flops": 1.5e14, "launches": 7}]},
                {"program": "step", "median_seconds": 0.002, "kernels": [
                    {"bytes": 1e9, "flops": 1e9, "launches": 3}, {"bytes": 1e9, "flops": 1e9, "launches": 2}]},
                {"program": "greedy", "median_seconds": 0.0015, "kernels": []},
            ],
        });
        let greedy = found(&said, "greedy").unwrap();
        assert_eq!(greedy, Found { seconds: 0.0015, floor: 1e-3, launches: 5 });
        assert_eq!(found(&said, "prefill").unwrap().floor, 0.2);
        assert!(found(&json!({"programs": []}), "greedy").unwrap_err().to_string().contains("greedy"));
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let names: std::collections::BTreeSet<String> = ROWS.iter().map(Row::name).collect();
        assert_eq!(names.len(), ROWS.len());
        let with_library = ROWS.iter().filter(|row| row.gemms.len() > 1).map(|row| row.name_with("cublaslt"));
        assert_eq!(with_library.filter(|name| name.ends_with("bf16 --gemm cublaslt")).count(), 2);
        assert!(names.contains("mamba2-2.7b decode B64 --compute-dtype bf16 --state-dtype bf16"));
    }
}
