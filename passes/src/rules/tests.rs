//! Every rule on random tensors: it fires where it should, keeps the numbers, and does not fire where it must not.

use super::*;
use crate::egraph::tests::{assert_equal, count};
use crate::egraph::{RewriteOptions, rewrite};
use ssmc_ir::ops::{
    Activation, Binary, BinaryFn, CausalConv1d, Cmp, Compare, Conv, Discretization, DiscretizedScan,
    LayerNorm, Op, Pad, Reduce, ReduceFn, RmsNorm, Scan, Select, SelectiveScan, Slice, Ssd, UnaryFn,
};
use ssmc_ir::{BuildError, DType, Dim, GraphBuilder, TensorType, ValueId};
use std::path::Path;

type Built = Result<ValueId, BuildError>;

/// Builds the left side of a rule; if `false`, with one side condition broken.
type Build = fn(&mut GraphBuilder, bool) -> Built;

const CASES: &[(&str, Build)] = &[
    ("reshape-reshape", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        let y = g.op(ssmc_ir::ops::Reshape { shape: [24].into() }, &[x])?;
        let y = if fires { y } else { g.unary(UnaryFn::Neg, y)? };
        g.op(ssmc_ir::ops::Reshape { shape: [3, 8].into() }, &[y])
    }),
    ("reshape-units", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        let shape = if fires { [2, 1, 12] } else { [1, 4, 6] };
        g.op(ssmc_ir::ops::Reshape { shape: shape.into() }, &[x])
    }),
    ("transpose-transpose", |g, fires| {
        let x = input(g, "x", &[2, 3, 4]);
        let y = g.transpose(x, &[1, 2, 0])?;
        let y = if fires { y } else { g.unary(UnaryFn::Neg, y)? };
        g.transpose(y, &[1, 0, 2])
    }),
    ("transpose-contract", |g, fires| {
        let (x, y) = (input(g, "x", &[2, 3, 4]), input(g, "y", &[5, 4]));
        let z = g.contract("abc,dc->abd", &[x, y])?;
        let z = if fires { z } else { g.unary(UnaryFn::Neg, z)? };
        g.transpose(z, &[2, 0, 1])
    }),
    ("reciprocal-sqrt", |g, fires| {
        let x = positive(g)?;
        let y = g.unary(if fires { UnaryFn::Sqrt } else { UnaryFn::Exp }, x)?;
        g.unary(UnaryFn::Reciprocal, y)
    }),
    ("divide-by-sqrt", |g, fires| {
        let (x, y) = (input(g, "x", &[4, 6]), positive(g)?);
        let y = g.unary(if fires { UnaryFn::Sqrt } else { UnaryFn::Exp }, y)?;
        g.binary(BinaryFn::Div, x, y)
    }),
    ("sigmoid-from-exp", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        let e = g.unary(UnaryFn::Neg, x)?;
        let e = g.unary(UnaryFn::Exp, e)?;
        let one = g.splat(if fires { 1.0 } else { 2.0 }, e)?;
        let sum = g.binary(BinaryFn::Add, one, e)?;
        g.unary(UnaryFn::Reciprocal, sum)
    }),
    ("softplus-from-exp", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        let e = g.unary(UnaryFn::Exp, x)?;
        let one = g.splat(if fires { 1.0 } else { 2.0 }, e)?;
        let sum = g.binary(BinaryFn::Add, one, e)?;
        g.unary(UnaryFn::Log, sum)
    }),
    ("softplus-threshold", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        let scale = g.splat(60.0, x)?;
        let x = g.binary(BinaryFn::Mul, scale, x)?;
        let y = g.unary(UnaryFn::Softplus, x)?;
        let threshold = g.splat(if fires { 20.0 } else { 2.0 }, x)?;
        let is_large = g.op(Compare { cmp: Cmp::Gt }, &[x, threshold])?;
        g.op(Select, &[is_large, x, y])
    }),
    ("silu-product", |g, fires| {
        let (x, y) = (input(g, "x", &[4, 6]), input(g, "y", &[4, 6]));
        let s = g.unary(UnaryFn::Sigmoid, if fires { x } else { y })?;
        let row = input(g, "row", &[4]);
        g.contract("ab,ab,a->ab", &[s, x, row])
    }),
    ("rms-norm", |g, fires| {
        let x = input(g, "x", &[4, 6]);
        scaled_by_mean_square(g, x, x, if fires { ReduceFn::Mean } else { ReduceFn::Max })
    }),
    ("rms-norm-weight", |g, fires| {
        let (x, w) = (input(g, "x", &[6, 6]), input(g, "w", &[6]));
        let y = g.node(RmsNorm { eps: 1e-5.into() }, &[Some(x), None], Vec::new())?[0];
        let w = g.broadcast(w, &[usize::from(fires)], [6, 6])?;
        g.binary(BinaryFn::Mul, w, y)
    }),
    ("layer-norm", |g, fires| {
        let x = input(g, "x", &[6, 6]);
        let mean = g.op(Reduce { axes: vec![usize::from(fires)], f: ReduceFn::Mean }, &[x])?;
        let mean = g.broadcast(mean, &[0], [6, 6])?;
        let centered = g.binary(BinaryFn::Sub, x, mean)?;
        Ok(g.node(RmsNorm { eps: 1e-5.into() }, &[Some(centered), None], Vec::new())?[0])
    }),
    ("layer-norm-bias", |g, fires| {
        let (x, w, b) = (input(g, "x", &[6, 6]), input(g, "w", &[6]), input(g, "b", &[6]));
        let y = g.node(LayerNorm { eps: 1e-5.into() }, &[Some(x), Some(w), None], Vec::new())?[0];
        let b = g.broadcast(b, &[usize::from(fires)], [6, 6])?;
        g.binary(BinaryFn::Add, b, y)
    }),
    ("gate-then-norm", |g, fires| {
        let (y, z, w) = (input(g, "y", &[4, 6]), input(g, "z", &[4, 6]), input(g, "w", &[6]));
        let gate = if fires { g.unary(UnaryFn::Silu, z)? } else { g.unary(UnaryFn::Sigmoid, z)? };
        let gated = g.binary(BinaryFn::Mul, y, gate)?;
        Ok(g.node(RmsNorm { eps: 1e-5.into() }, &[Some(gated), Some(w)], Vec::new())?[0])
    }),
    ("norm-then-gate", |g, fires| {
        let (y, z, w) = (input(g, "y", &[4, 6]), input(g, "z", &[4, 6]), input(g, "w", &[6]));
        let gate = if fires { g.unary(UnaryFn::Silu, z)? } else { g.unary(UnaryFn::Sigmoid, z)? };
        let normed = g.node(RmsNorm { eps: 1e-5.into() }, &[Some(y), Some(w)], Vec::new())?[0];
        g.binary(BinaryFn::Mul, gate, normed)
    }),
    ("conv-causal", |g, fires| {
        let (x, w, b) = (input(g, "x", &[2, 3, 5]), input(g, "w", &[3, 1, 4]), input(g, "b", &[3]));
        let zero = g.scalar(DType::F32, 0.0)?;
        let x =
            g.op(Pad { axis: 2, low: Dim::from(if fires { 3 } else { 2 }), high: Dim::from(0) }, &[x, zero])?;
        let op = Conv { dilations: vec![1], groups: 3, pads: vec![0, 0], strides: vec![1] };
        Ok(g.node(op, &[Some(x), Some(w), Some(b)], Vec::new())?[0])
    }),
    ("conv1d-bias", |g, fires| {
        let y = conv1d(g)?;
        let b = input(g, "b", &[5]);
        let b = g.broadcast(b, &[if fires { 2 } else { 1 }], [2, 5, 5])?;
        g.binary(BinaryFn::Add, y, b)
    }),
    ("conv1d-silu", |g, fires| {
        let y = conv1d(g)?;
        g.unary(if fires { UnaryFn::Silu } else { UnaryFn::Relu }, y)
    }),
    ("discretize-exp-euler", |g, fires| {
        let (dt, x) = (input(g, "dt", &[2, 5, 3]), input(g, "x", &[2, 5, 3]));
        let (a, b) = (input(g, "a", &[3, 4]), input(g, "b", &[2, 5, 4]));
        let q = g.contract("bld,dn->bldn", &[dt, a])?;
        let other = g.unary(UnaryFn::Tanh, dt)?;
        let input = g.contract("bld,bln,bld->bldn", &[if fires { dt } else { other }, b, x])?;
        let a_bar = g.unary(UnaryFn::Exp, q)?;
        let h0 = self::input(g, "h0", &[2, 3, 4]);
        both(g, Scan { reverse: true }, &[Some(a_bar), Some(input), Some(h0), None])
    }),
    ("discretize-scalar-decay", |g, fires| {
        let (dt, x) = (input(g, "dt", &[2, 5, 3]), input(g, "x", &[2, 5, 3, 2]));
        let (a, b) = (input(g, "a", &[3]), input(g, "b", &[2, 5, 4]));
        let q = g.contract("blh,h->blh", &[dt, a])?;
        let other = g.unary(UnaryFn::Tanh, dt)?;
        let input = g.contract("blh,bln,blhp->blhpn", &[if fires { dt } else { other }, b, x])?;
        let a_bar = g.unary(UnaryFn::Exp, q)?;
        let a_bar = g.reshape(a_bar, [2, 5, 3, 1, 1])?;
        both(g, Scan { reverse: false }, &[Some(a_bar), Some(input), None, None])
    }),
    ("discretize-zoh", |g, fires| {
        let (dt, x) = (input(g, "dt", &[2, 5, 3]), input(g, "x", &[2, 5, 3]));
        let (a, b) = (input(g, "a", &[3, 4]), input(g, "b", &[2, 5, 4]));
        let q = g.contract("bld,dn->bldn", &[dt, a])?;
        let a_bar = g.unary(UnaryFn::Exp, q)?;
        let grown = g.unary(if fires { UnaryFn::Expm1 } else { UnaryFn::Exp }, q)?;
        let rate = g.broadcast(a, &[2, 3], [2, 5, 3, 4])?;
        let factor = g.binary(BinaryFn::Div, grown, rate)?;
        let input = g.contract("bldn,bln,bld->bldn", &[factor, b, x])?;
        both(g, Scan { reverse: true }, &[Some(a_bar), Some(input), None, None])
    }),
    ("discretize-bilinear", |g, fires| {
        let (dt, x) = (input(g, "dt", &[2, 5, 3]), input(g, "x", &[2, 5, 3]));
        let (a, b) = (input(g, "a", &[3, 4]), input(g, "b", &[2, 5, 4]));
        let z = g.contract("bld,dn->bldn", &[dt, a])?;
        let half = g.splat(0.5, z)?;
        let half = g.binary(BinaryFn::Mul, z, half)?;
        let one = g.splat(1.0, z)?;
        let (above, below) = (g.binary(BinaryFn::Add, one, half)?, g.binary(BinaryFn::Sub, one, half)?);
        let a_bar = g.binary(BinaryFn::Div, above, below)?;
        let dt = g.broadcast(dt, &[0, 1, 2], [2, 5, 3, 4])?;
        let factor = g.binary(BinaryFn::Div, dt, if fires { below } else { above })?;
        let input = g.contract("bldn,bln,bld->bldn", &[factor, b, x])?;
        both(g, Scan { reverse: false }, &[Some(a_bar), Some(input), None, None])
    }),
    ("dt-min", |g, fires| {
        let dt = input(g, "dt", &[2, 5, 1, 3]);
        let bound = if fires { g.splat(0.1, dt)? } else { input(g, "bound", &[2, 5, 1, 3]) };
        let dt = g.binary(BinaryFn::Max, dt, bound)?;
        selective_scan(g, dt, SelectiveScan::default(), false)
    }),
    ("dt-max", |g, fires| {
        let dt = input(g, "dt", &[2, 5, 1, 3]);
        let bound = g.splat(0.2, dt)?;
        let dt = g.binary(BinaryFn::Min, bound, dt)?;
        // A softplus inside the scan comes before its bounds, one before it after them.
        let op = SelectiveScan { dt_softplus: !fires, ..SelectiveScan::default() };
        selective_scan(g, dt, op, false)
    }),
    ("dt-softplus", |g, fires| {
        let dt = input(g, "dt", &[2, 5, 3]);
        let dt = g.unary(UnaryFn::Softplus, dt)?;
        let dt = g.reshape(dt, [2, 5, 1, 3])?;
        let op = SelectiveScan { dt_softplus: !fires, ..SelectiveScan::default() };
        selective_scan(g, dt, op, false)
    }),
    ("dt-bias", |g, fires| {
        let (dt, bias) = (input(g, "dt", &[2, 5, 3]), input(g, "bias", if fires { &[3] } else { &[5] }));
        let bias = g.broadcast(bias, &[if fires { 2 } else { 1 }], [2, 5, 3])?;
        let dt = g.binary(BinaryFn::Add, bias, dt)?;
        let dt = g.reshape(dt, [2, 5, 1, 3])?;
        selective_scan(g, dt, SelectiveScan { dt_softplus: true, ..SelectiveScan::default() }, false)
    }),
    ("scan-read-out", |g, fires| {
        let h = discretized(g, &[2, 5, 1, 3], &[2, 5, 1, 3], &[1, 3, 4])?;
        let c = if fires { input(g, "c", &[2, 5, 4]) } else { input(g, "c", &[2, 5, 3, 4]) };
        let h = g.reshape(h, [2, 5, 3, 4])?;
        let z = input(g, "gate", &[2, 5, 3]);
        g.contract(if fires { "blen,bln,ble->ble" } else { "blen,blen,ble->ble" }, &[h, c, z])
    }),
    ("read-out-cast", |g, fires| {
        let (a, b) = (input(g, "a", &[2, 5, 3, 4]), input(g, "b", &[2, 5, 3, 4]));
        let h = both(g, Scan { reverse: false }, &[Some(a), Some(b), None, None])?;
        let h = g.cast(if fires { h } else { b }, DType::F16)?;
        let c = input(g, "c", &[2, 5, 4]);
        let c = g.cast(c, DType::F16)?;
        let y = g.contract("blen,bln->ble", &[h, c])?;
        g.cast(y, DType::F32)
    }),
    ("ssd-read-out", |g, fires| {
        let h = discretized(g, &[2, 5, 1, 3, 2], &[2, 5, 1, 3], &[1, 3])?;
        let c = input(g, "c", &[2, 5, 1, 4]);
        let ones = input(g, "p", &[2, 5, 1, 2]);
        if fires {
            g.contract("blgrpn,blgn->blgrp", &[h, c])
        } else {
            g.contract("blgrpn,blgp->blgrn", &[h, ones])
        }
    }),
    ("scan-skip", |g, fires| {
        let dt = input(g, "dt", &[2, 5, 1, 3]);
        let y = selective_scan(g, dt, SelectiveScan::default(), false)?;
        let d = input(g, "d", &[3]);
        let other = input(g, "other", &[2, 5, 1, 3]);
        let x = if fires { g.graph().input("x").unwrap() } else { other };
        let d = g.broadcast(d, &[3], [2, 5, 1, 3])?;
        let skip = g.binary(BinaryFn::Mul, d, x)?;
        g.binary(BinaryFn::Add, skip, y)
    }),
    ("scan-gate", |g, fires| {
        let dt = input(g, "dt", &[2, 5, 1, 3]);
        let y = selective_scan(g, dt, SelectiveScan::default(), !fires)?;
        let y = g.reshape(y, [2, 15])?;
        let z = input(g, "gate", &[2, 15]);
        let gate = g.unary(UnaryFn::Silu, z)?;
        g.binary(BinaryFn::Mul, y, gate)
    }),
    ("ssd-chunked", |g, fires| {
        let x = input(g, "x", &[2, 5, 1, 3, 2]);
        let (dt, a) = (input(g, "dt", &[2, 5, 1, 3]), input(g, "a", &[1, 3]));
        let (b, c) = (input(g, "b", &[2, 5, 1, 4]), input(g, "c", &[2, 5, 1, 4]));
        let op = if fires {
            Ssd::default()
        } else {
            Ssd { mode: ssmc_ir::ops::Mode::Chunked, chunk_size: 2, ..Ssd::default() }
        };
        let operands = [x, dt, a, b, c].map(Some).into_iter().chain([None; 5]).collect::<Vec<_>>();
        both(g, op, &operands)
    }),
];

