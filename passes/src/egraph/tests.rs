//! Whole mixers, as frontends build them from primitives.

use super::*;
use crate::rules::Exactness;
use ssmc_ir::ops::{
    Activation, Binary, BinaryFn, Broadcast, CausalConv1d, Op, Reduce, ReduceFn, Scan, UnaryFn,
};
use ssmc_ir::{
    BuildError, Bytes, DType, Dim, GraphBuilder, Interpreter, Tensor, TensorType, Weight, Weights,
};
use std::collections::BTreeMap;

type Built<T> = Result<T, BuildError>;

fn f32s(dims: impl Into<ssmc_ir::Shape>) -> TensorType {
    TensorType::new(DType::F32, dims)
}

fn batch() -> Dim {
    Dim::symbol("batch")
}

fn seq_len() -> Dim {
    Dim::symbol("seq_len")
}

/// Random weights for every name in the graph.
pub(crate) fn weights_of(graph: &ssmc_ir::Graph) -> Weights {
    let mut weights = Weights::new();
    for (id, node) in graph.nodes() {
        if let Op::WeightRef(w) = &node.op {
            let ty = TensorType::new(w.dtype, w.shape.clone());
            let tensor = random(&ty, 77 + ssmc_ir::Entity::idx(id) as u64).unwrap();
            weights.insert(w.name.clone(), Weight { ty, bytes: Bytes::from(tensor.to_bytes()) });
        }
    }
    weights
}

/// Both graphs give the same outputs for random inputs, batch 2 and 5 steps.
pub(crate) fn assert_equal(old: &ssmc_ir::Graph, new: &ssmc_ir::Graph) {
    let bindings: BTreeMap<_, _> =
        [("batch", 2), ("seq_len", 5)].map(|(s, n)| (ssmc_ir::Symbol::new(s), Dim::from(n))).into();
    let inputs: BTreeMap<String, Tensor> = old
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, port)| {
            let ty = old.ty(port.value);
            let dims: Vec<Dim> = ty.shape.iter().map(|d| d.substitute(&bindings)).collect();
            (port.name.clone(), random(&TensorType::new(ty.dtype, dims), i as u64).unwrap())
        })
        .collect();
    let weights = weights_of(old);
    let run = |g: &ssmc_ir::Graph| Interpreter::new(g, &weights).run(&inputs).unwrap();
    let (expected, found) = (run(old), run(new));
    for (name, x) in &expected {
        let difference = first_difference(x, &found[name], Exactness::Reassociates);
        assert_eq!(difference, None, "output {name}");
        assert!(x.to_f64().iter().all(|x| x.is_finite()), "output {name} says nothing");
    }
}

pub(crate) fn count(graph: &ssmc_ir::Graph, name: &str) -> usize {
    graph.nodes().filter(|(_, n)| n.op.name() == name).count()
}

fn options() -> RewriteOptions {
    RewriteOptions::default()
}

fn disabled(pattern: &str) -> RewriteOptions {
    RewriteOptions { disabled_rules: vec![regex::Regex::new(pattern).unwrap()], ..options() }
}

fn silu(g: &mut GraphBuilder, x: ValueId) -> Built<ValueId> {
    let s = g.unary(UnaryFn::Sigmoid, x)?;
    g.binary(BinaryFn::Mul, x, s)
}

fn along_last(g: &mut GraphBuilder, v: ValueId, like: ValueId) -> Built<ValueId> {
    let shape = g.shape(like).clone();
    g.broadcast(v, &[shape.rank() - 1], shape)
}

fn rms(g: &mut GraphBuilder, x: ValueId) -> Built<ValueId> {
    let square = g.binary(BinaryFn::Mul, x, x)?;
    let rank = g.ty(x).rank();
    let mean = g.op(Reduce { axes: vec![rank - 1], f: ReduceFn::Mean }, &[square])?;
    let eps = g.splat(1e-5, mean)?;
    let sum = g.binary(BinaryFn::Add, mean, eps)?;
    let scale = g.unary(UnaryFn::Rsqrt, sum)?;
    let shape = g.shape(x).clone();
    let scale = g.broadcast(scale, &(0..rank - 1).collect::<Vec<_>>(), shape)?;
    g.binary(BinaryFn::Mul, x, scale)
}

fn rms_norm(g: &mut GraphBuilder, x: ValueId, name: &str) -> Built<ValueId> {
    let y = rms(g, x)?;
    let last = g.shape(x).last().unwrap().clone();
    let w = g.weight(name, &f32s([last]))?;
    let w = along_last(g, w, y)?;
    g.binary(BinaryFn::Mul, y, w)
}

