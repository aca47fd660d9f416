//! `ssmc check`

use crate::failure::{Failure, Outcome};
use crate::model;
use crate::output::{print, print_json};
use serde_json::json;
use ssmc_frontend::shapes::InputShape;
use ssmc_ir::{Stage, verify, verify_weights};
use ssmc_runtime::Artifact;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// Fix, rename or bound sizes of an input, such as x:1,T<=4096,768; _ leaves an axis as it is; may be repeated
    #[arg(long, value_name = "NAME:SIZES")]
    input_shapes: Vec<InputShape>,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let path = &args.model;
    let (what, warnings) = if model::is_artifact(path) {
        let artifact = Artifact::open(path).map_err(|error| Failure::from(error).in_file(path))?;
        let weights = artifact.verify_weights();
        weights.map_err(|error| Failure::from(error).in_file(path))?;
        let sections = artifact.golden().and(artifact.texts().map(|_| ()));
        sections.map_err(|error| Failure::from(error).in_file(path))?;
        ("artefact", Vec::new())
    } else {
        let model = model::import(path, &args.input_shapes)?;
        let mut faults = verify(&model.graph, Stage::Imported);
        faults.extend(verify_weights(&model.graph, &model.weights));
        if !faults.is_empty() {
            let list: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
            return Err(Failure::input(format!("{}: invalid model{list}", path.display())));
        }
        ("model", model.warnings.iter().map(ToString::to_string).collect())
    };
    if json {
        return print_json("check", json!({"path": path, "kind": what, "valid": true, "warnings": warnings}));
    }
    print(&format!("{}: valid {what}\n", path.display()))
}
