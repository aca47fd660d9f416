//! Other programs: cargo and what it builds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::Result;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the repository")
}

/// `cargo`, in the root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// What `cargo metadata` says about the workspace's own packages.
pub(crate) fn metadata() -> Result<Value> {
    let output = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Builds a program of a package and returns its path.
pub(crate) fn build(package: &str, binary: &str, profile: &str, more: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--package", package, "--bin", binary, "--profile", profile])
        .args(more);
    check(&mut command)?;
    let metadata = metadata()?;
    let target = metadata["target_directory"].as_str().ok_or("cargo metadata names no target directory")?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(Path::new(target).join(folder).join(binary))
}

/// Runs the command with the terminal as its own; it must succeed.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{}: {error}", describe(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", describe(command)).into()) }
}

/// Runs the command and keeps what it prints; it must succeed.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    let output = run(command)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{}: {}\n{}", describe(command), output.status, String::from_utf8_lossy(&output.stderr))
        .into())
}

/// Runs the command and keeps what it prints, however it ends.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    command.output().map_err(|error| format!("{}: {error}", describe(command)).into())
}

fn describe(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