fn input(g: &mut GraphBuilder, name: &str, dims: &[i64]) -> ValueId {
    g.input(name, TensorType::new(DType::F32, dims.iter().copied().collect::<ssmc_ir::Shape>()))
}

/// x^2 + 1/2, so that roots and quotients are finite.
fn positive(g: &mut GraphBuilder) -> Built {
    let x = input(g, "v", &[4, 6]);
    let square = g.op(Binary { f: BinaryFn::Mul }, &[x, x])?;
    let half = g.splat(0.5, x)?;
    g.binary(BinaryFn::Add, square, half)
}

fn scaled_by_mean_square(g: &mut GraphBuilder, x: ValueId, of: ValueId, f: ReduceFn) -> Built {
    let square = g.binary(BinaryFn::Mul, of, of)?;
    let mean = g.op(Reduce { axes: vec![1], f }, &[square])?;
    let eps = g.splat(1e-5, mean)?;
    let sum = g.binary(BinaryFn::Add, mean, eps)?;
    let scale = g.unary(UnaryFn::Rsqrt, sum)?;
    let scale = g.broadcast(scale, &[0], [4, 6])?;
    g.binary(BinaryFn::Mul, scale, x)
}

fn conv1d(g: &mut GraphBuilder) -> Built {
    let (x, w) = (input(g, "x", &[2, 5, 5]), input(g, "w", &[5, 4]));
    both(g, CausalConv1d { activation: Activation::None }, &[Some(x), Some(w), None, None, None])
}

