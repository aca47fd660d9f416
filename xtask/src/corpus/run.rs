//! One case: compile, run, compare.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::case::{Case, Greedy, Kind};
use super::compare::{error_over_peak, root_mean_square, worst_error};
use super::expect::Structure;
use super::report::{Row, Verdict};
use crate::{Result, process};

/// The programs that a case needs.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) ssmc: PathBuf,
    pub(super) runner: PathBuf,
    /// Given if kernels are to be compared with their machine code.
    pub(super) kernel_check: Option<PathBuf>,
    /// Given if weights are stored in another format than they come in.
    pub(super) weights: Option<Storage>,
    pub(super) target: Option<String>,
}

/// A format of weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    name: &'static str,
    /// The largest relative root mean square by which outputs may differ: what docs/weights.md promises.
    bound: f64,
}

impl Storage {
    const ALL: [Self; 4] = [
        Self { name: "bf16", bound: 0.01 },
        Self { name: "f16", bound: 0.01 },
        Self { name: "int8", bound: 0.03 },
        Self { name: "int4", bound: 0.08 },
    ];

    pub(super) fn parse(name: &str) -> Result<Self> {
        let known = || Self::ALL.map(|storage| storage.name).join(", ");
        let found = Self::ALL.into_iter().find(|storage| storage.name == name);
        found.ok_or_else(|| format!("--weights: expected one of {}, found {name}", known()).into())
    }
}

impl Tools {
    /// Whether the target is of an architecture that this machine is not of.
    pub(super) fn is_emulated(&self) -> bool {
        let is_of = |arch: &str| {
            let prefix = if arch == "x86_64" { "x86-64-" } else { arch };
            self.target.as_ref().is_some_and(|target| target.starts_with(prefix))
        };
        ["x86_64", "aarch64"].into_iter().any(|arch| arch != std::env::consts::ARCH && is_of(arch))
    }
}

/// Exit codes of `ssmc`.
pub(super) const UNSUPPORTED: i32 = 3;
const INVALID: i32 = 6;

/// A row without results.
pub(super) fn empty_row(case: &Case) -> Row {
    Row::new(&case.name, case.tolerance)
}

pub(super) fn run(case: &Case, tools: &Tools) -> Row {
    let mut row = empty_row(case);
    if let Some(storage) = &tools.weights {
        row.tolerance = storage.bound;
    }
    let result = match &case.kind {
        Kind::Invalid { node, attribute } => refuse(case, tools, node, attribute, &mut row),
        Kind::Onnx | Kind::Checkpoint => compile_and_run(case, tools, &mut row),
    };
    if let Err(error) = result {
        row.reasons.push(error.to_string());
    }
    if row.verdict == Verdict::Pass && !row.reasons.is_empty() {
        row.verdict = Verdict::Fail;
    }
    row
}

/// `ssmc check` must call the file invalid and name node and attribute.
fn refuse(case: &Case, tools: &Tools, node: &str, attribute: &str, row: &mut Row) -> Result<()> {
    let start = Instant::now();
    let output = process::run(Command::new(&tools.ssmc).arg("check").arg(case.model()))?;
    row.compile_seconds = start.elapsed().as_secs_f64();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.code() != Some(INVALID) {
        row.reasons.push(format!("expected exit code {INVALID} of ssmc check, found {}", output.status));
    }
    for (what, name) in [("node", node), ("attribute", attribute)] {
        if !said.contains(name) {
            row.reasons.push(format!("the message does not name {what} {name}: {}", head(&said)));
        }
    }
    Ok(())
}

fn compile_and_run(case: &Case, tools: &Tools, row: &mut Row) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let artefact = folder.path().join("model.ssmc");
    let mut command = Command::new(&tools.ssmc);
    command.arg("compile").arg(case.model()).arg("-o").arg(&artefact);
    match tools.target.as_deref() {
        Some("cuda") => _ = command.args(["--target", "cuda"]),
        // The runner takes the level of what it runs on; each kernel of the other is compared under an emulator.
        Some(target) if tools.is_emulated() => {
            command.args(["--target-cpu", "native", "--target-cpu", target]);
        }
        Some(target) => _ = command.args(["--target-cpu", target]),
        None => {}
    }
    if let Some(storage) = &tools.weights {
        command.args(["--weights", storage.name]);
    }
    if tools.kernel_check.is_some() {
        command.arg("--dump-stages").arg(stages(folder.path()));
    }
    let start = Instant::now();
    let output = process::run(&mut command)?;
    row.compile_seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(UNSUPPORTED) => {
            row.verdict = Verdict::Unsupported;
            row.reasons.push(head(&said));
            return Ok(());
        }
        _ => return Err(format!("ssmc compile: {}: {}", output.status, head(&said)).into()),
    }
    let start = Instant::now();
    let result = run_artefact(case, tools, &artefact, folder.path(), row);
    row.run_seconds = start.elapsed().as_secs_f64();
    result
}

