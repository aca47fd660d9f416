//! Compiles every case of a corpus folder and runs the artefacts in a process of their own.

mod case;
mod compare;
mod expect;
mod optimize;
mod report;
mod run;
mod streaming;

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::args::Args;
use crate::progress::Bar;
use crate::{Result, process};
pub(crate) use compare::error_over_peak;

use case::{Case, Kind};
use run::Tools;

pub(crate) const OPTIONS: &[&str] =
    &["kind", "filter", "target", "stage", "json", "bin", "runner", "profile"];

/// Runs the cases; whether none failed.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    let (flags, args): (Vec<String>, Vec<String>) =
        args.iter().cloned().partition(|arg| matches!(arg.as_str(), "--streaming" | "--optimize"));
    let task = match flags.first().map(String::as_str) {
        None => Task::Run,
        Some("--streaming") => Task::Stream,
        Some(_) => Task::Optimize,
    };
    let args = Args::parse(&args, OPTIONS)?;
    let [folder] = &args.words[..] else { return Err("expected one corpus folder".into()) };
    run(Path::new(folder), &args, task)
}

/// What is done with each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Compile and run it.
    Run,
    /// Run it in pieces.
    Stream,
    /// Write it back as ONNX.
    Optimize,
}

/// Does the task with the cases of a folder; whether none failed.
pub(crate) fn run(folder: &Path, args: &Args, task: Task) -> Result<bool> {
    let kind = args.get("kind");
    if !matches!(kind, None | Some("onnx" | "checkpoint")) {
        return Err("--kind: expected onnx or checkpoint".into());
    }
    let kernel_stage = match args.get("stage") {
        None => false,
        Some("kernel") => true,
        Some(other) => return Err(format!("--stage: expected kernel, found {other}").into()),
    };
    let filter = Regex::new(args.get("filter").unwrap_or(""))?;
    let mut cases = cases(folder, kind, &filter)?;
    cases.retain(|case| match task {
        Task::Run => true,
        Task::Stream => case.kind == Kind::Onnx,
        Task::Optimize => matches!(case.kind, Kind::Onnx | Kind::Checkpoint),
    });
    let python = match (task == Task::Optimize).then(optimize::python).transpose()? {
        Some(None) => return Ok(true),
        found => found.flatten(),
    };
    if cases.is_empty() {
        return Err(format!("no case in {} matches", folder.display()).into());
    }
    let profile = args.get("profile").unwrap_or("dev");
    let ssmc = match args.get("bin") {
        Some(path) => PathBuf::from(path),
        None => process::build("ssmc", "ssmc", profile, &[])?,
    };
    let kernel_check = ["--no-default-features"];
    let tools = Tools {
        ssmc,
        runner: match args.get("runner") {
            Some(path) => PathBuf::from(path),
            None => process::build("ssmc-runner", "ssmc-runner", profile, &[])?,
        },
        kernel_check: kernel_stage
            .then(|| process::build("ssmc-tests", "ssmc-kernel-check", profile, &kernel_check))
            .transpose()?,
        target: args.get("target").filter(|target| *target != "cpu").map(str::to_owned),
    };
    let (mut rows, mut times) = (Vec::new(), Vec::new());
    let mut bar = Bar::new(cases.len());
    for case in &cases {
        bar.show(rows.len(), &case.name);
        let row = match &python {
            Some(python) => {
                let (row, measured) = optimize::run(case, &tools.ssmc, python);
                times.extend(measured.map(|measured| (case.name.clone(), measured)));
                row
            }
            None if task == Task::Stream => streaming::run(case, &tools),
            None => run::run(case, &tools),
        };
        bar.clear();
        println!("{row}");
        rows.push(row);
    }
    match args.get("json") {
        Some("-") => println!("{:#}", report::json(&rows)),
        Some(path) => fs::write(path, format!("{:#}\n", report::json(&rows)))?,
        None => {}
    }
    if python.is_some() {
        println!("\n{}", optimize::table(&times));
    }
    let summary = report::Summary::of(&rows);
    println!("{summary}");
    Ok(summary.failed == 0)
}

/// The folders of all cases, by name.
pub(crate) fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut folders: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.retain(|path| path.join("case.json").is_file());
    folders.sort();
    Ok(folders)
}

/// The cases of a folder, by name.
fn cases(folder: &Path, kind: Option<&str>, filter: &Regex) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for path in folders(folder)? {
        let case = Case::load(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if filter.is_match(&case.name) && kind.is_none_or(|kind| kind == case.kind.group()) {
            cases.push(case);
        }
    }
    Ok(cases)
}