fn linear(g: &mut GraphBuilder, x: ValueId, name: &str, width: i64) -> Built<ValueId> {
    let d = g.shape(x).last().unwrap().clone();
    let w = g.weight(name, &f32s([Dim::from(width), d]))?;
    g.contract("bld,ed->ble", &[x, w])
}

struct States {
    conv: ValueId,
    ssm: ValueId,
    seq_idx: ValueId,
}

fn states(g: &mut GraphBuilder, layer: usize, channels: i64, ssm: &[i64], seq_idx: ValueId) -> States {
    let dims: Vec<Dim> = std::iter::once(batch()).chain(ssm.iter().map(|d| Dim::from(*d))).collect();
    States {
        conv: g
            .input(format!("layers.{layer}.conv_state"), f32s([batch(), Dim::from(3), Dim::from(channels)])),
        ssm: g.input(format!("layers.{layer}.ssm_state"), f32s(dims)),
        seq_idx,
    }
}

fn conv(g: &mut GraphBuilder, x: ValueId, layer: usize, s: &States) -> Built<(ValueId, ValueId)> {
    let channels = g.shape(x)[2].clone();
    let w = g.weight(format!("{layer}.conv.w"), &f32s([channels.clone(), Dim::from(1), Dim::from(4)]))?;
    let w = g.reshape(w, [channels.clone(), Dim::from(4)])?;
    let bias = g.weight(format!("{layer}.conv.b"), &f32s([channels]))?;
    let operands = [Some(x), Some(w), Some(bias), Some(s.conv), Some(s.seq_idx)];
    let results = g.node(CausalConv1d { activation: Activation::None }, &operands, Vec::new())?;
    Ok((silu(g, results[0])?, results[1]))
}

const E: i64 = 6;
const N: i64 = 4;

/// How the Mamba-1 mixer under test departs from the plain one.
#[derive(Clone, Copy, Default)]
struct Variant {
    /// `dt = softplus(..) + 1e-4`.
    dt_offset: bool,
    /// Two scans, the second one backwards, summed before the gate.
    both_directions: bool,
    /// Products spelled with `mul`, `broadcast` and `reduce`.
    spelled_out: bool,
}

fn mamba1(g: &mut GraphBuilder, u: ValueId, layer: usize, s: &States, v: Variant) -> Built<[ValueId; 3]> {
    let xz = linear(g, u, &format!("{layer}.in"), 2 * E)?;
    let x = g.slice(xz, 2, 0, E)?;
    let z = g.slice(xz, 2, E, E)?;
    let (x, conv_state) = conv(g, x, layer, s)?;
    let dbc = linear(g, x, &format!("{layer}.x"), 2 + 2 * N)?;
    let dt = g.slice(dbc, 2, 0, 2)?;
    let b = g.slice(dbc, 2, 2, N)?;
    let c = g.slice(dbc, 2, 2 + N, N)?;
    let dt = linear(g, dt, &format!("{layer}.dt"), E)?;
    let bias = g.weight(format!("{layer}.dt_bias"), &f32s([E]))?;
    let bias = along_last(g, bias, dt)?;
    let dt = g.binary(BinaryFn::Add, dt, bias)?;
    let mut dt = g.unary(UnaryFn::Softplus, dt)?;
    if v.dt_offset {
        let offset = g.splat(1e-4, dt)?;
        dt = g.binary(BinaryFn::Add, dt, offset)?;
    }
    let a_log = g.weight(format!("{layer}.a_log"), &f32s([E, N]))?;
    let a = g.unary(UnaryFn::Exp, a_log)?;
    let a = g.unary(UnaryFn::Neg, a)?;
    let states = g.shape(x).iter().cloned().chain([Dim::from(N)]).collect::<ssmc_ir::Shape>();
    let spread = |g: &mut GraphBuilder, x: ValueId, axes: &[usize]| g.broadcast(x, axes, states.clone());
    let (q, b_bar) = if v.spelled_out {
        let (dt, x) = (spread(g, dt, &[0, 1, 2])?, spread(g, x, &[0, 1, 2])?);
        let (a, b) = (spread(g, a, &[2, 3])?, spread(g, b, &[0, 1, 3])?);
        let dtx = g.binary(BinaryFn::Mul, dt, x)?;
        (g.binary(BinaryFn::Mul, dt, a)?, g.binary(BinaryFn::Mul, dtx, b)?)
    } else {
        (g.contract("bld,dn->bldn", &[dt, a])?, g.contract("bld,bln,bld->bldn", &[dt, b, x])?)
    };
    let a_bar = g.unary(UnaryFn::Exp, q)?;
    let mut sum = None;
    let mut h_last = s.ssm;
    for reverse in [false, true].into_iter().take(if v.both_directions { 2 } else { 1 }) {
        let scan =
            g.node(Scan { reverse }, &[Some(a_bar), Some(b_bar), Some(s.ssm), Some(s.seq_idx)], Vec::new())?;
        h_last = scan[1];
        let y = if v.spelled_out {
            let c = spread(g, c, &[0, 1, 3])?;
            let hc = g.binary(BinaryFn::Mul, scan[0], c)?;
            g.op(Reduce { axes: vec![3], f: ReduceFn::Sum }, &[hc])?
        } else {
            g.contract("bldn,bln->bld", &[scan[0], c])?
        };
        let d = g.weight(format!("{layer}.d"), &f32s([E]))?;
        let d = along_last(g, d, x)?;
        let skip = g.binary(BinaryFn::Mul, x, d)?;
        let y = g.binary(BinaryFn::Add, y, skip)?;
        sum = Some(match sum {
            Some(sum) => g.binary(BinaryFn::Add, sum, y)?,
            None => y,
        });
    }
    let gate = silu(g, z)?;
    let y = g.binary(BinaryFn::Mul, sum.unwrap(), gate)?;
    Ok([linear(g, y, &format!("{layer}.out"), 3)?, conv_state, h_last])
}

