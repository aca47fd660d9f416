//! `ssmc snapshot`

use super::stages::{self, Files};
use crate::failure::{Failure, Outcome};
use crate::model::Job;
use crate::options::CompileArgs;
use crate::output::{note, print, print_json};
use serde_json::json;
use similar::TextDiff;
use ssmc_ir::Stage;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// Folder of the snapshot: graphs of all stages, kernels and LLVM IR as text
    #[arg(long)]
    dir: PathBuf,
    /// Write the snapshot; what an earlier one left in the folder is removed
    #[arg(long, conflicts_with = "check", required_unless_present = "check")]
    write: bool,
    /// Compare with the snapshot and show the differences; exit code 1 if there are any
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    compile: CompileArgs,
}

/// Endings of the files that a snapshot consists of; others in the folder are left alone.
const ENDINGS: [&str; 3] = ["ssm", "kernel", "ll"];

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let new = generate(args)?;
    let old = read(&args.dir)?;
    if args.write {
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            let path = args.dir.join(name);
            fs::remove_file(&path).map_err(|error| Failure::file(&path, error))?;
        }
        stages::write(&args.dir, &new)?;
        if json {
            return print_json("snapshot", json!({"dir": args.dir, "written": new.len()}));
        }
        note(&format!("wrote {} files to {}", new.len(), args.dir.display()));
        return Ok(());
    }
    let changes = changes(&old, &new);
    if json {
        let list: Vec<_> =
            changes.iter().map(|c| json!({"file": c.file, "kind": c.kind, "diff": c.diff})).collect();
        let passed = changes.is_empty();
        print_json("snapshot", json!({"dir": args.dir, "passed": passed, "changes": list}))?;
    } else {
        for change in &changes {
            print(&format!("{}: {}\n{}", change.file, change.kind, change.diff))?;
        }
    }
    match changes.len() {
        0 => Ok(()),
        n => Err(Failure::check(format!("{n} files differ from the snapshot in {}", args.dir.display()))),
    }
}

struct Change {
    file: String,
    kind: &'static str,
    diff: String,
}

fn changes(old: &Files, new: &Files) -> Vec<Change> {
    let mut all: BTreeMap<&String, (Option<&String>, Option<&String>)> = BTreeMap::new();
    for (name, text) in old {
        all.entry(name).or_default().0 = Some(text);
    }
    for (name, text) in new {
        all.entry(name).or_default().1 = Some(text);
    }
    let change = |(name, (old, new)): (&String, (Option<&String>, Option<&String>))| {
        let (kind, diff) = match (old, new) {
            (Some(old), Some(new)) if old != new => {
                let diff = TextDiff::from_lines(old.as_str(), new.as_str());
                let names = (format!("snapshot/{name}"), format!("generated/{name}"));
                let diff = diff.unified_diff().context_radius(3).header(&names.0, &names.1).to_string();
                ("changed", diff)
            }
            (None, Some(_)) => ("new", String::new()),
            (Some(_), None) => ("no longer generated", String::new()),
            _ => return None,
        };
        Some(Change { file: name.clone(), kind, diff })
    };
    all.into_iter().filter_map(change).collect()
}

fn generate(args: &Args) -> Outcome<Files> {
    let mut job = Job::new(&args.model, &args.compile)?;
    let model = job.import()?;
    let mut files = Files::new();
    let compiled =
        job.compile_until(&model, Stage::Emitted, &mut |reached| files.extend(stages::texts(reached)))?;
    job.trace.write()?;
    job.progress.say("printing code");
    let compiled = compiled.expect("nothing stops before the last stage");
    files.extend(stages::emitted(&compiled.kernels)?);
    Ok(files)
}

/// The snapshot in a folder: its files and those of its direct subfolders. Empty if there is no such folder.
fn read(dir: &Path) -> Outcome<Files> {
    let mut files = Files::new();
    if !dir.exists() {
        return Ok(files);
    }
    let mut folders = vec![(PathBuf::new(), dir.to_owned())];
    let mut depth = 0;
    while depth < 2 {
        let mut below = Vec::new();
        for (prefix, folder) in &folders {
            let entries = fs::read_dir(folder).map_err(|error| Failure::file(folder, error))?;
            for entry in entries {
                let path = entry.map_err(|error| Failure::file(folder, error))?.path();
                let Some(name) = path.file_name() else { continue };
                let name = prefix.join(name);
                if path.is_dir() {
                    below.push((name, path));
                } else if path.extension().is_some_and(|e| ENDINGS.iter().any(|known| e == *known)) {
                    let text = fs::read_to_string(&path).map_err(|error| Failure::file(&path, error))?;
                    files.insert(name.to_string_lossy().into_owned(), text);
                }
            }
        }
        folders = below;
        depth += 1;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_found() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let old = files(&[("a.ssm", "1\n2\n"), ("b.ssm", "x"), ("same.ll", "y")]);
        let new = files(&[("a.ssm", "1\n3\n"), ("c.ssm", "x"), ("same.ll", "y")]);
        let found: Vec<_> = changes(&old, &new).into_iter().map(|c| (c.file, c.kind, c.diff)).collect();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].0.as_str(), found[0].1), ("a.ssm", "changed"));
        assert!(found[0].2.contains("-2\n+3\n"), "{}", found[0].2);
        assert_eq!((found[1].0.as_str(), found[1].1), ("b.ssm", "no longer generated"));
        assert_eq!((found[2].0.as_str(), found[2].1), ("c.ssm", "new"));
        assert!(changes(&old, &old).is_empty());
    }
}
