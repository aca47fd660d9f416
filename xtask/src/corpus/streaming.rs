//! One case in pieces: derive programs with state, feed the sequence to them, compare with the whole.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::case::Case;
use super::compare::{error_over_peak, worst_error};
use super::report::{Row, Verdict};
use super::run::{Tools, UNSUPPORTED, empty_row, head};
use crate::{Result, process};

/// The option that lets attention stream.
const WINDOW: &str = "--max-context";

/// The longest sequence of a case: what a language model takes has it on its second axis.
fn longest(case: &Case) -> Result<Option<usize>> {
    let mut longest = None;
    for set in 0..case.sets {
        let inputs = ssmc_npz::read(&case.inputs(set))?;
        longest = longest.max(inputs.values().filter_map(|x| x.shape.get(1).copied()).max());
    }
    Ok(longest)
}

/// How every input set is cut: two ways at random, and step by step.
const CUTS: [&str; 3] = ["1", "2", "steps"];

pub(super) fn run(case: &Case, tools: &Tools) -> Row {
    let mut row = empty_row(case);
    if let Err(error) = derive_and_run(case, tools, &mut row) {
        row.reasons.push(error.to_string());
    }
    if row.verdict == Verdict::Pass && !row.reasons.is_empty() {
        row.verdict = Verdict::Fail;
    }
    row
}

fn derive_and_run(case: &Case, tools: &Tools, row: &mut Row) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let artefact = folder.path().join("model.ssmc");
    let compile = |more: &[String]| {
        let mut command = Command::new(&tools.ssmc);
        command.args(["compile", "--streaming", "--no-golden"]).arg(case.model()).arg("-o").arg(&artefact);
        if let Some(target) = &tools.target {
            command.args(["--target-cpu", target]);
        }
        process::run(command.args(more))
    };
    let start = Instant::now();
    let mut output = compile(&[])?;
    let wants_window = String::from_utf8_lossy(&output.stderr).contains(WINDOW);
    let window =
        if output.status.code() == Some(UNSUPPORTED) && wants_window { longest(case)? } else { None };
    if let Some(steps) = window {
        output = compile(&[WINDOW.to_owned(), steps.to_string()])?;
    }
    row.compile_seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(UNSUPPORTED) => {
            refused(case, &said, row);
            return Ok(());
        }
        _ => return Err(format!("ssmc compile: {}: {}", output.status, head(&said)).into()),
    }
    let start = Instant::now();
    let result = feed(case, tools, &artefact, folder.path(), row);
    row.run_seconds = start.elapsed().as_secs_f64();
    if let Some(steps) = window {
        row.note += &format!("; a window of {steps} steps");
    } else if case.streaming == Some(false) {
        row.note += "; streams although the case expects a refusal";
    }
    result
}

/// A refusal is right where none other is expected, if it says which node stands in the way.
fn refused(case: &Case, said: &str, row: &mut Row) {
    let refusal = said.lines().find_map(|line| line.split_once("no streaming form: "));
    match (refusal, case.streaming) {
        (Some((_, refusal)), Some(false) | None) => row.note = format!("refused: {refusal}"),
        (Some((_, refusal)), Some(true)) => row.reasons.push(format!("refused: {refusal}")),
        (None, _) => {
            row.verdict = Verdict::Unsupported;
            row.reasons.push(head(said));
        }
    }
}

fn feed(case: &Case, tools: &Tools, artefact: &Path, folder: &Path, row: &mut Row) -> Result<()> {
    let output = |set: usize, cut: &str| folder.join(format!("outputs_{set}_{cut}.npz"));
    let mut command = Command::new(&tools.runner);
    command.arg(artefact);
    let runs: Vec<(usize, &str)> = (0..case.sets).flat_map(|set| CUTS.map(|cut| (set, cut))).collect();
    for (set, cut) in &runs {
        command.args(["stream", cut]).arg(case.inputs(*set)).arg(output(*set, cut));
    }
    let done = process::capture(&mut command)?;
    let mut worst = 0f64;
    for (set, cut) in &runs {
        let found = ssmc_npz::read(&output(*set, cut))?;
        let reference = ssmc_npz::read(&case.outputs(*set))?;
        match worst_error(&found, &reference, error_over_peak) {
            Ok(error) => worst = worst.max(error),
            Err(fault) => row.reasons.push(format!("input set {set}, pieces {cut}: {fault}")),
        }
    }
    row.error = Some(worst);
    if worst > case.tolerance {
        row.reasons.push(format!("error {worst:.2e} exceeds the tolerance {:.2e}", case.tolerance));
    }
    state_size(&String::from_utf8(done.stdout)?, runs.len(), row)
}

/// The state must have as many bytes after a sequence as before it.
fn state_size(said: &str, runs: usize, row: &mut Row) -> Result<()> {
    let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("streamed\t")).collect();
    if lines.len() != runs {
        return Err(format!("runner: expected {runs} results, found {}", lines.len()).into());
    }
    let mut sizes = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, before, after] = fields[..] else { return Err(format!("runner: bad line {line:?}").into()) };
        if before != after {
            row.reasons.push(format!("the state grew from {before} to {after} bytes"));
        }
        if !sizes.contains(&before) {
            sizes.push(before);
        }
    }
    row.note = format!("state {} bytes", sizes.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            name: "case".into(),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            error: None,
            tolerance: 1e-5,
            structure: None,
            compile_seconds: 0.0,
            run_seconds: 0.0,
            note: String::new(),
        }
    }

    #[test]
    fn states_must_keep_their_size() {
        let mut kept = row();
        state_size("streamed\t3\t64\t64\nother\nstreamed\t9\t64\t64\n", 2, &mut kept).unwrap();
        assert_eq!((kept.note.as_str(), kept.reasons.len()), ("state 64 bytes", 0));
        let mut grown = row();
        state_size("streamed\t3\t64\t72\n", 1, &mut grown).unwrap();
        assert_eq!(grown.reasons.len(), 1);
        assert!(state_size("", 1, &mut row()).is_err());
    }
}