fn language_model(layers: usize, v: Variant) -> Built<ssmc_ir::Graph> {
    let mut g = GraphBuilder::new("mamba");
    let ids = g.input("u", f32s([batch(), seq_len(), Dim::from(3)]));
    let mut u = g.unary(UnaryFn::Tanh, ids)?;
    let seq_idx = g.input("seq_idx", TensorType::new(DType::I32, [batch(), seq_len()]));
    for layer in 0..layers {
        let s = states(&mut g, layer, E, &[E, N], seq_idx);
        let normed = rms_norm(&mut g, u, &format!("{layer}.norm"))?;
        let [y, conv, ssm] = mamba1(&mut g, normed, layer, &s, v)?;
        u = g.binary(BinaryFn::Add, u, y)?;
        g.output(format!("layers.{layer}.conv_state"), conv);
        g.output(format!("layers.{layer}.ssm_state"), ssm);
    }
    let y = rms_norm(&mut g, u, "norm_f")?;
    g.output("y", y);
    Ok(g.finish())
}

const PRIMITIVES: [&str; 7] =
    ["exp", "softplus", "sigmoid", "silu", "ssm.scan", "ssm.discretized_scan", "rsqrt"];

/// None of the primitives that make a mixer is left; `a = -exp(a_log)` is one of them per layer.
fn assert_all_inside(graph: &ssmc_ir::Graph, layers: usize) {
    for name in PRIMITIVES {
        let allowed = if name == "exp" { layers } else { 0 };
        assert_eq!(count(graph, name), allowed, "{name}");
    }
}

#[test]
fn a_mamba1_mixer_becomes_one_selective_scan() {
    for spelled_out in [false, true] {
        let old = language_model(1, Variant { spelled_out, ..Variant::default() }).unwrap();
        let new = rewrite(&old, &options()).unwrap();
        assert_eq!(count(&new.graph, "ssm.selective_scan"), 1);
        assert_eq!(count(&new.graph, "rms_norm"), 2);
        assert_all_inside(&new.graph, 1);
        assert_eq!(new.report.outside, []);
        assert!(new.warnings.is_empty());
        let absorbed: Vec<_> = new.report.scans[0].absorbed.iter().map(|a| a.op).collect();
        for op in ["ssm.scan", "softplus", "exp", "add", "mul", "sigmoid"] {
            assert!(absorbed.contains(&op), "{op} in {absorbed:?}");
        }
        assert_equal(&old, &new.graph);
    }
}

#[test]
fn equal_layers_are_rewritten_once() {
    let old = language_model(5, Variant::default()).unwrap();
    let new = rewrite(&old, &options()).unwrap();
    assert_eq!(count(&new.graph, "ssm.selective_scan"), 5);
    assert_all_inside(&new.graph, 5);
    // What comes before the layers, four layers, and the last layer with what follows.
    assert_eq!((new.report.segments, new.report.distinct), (6, 3));
    assert_equal(&old, &new.graph);
}

