//! Results, for people and for programs.

use std::fmt;

use serde_json::{Value, json};

use super::expect::Structure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Fail,
    Unsupported,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Unsupported => "unsupported",
        }
    }
}

/// What became of a case.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) verdict: Verdict,
    /// Why it did not pass.
    pub(super) reasons: Vec<String>,
    /// Worst error over all outputs of all input sets, where outputs were computed.
    pub(super) error: Option<f64>,
    pub(super) tolerance: f64,
    pub(super) structure: Option<Structure>,
    pub(super) compile_seconds: f64,
    pub(super) run_seconds: f64,
    /// What else is known of the case.
    pub(super) note: String,
}

impl Row {
    /// A case of which nothing bad is known yet.
    pub(super) fn new(name: &str, tolerance: f64) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Pass,
            reasons: Vec::new(),
            error: None,
            tolerance,
            structure: None,
            compile_seconds: 0.0,
            run_seconds: 0.0,
            note: String::new(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11} {:<36}", self.verdict.name(), self.name)?;
        if let Some(error) = self.error {
            write!(f, "  error {error:.1e} of {:.1e}", self.tolerance)?;
        }
        if let Some(structure) = &self.structure {
            write!(f, "  recurrences {}  loops {}", structure.recurrences, structure.generic_loops)?;
        }
        write!(f, "  {:.1} s + {:.1} s", self.compile_seconds, self.run_seconds)?;
        if !self.note.is_empty() {
            write!(f, "\n            {}", self.note.replace('\n', "\n            "))?;
        }
        for reason in &self.reasons {
            write!(f, "\n            {}", reason.replace('\n', "\n            "))?;
        }
        Ok(())
    }
}

/// Version of the form of [`json()`].
const SCHEMA: u32 = 1;

/// All results. Errors that are not finite are null.
pub(super) fn json(rows: &[Row]) -> Value {
    let cases: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "case": row.name,
                "verdict": row.verdict.name(),
                "reasons": row.reasons,
                "error": row.error,
                "tolerance": row.tolerance,
                "recurrences": row.structure.as_ref().map(|s| &s.recurrences.0),
                "generic_loops": row.structure.as_ref().map(|s| s.generic_loops),
                "compile_seconds": row.compile_seconds,
                "run_seconds": row.run_seconds,
                "note": row.note,
            })
        })
        .collect();
    json!({ "schema": SCHEMA, "cases": cases })
}

/// How many cases ended how.
pub(super) struct Summary {
    passed: usize,
    pub(super) failed: usize,
    unsupported: usize,
}

impl Summary {
    pub(super) fn of(rows: &[Row]) -> Self {
        let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
        Self {
            passed: count(Verdict::Pass),
            failed: count(Verdict::Fail),
            unsupported: count(Verdict::Unsupported),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} unsupported", self.passed, self.failed, self.unsupported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_summary() {
        let row = |verdict, reasons: &[&str]| Row {
            name: "case".into(),
            verdict,
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            error: Some(3e-7),
            tolerance: 1e-5,
            structure: Some(Structure::default()),
            compile_seconds: 1.0,
            run_seconds: 0.25,
            note: String::new(),
        };
        let rows =
            [row(Verdict::Pass, &[]), row(Verdict::Fail, &["a\nb"]), row(Verdict::Unsupported, &["c"])];
        assert_eq!(Summary::of(&rows).to_string(), "1 passed, 1 failed, 1 unsupported");
        let line = rows[0].to_string();
        assert!(line.starts_with("pass ") && line.contains("error 3.0e-7 of 1.0e-5"), "{line}");
        assert!(line.contains("recurrences none  loops 0  1.0 s + 0.2 s"), "{line}");
        assert_eq!(rows[1].to_string().lines().count(), 3);
        assert_eq!(json(&rows)["cases"][1]["verdict"], "fail");
    }
}
