//! The corpus with every ONNX model rewritten into an equivalent one: results and counts must stay.

use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

use crate::args::Args;
use crate::{Result, corpus, process};

/// `scramble SEED DIR` with the options of `corpus`. Code for one level shows as much as code for all, and cases are
/// compiled side by side, unless options say otherwise.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    let jobs = std::thread::available_parallelism()?.to_string();
    let defaults = ["--target", "native", "--jobs", &jobs].map(str::to_owned);
    let args = Args::parse(&[&defaults[..], args].concat(), corpus::OPTIONS)?;
    let [seed, folder] = &args.words[..] else { return Err("expected a seed and a corpus folder".into()) };
    let _: u64 = seed.parse().map_err(|error| format!("seed {seed}: {error}"))?;
    let filter = Regex::new(args.get("filter").unwrap_or(""))?;
    let no_llvm = ["--no-default-features"];
    let tool = process::build("ssmc-tests", "ssmc-scramble", args.get("profile").unwrap_or("dev"), &no_llvm)?;
    let copy = tempfile::tempdir()?;
    for case in corpus::folders(Path::new(folder))? {
        let name = case.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // A model that must be refused is refused by the name of its node.
        let is_valid = case.join("model.onnx").is_file() && !name.starts_with("invalid");
        if !is_valid || !filter.is_match(&name) {
            continue;
        }
        let to = copy.path().join(&name);
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&case)? {
            let path = entry?.path();
            if let (true, Some(file)) = (path.is_file(), path.file_name()) {
                fs::copy(&path, to.join(file))?;
            }
        }
        let mut command = Command::new(&tool);
        command.arg(case.join("model.onnx")).arg(to.join("model.onnx")).arg(seed);
        let done = process::capture(&mut command)?;
        println!("{name}: {}", String::from_utf8_lossy(&done.stdout).trim());
    }
    corpus::run(copy.path(), &args, corpus::Task::Run)
}