/// The first result; the second one is an output of the graph.
fn both(g: &mut GraphBuilder, op: impl Into<Op>, operands: &[Option<ValueId>]) -> Built {
    let results = g.node(op, operands, Vec::new())?;
    g.output("state", results[1]);
    Ok(results[0])
}

fn selective_scan(g: &mut GraphBuilder, dt: ValueId, op: SelectiveScan, has_gate: bool) -> Built {
    let x = input(g, "x", &[2, 5, 1, 3]);
    let a = input(g, "a", &[1, 3, 4]);
    let (b, c) = (input(g, "b", &[2, 5, 1, 4]), input(g, "c", &[2, 5, 1, 4]));
    let z = has_gate.then(|| input(g, "z", &[2, 5, 1, 3]));
    both(g, op, &[Some(x), Some(dt), Some(a), Some(b), Some(c), None, z, None, None, None])
}

fn discretized(g: &mut GraphBuilder, x: &[i64], dt: &[i64], a: &[i64]) -> Built {
    let (x, dt, a) = (input(g, "x", x), input(g, "dt", dt), input(g, "a", a));
    let b = input(g, "b", &[2, 5, 1, 4]);
    let op = DiscretizedScan { discretization: Discretization::ExpEuler, reverse: false };
    both(g, op, &[Some(x), Some(dt), Some(a), Some(b), None, None])
}

