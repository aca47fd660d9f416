//! The demo with a model of others: the bidirectional Mamba of the PyPI package `typeseg` splits a text into spans
//! by content type.

mod spans;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ssmc_npz::Array;

use crate::args::Args;
use crate::{Result, process};
use spans::{Span, spans, token};

const VERSION: &str = "0.2.7";
const WHEEL: &str = "typeseg-0.2.7-py3-none-any.whl";
const SHA256: &str = "b84357f687b879d951c7aa1e102ea0ca7d942ffc0177fd32de101981cc318442";
const MODEL: &str = "typeseg/data/mamba_al.onnx";
const MANIFEST: &str = "typeseg/data/manifest.json";

/// Compiles the model and prints the spans of a file. Without network it says so and does nothing.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    let args = Args::parse(args, &["bin", "profile"])?;
    let [file] = &args.words[..] else { return Err("expected a text file".into()) };
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let cache = process::root().join(".cache").join("typeseg");
    let wheel = match fetch(&cache)? {
        Fetched::Wheel(path) => path,
        Fetched::Failed(reason) => {
            println!(
                "typeseg {VERSION} could not be fetched from PyPI, so this part of the demo is left out:"
            );
            println!("{reason}");
            return Ok(true);
        }
    };
    let model = cache.join("mamba_al.onnx");
    fs::write(&model, member(&wheel, MODEL)?)?;
    let labels = labels(&member(&wheel, MANIFEST)?)?;
    let ssmc = match args.get("bin") {
        Some(path) => PathBuf::from(path),
        None => process::build("ssmc", "ssmc", args.get("profile").unwrap_or("release"), &[])?,
    };
    let artefact = cache.join("mamba_al.ssmc");
    process::check(Command::new(&ssmc).arg("compile").arg(&model).arg("-o").arg(&artefact))?;
    let logits = run(&ssmc, &artefact, &cache, &text)?;
    let spans = spans(&text, &logits, labels.len());
    for Span { range, class } in spans {
        let shown = excerpt(&text[range.clone()]);
        println!("{:>6}..{:<6} {:<22} {shown}", range.start, range.end, labels[class]);
    }
    Ok(true)
}

/// What came of fetching the wheel.
enum Fetched {
    Wheel(PathBuf),
    /// There is no network, or no pip; in the words of what failed.
    Failed(String),
}

/// The wheel, downloaded if need be.
fn fetch(cache: &Path) -> Result<Fetched> {
    fs::create_dir_all(cache)?;
    let wheel = cache.join(WHEEL);
    if !wheel.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        pip.arg(format!("typeseg=={VERSION}")).arg("--dest").arg(cache);
        match process::run(&mut pip) {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                return Ok(Fetched::Failed(words.trim_end().lines().last().unwrap_or_default().to_owned()));
            }
            Err(error) => return Ok(Fetched::Failed(error.to_string())),
        }
    }
    let hash = Sha256::digest(fs::read(&wheel)?);
    let found: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    if found != SHA256 {
        return Err(format!("{}: expected sha256 {SHA256}, found {found}", wheel.display()).into());
    }
    Ok(Fetched::Wheel(wheel))
}

/// A file of a wheel.
fn member(wheel: &Path, name: &str) -> Result<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let mut bytes = Vec::new();
    archive.by_name(name)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names of the classes in the order of the logits.
fn labels(manifest: &[u8]) -> Result<Vec<String>> {
    let manifest: Value = serde_json::from_slice(manifest)?;
    let labels = manifest["labels"].as_array().ok_or("typeseg: no labels in its manifest")?;
    Ok(labels.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The logits of every byte.
fn run(ssmc: &Path, artefact: &Path, folder: &Path, text: &str) -> Result<Vec<f64>> {
    let (inputs, outputs) = (folder.join("inputs.npz"), folder.join("outputs.npz"));
    let ids: Vec<i64> = text.bytes().map(token).collect();
    ssmc_npz::write(&inputs, [("ids", &Array::i64s(&[ids.len()], &ids))])?;
    process::check(
        Command::new(ssmc)
            .arg("run")
            .arg(artefact)
            .arg("--inputs")
            .arg(&inputs)
            .arg("--outputs")
            .arg(&outputs),
    )?;
    let logits = ssmc_npz::read(&outputs)?.remove("logits").ok_or("typeseg: no output logits")?;
    Ok(logits.to_f64())
}

/// The start of a text on one line.
fn excerpt(text: &str) -> String {
    const WIDTH: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_lines() {
        assert_eq!(excerpt(" a\n b\t"), "a b");
        assert_eq!(excerpt(&"ä".repeat(99)).chars().count(), 61);
    }

    #[test]
    fn labels_are_read() {
        assert_eq!(labels(br#"{"labels": ["php", "sql"]}"#).unwrap(), ["php", "sql"]);
        assert!(labels(b"{}").is_err());
    }
}
