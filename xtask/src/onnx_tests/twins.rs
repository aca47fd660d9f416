//! Operators that are functions: a node and its expansion compile to the same kernels.

use std::fs;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use super::archive::Test;
use super::run::Tools;
use crate::{Result, process};

/// What ends the names of expansions.
const EXPANDED: &str = "_expanded";

/// Compares the launch lists of all tests whose names match with those of their expansions; whether all are equal. A
/// model that does not compile as it is, without inputs given, is an error.
pub(super) fn compare(tests: &[Test], tools: &Tools, pattern: &Regex) -> Result<bool> {
    let (mut n_equal, mut n_pairs) = (0, 0);
    for test in tests.iter().filter(|test| pattern.is_match(&test.name)) {
        let name = format!("{}{EXPANDED}", test.name);
        let Some(twin) = tests.iter().find(|twin| twin.name == name) else { continue };
        let (plain, expanded) = (launches(test, tools)?, launches(twin, tools)?);
        n_pairs += 1;
        if plain == expanded {
            n_equal += 1;
        } else {
            println!("{}: {}", test.name, difference(&plain, &expanded));
        }
    }
    println!("{n_equal} of {n_pairs} expanded twins launch the kernels of the plain form");
    Ok(n_equal == n_pairs && n_pairs > 0)
}

/// The launches of the first program that a model compiles to.
fn launches(test: &Test, tools: &Tools) -> Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.onnx");
    fs::write(&file, &test.model)?;
    let done = process::run(Command::new(&tools.ssmc).arg("inspect").arg(&file).arg("--json"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{}: inspect: {}: {said}", test.name, done.status).into());
    }
    let facts: Value = serde_json::from_slice(&done.stdout)?;
    let list = facts["programs"][0]["launch_list"].as_array();
    list.cloned().ok_or_else(|| format!("{}: inspect gives no launch list", test.name).into())
}

/// The kernels of both lists.
fn difference(plain: &[Value], expanded: &[Value]) -> String {
    let names = |list: &[Value]| -> String {
        let name = |launch: &Value| {
            let text = |key: &str| launch[key].as_str().unwrap_or("").to_owned();
            format!("{} {}", text("kernel"), text("text_hash").chars().take(8).collect::<String>())
        };
        list.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    format!("[{}] but expanded [{}]", names(plain), names(expanded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_shown() {
        let launch = |hash: &str| vec![json!({"kernel": "k", "text_hash": hash, "grid": "1", "dims": []})];
        assert_eq!(difference(&launch("aa"), &launch("bb")), "[k aa] but expanded [k bb]");
    }
}
