//! The tests that do not pass, with reasons: one file of the repository.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::run::Verdict;
use crate::{Result, process};

fn path() -> PathBuf {
    process::root().join("frontend/onnx-node-tests.txt")
}

/// Name and verdict of each test on the list: `fail` or `unsupported`.
pub(super) fn read() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path())?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next()) {
                (Some(name), Some(verdict @ ("fail" | "unsupported"))) => {
                    Ok((name.to_owned(), verdict.to_owned()))
                }
                _ => Err(format!("expected a test, a verdict and a reason, found {line:?}").into()),
            }
        })
        .collect()
}

/// Writes the list anew.
pub(super) fn write(results: &BTreeMap<String, Verdict>) -> Result<()> {
    let mut text = String::from(
        "# The node tests of ONNX that do not pass: test, verdict, reason.\n\
         # Written by `cargo xtask onnx-node-tests --bless all`.\n",
    );
    for (name, verdict) in results {
        let (word, reason) = match verdict {
            Verdict::Fail(reason) => ("fail", reason),
            Verdict::Unsupported(reason) => ("unsupported", reason),
            Verdict::Pass | Verdict::PassGiven | Verdict::OutOfScope(_) => continue,
        };
        writeln!(text, "{name} {word} {}", reason.replace('\n', " "))?;
    }
    Ok(fs::write(path(), text)?)
}

/// What differs from the list: tests that pass and are on it, and tests that do not pass and are not.
pub(super) fn surprises(
    listed: &BTreeMap<String, String>,
    results: &BTreeMap<String, Verdict>,
) -> Vec<String> {
    let mut surprises = Vec::new();
    for (name, verdict) in results {
        let expected = listed.get(name).map(String::as_str);
        let found = match verdict {
            Verdict::Pass | Verdict::PassGiven | Verdict::OutOfScope(_) => None,
            Verdict::Fail(_) => Some("fail"),
            Verdict::Unsupported(_) => Some("unsupported"),
        };
        match (expected, found) {
            (Some(expected), None) => surprises.push(format!("{name}: listed as {expected}, but it is not")),
            (None, Some(found)) => surprises.push(format!("{name}: {found}, but it is not listed")),
            (Some(expected), Some(found)) if expected != found => {
                surprises.push(format!("{name}: listed as {expected}, but it is {found}"));
            }
            _ => {}
        }
    }
    surprises
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_must_be_exact() {
        let listed =
            BTreeMap::from([("a".to_owned(), "fail".to_owned()), ("b".to_owned(), "fail".to_owned())]);
        let results = BTreeMap::from([
            ("a".to_owned(), Verdict::Pass),
            ("b".to_owned(), Verdict::Fail("x".into())),
            ("c".to_owned(), Verdict::Unsupported("y".into())),
        ]);
        assert_eq!(
            surprises(&listed, &results),
            ["a: listed as fail, but it is not", "c: unsupported, but it is not listed"]
        );
    }
}