fn only(rule: &str) -> RewriteOptions {
    let others = all().filter(|r| r.name != rule);
    let disabled_rules = others.map(|r| regex::Regex::new(&format!("^{}$", r.name)).unwrap()).collect();
    RewriteOptions { disabled_rules, ..RewriteOptions::default() }
}

fn graph(build: Build, fires: bool) -> ssmc_ir::Graph {
    let mut g = GraphBuilder::new("left");
    let y = build(&mut g, fires).unwrap();
    g.output("y", y);
    g.finish()
}

#[test]
fn every_rule_has_a_case() {
    let cases: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
    for rule in all() {
        assert!(cases.contains(&rule.name), "{} has no case", rule.name);
    }
    assert_eq!(cases.len(), all().count());
}

#[test]
fn every_rule_fires_and_keeps_the_numbers() {
    for (name, build) in CASES {
        let old = graph(*build, true);
        let new = rewrite(&old, &only(name)).unwrap();
        assert!(new.report.fired.contains_key(name), "{name} did not fire");
        assert_equal(&old, &new.graph);
    }
}

/// Each case twice as text, for reading and for the runner of filetests, which holds what comes of it.
#[test]
fn every_case_is_a_filetest() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/filetests/rules"));
    for (name, build) in CASES {
        for (file, fires) in [(format!("{name}.ssm"), true), (format!("{name}.not.ssm"), false)] {
            let not = if fires { "" } else { ";;! fires = false\n" };
            let head = format!(";;! test = \"rewrite\"\n;;! rule = \"{name}\"\n{not}");
            let body = format!("{head}{}", graph(*build, fires));
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if !text.starts_with(&body) && std::env::var_os("SSMC_BLESS").is_some() {
                std::fs::create_dir_all(folder).unwrap();
                std::fs::write(&path, body).unwrap();
            } else {
                assert!(text.starts_with(&body), "{} is out of date: cargo xtask bless", path.display());
            }
        }
    }
}

