//! Runs the `ssmc` binary.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The small language model of this repository.
pub(crate) fn tiny_lm() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-lm"))
}

/// A path as an argument.
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("the paths of these tests are UTF-8").to_owned()
}

/// Runs `ssmc` with these arguments.
pub(crate) fn ssmc<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ssmc")).args(args).output().expect("the binary starts")
}

/// Runs `ssmc`, which must exit with `code`; stdout and stderr.
pub(crate) fn expect(code: i32, args: &[&str]) -> (String, String) {
    let output = ssmc(args);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the output is UTF-8");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "ssmc {args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// Runs `ssmc --json`, which must succeed and print an object of the schema.
#[allow(dead_code, reason = "not every test binary uses it")]
pub(crate) fn json(schema: &str, args: &[&str]) -> Value {
    let (stdout, _) = expect(0, &[&["--json"], args].concat());
    let value: Value = serde_json::from_str(&stdout).expect("stdout is JSON");
    assert_eq!(value["schema"], schema);
    value
}
