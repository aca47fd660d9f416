//! What rewriting makes of real models: one fused scan per mixer and direction, with everything inside that is legal,
//! every rule explained and replayed, and right numbers with any one rule missing.
//!
//! Takes the folder of the corpus from `SSMC_CORPUS`.
#![expect(clippy::unwrap_used, reason = "a fault of a test's own helper ends the test")]

use ssmc_frontend::safetensors::ImportOptions;
use ssmc_frontend::safetensors::synthetic::{Storage, SyntheticModel};
use ssmc_ir::graph::Node;
use ssmc_ir::ops::{Op, UnaryFn};
use ssmc_ir::{Def, Dim, Graph, Interpreter, Model, Symbol, Tensor, Weights};
use ssmc_passes::egraph::{RewriteOptions, Rewritten, check, explain, rewrite};
use ssmc_passes::manager::Manager;
use ssmc_passes::partition::partition;
use ssmc_passes::pipeline::{CANONICAL, RAISED};
use ssmc_passes::{programs, rules};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct Case {
    name: &'static str,
    /// The fused scan that every recurrence becomes.
    scan: &'static str,
    /// Whether step-size bias, softplus, skip and gate are all inside.
    is_whole: bool,
    /// What the report lists, for every scan.
    outside: &'static [(&'static str, &'static str)],
    /// The rules that made the scan, apart from those of `SCAN`.
    rules: &'static [&'static str],
    /// The most kernels of a program; `prefill` has one more, which takes the last position.
    kernels: usize,
}

/// Rules without which no scan is fused.
const SCAN: &[&str] = &["scan-skip"];
const WHOLE: &[&str] = &["dt-bias", "dt-softplus", "scan-gate", "silu-product"];
const S6: &[&str] = &["discretize-exp-euler", "scan-read-out"];
const SSD: &[&str] = &["discretize-scalar-decay", "ssd-read-out"];
const EXPORTED: &[&str] = &["discretize-exp-euler", "scan-read-out", "softplus-threshold"];

const fn mamba(name: &'static str, rules: &'static [&'static str], kernels: usize) -> Case {
    Case { name, scan: "ssm.selective_scan", is_whole: true, outside: &[], rules, kernels }
}

const fn mamba2(name: &'static str, kernels: usize) -> Case {
    Case { name, scan: "ssm.ssd", is_whole: true, outside: &[], rules: SSD, kernels }
}

const CASES: &[Case] = &[
    mamba("ckpt_mamba", S6, 24),
    mamba2("ckpt_mamba2", 21),
    mamba("ckpt_falcon_mamba", S6, 23),
    mamba2("ckpt_mamba2_f16", 20),
    mamba("ckpt_mamba_bf16_sharded", S6, 23),
    mamba("ckpt_mamba_ssm_original", S6, 24),
    mamba("ckpt_mamba_tokenizer", S6, 24),
    mamba("hf_mamba_scan_dynamic_dynamo21", EXPORTED, 17),
    mamba("hf_mamba_scan_dynamo20", EXPORTED, 17),
    mamba("hf_mamba_scan_external_data", EXPORTED, 17),
    mamba("mambapy_scan_dynlen_dynamo20", EXPORTED, 14),
    Case {
        name: "trained_typeseg_bimamba_scan",
        scan: "ssm.selective_scan",
        is_whole: false,
        outside: &[
            ("softplus", "add follows it before the scan"),
            ("gate", "the gate comes after the sum of 2 scans"),
        ],
        rules: S6,
        kernels: 57,
    },
];

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("SSMC_CORPUS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: SSMC_CORPUS is not set");
    }
    folder
}

