//! Compiles every case of a corpus folder and runs the artefacts in a process of their own.

mod case;
mod compare;
mod expect;
mod optimize;
mod report;
mod run;
mod streaming;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use regex::Regex;

use crate::args::Args;
use crate::progress::Bar;
use crate::{Result, process};
pub(crate) use compare::error_over_peak;

use case::{Case, Kind};
use report::Row;
use run::{Storage, Tools};

pub(crate) const OPTIONS: &[&str] =
    &["kind", "filter", "target", "stage", "weights", "json", "bin", "runner", "profile", "jobs"];

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
    let weights = match args.get("weights").map(Storage::parse) {
        Some(_) if task != Task::Run => {
            return Err("--weights: only for cases that are run as they are".into());
        }
        weights => weights.transpose()?,
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
        weights,
        target: args.get("target").filter(|target| *target != "cpu").map(str::to_owned),
    };
    if tools.is_emulated() && tools.kernel_check.is_none() && args.get("runner").is_none() {
        return Err(
            "--target: it needs an emulator: add --stage kernel, or --runner (scripts/aarch64.sh)".into()
        );
    }
    let jobs = args.get("jobs").map_or(Ok(1), str::parse).map_err(|error| format!("--jobs: {error}"))?;
    let (rows, times) = each(&cases, jobs, |case| match &python {
        Some(python) => optimize::run(case, &tools.ssmc, python),
        None if task == Task::Stream => (streaming::run(case, &tools), None),
        None => (run::run(case, &tools), None),
    });
    let times: Vec<_> =
        (cases.iter().zip(times)).filter_map(|(case, t)| Some((case.name.clone(), t?))).collect();
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

/// What `run` gives for every case, in the order of the cases, as many at a time as `jobs` says. Rows are printed as
/// they come.
fn each<T: Send>(
    cases: &[Case],
    jobs: usize,
    run: impl Fn(&Case) -> (Row, Option<T>) + Sync,
) -> (Vec<Row>, Vec<Option<T>>) {
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Bar::new(cases.len()), BTreeMap::new()));
    let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(i) else { return };
            {
                let (bar, rows) = &mut *lock();
                bar.show(rows.len(), &case.name);
            }
            let (row, more) = run(case);
            let (bar, rows) = &mut *lock();
            bar.clear();
            println!("{row}");
            rows.insert(i, (row, more));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let (_, rows) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.into_values().unzip()
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
