//! One case written back as ONNX: check it, run it in onnxruntime beside the original, compare and measure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::case::{Case, Kind};
use super::report::{Row, Verdict};
use super::run::{UNSUPPORTED, empty_row, head};
use crate::{Result, process};

/// Exit code of the script that makes the Python environment where it cannot.
const NO_ENVIRONMENT: i32 = 3;

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
    let optimized = folder.path().join("optimized.onnx");
    let start = Instant::now();
    let output =
        process::run(Command::new(ssmc).arg("optimize").arg(case.model()).arg("-o").arg(&optimized))?;
    row.compile_seconds = start.elapsed().as_secs_f64();
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
    let start = Instant::now();
    let mut command = Command::new(python);
    command.arg(process::root().join("scripts/compare_onnx.py"));
    // A folder has no original that onnxruntime could run.
    match case.kind {
        Kind::Onnx => command.arg(case.model()),
        Kind::Checkpoint | Kind::Invalid { .. } => command.arg("-"),
    };
    command.arg(&optimized).arg(case.tolerance.to_string()).arg("--time");
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
    if let Some(fault) = found["original_fault"].as_str() {
        row.note = format!("the original does not run: {fault}");
    }
    let microseconds = found["microseconds"].as_array().map(|pair| pair.iter().filter_map(Value::as_f64));
    let pair: Vec<f64> = microseconds.into_iter().flatten().collect();
    let [original, optimized] = pair[..] else { return Ok(None) };
    row.note = format!("original {original:.1} us, optimized {optimized:.1} us, {:.2}", original / optimized);
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
    fn the_mean_is_geometric() {
        let times = |original, optimized| Times { original, optimized };
        let table = table(&[("a".to_owned(), times(8.0, 1.0)), ("b".to_owned(), times(1.0, 2.0))]);
        assert!(table.contains("| a | 8.0 | 1.0 | 8.00 |"), "{table}");
        assert!(table.ends_with("| geometric mean | | | 2.00 |\n"), "{table}");
    }
}
