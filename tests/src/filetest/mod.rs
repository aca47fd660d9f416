//! Tests that are text files: a graph, what is done with it, and what comes of it.
//!
//! ```text
//! ;;! test = "run"
//! func @twice(%x: f32[2]) {
//!   %1 = add %x, %x : f32[2]
//!   return %1 "y"
//! }
//! ;; run: x=[1, 2]
//! ;; => y=[2, 4]
//! ```
//!
//! Lines of `;;!` at the head say what is done. What is expected stands in the lines of `;;` at the end, which
//! `SSMC_BLESS=1` rewrites, or, for faults, as `;; error: CODE` in the line of the fault.

mod code;
#[cfg(feature = "llvm")]
mod compiled;
mod header;
mod run;
mod subtests;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

pub use header::{Header, Parts};

/// Whether files are rewritten instead of compared.
pub fn is_blessing() -> bool {
    std::env::var_os("SSMC_BLESS").is_some()
}

/// All test files below a folder, by name.
///
/// # Errors
/// A folder cannot be read.
pub fn find(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(find(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "ssm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Runs one file.
///
/// # Errors
/// Why it fails: it cannot be read, its header is wrong, or what came of it is not what it expects.
pub fn run(path: &Path, bless: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let blessed = evaluate(&text)?;
    if blessed == text {
        return Ok(());
    }
    if bless {
        return fs::write(path, blessed).map_err(|error| error.to_string());
    }
    Err(format!("expected\n{text}\nfound\n{blessed}\nSSMC_BLESS=1 accepts it"))
}

/// The file as it should be.
///
/// # Errors
/// The header is wrong, or a sub-test that cannot be blessed fails.
pub fn evaluate(text: &str) -> Result<String, String> {
    let parts = Parts::of(text);
    let header = Header::parse(text)?;
    let expected = match header.test.as_str() {
        "cat" => subtests::cat(parts.body)?,
        "verify" => {
            subtests::verify(parts.body, header.stage)?;
            Vec::new()
        }
        "canonical" => subtests::canonical(parts.body)?,
        "raised" => subtests::raised(parts.body)?,
        "rewrite" => subtests::rewritten(parts.body, &header)?,
        "explain" => subtests::explained(parts.body)?,
        "infer" => subtests::inferred(parts.body, &parts.expected)?,
        "run" => run::run(parts.body, &header, &parts.expected)?,
        "lower" => code::lowered(parts.body, &header)?,
        "legalize" => code::legalized(parts.body, &header)?,
        "interp" => code::interpreted(parts.body, &parts.expected)?,
        #[cfg(feature = "llvm")]
        "llvm" => code::llvm(parts.body, &header)?,
        // Without LLVM there is nothing to compare with.
        #[cfg(not(feature = "llvm"))]
        "llvm" => return Ok(text.to_owned()),
        other => return Err(format!("test = {other:?}: no such test")),
    };
    let mut file = parts.body.to_owned();
    for line in expected {
        file.push_str(if line.is_empty() { ";;" } else { ";; " });
        file.push_str(&line);
        file.push('\n');
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str =
        ";;! test = \"run\"\nfunc @f(%x: f32[2]) {\n  %1 = add %x, %x : f32[2]\n  return %1 \"y\"\n}\n";

    #[test]
    fn results_are_filled_in() {
        let good = format!("{RUN};; run: x=[1, 2]\n;; => y=[2, 4]\n");
        assert_eq!(evaluate(&good), Ok(good.clone()));
        let wrong = good.replace("y=[2, 4]", "y=[2, 5]");
        assert_eq!(evaluate(&wrong), Ok(good));
    }

    #[test]
    fn a_wrong_file_fails_and_is_blessed() {
        let dir = std::env::temp_dir().join(format!("ssmc-filetest-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.ssm");
        fs::write(&path, format!("{RUN};; run: x=[1, 2]\n;; => y=[2, 5]\n")).unwrap();
        assert!(run(&path, false).unwrap_err().contains("y=[2, 4]"));
        run(&path, true).unwrap();
        run(&path, false).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn faults_are_expected_by_line() {
        let bad = |code: &str| {
            format!(
                ";;! test = \"verify\"\nfunc @f(%x: f32[2]) {{\n  %1 = no_op %x : f32[2]{code}\n  return %1 \"y\"\n}}\n"
            )
        };
        let good = bad(" ;; error: ssmc::text::syntax");
        assert_eq!(evaluate(&good), Ok(good.clone()));
        assert!(evaluate(&bad("")).unwrap_err().contains("ssmc::text::syntax"));
        assert!(evaluate(&bad(" ;; error: ssmc::ir::invalid_op")).is_err());
    }

    #[test]
    fn headers_are_checked() {
        assert!(evaluate("func @f() {\n  return\n}\n").unwrap_err().contains("test"));
        assert!(evaluate(";;! test = \"dance\"\n").unwrap_err().contains("dance"));
        assert!(evaluate(";;! toast = \"cat\"\n").unwrap_err().contains("toast"));
    }
}
