//! Compiles every case of a corpus folder and runs the artefacts in a process of their own.

mod case;
mod compare;
mod expect;
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
        args.iter().cloned().partition(|arg| arg == "--streaming");
    let args = Args::parse(&args, OPTIONS)?;
    let [folder] = &args.words[..] else { return Err("expected one corpus folder".into()) };
    run(Path::new(folder), &args, !flags.is_empty())
}

/// Runs the cases of a folder with these options, or streams them; whether none failed.
pub(crate) fn run(folder: &Path, args: &Args, is_streaming: bool) -> Result<bool> {
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
    if is_streaming {
        cases.retain(|case| case.kind == Kind::Onnx);
    }
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
    let mut rows = Vec::new();
    let mut bar = Bar::new(cases.len());
    for case in &cases {
        bar.show(rows.len(), &case.name);
        let row = if is_streaming { streaming::run(case, &tools) } else { run::run(case, &tools) };
        bar.clear();
        println!("{row}");
        rows.push(row);
    }
    match args.get("json") {
        Some("-") => println!("{:#}", report::json(&rows)),
        Some(path) => fs::write(path, format!("{:#}\n", report::json(&rows)))?,
        None => {}
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
