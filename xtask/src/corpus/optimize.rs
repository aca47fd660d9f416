//! One case written back as ONNX: check it, run it in onnxruntime beside the original, compare and measure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::case::{Case, Kind};
use super::report::{Row, Verdict};
use super::run::{UNSUPPORTED, empty_row, head};
use crate::{Result, process};

/// The operator set that has recurrences as operators; onnxruntime does not know it.
const LATEST: &str = "27";

/// Exit code of the script that makes the Python environment where it cannot.
const NO_ENVIRONMENT: i32 = 3;

/// How much longer than the original a written model may take.
const SLOWER: f64 = 1.05;

/// Microseconds of one run.
pub(super) struct Times {
    pub(super) original: f64,
    pub(super) optimized: f64,
}

/// The interpreter that has onnxruntime; `None`, with a remark, where none can be had.
pub(super) fn python() -> Result<Option<PathBuf>> {
    let output = process::run(&mut Command::new(process::root().join("scripts/onnxruntime.sh")))?;
    match output.status.code() {
        Some(0) => Ok(Some(PathBuf::from(String::from_utf8(output.stdout)?.trim()))),
        Some(NO_ENVIRONMENT) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("skipped: onnxruntime cannot be installed here: {}", head(&said));
            Ok(None)
        }
        _ => Err(format!("scripts/onnxruntime.sh: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

pub(super) fn run(case: &Case, ssmc: &Path, python: &Path) -> (Row, Option<Times>) {
    let mut row = empty_row(case);
    let times = match optimize_and_compare(case, ssmc, python, &mut row) {
        Ok(times) => times,
        Err(error) => {
            row.reasons.push(error.to_string());
            None
        }
    };
    if row.verdict == Verdict::Pass && !row.reasons.is_empty() {
        row.verdict = Verdict::Fail;
    }
    (row, times)
}

fn optimize_and_compare(case: &Case, ssmc: &Path, python: &Path, row: &mut Row) -> Result<Option<Times>> {
    let folder = tempfile::tempdir()?;
    let [optimized, latest] = ["optimized.onnx", "latest.onnx"].map(|name| folder.path().join(name));
    let start = Instant::now();
    for (file, options) in [(&optimized, &[][..]), (&latest, &["--opset", LATEST])] {
        let mut command = Command::new(ssmc);
        let output =
            process::run(command.arg("optimize").arg(case.model()).arg("-o").arg(file).args(options))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(UNSUPPORTED) => {
                row.verdict = Verdict::Unsupported;
                row.reasons.push(head(&said));
                return Ok(None);
            }
            _ => return Err(format!("ssmc optimize: {}: {}", output.status, head(&said)).into()),
        }
    }
    row.compile_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut command = Command::new(python);
    command.arg(process::root().join("scripts/compare_onnx.py"));
    // A folder has no original that onnxruntime could run.
    match case.kind {
        Kind::Onnx => command.arg(case.model()),
        Kind::Checkpoint | Kind::Invalid { .. } => command.arg("-"),
    };
    command.arg(&optimized).arg(case.tolerance.to_string()).arg("--time");
    command.arg(format!("--latest={}", latest.display()));
    for set in 0..case.sets {
        command.arg(case.inputs(set)).arg(case.outputs(set));
    }
    let output = process::run(&mut command)?;
    row.run_seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(format!("onnxruntime: {last}").into());
    }
    read(&serde_json::from_slice(&output.stdout)?, row)
}

/// What the comparison found.
fn read(found: &Value, row: &mut Row) -> Result<Option<Times>> {
    row.error = Some(found["error"].as_f64().ok_or("the comparison gives no error")?);
    let faults = found["faults"].as_array().ok_or("the comparison gives no faults")?;
    row.reasons.extend(faults.iter().filter_map(Value::as_str).map(str::to_owned));
    let mut notes = Vec::new();
    notes.extend(found["latest"].as_f64().map(|error| format!("opset {LATEST}: error {error:.1e}")));
    notes.extend(found["original_fault"].as_str().map(|fault| format!("the original does not run: {fault}")));
    let microseconds = found["microseconds"].as_array().map(|pair| pair.iter().filter_map(Value::as_f64));
    let pair: Vec<f64> = microseconds.into_iter().flatten().collect();
    let [original, optimized] = pair[..] else {
        row.note = notes.join("; ");
        return Ok(None);
    };
    let ratio = original / optimized;
    notes.insert(0, format!("original {original:.1} us, optimized {optimized:.1} us, {ratio:.2}"));
    row.note = notes.join("; ");
    if optimized > SLOWER * original {
        row.reasons.push(format!("onnxruntime takes {:.2} times as long", optimized / original));
    }
    Ok(Some(Times { original, optimized }))
}

/// The times as a table, and the geometric mean of the ratios.
pub(super) fn table(times: &[(String, Times)]) -> String {
    let mut text =
        "| case | original us | optimized us | original / optimized |\n|---|---|---|---|\n".to_owned();
    let mut logarithms = 0f64;
    for (name, times) in times {
        let ratio = times.original / times.optimized;
        logarithms += ratio.ln();
        text += &format!("| {name} | {:.1} | {:.1} | {ratio:.2} |\n", times.original, times.optimized);
    }
    if !times.is_empty() {
        let mean = (logarithms / times.len() as f64).exp();
        text += &format!("| geometric mean | | | {mean:.2} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_models_fail() {
        let found = |optimized: f64| {
            let found = serde_json::json!({"error": 0.0, "faults": [], "microseconds": [100.0, optimized]});
            let mut row = Row::new("case", 1e-5);
            read(&found, &mut row).unwrap();
            row.reasons
        };
        assert_eq!(found(104.0), Vec::<String>::new());
        assert_eq!(found(110.0), ["onnxruntime takes 1.10 times as long"]);
    }

    #[test]
    fn the_mean_is_geometric() {
        let times = |original, optimized| Times { original, optimized };
        let table = table(&[("a".to_owned(), times(8.0, 1.0)), ("b".to_owned(), times(1.0, 2.0))]);
        assert!(table.contains("| a | 8.0 | 1.0 | 8.00 |"), "{table}");
        assert!(table.ends_with("| geometric mean | | | 2.00 |\n"), "{table}");
    }
}
