//! `ssmc inspect`

use crate::failure::{Failure, Outcome};
use crate::model::{self, Job};
use crate::options::CompileArgs;
use crate::output::{bytes, print, print_json, table};
use serde_json::{Value, json};
use ssmc_artifact::{Expr, Launch, ReportKind, Symbol, SymbolRole, TensorInfo};
use ssmc_ir::{Graph, Model};
use ssmc_runtime::{Artifact, Manifest};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    model: PathBuf,
    #[command(flatten)]
    compile: CompileArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Outcome {
    if model::is_artifact(&args.model) {
        let artifact =
            Artifact::open(&args.model).map_err(|error| Failure::from(error).in_file(&args.model))?;
        return show(&[], &artifact, json);
    }
    let mut job = Job::new(&args.model, &args.compile)?;
    let imported = job.import()?;
    let graph = graph_facts(&imported);
    let mut options = args.compile.options()?;
    // Launch lists are the same for all levels.
    options.targets.truncate(1);
    job.compiler = ssmc::Compiler::new(options);
    let compiled = job.compile(&imported)?;
    let (artifact, _dir) = job.temporary(&compiled, &imported)?;
    job.trace.write()?;
    drop(job);
    show(&graph, &artifact, json)
}

/// Facts about an imported graph.
fn graph_facts(model: &Model) -> Vec<(String, Value)> {
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    count_ops(&model.graph, &mut ops);
    let weights: u64 = model.weights.iter().map(|(_, w)| w.bytes.as_slice().len() as u64).sum();
    vec![
        ("imported_nodes".to_owned(), json!(ops.values().sum::<usize>())),
        ("imported_ops".to_owned(), json!(ops)),
        ("imported_weight_bytes".to_owned(), json!(weights)),
    ]
}

fn count_ops<'a>(graph: &'a Graph, ops: &mut BTreeMap<&'a str, usize>) {
    for (_, node) in graph.nodes() {
        *ops.entry(node.op.name()).or_default() += 1;
        node.regions.iter().for_each(|region| count_ops(region, ops));
    }
}

/// Recurrences by class, and loops that are none, as the launch list says.
fn recurrences(launches: &[Launch]) -> (BTreeMap<String, u32>, usize) {
    let mut classes: BTreeMap<String, u32> = BTreeMap::new();
    for launch in launches.iter().filter(|l| !l.recurrence.is_empty()) {
        *classes.entry(launch.recurrence.clone()).or_default() += launch.recurrence_count;
    }
    (classes, launches.iter().filter(|l| l.generic_loop).count())
}

/// What is launched in order: kernels by the hash of their text, with the expressions of their sizes.
fn launch_list(m: &Manifest, launches: &[Launch]) -> Vec<Value> {
    let text = |e: &Expr| e.display(&m.symbols).to_string();
    launches
        .iter()
        .map(|launch| {
            let kernel = usize::try_from(launch.kernel).ok().and_then(|at| m.kernels.get(at));
            let (name, hash) = kernel.map_or(("", String::new()), |k| (k.name.as_str(), hex(&k.text_hash)));
            let grid = launch.grid.as_ref().map(text);
            let dims: Vec<String> = launch.dims.iter().map(text).collect();
            json!({"kernel": name, "text_hash": hash, "grid": grid, "dims": dims})
        })
        .collect()
}

fn shape(dims: &[Expr], symbols: &[Symbol]) -> String {
    let dims: Vec<String> = dims.iter().map(|d| d.display(symbols).to_string()).collect();
    format!("[{}]", dims.join(", "))
}

fn tensor(info: &TensorInfo, symbols: &[Symbol]) -> Value {
    let shape: Vec<String> = info.shape.iter().map(|d| d.display(symbols).to_string()).collect();
    json!({
        "name": info.name, "dtype": info.dtype().name(), "shape": shape, "min": info.min_value,
        "max": info.max_value,
    })
}

/// Bytes of a state for one sequence; `None` if its size does not follow from the batch.
fn state_bytes(manifest: &Manifest, dims: &[Expr], bits: u64) -> Option<u64> {
    let values: Vec<i64> = manifest.symbols.iter().map(|_| 1).collect();
    let n = dims.iter().try_fold(1i64, |n, dim| n.checked_mul(dim.eval(&values).ok()?))?;
    Some(u64::try_from(n).ok()?.checked_mul(bits)?.div_ceil(8))
}

fn show(graph: &[(String, Value)], artifact: &Artifact, json: bool) -> Outcome {
    let value = to_json(graph, artifact);
    if json { print_json("inspect", value) } else { print(&text(graph, artifact)) }
}