fn run_artefact(case: &Case, tools: &Tools, artefact: &Path, folder: &Path, row: &mut Row) -> Result<()> {
    let output = |set: usize| folder.join(format!("outputs_{set}.npz"));
    let mut command = Command::new(&tools.runner);
    command.arg(artefact).arg("launches");
    for set in 0..case.sets {
        command.arg("run").arg(case.inputs(set)).arg(output(set));
    }
    // What models of random weights choose says nothing of a format.
    let greedy = if tools.weights.is_none() { case.greedy.as_slice() } else { &[] };
    for greedy in greedy {
        let tokens = greedy.tokens.first().map_or(0, Vec::len);
        command.args(["greedy", &tokens.to_string(), &print_rows(&greedy.prompts)]);
    }
    let done = process::capture(&mut command)?;
    let said = String::from_utf8(done.stdout)?;

    let mut worst = 0f64;
    for set in 0..case.sets {
        let (found, reference) = (ssmc_npz::read(&output(set))?, ssmc_npz::read(&case.outputs(set))?);
        let error = if tools.weights.is_some() { root_mean_square } else { error_over_peak };
        match worst_error(&found, &reference, error) {
            Ok(error) => worst = worst.max(error),
            Err(fault) => row.reasons.push(format!("input set {set}: {fault}")),
        }
    }
    row.error = Some(worst);
    if worst > row.tolerance {
        row.reasons.push(format!("error {worst:.2e} exceeds the tolerance {:.2e}", row.tolerance));
    }
    row.reasons.extend(greedy_faults(greedy, &said));
    let structure = Structure::parse(&said)?;
    if let Some(expect) = &case.expect {
        row.reasons.extend(expect.fault(&structure));
        let missing = expect.missing(&structure);
        if !missing.0.is_empty() {
            row.note = format!("not raised: {missing}");
        }
    }
    row.structure = Some(structure);
    if let Some(checker) = &tools.kernel_check {
        let mut command = Command::new(checker);
        command.arg(artefact).arg(stages(folder)).arg(case.inputs(0));
        if tools.is_emulated() {
            command.args(&tools.target);
        }
        let output = process::run(&mut command)?;
        if !output.status.success() {
            row.reasons.push(format!("kernels: {}", head(&String::from_utf8_lossy(&output.stderr))));
        }
    }
    Ok(())
}

/// Where the texts of the kernels are.
fn stages(folder: &Path) -> PathBuf {
    folder.join("stages")
}

/// What is wrong with the `greedy` lines of the runner.
fn greedy_faults(expected: &[Greedy], said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("greedy\t")).collect();
    let wanted: Vec<String> = expected
        .iter()
        .flat_map(|greedy| {
            ["forward", "step", "generate"].map(|way| format!("{way}\t{}", print_rows(&greedy.tokens)))
        })
        .collect();
    if lines.len() != wanted.len() {
        return vec![format!("greedy: expected {} results, found {}", wanted.len(), lines.len())];
    }
    let pairs = wanted.iter().zip(lines).filter(|(wanted, found)| wanted != found);
    pairs.map(|(wanted, found)| format!("greedy tokens: expected {wanted}, found {found}")).collect()
}

fn print_rows(rows: &[Vec<u64>]) -> String {
    let row = |row: &Vec<u64>| row.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    rows.iter().map(row).collect::<Vec<_>>().join(";")
}

/// The first lines of a message.
pub(super) fn head(message: &str) -> String {
    const LINES: usize = 8;
    message.trim().lines().take(LINES).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_lines_are_compared_in_every_way() {
        let expected = [Greedy { prompts: vec![vec![1], vec![2]], tokens: vec![vec![3, 4], vec![5, 6]] }];
        let said = |step: &str| {
            let lines = "greedy\tforward\t3 4;5 6\ngreedy\tstep";
            format!("launch\ts6\t1\tfalse\n{lines}\t{step}\ngreedy\tgenerate\t3 4;5 6\n")
        };
        assert_eq!(greedy_faults(&expected, &said("3 4;5 6")), Vec::<String>::new());
        assert!(greedy_faults(&expected, &said("3 4;5 7"))[0].contains("found step\t3 4;5 7"));
        assert!(greedy_faults(&expected, "")[0].contains("expected 3 results, found 0"));
    }
}
