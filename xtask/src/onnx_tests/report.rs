//! Results per operator, for people and for `docs/onnx.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use regex::Regex;
use serde_json::{Value, json};

use super::run::Verdict;
use crate::{Result, process};

/// What is known of tests that do not pass, by operator.
const NOTES: &[(&str, &str)] = &[
    (
        "DFT",
        "The input is real, so the imaginary part of bin 5 of 10 is 0 exactly, as a test of the importer asserts of the\n\
         reference interpreter; the expected number is the rounding error of a transform in f32, larger than the\n\
         absolute tolerance.",
    ),
    ("NonMaxSuppression", DATA_SIZED),
    ("Unique", DATA_SIZED),
];
const DATA_SIZED: &str =
    "The size of the result follows from its elements; sizes must follow from those of the inputs.";

/// A test that was run.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) op: String,
    pub(super) name: String,
    pub(super) verdict: Verdict,
    /// How tract does, if it was run.
    pub(super) tract: Option<Verdict>,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) given: usize,
    pub(super) failed: usize,
    pub(super) unsupported: usize,
    pub(super) outside: usize,
}

impl Counts {
    pub(super) fn of<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut counts = Self::default();
        for row in rows {
            match row.verdict {
                Verdict::Pass => counts.passed += 1,
                Verdict::PassGiven => {
                    counts.passed += 1;
                    counts.given += 1;
                }
                Verdict::Fail(_) => counts.failed += 1,
                Verdict::Unsupported(_) => counts.unsupported += 1,
                Verdict::OutOfScope(_) => counts.outside += 1,
            }
        }
        counts
    }

    /// The tests in scope that tract passes; `None` if it was not run.
    fn tract<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<usize> {
        let verdicts: Option<Vec<&Verdict>> = rows.into_iter().map(|row| row.tract.as_ref()).collect();
        Some(verdicts?.into_iter().filter(|v| matches!(v, Verdict::Pass | Verdict::PassGiven)).count())
    }

    /// Tests that count.
    pub(super) fn in_scope(self) -> usize {
        self.passed + self.failed + self.unsupported
    }
}

fn by_op(rows: &[Row]) -> BTreeMap<&str, Vec<&Row>> {
    let mut ops: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        ops.entry(&row.op).or_default().push(row);
    }
    ops
}

/// The table for the terminal.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for (op, rows) in by_op(rows) {
        let counts = Counts::of(rows.iter().copied());
        if counts.in_scope() > 0 {
            let given = match counts.given {
                0 => String::new(),
                n => format!(", {n} with inputs given when compiling"),
            };
            let tract = Counts::tract(rows.iter().copied());
            let tract = tract.map_or_else(String::new, |n| format!(", tract {n}"));
            let _ = writeln!(text, "{op:<32} {:>4} of {:>4}{tract}{given}", counts.passed, counts.in_scope());
        }
    }
    if let Some(n) = Counts::tract(rows) {
        let _ = writeln!(text, "tract passes {n} of {}", Counts::of(rows).in_scope());
    }
    text
}

/// All results for programs.
pub(super) fn json(rows: &[Row]) -> Value {
    let tests: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (verdict, reason) = in_words(&row.verdict);
            let tract = row.tract.as_ref().map(in_words);
            let tract = tract.map(|(verdict, reason)| json!({"verdict": verdict, "reason": reason}));
            json!({"test": row.name, "op": row.op, "verdict": verdict, "reason": reason, "tract": tract})
        })
        .collect();
    json!({"schema": 1, "tests": tests})
}

fn in_words(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Pass => ("pass", String::new()),
        Verdict::PassGiven => ("pass", "inputs that say how the node works were given when compiling".into()),
        Verdict::Fail(reason) => ("fail", reason.clone()),
        Verdict::Unsupported(reason) => ("unsupported", reason.clone()),
        Verdict::OutOfScope(reason) => ("out of scope", (*reason).to_owned()),
    }
}

/// Names in the table of operators, by domain.
fn operators() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = fs::read_to_string(process::root().join("frontend/src/onnx/registry.rs"))?;
    let entry = Regex::new(r#"(?m)^\s+(op|old|vendor)\(\s*"(\w+)""#)?;
    let mut domains: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for groups in entry.captures_iter(&text) {
        let domain = if &groups[1] == "vendor" { "com.microsoft" } else { "ai.onnx" };
        domains.entry(domain.into()).or_default().insert(groups[2].to_owned());
    }
    Ok(domains)
}

/// Writes `docs/onnx.md`.
pub(super) fn write(rows: &[Row]) -> Result<()> {
    let counts = Counts::of(rows);
    let mut text = String::from(
        "# ONNX operators\n\nGenerated by `cargo xtask onnx-node-tests --bless all`; do not edit.\n\n\
         Operator sets from version 7 to 28, each with the meaning of its version.\n\n## Imported operators\n",
    );
    for (domain, names) in operators()? {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        write!(text, "\n{domain} ({}): {}\n", names.len(), names.join(", "))?;
    }
    write!(
        text,
        "\n## Node tests\n\nThe backend tests of the package `onnx` 1.22.0, compiled and run on the CPU, compared with its\n\
         tolerances (1e-3 relative, 1e-7 absolute): {} of {} in scope pass. In {} of them inputs that say how a node works\n\
         (axes, shapes, bounds), or of how many tensors a sequence consists, were given when compiling, since shapes must\n\
         be known then; the column \"given\" counts them. {} tests are out of scope:\n\
         strings, image files, random numbers, training, `ai.onnx.ml`, `ai.onnx.preview` and operator sets before version 7.\n\
         The last column has the tests that tract-onnx 0.23 passes, with the same inputs given where it needs them: {} in\n\
         all.\n\n\
         | operator | pass | of these given | in scope | tract |\n|---|---|---|---|---|\n",
        counts.passed,
        counts.in_scope(),
        counts.given,
        counts.outside,
        Counts::tract(rows).unwrap_or(0),
    )?;
    for (op, rows) in by_op(rows) {
        let counts = Counts::of(rows.iter().copied());
        if counts.in_scope() > 0 {
            let tract = Counts::tract(rows.iter().copied()).unwrap_or(0);
            let Counts { passed, given, .. } = counts;
            writeln!(text, "| {op} | {passed} | {given} | {} | {tract} |", counts.in_scope())?;
        }
    }
    text.push_str("\n## Tests that do not pass\n");
    for (op, rows) in by_op(rows) {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for row in rows {
            if let Verdict::Fail(reason) | Verdict::Unsupported(reason) = &row.verdict {
                reasons.entry(reason).or_default().push(&row.name);
            }
        }
        if !reasons.is_empty() {
            write!(text, "\n### {op}\n\n")?;
            if let Some((_, note)) = NOTES.iter().find(|(of, _)| *of == op) {
                write!(text, "{note}\n\n")?;
            }
        }
        for (reason, names) in reasons {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            writeln!(text, "- {}: {}", names.join(", "), reason.replace('|', "\\|"))?;
        }
    }
    Ok(fs::write(process::root().join("docs/onnx.md"), text)?)
}
