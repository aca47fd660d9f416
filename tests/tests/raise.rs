//! Loops of real ONNX files become scans, and nothing else changes.
//!
//! Takes the folder of the corpus from `SSMC_CORPUS`.
#![expect(clippy::unwrap_used, reason = "a fault of a test's own helper ends the test")]

use ssmc_ir::graph::Node;
use ssmc_ir::ops::{Op, UnaryFn};
use ssmc_ir::{Dim, Graph, Interpreter, Model, Symbol, Tensor, ValueId};
use ssmc_passes::manager::Manager;
use ssmc_passes::pass::RemarkKind;
use ssmc_passes::pipeline::{CANONICAL, RAISED};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

struct Case {
    name: &'static str,
    /// Forward and reverse scans.
    scans: [usize; 2],
    /// The least sequence length that the model itself takes.
    shortest: i64,
}

const CASES: &[Case] = &[
    Case { name: "hf_mamba_scan_dynamic_dynamo21", scans: [2, 0], shortest: 1 },
    Case { name: "hf_mamba_scan_dynamo20", scans: [2, 0], shortest: 1 },
    Case { name: "hf_mamba_scan_external_data", scans: [2, 0], shortest: 1 },
    Case { name: "hf_falcon_mamba_dynamo22", scans: [2, 0], shortest: 1 },
    Case { name: "hf_jamba_dynamo20", scans: [3, 0], shortest: 1 },
    Case { name: "hf_mamba_unrolled_dynamo23", scans: [2, 0], shortest: 1 },
    Case { name: "hf_mamba_unrolled_legacy17", scans: [2, 0], shortest: 1 },
    Case { name: "hf_mamba_unrolled_onnxsim", scans: [2, 0], shortest: 1 },
    Case { name: "mamba_ssm_block_dynamo18", scans: [2, 0], shortest: 1 },
    Case { name: "mambapy_scan_dynlen_dynamo20", scans: [2, 0], shortest: 0 },
    Case { name: "mambapy_seq_dynbatch_legacy17", scans: [2, 0], shortest: 1 },
    Case { name: "mambapy_vim_bidir_dynamo18", scans: [4, 0], shortest: 1 },
    Case { name: "selscan_ref_gated_last_legacy17", scans: [1, 0], shortest: 1 },
    Case { name: "torchmamba1_loop_legacy18", scans: [2, 0], shortest: 1 },
    Case { name: "trained_typeseg_bimamba_scan", scans: [6, 6], shortest: 0 },
];

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("SSMC_CORPUS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: SSMC_CORPUS is not set");
    }
    folder
}

fn import(folder: &Path, name: &str) -> Model {
    ssmc_frontend::onnx::import(&folder.join(name).join("model.onnx"))
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The same numbers in every run, between -1 and 1.
fn noise(n: usize) -> Vec<f64> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn inputs(graph: &Graph, extent: &dyn Fn(&Symbol) -> i64) -> BTreeMap<String, Tensor> {
    let mut out = BTreeMap::new();
    for port in graph.inputs() {
        let ty = graph.ty(port.value);
        let size = |d: &Dim| {
            let mut symbols = std::collections::BTreeSet::new();
            d.collect_symbols(&mut symbols);
            let bindings = symbols.into_iter().map(|s| (s.clone(), extent(&s))).collect();
            d.eval(&bindings).unwrap() as usize
        };
        let shape: Vec<usize> = ty.shape.iter().map(size).collect();
        let data = noise(shape.iter().product());
        let tensor = if ty.dtype.is_float() {
            Tensor::floats(ty.dtype, shape, data)
        } else {
            Tensor::ints(ty.dtype, shape, data.iter().map(|x| (x.abs() * 40.0) as i64).collect())
        };
        out.insert(port.name.clone(), tensor.unwrap());
    }
    out
}

fn run(model: &Model, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    Interpreter::new(&model.graph, &model.weights).run(inputs).unwrap()
}

fn assert_close(name: &str, before: &BTreeMap<String, Tensor>, after: &BTreeMap<String, Tensor>) {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (output, x) in before {
        let y = &after[output];
        assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "{name} {output}");
        let scale = x.to_f64().iter().fold(1e-6, |m: f64, v| m.max(v.abs()));
        for (i, (p, q)) in x.to_f64().iter().zip(y.to_f64()).enumerate() {
            // Folded weights are rounded to their element type.
            assert!((p - q).abs() <= 2e-6 * scale, "{name} {output}[{i}]: {p} before, {q} after");
        }
    }
}

/// The node behind transposes, reshapes and broadcasts.
fn behind(graph: &Graph, mut value: ValueId) -> Option<&Node> {
    loop {
        let node = graph.def_node(value)?;
        match node.op {
            Op::Transpose(_) | Op::Reshape(_) | Op::Broadcast(_) => value = node.operands[0]?,
            _ => return Some(node),
        }
    }
}

fn check(case: &Case, folder: &Path) {
    let name = case.name;
    let imported = import(folder, name);
    let mut model = imported.clone();
    let report = Manager::new().verify_each(true).run(&mut model, &[CANONICAL, RAISED]).unwrap();
    for remark in &report.remarks {
        assert!(matches!(remark.kind, RemarkKind::Raised { scans: 1, .. }), "{name}: {remark}");
    }
    let graph = &model.graph;
    let mut found = [0, 0];
    for (id, node) in graph.nodes() {
        assert!(!matches!(node.op, Op::Loop(_)), "{name}: a loop is left");
        let Op::Scan(scan) = &node.op else { continue };
        found[usize::from(scan.reverse)] += 1;
        let a = node.operands[0].unwrap();
        assert_eq!(graph.ty(a).rank(), 4, "{name}: {id} has axes batch, sequence, channel, state");
        let decay = behind(graph, a).unwrap();
        assert!(
            matches!(&decay.op, Op::Unary(u) if u.f == UnaryFn::Exp),
            "{name}: decay of {id} by {}",
            decay.op.name()
        );
        for value in [decay.operands[0], node.operands[1]] {
            let product = behind(graph, value.unwrap()).unwrap();
            assert_eq!(product.op.name(), "contract", "{name}: coefficients of {id}");
        }
        assert!(node.operands[2].is_none(), "{name}: {id} starts from zeros");
        let mut views = vec![node.results[0]];
        let mut readers = Vec::new();
        while let Some(value) = views.pop() {
            for (_, user) in graph.nodes().filter(|(_, n)| n.operands.contains(&Some(value))) {
                match user.op {
                    Op::Transpose(_) | Op::Reshape(_) | Op::Broadcast(_) => views.push(user.results[0]),
                    _ => readers.push(user.op.name()),
                }
            }
        }
        assert_eq!(readers, ["contract"], "{name}: read-out of {id}");
    }
    assert_eq!(found, case.scans, "{name}");
    for len in [case.shortest, 1, 7] {
        let inputs = inputs(&imported.graph, &|s| if s.name() == "batch" { 2 } else { len });
        assert_close(name, &run(&imported, &inputs), &run(&model, &inputs));
    }
}

#[test]
fn scans_of_real_models_are_raised() {
    let Some(folder) = corpus() else { return };
    for case in CASES {
        check(case, &folder);
    }
}