/// The cost model may prefer the left side; here every equation itself is run, both sides side by side.
#[test]
fn both_sides_of_every_rule_are_equal() {
    for (name, build) in CASES {
        let old = graph(*build, true);
        let n = crate::egraph::check_equations(&old, name, 3).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(n > 0, "{name}");
    }
}

#[test]
fn no_rule_fires_where_its_condition_fails() {
    for (name, build) in CASES {
        let old = graph(*build, false);
        let new = rewrite(&old, &only(name)).unwrap();
        assert!(!new.report.fired.contains_key(name), "{name} fired");
        assert_equal(&old, &new.graph);
    }
}

#[test]
fn names_are_unique_kebab_case_and_sizes_are_stated() {
    let mut seen = std::collections::BTreeSet::new();
    for rule in all() {
        assert!(seen.insert(rule.name), "{}", rule.name);
        assert!(rule.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert!(rule.equation.contains('=') && !rule.reason.is_empty() && !rule.source.is_empty());
    }
}

#[test]
fn a_padded_convolution_cut_to_length_is_causal() {
    let mut g = GraphBuilder::new("cut");
    let len = Dim::symbol("seq_len");
    let x = g.input("x", TensorType::new(DType::F32, [Dim::from(2), Dim::from(3), len.clone()]));
    let w = input(&mut g, "w", &[3, 1, 4]);
    let op = Conv { dilations: vec![1], groups: 3, pads: vec![3, 3], strides: vec![1] };
    let y = g.node(op, &[Some(x), Some(w), None], Vec::new()).unwrap()[0];
    let y = g.op(Slice { axis: 2, start: Dim::from(0), len, stride: 1 }, &[y]).unwrap();
    g.output("y", y);
    let old = g.finish();
    let new = rewrite(&old, &RewriteOptions::default()).unwrap();
    assert_eq!((count(&new.graph, "conv"), count(&new.graph, "ssm.causal_conv1d")), (0, 1));
    assert_equal(&old, &new.graph);
}

#[test]
fn the_length_decides_the_mode() {
    let mut g = GraphBuilder::new("modes");
    let len = Dim::symbol("seq_len");
    let b = Dim::from(1);
    let mut of = |name: &str, tail: &[i64]| {
        let dims: Vec<Dim> =
            [b.clone(), len.clone()].into_iter().chain(tail.iter().map(|d| Dim::from(*d))).collect();
        Some(g.input(name, TensorType::new(DType::F32, dims)))
    };
    let (x, dt) = (of("x", &[1, 24, 64]), of("dt", &[1, 24]));
    let (bm, c) = (of("b", &[1, 128]), of("c", &[1, 128]));
    let a = Some(input(&mut g, "a", &[1, 24]));
    let operands = [x, dt, a, bm, c, None, None, None, None, None];
    let y = g.node(Ssd::default(), &operands, Vec::new()).unwrap()[0];
    g.output("y", y);
    let old = g.finish();
    let chunk = |seq_len_hint| {
        let new = rewrite(&old, &RewriteOptions { seq_len_hint, ..RewriteOptions::default() }).unwrap();
        new.graph
            .nodes()
            .find_map(|(_, n)| match &n.op {
                Op::Ssd(s) => Some(s.chunk_size),
                _ => None,
            })
            .unwrap()
    };
    assert_eq!(chunk(1), 0);
    assert_eq!(chunk(2048), 64);
}

#[test]
fn the_document_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules.md");
    if std::env::var_os("SSMC_BLESS").is_some() {
        std::fs::write(path, markdown()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), markdown(), "run with SSMC_BLESS=1 to write it anew");
}