fn import(folder: &Path, name: &str) -> Model {
    let onnx = folder.join(name).join("model.onnx");
    let path = if onnx.exists() { onnx } else { folder.join(name) };
    ssmc_frontend::import(&path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The raised graphs of the programs that run the layers: all but the one that takes the largest logit.
fn programs_of(model: &Model) -> Vec<(&'static str, Model)> {
    let raise = |program: programs::Program| {
        let mut model = Model { graph: program.graph, weights: model.weights.clone(), ..Model::default() };
        Manager::new().run(&mut model, &[CANONICAL, RAISED]).unwrap();
        (program.name, model)
    };
    let derived = programs::derive(&model.graph).unwrap().into_iter();
    derived.filter(|program| program.name != "choose").map(raise).collect()
}

fn forward(folder: &Path, name: &str) -> Model {
    programs_of(&import(folder, name)).swap_remove(0).1
}

/// The number after `expect.recurrences` in the description of a case.
fn expected_recurrences(folder: &Path, name: &str) -> usize {
    let text = std::fs::read_to_string(folder.join(name).join("case.json")).unwrap();
    let counts = text.split_once("\"recurrences\"").unwrap().1.split_once('}').unwrap().0;
    let counts = counts.split(',').map(|count| count.rsplit_once(':').unwrap().1.trim());
    counts.map(|n| n.parse::<usize>().unwrap()).sum()
}

fn is_scan(op: &Op) -> bool {
    matches!(op, Op::Scan(_) | Op::DiscretizedScan(_) | Op::SelectiveScan(_) | Op::Ssd(_))
}

fn dt_softplus(op: &Op) -> bool {
    match op {
        Op::SelectiveScan(s) => s.dt_softplus,
        Op::Ssd(s) => s.dt_softplus,
        _ => false,
    }
}

/// Whether a node depends on an input, so that it runs with the program.
fn is_run(graph: &Graph) -> Vec<bool> {
    let mut runs: Vec<bool> = Vec::new();
    for (_, node) in graph.nodes() {
        let depends = |v| match graph.def(v) {
            Def::Input(_) => true,
            Def::Result(id, _) => runs[ssmc_ir::Entity::idx(id)],
        };
        runs.push(node.operands.iter().flatten().any(|v| depends(*v)));
    }
    runs
}

fn assert_structure(case: &Case, program: &str, scans: usize, new: &Rewritten) {
    let place = format!("{} {program}", case.name);
    let found: Vec<&Node> = new.graph.nodes().map(|(_, n)| n).filter(|n| is_scan(&n.op)).collect();
    assert_eq!(found.len(), scans, "{place}");
    for node in &found {
        assert_eq!(node.op.name(), case.scan, "{place}");
        let has = |name: &str| {
            let i = node.op.operands().iter().position(|o| o.name == name).unwrap();
            node.operands[i].is_some()
        };
        assert!(has("d"), "{place}: skip");
        let inside = [has("dt_bias"), dt_softplus(&node.op), has("z")];
        assert_eq!(inside, [case.is_whole; 3], "{place}: bias, softplus, gate");
    }
    let outside: BTreeSet<(&str, &str)> =
        new.report.outside.iter().map(|o| (o.what, o.reason.as_str())).collect();
    assert_eq!(outside, case.outside.iter().copied().collect(), "{place}");
    assert_eq!(new.report.outside.len(), case.outside.len() * scans, "{place}");
    assert_eq!(new.report.scans.len(), scans, "{place}");
    assert!(new.warnings.is_empty(), "{place}: {:?}", new.warnings);
    if case.is_whole {
        for ((_, node), runs) in new.graph.nodes().zip(is_run(&new.graph)) {
            let Op::Unary(u) = &node.op else { continue };
            let is_part = matches!(
                u.f,
                UnaryFn::Exp | UnaryFn::Softplus | UnaryFn::Sigmoid | UnaryFn::Silu | UnaryFn::Rsqrt
            );
            assert!(!(runs && is_part), "{place}: {} is outside", node.op.name());
        }
    }
}

#[test]
fn every_program_of_a_real_model_holds_one_fused_scan_per_mixer() {
    let Some(folder) = corpus() else { return };
    for case in CASES {
        let scans = expected_recurrences(&folder, case.name);
        for (program, model) in programs_of(&import(&folder, case.name)) {
            let new = rewrite(&model.graph, &RewriteOptions::default()).unwrap();
            assert_structure(case, program, scans, &new);
            let plan = partition(&new.graph).unwrap();
            let most = case.kernels + usize::from(program == "prefill");
            assert!(plan.groups.len() <= most, "{} {program}: {} kernels", case.name, plan.groups.len());
        }
    }
}

#[test]
fn every_fused_scan_of_a_real_model_is_explained_and_replayed() {
    let Some(folder) = corpus() else { return };
    for case in CASES {
        let model = forward(&folder, case.name);
        let explanations = explain(&model.graph, &RewriteOptions::default()).unwrap();
        let mut n_scans = 0;
        for explanation in &explanations {
            let steps = check(explanation, 11).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            assert!(steps >= explanation.steps.len(), "{}", case.name);
            if !explanation.fused.contains(&case.scan) {
                continue;
            }
            n_scans += 1;
            let named: BTreeSet<&str> = explanation.steps.iter().map(|s| s.rule).collect();
            let whole = if case.is_whole { WHOLE } else { &[] };
            for rule in [SCAN, whole, case.rules].concat() {
                assert!(named.contains(rule), "{}: {rule} is not among {named:?}", case.name);
            }
        }
        assert!(n_scans > 0, "{}: no scan is explained", case.name);
    }
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

fn run(graph: &Graph, weights: &Weights) -> BTreeMap<String, Tensor> {
    let extent = |s: &Symbol| if s.name() == "batch" { 2 } else { 3 };
    let mut inputs = BTreeMap::new();
    for port in graph.inputs() {
        let ty = graph.ty(port.value);
        let size = |d: &Dim| {
            let mut symbols = BTreeSet::new();
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
        inputs.insert(port.name.clone(), tensor.unwrap());
    }
    Interpreter::new(graph, weights).run(&inputs).unwrap()
}

fn assert_close(place: &str, expected: &BTreeMap<String, Tensor>, found: &BTreeMap<String, Tensor>) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (output, x) in expected {
        let scale = x.to_f64().iter().fold(1e-6, |m: f64, v| m.max(v.abs()));
        for (i, (p, q)) in x.to_f64().iter().zip(found[output].to_f64()).enumerate() {
            assert!((p - q).abs() <= 1e-8 * scale, "{place} {output}[{i}]: expected {p}, found {q}");
        }
    }
}

/// The fused ops of a graph with their attributes and which operands they have, and what stayed outside.
fn fusions(new: &Rewritten) -> (Vec<String>, usize) {
    let fused = new.graph.nodes().filter(|(_, n)| n.op.fused() || matches!(n.op, Op::CausalConv1d(_)));
    let shown = fused.map(|(_, n)| {
        let has: Vec<bool> = n.operands.iter().map(Option::is_some).collect();
        format!("{:?} {has:?}", n.op)
    });
    (shown.collect(), new.report.outside.len())
}

/// Rules that only change layout or offer a form that the cost model may refuse: without them no fusion is missing.
const OPTIONAL: &[&str] = &[
    "reshape-reshape",
    "reshape-units",
    "transpose-transpose",
    "transpose-contract",
    "gate-then-norm",
    "ssd-chunked",
];

#[test]
fn without_any_one_rule_the_numbers_stay_right_and_the_missing_fusion_shows() {
    let Some(folder) = corpus() else { return };
    let mut shown = BTreeSet::new();
    for name in ["ckpt_mamba", "ckpt_mamba2", "trained_typeseg_bimamba_scan"] {
        let model = forward(&folder, name);
        let expected = run(&model.graph, &model.weights);
        let all = rewrite(&model.graph, &RewriteOptions::default()).unwrap();
        assert_close(name, &expected, &run(&all.graph, &model.weights));
        for rule in rules::all() {
            let place = format!("{name} without {}", rule.name);
            let disabled_rules = vec![regex::Regex::new(&format!("^{}$", rule.name)).unwrap()];
            let options = RewriteOptions { disabled_rules, ..RewriteOptions::default() };
            let new = rewrite(&model.graph, &options).unwrap();
            assert!(!new.report.fired.contains_key(rule.name), "{place}");
            if !all.report.fired.contains_key(rule.name) {
                assert_eq!(new.graph, all.graph, "{place}: it did not fire");
                continue;
            }
            assert_close(&place, &expected, &run(&new.graph, &model.weights));
            if OPTIONAL.contains(&rule.name) {
                continue;
            }
            assert_ne!(fusions(&new), fusions(&all), "{place}: nothing is missing");
            shown.insert(rule.name);
        }
    }
    for rule in ["scan-skip", "dt-bias", "dt-softplus", "scan-gate", "ssd-read-out", "layer-norm"] {
        assert!(shown.contains(rule), "{rule} is not shown to matter");
    }
}

/// A model of this many layers, all alike but for their weights.
fn synthetic(n_layers: usize) -> Model {
    let model = SyntheticModel {
        d_model: 48,
        d_inner: 96,
        d_state: 8,
        n_layers,
        vocab_size: 96,
        ..SyntheticModel::mamba_130m(Storage::BF16)
    };
    let folder = std::env::temp_dir().join(format!("ssmc-rewrites-{}-{n_layers}", std::process::id()));
    model.write(&folder).unwrap();
    let imported = ssmc_frontend::import(&folder, &ImportOptions::default()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    imported
}

#[test]
fn deep_models_are_rewritten_in_linear_time_and_their_weights_are_not_copied() {
    let mut distinct = BTreeSet::new();
    for n_layers in [24, 64] {
        let model = synthetic(n_layers);
        let start = Instant::now();
        for (program, raised) in programs_of(&model) {
            let new = rewrite(&raised.graph, &RewriteOptions::default()).unwrap();
            assert_eq!(new.report.scans.len(), n_layers, "{program}");
            distinct.insert((program, new.report.distinct));
            let plan = partition(&new.graph).unwrap();
            assert!(plan.groups.len() <= 7 * n_layers + 4, "{program}: {} kernels", plan.groups.len());
            assert!(plan.slots.len() <= 10, "{program}: {} slots", plan.slots.len());
            let mut n_shared = 0;
            for (name, weight) in raised.weights.iter() {
                let bytes = weight.bytes.as_slice();
                match model.weights.get(name) {
                    Some(old) => {
                        assert_eq!(bytes.as_ptr(), old.bytes.as_slice().as_ptr(), "{program} {name}");
                        n_shared += 1;
                    }
                    // No matrix of a projection is among the folded ones.
                    None => assert!(bytes.len() <= 96 * 8 * 4, "{program} {name}: {} bytes", bytes.len()),
                }
            }
            assert!(n_shared >= 4 * n_layers, "{program}: {n_shared} weights are as they were");
        }
        let elapsed = start.elapsed();
        eprintln!("{n_layers} layers, all programs: {elapsed:?}");
        assert!(elapsed < Duration::from_secs(60), "{n_layers} layers: {elapsed:?}");
    }
    // As many distinct segments for 24 layers as for 64: equal layers are rewritten once.
    let programs: BTreeSet<_> = distinct.iter().map(|(program, _)| program).collect();
    assert_eq!(distinct.len(), programs.len(), "{distinct:?}");
}