#[test]
fn rewriting_is_deterministic() {
    let old = language_model(2, Variant::default()).unwrap();
    let (x, y) = (rewrite(&old, &options()).unwrap(), rewrite(&old, &options()).unwrap());
    assert_eq!(x.graph, y.graph);
    assert_eq!(x.report, y.report);
}

#[test]
fn a_gate_after_the_sum_of_two_directions_stays_outside() {
    let old =
        language_model(1, Variant { both_directions: true, dt_offset: true, ..Variant::default() }).unwrap();
    let new = rewrite(&old, &options()).unwrap();
    assert_eq!(count(&new.graph, "ssm.selective_scan"), 2);
    assert_eq!(count(&new.graph, "ssm.scan"), 0);
    assert_eq!(count(&new.graph, "softplus"), 1);
    assert_eq!(count(&new.graph, "silu"), 1);
    for (_, node) in new.graph.nodes() {
        if let Op::SelectiveScan(s) = &node.op {
            assert!(!s.dt_softplus);
            assert!(node.operands[5].is_some() && node.operands[6].is_none() && node.operands[7].is_none());
        }
    }
    let reasons: Vec<_> = new.report.outside.iter().map(|o| (o.what, o.reason.as_str())).collect();
    assert!(reasons.contains(&("gate", "the gate comes after the sum of 2 scans")), "{reasons:?}");
    assert!(reasons.contains(&("softplus", "add follows it before the scan")), "{reasons:?}");
    assert_equal(&old, &new.graph);
}

#[test]
fn without_any_one_rule_the_numbers_stay_right() {
    let old = language_model(1, Variant::default()).unwrap();
    for rule in rules::all() {
        let new = rewrite(&old, &disabled(&format!("^{}$", rule.name))).unwrap();
        assert_equal(&old, &new.graph);
    }
    let new = rewrite(&old, &disabled("^scan-gate$")).unwrap();
    assert!(new.report.scans[0].absorbed.iter().all(|a| a.op != "sigmoid"));
    assert_eq!(new.report.outside.len(), 1, "{:?}", new.report.outside);
    assert_eq!(new.report.outside[0].what, "gate");
}

#[test]
fn a_limit_is_a_warning_and_the_graph_stays_right() {
    let old = language_model(1, Variant::default()).unwrap();
    let new = rewrite(&old, &RewriteOptions { iteration_limit: 2, ..options() }).unwrap();
    assert_eq!(new.warnings[0].code, LIMIT);
    assert_equal(&old, &new.graph);
}

const G: i64 = 2;
const R: i64 = 3;
const P: i64 = 2;

fn mamba2(g: &mut GraphBuilder, u: ValueId, s: &States, groups: i64) -> Built<[ValueId; 3]> {
    let (heads, inner) = (groups * R, groups * R * P);
    let (b, l) = (batch(), seq_len());
    let channels = inner + 2 * groups * N;
    let all = linear(g, u, "in", inner + channels + heads)?;
    let z = g.slice(all, 2, 0, inner)?;
    let xbc = g.slice(all, 2, inner, channels)?;
    let dt = g.slice(all, 2, inner + channels, heads)?;
    let (xbc, conv_state) = conv(g, xbc, 0, s)?;
    let x = g.slice(xbc, 2, 0, inner)?;
    let bm = g.slice(xbc, 2, inner, groups * N)?;
    let c = g.slice(xbc, 2, inner + groups * N, groups * N)?;
    let dims = |tail: &[i64]| -> Vec<Dim> {
        [b.clone(), l.clone()].into_iter().chain(tail.iter().map(|d| Dim::from(*d))).collect()
    };
    let x = g.reshape(x, dims(&[groups, R, P]))?;
    let bm = g.reshape(bm, dims(&[groups, N]))?;
    let c = g.reshape(c, dims(&[groups, N]))?;
    let bias = g.weight("dt_bias", &f32s([heads]))?;
    let bias = along_last(g, bias, dt)?;
    let dt = g.binary(BinaryFn::Add, dt, bias)?;
    let dt = g.unary(UnaryFn::Softplus, dt)?;
    let low = g.splat(0.01, dt)?;
    let dt = g.binary(BinaryFn::Max, dt, low)?;
    let high = g.splat(0.9, dt)?;
    let dt = g.binary(BinaryFn::Min, dt, high)?;
    let dt = g.reshape(dt, dims(&[groups, R]))?;
    let a_log = g.weight("a_log", &f32s([heads]))?;
    let a = g.unary(UnaryFn::Exp, a_log)?;
    let a = g.unary(UnaryFn::Neg, a)?;
    let a = g.reshape(a, [groups, R])?;
    let q = g.contract("blgr,gr->blgr", &[dt, a])?;
    let a_bar = g.unary(UnaryFn::Exp, q)?;
    let a_bar = g.reshape(a_bar, dims(&[groups, R, 1, 1]))?;
    let b_bar = g.contract("blgr,blgn,blgrp->blgrpn", &[dt, bm, x])?;
    let h0 = g.reshape(s.ssm, [b.clone(), Dim::from(groups), Dim::from(R), Dim::from(P), Dim::from(N)])?;
    let operands = [Some(a_bar), Some(b_bar), Some(h0), Some(s.seq_idx)];
    let scan = g.node(Scan { reverse: false }, &operands, Vec::new())?;
    let y = g.contract("blgrpn,blgn->blgrp", &[scan[0], c])?;
    let h_last = g.reshape(scan[1], [b.clone(), Dim::from(heads), Dim::from(P), Dim::from(N)])?;
    let d = g.weight("d", &f32s([heads]))?;
    let d = g.reshape(d, [groups, R])?;
    let shape = g.shape(x).clone();
    let d = g.op(Broadcast { axes: vec![2, 3], shape }, &[d])?;
    let skip = g.op(Binary { f: BinaryFn::Mul }, &[x, d])?;
    let y = g.binary(BinaryFn::Add, y, skip)?;
    let y = g.reshape(y, dims(&[inner]))?;
    let gate = silu(g, z)?;
    let y = g.binary(BinaryFn::Mul, y, gate)?;
    let y = if groups == 1 {
        rms(g, y)?
    } else {
        let y = g.reshape(y, dims(&[groups, R * P]))?;
        let y = rms(g, y)?;
        g.reshape(y, dims(&[inner]))?
    };
    let w = g.weight("norm", &f32s([inner]))?;
    let w = along_last(g, w, y)?;
    let y = g.binary(BinaryFn::Mul, y, w)?;
    Ok([linear(g, y, "out", 3)?, conv_state, h_last])
}