fn to_json(graph: &[(String, Value)], artifact: &Artifact) -> Value {
    let m = artifact.manifest();
    let symbols: Vec<Value> = m
        .symbols
        .iter()
        .map(|s| {
            let role = match s.role() {
                SymbolRole::Batch => "batch",
                SymbolRole::SeqLen => "seq_len",
                SymbolRole::Other => "other",
            };
            json!({"name": s.name, "role": role, "min": s.min, "max": s.max})
        })
        .collect();
    let programs: Vec<Value> = m
        .programs
        .iter()
        .map(|p| {
            let (classes, loops) = recurrences(&p.launches);
            let of = |infos: &[TensorInfo]| infos.iter().map(|i| tensor(i, &m.symbols)).collect::<Vec<_>>();
            json!({
                "name": p.name, "stateful": p.stateful, "inputs": of(&p.inputs), "outputs": of(&p.outputs),
                "launches": p.launches.len(), "launch_list": launch_list(m, &p.launches), "slots": p.slots.len(), "recurrences": classes,
                "generic_loops": loops,
            })
        })
        .collect();
    let states: Vec<Value> = m
        .states
        .iter()
        .map(|s| {
            let shape: Vec<String> = s.shape.iter().map(|d| d.display(&m.symbols).to_string()).collect();
            json!({
                "name": s.name, "kind": format!("{:?}", s.kind()).to_lowercase(), "dtype": s.dtype().name(),
                "shape": shape, "bytes_per_sequence": state_bytes(m, &s.shape, s.dtype().bits()),
            })
        })
        .collect();
    let report: Vec<Value> = m
        .report
        .iter()
        .map(|r| json!({"kind": kind(r.kind()), "program": r.program, "subject": r.subject, "reason": r.reason}))
        .collect();
    let levels: Vec<Value> = m
        .levels
        .iter()
        .zip(artifact.missing_features())
        .enumerate()
        .map(|(i, (l, missing))| {
            let cubin = artifact.cubin(i).map(<[u8]>::len);
            json!({"name": l.name, "runs_here": missing.is_empty(), "missing": missing, "cubin_bytes": cubin})
        })
        .collect();
    let properties: BTreeMap<&str, &str> =
        m.properties.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
    let mut value = json!({
        "name": m.model_name, "model_hash": hex(&m.model_hash), "producer": m.producer,
        "properties": properties, "symbols": symbols, "levels": levels, "kernels": m.kernels.len(),
        "weights": {"count": m.weights.len(), "bytes": m.weights.iter().map(|w| w.length).sum::<u64>()},
        "programs": programs, "states": states, "report": report,
    });
    for (key, fact) in graph {
        value[key] = fact.clone();
    }
    value
}

fn kind(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Fused => "fused",
        ReportKind::Outside => "outside",
        ReportKind::Note | ReportKind::Unspecified => "note",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(graph: &[(String, Value)], artifact: &Artifact) -> String {
    let m = artifact.manifest();
    let mut rows =
        vec![vec!["model".to_owned(), m.model_name.clone()], vec!["sha256".to_owned(), hex(&m.model_hash)]];
    rows.push(vec!["compiled by".to_owned(), m.producer.clone()]);
    rows.extend(m.properties.iter().map(|p| vec![p.key.clone(), p.value.clone()]));
    rows.extend(graph.iter().map(|(key, value)| vec![key.clone(), value.to_string()]));
    let weights: u64 = m.weights.iter().map(|w| w.length).sum();
    rows.push(vec!["weights".to_owned(), format!("{} tensors, {}", m.weights.len(), bytes(weights))]);
    rows.push(vec!["kernels".to_owned(), m.kernels.len().to_string()]);
    for (i, (level, missing)) in m.levels.iter().zip(artifact.missing_features()).enumerate() {
        let note = if missing.is_empty() {
            "runs here".to_owned()
        } else {
            format!("not here: the processor lacks {}", missing.join(", "))
        };
        let cubin = artifact.cubin(i).map(|cubin| format!(", cubin of {}", bytes(cubin.len() as u64)));
        rows.push(vec!["level".to_owned(), format!("{}, {note}{}", level.name, cubin.unwrap_or_default())]);
    }
    for symbol in &m.symbols {
        let max = if symbol.max > 0 { format!("at most {}", symbol.max) } else { String::new() };
        rows.push(vec!["symbol".to_owned(), symbol.name.clone(), max]);
    }
    let mut text = table(&rows);
    for p in &m.programs {
        text.push_str(&format!("\nprogram {}: {} launches\n", p.name, p.launches.len()));
        let ports = |what: &str, infos: &[TensorInfo]| -> Vec<Vec<String>> {
            let line = |i: &TensorInfo| {
                vec![
                    format!("  {what}"),
                    i.name.clone(),
                    format!("{}{}", i.dtype(), shape(&i.shape, &m.symbols)),
                ]
            };
            infos.iter().map(line).collect()
        };
        let mut rows = ports("input", &p.inputs);
        rows.extend(ports("output", &p.outputs));
        let (classes, loops) = recurrences(&p.launches);
        rows.extend(classes.iter().map(|(c, n)| vec!["  recurrences".to_owned(), c.clone(), n.to_string()]));
        rows.push(vec!["  generic loops".to_owned(), loops.to_string()]);
        text.push_str(&table(&rows));
    }
    if !m.states.is_empty() {
        let sizes: Vec<Option<u64>> =
            m.states.iter().map(|s| state_bytes(m, &s.shape, s.dtype().bits())).collect();
        let total: u64 = sizes.iter().flatten().sum();
        text.push_str(&format!("\nstate: {} per sequence\n", bytes(total)));
        let line = |(s, size): (&ssmc_artifact::State, &Option<u64>)| {
            let kind = format!("{:?}", s.kind()).to_lowercase();
            let ty = format!("{}{}", s.dtype(), shape(&s.shape, &m.symbols));
            vec![format!("  {}", s.name), kind, ty, size.map_or_else(|| "unbounded".to_owned(), bytes)]
        };
        text.push_str(&table(&m.states.iter().zip(&sizes).map(line).collect::<Vec<_>>()));
    }
    if !m.report.is_empty() {
        text.push_str("\nreport\n");
        for r in &m.report {
            let program = if r.program.is_empty() { "" } else { " in " };
            text.push_str(&format!(
                "  {}{program}{}: {}: {}\n",
                kind(r.kind()),
                r.program,
                r.subject,
                r.reason
            ));
        }
    }
    text
}
