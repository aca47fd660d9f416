//! The tests in tract, each in a process of its own: what it does to bad or unknown models is its own affair.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use ssmc_frontend::oracle::{self, OracleError};
use ssmc_ir::{DType, Tensor};
use ssmc_npz::{Array, Dtype};

use super::archive::{Set, Test};
use super::proto::{Given, Model};
use super::run::{self, UNSUPPORTED, Verdict};
use crate::{Result, process};

/// The task of this program that runs a model.
pub(crate) const PEER: &str = "run-in-tract";

/// Runs a test.
pub(super) fn run(test: &Test) -> Verdict {
    attempt(test).unwrap_or_else(|error| Verdict::Fail(error.to_string()))
}

fn attempt(test: &Test) -> Result<Verdict> {
    let model = Model::parse(test.model.clone())?;
    if let Some(reason) = run::out_of_scope(test, &model) {
        return Ok(Verdict::OutOfScope(reason));
    }
    run::over_sets(test, &model, |_| true, |set, given| run_set(&model, set, given))
}

fn run_set(model: &Model, set: &Set, given: &[usize]) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let [file, from, to] = ["model.onnx", "in.npz", "out.npz"].map(|name| folder.path().join(name));
    run::write_model(&file, model, set, given)?;
    let mut inputs: Vec<(String, Array)> = Vec::new();
    for (i, (port, bytes)) in model.inputs.iter().zip(&set.inputs).enumerate() {
        match port.given(bytes)? {
            _ if given.contains(&i) => {}
            Given::Tensors(tensors) if !port.is_sequence && !port.is_optional => inputs.extend(tensors),
            Given::Tensors(_) | Given::Absent | Given::OtherElements => {
                return Ok(Verdict::Unsupported(format!("input {}: no tensor that it has", port.name)));
            }
        }
    }
    ssmc_npz::write(&from, inputs.iter().map(|(name, array)| (name.as_str(), array)))?;
    let done = process::run(Command::new(std::env::current_exe()?).arg(PEER).arg(&file).arg(&from).arg(&to))?;
    let said = run::reason(&String::from_utf8_lossy(&done.stderr));
    match done.status.code() {
        Some(0) => run::against(model, set, &ssmc_npz::read(&to)?),
        Some(UNSUPPORTED) => Ok(Verdict::Unsupported(said)),
        _ => Ok(Verdict::Fail(format!("{}: {said}", done.status))),
    }
}

/// Runs a model file on arrays and writes the outputs.
pub(crate) fn main(args: &[String]) -> Result<bool> {
    let [model, from, to] = args else { return Err("expected MODEL, INPUTS and OUTPUTS".into()) };
    let mut inputs = BTreeMap::new();
    for (name, array) in ssmc_npz::read(Path::new(from))? {
        let dtype =
            dtypes().find(|(theirs, _)| *theirs == array.dtype).ok_or("an element type of its own")?;
        inputs.insert(name, Tensor::from_bytes(dtype.1, array.shape, &array.bytes)?);
    }
    let found = match oracle::run(Path::new(model), None, &inputs) {
        Ok(found) => found,
        Err(error @ (OracleError::Refused { .. } | OracleError::Input { .. })) => {
            eprintln!("{error}");
            std::process::exit(UNSUPPORTED);
        }
    };
    let mut arrays = Vec::new();
    for (name, tensor) in &found {
        let dtype = dtypes().find(|(_, ours)| *ours == tensor.dtype()).ok_or("an element type of its own")?;
        arrays.push((
            name.as_str(),
            Array { dtype: dtype.0, shape: tensor.shape().to_vec(), bytes: tensor.to_bytes() },
        ));
    }
    ssmc_npz::write(Path::new(to), arrays.iter().map(|(name, array)| (*name, array)))?;
    Ok(true)
}

/// Element types of both sides.
fn dtypes() -> impl Iterator<Item = (Dtype, DType)> {
    [
        (Dtype::Bool, DType::Bool),
        (Dtype::I8, DType::I8),
        (Dtype::U8, DType::U8),
        (Dtype::I16, DType::I16),
        (Dtype::U16, DType::U16),
        (Dtype::I32, DType::I32),
        (Dtype::U32, DType::U32),
        (Dtype::I64, DType::I64),
        (Dtype::U64, DType::U64),
        (Dtype::F16, DType::F16),
        (Dtype::Bf16, DType::BF16),
        (Dtype::F32, DType::F32),
        (Dtype::F64, DType::F64),
    ]
    .into_iter()
}
