//! What the checks read.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::packages::Package;
use crate::{Result, process};

/// The files of the repository by path and the packages of the workspace.
#[derive(Debug, Default)]
pub(super) struct Repo {
    /// Text files only.
    pub(super) files: BTreeMap<String, String>,
    pub(super) packages: Vec<Package>,
}

impl Repo {
    /// Reads every file that git tracks or would track.
    pub(super) fn load() -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(process::root());
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listing = String::from_utf8(process::capture(&mut git)?.stdout)?;
        let mut files = BTreeMap::new();
        for path in listing.split_terminator('\0') {
            let full = process::root().join(path);
            // A deleted file is still listed until the deletion is staged; links lead outside.
            if full.symlink_metadata().is_ok_and(|meta| meta.is_file())
                && let Ok(text) = String::from_utf8(fs::read(&full)?)
            {
                files.insert(path.to_owned(), text);
            }
        }
        Ok(Self { files, packages: Package::all(&process::metadata()?) })
    }

    /// The files whose path starts with one of these and ends with `.rs`.
    pub(super) fn rust<'a>(&'a self, folders: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let inside = move |path: &str| folders.iter().any(|folder| path.starts_with(folder));
        let files = self.files.iter().filter(move |(path, _)| path.ends_with(".rs") && inside(path));
        files.map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// Whether a Rust file holds tests only.
pub(super) fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

/// Lines with their numbers, without comments.
pub(super) fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[cfg(test)]
pub(super) fn files(files: &[(&str, &str)]) -> Repo {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    Repo { files: files.collect(), packages: Vec::new() }
}
