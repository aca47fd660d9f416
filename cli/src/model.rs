//! MODEL arguments: an ONNX file, a model folder, or an artefact.

use crate::failure::{Failure, Outcome};
use crate::options::CompileArgs;
use crate::output::Progress;
use ssmc::Compiled;
use ssmc_ir::Model;
use ssmc_runtime::Artifact;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;

/// Whether the file begins as artefacts do.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let mut magic = [0u8; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    let named_so = path.extension().is_some_and(|extension| extension == "ssmc");
    path.is_file() && (named_so || (read.is_ok() && magic == ssmc_artifact::MAGIC))
}

/// Imports a model and shows its warnings.
pub(crate) fn import(path: &Path) -> Outcome<Model> {
    if is_artifact(path) {
        return Err(Failure::usage(format!("{}: expected a model, found an artefact", path.display())));
    }
    let model = ssmc::import(path).map_err(|error| Failure::from(error).in_file(path))?;
    for warning in &model.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(model)
}

/// The name of a model by its path.
pub(crate) fn name(path: &Path) -> String {
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let of = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    match of(&canonical) {
        Some(stem) if stem == "model" && canonical.is_file() => {
            canonical.parent().and_then(of).unwrap_or(stem)
        }
        Some(stem) => stem,
        None => "model".to_owned(),
    }
}

/// An artefact, and the folder that it lies in if it was compiled for this command alone.
pub(crate) struct Opened {
    pub(crate) artifact: Artifact,
    pub(crate) model: Option<Model>,
    _dir: Option<TempDir>,
}

/// Opens an artefact, or compiles a model to a temporary one.
pub(crate) fn open(path: &Path, options: &CompileArgs) -> Outcome<Opened> {
    if is_artifact(path) {
        let artifact = Artifact::open(path).map_err(|error| Failure::from(error).in_file(path))?;
        return Ok(Opened { artifact, model: None, _dir: None });
    }
    let model = import(path)?;
    let progress = Progress::new();
    progress.say("compiling");
    let compiled = ssmc::Compiler::new(options.options()?)
        .compile(&model)
        .map_err(|error| Failure::from(error).in_file(path))?;
    let (artifact, dir) = temporary(&compiled, &model, path)?;
    Ok(Opened { artifact, model: Some(model), _dir: Some(dir) })
}

/// Writes what was compiled to a temporary folder and opens it.
#[cfg(feature = "llvm")]
pub(crate) fn temporary(compiled: &Compiled, model: &Model, path: &Path) -> Outcome<(Artifact, TempDir)> {
    let dir = tempfile::tempdir().map_err(|error| Failure::file(&std::env::temp_dir(), error))?;
    let file = dir.path().join("model.ssmc");
    compiled
        .write(&file, ssmc::WriteOptions { golden: false, ..ssmc::WriteOptions::of(model, name(path)) })?;
    Ok((Artifact::open(&file)?, dir))
}

/// Without code generation there is nothing to run.
#[cfg(not(feature = "llvm"))]
pub(crate) fn temporary(_: &Compiled, _: &Model, path: &Path) -> Outcome<(Artifact, TempDir)> {
    Err(no_code_generation().in_file(path))
}

/// What a build without LLVM says.
#[cfg(not(feature = "llvm"))]
pub(crate) fn no_code_generation() -> Failure {
    Failure::new(
        crate::failure::Kind::Unsupported,
        "this ssmc was built without the feature `llvm`, so it cannot generate CPU code",
    )
}
