//! `ssmc selftest`

use crate::failure::{Failure, Outcome};
use crate::model;
use crate::options::SessionArgs;
use crate::output::{print, print_json, table};
use crate::tensors::{self, Tensors};
use serde_json::json;
use ssmc_ir::Tensor;
use ssmc_runtime::{Artifact, Session};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    artifact: PathBuf,
    #[command(flatten)]
    session: SessionArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if !model::is_artifact(&args.artifact) {
        return Err(Failure::input(format!("{}: expected an artefact", args.artifact.display())));
    }
    let fault = |error| Failure::from(error).in_file(&args.artifact);
    let artifact = Artifact::open(&args.artifact).map_err(fault)?;
    artifact.verify_weights().map_err(fault)?;
    let golden = artifact.golden().map_err(fault)?;
    if golden.cases.is_empty() {
        if json {
            print_json("selftest", json!({"passed": false, "level": null, "outputs": []}))?;
        }
        return Err(Failure::check("the artefact holds no golden vectors").in_file(&args.artifact));
    }
    let manifest = artifact.manifest();
    let mut options = args.session.options(1, 1);
    for call in golden.cases.iter().flat_map(|case| &case.calls) {
        let Some(program) = manifest.programs.iter().find(|p| p.name == call.program) else { continue };
        let mut inputs = Tensors::new();
        for array in &call.inputs {
            let shape: Vec<usize> = array.dims.iter().map(|d| *d as usize).collect();
            let tensor = Tensor::from_bytes(tensors::graph_dtype(array.dtype())?, shape, &array.data);
            inputs.insert(array.name.clone(), tensor.map_err(|error| Failure::input(error.to_string()))?);
        }
        tensors::fit(&mut options, manifest, program, &inputs);
    }
    let mut session = Session::new(&artifact, &options)?;
    let results = session.selftest()?;
    let n_failed = results.iter().filter(|r| !r.passed()).count();
    if json {
        let list: Vec<_> = results
            .iter()
            .map(|r| {
                json!({
                    "case": r.case, "call": r.call, "program": r.program, "output": r.output,
                    "error": r.worst_error.to_string(), "ratio": r.worst_ratio.to_string(), "passed": r.passed(),
                })
            })
            .collect();
        let level = session.level();
        print_json("selftest", json!({"passed": n_failed == 0, "level": level, "outputs": list}))?;
    } else {
        let mut rows = Vec::new();
        for r in &results {
            rows.push(vec![
                if r.passed() { "ok" } else { "FAILED" }.to_owned(),
                r.case.clone(),
                r.program.clone(),
                r.output.clone(),
                format!("error {:.2e}", r.worst_error),
                format!("{:.3} of the tolerance", r.worst_ratio),
            ]);
        }
        print(&table(&rows))?;
    }
    match n_failed {
        0 => Ok(()),
        n => Err(Failure::check(format!("{n} of {} outputs differ on {}", results.len(), session.level()))),
    }
}
