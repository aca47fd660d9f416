//! `ssmc optimize`

use crate::failure::{Failure, Outcome};
use crate::file;
use crate::model::Job;
use crate::options::CompileArgs;
use crate::output::{bytes, note, print, print_json};
use serde_json::json;
use ssmc::Reached;
use ssmc_frontend::onnx;
use ssmc_frontend::onnx::export::{ExportOptions, OPSETS, encode};
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, Stage, Weights};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    /// The ONNX model to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Version of the operator set [default: the model's; 21 for a folder]
    #[arg(long, value_name = "N")]
    opset: Option<i64>,
    /// Write the tensors to a file beside the model, as models over 2 GB do anyway
    #[arg(long)]
    external_data: bool,
    /// The program to write: forward, or with state prefill or step
    #[arg(long, value_name = "NAME", default_value = "forward")]
    program: String,
    #[command(flatten)]
    compile: CompileArgs,
}

/// The operator set where the model has none of its own.
const OPSET: i64 = 21;

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    let opset = opset(args)?;
    let mut job = Job::new(&args.model, &args.compile)?;
    let model = job.import()?;
    let mut programs: BTreeMap<String, (Graph, Weights)> = BTreeMap::new();
    job.compile_until(&model, Stage::Rewritten, &mut |reached| {
        if let Reached::Graph { program, stage: Stage::Rewritten, graph, weights } = reached {
            programs.insert(program.to_owned(), (graph.clone(), weights.clone()));
        }
    })?;
    let Some((graph, weights)) = programs.get(&args.program) else {
        let known: Vec<&str> = programs.keys().map(String::as_str).collect();
        return Err(Failure::usage(format!(
            "--program {}: expected one of {}",
            args.program,
            known.join(", ")
        )));
    };
    job.progress.say("writing");
    let recurrences = recurrences(graph);
    let options = ExportOptions { opset, doc: doc(&recurrences), external_data: args.external_data };
    let data = data_file(&args.output)?;
    let name = data.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let encoded =
        encode(graph, weights, &options, &name).map_err(|error| Failure::from(error).in_file(&args.model))?;
    if let Some(tensors) = &encoded.data {
        file::write(&data, tensors)?;
    }
    file::write(&args.output, &encoded.model)?;
    job.trace.write()?;
    drop(job);
    let length = (encoded.model.len() + encoded.data.as_ref().map_or(0, Vec::len)) as u64;
    if json {
        return print_json(
            "optimize",
            json!({
                "model": args.model, "output": args.output, "opset": opset, "bytes": length,
                "data": encoded.data.is_some().then_some(&data), "recurrences": recurrences,
            }),
        );
    }
    let functions: Vec<String> = recurrences.iter().map(|(op, n)| format!("{op} x{n}")).collect();
    let functions = if functions.is_empty() { "none".to_owned() } else { functions.join(", ") };
    note(&format!("opset {opset}, functions for {functions}"));
    print(&format!("{} {}\n", args.output.display(), bytes(length)))
}

/// What was asked for, or what the model has, as far as it can be written.
fn opset(args: &Args) -> Outcome<i64> {
    if let Some(opset) = args.opset {
        return Ok(opset);
    }
    if args.model.is_dir() {
        return Ok(OPSET);
    }
    let found =
        onnx::opset(&args.model).map_err(|e| Failure::from(ssmc::Error::from(e)).in_file(&args.model))?;
    Ok(found.max(*OPSETS.start()))
}

/// How often each op that looks back occurs.
fn recurrences(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for (_, node) in graph.nodes() {
        if matches!(node.op, Op::Scan(_) | Op::SelectiveScan(_) | Op::Ssd(_) | Op::DiscretizedScan(_)) {
            *found.entry(node.op.name()).or_insert(0) += 1;
        }
    }
    found
}

fn doc(recurrences: &BTreeMap<&str, usize>) -> String {
    let mut text = format!(
        "Optimized by ssmc {}: constants folded, products in matrix form, norms in one spelling.",
        env!("CARGO_PKG_VERSION")
    );
    for (op, n) in recurrences {
        text += &format!(" {n} recurrences are calls of local functions for {op}.");
    }
    text
}

fn data_file(output: &Path) -> Outcome<PathBuf> {
    let name = output.file_name().ok_or_else(|| Failure::usage("--output: expected a file name"))?;
    Ok(output.with_file_name(format!("{}.data", name.to_string_lossy())))
}