fn mamba2_model(groups: i64) -> Built<ssmc_ir::Graph> {
    let mut g = GraphBuilder::new("mamba2");
    let u = g.input("u", f32s([batch(), seq_len(), Dim::from(3)]));
    let seq_idx = g.input("seq_idx", TensorType::new(DType::I32, [batch(), seq_len()]));
    let channels = groups * (R * P + 2 * N);
    let s = states(&mut g, 0, channels, &[groups * R, P, N], seq_idx);
    let [y, conv, ssm] = mamba2(&mut g, u, &s, groups)?;
    let y = g.binary(BinaryFn::Add, u, y)?;
    g.output("y", y);
    g.output("conv", conv);
    g.output("ssm", ssm);
    Ok(g.finish())
}

#[test]
fn a_mamba2_mixer_becomes_one_ssd_with_the_gate_inside() {
    for groups in [G, 1] {
        let old = mamba2_model(groups).unwrap();
        let new = rewrite(&old, &options()).unwrap();
        assert_eq!(count(&new.graph, "ssm.ssd"), 1);
        assert_eq!(count(&new.graph, "rms_norm"), 1);
        assert_eq!(count(&new.graph, "gated_rms_norm"), 0);
        assert_all_inside(&new.graph, 1);
        for (_, node) in new.graph.nodes() {
            if let Op::Ssd(s) = &node.op {
                // All but the slots of a state pool.
                let (slots, others) = node.operands.split_last().unwrap();
                assert!(slots.is_none() && others.iter().all(Option::is_some));
                assert_eq!(
                    (s.dt_softplus, s.dt_min.get(), s.dt_max.get()),
                    (true, 0.01f32.into(), 0.9f32.into())
                );
            }
        }
        assert_eq!(new.report.outside, []);
        assert_equal(&old, &new.graph);
    }
}

#[test]
fn every_step_of_an_explanation_holds() {
    for old in [language_model(1, Variant::default()).unwrap(), mamba2_model(G).unwrap()] {
        let explanations = explain(&old, &options()).unwrap();
        let scan = explanations
            .iter()
            .find(|e| e.fused.iter().any(|f| matches!(*f, "ssm.selective_scan" | "ssm.ssd")))
            .unwrap();
        let rules: Vec<_> = scan.steps.iter().map(|s| s.rule).collect();
        for rule in ["dt-softplus", "dt-bias", "scan-skip", "scan-gate", "silu-product"] {
            assert!(rules.contains(&rule), "{rule} in {rules:?}");
        }
        for explanation in &explanations {
            assert!(check(explanation, 5).unwrap() >= explanation.steps.len());
        }
    }
}
