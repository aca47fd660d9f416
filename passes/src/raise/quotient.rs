//! Quotients of running sums become scans, for sequences of any length.
//!
//! With `S[t]` a running sum of `la`, `cumsum(b * exp(S)) / exp(S)` is `h[t] = sum over s <= t of exp(S[s] - S[t]) * b[s]`,
//! and `S[s] - S[t]` is the sum of la over `s+1..=t`, but for its sign: `h[t] = exp(+-la[t]) * h[t-1] + b[t]`. As it is written it under- and overflows. `chunked` proves more spellings of it, for constant lengths.

use super::trace::Tracer;
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view::{self, Labels};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Binary, BinaryFn, Contract, CumSum, Op, Scan, Spec, Unary, UnaryFn};
use ssmc_ir::{BuildError, Dim, Graph, GraphBuilder, Loc, Model, Node, NodeId, Shape, ValueId};
use std::collections::BTreeMap;

/// Replaces running sums that are divided by what was multiplied before the sum.
pub struct Quotients;

/// What is added to a divisor so that it is not 0.
const MAX_GUARD: f64 = 1e-6;
/// Products are followed through this many nodes.
const MAX_DEPTH: usize = 8;

/// A factor of a product: its value, the axes of the product that it has, and whether it divides.
#[derive(Clone, Debug)]
struct Factor {
    value: ValueId,
    labels: Labels,
    divides: bool,
}

/// `exp(sign * S)` with S a running sum of `la` over all steps up to each, or over all after it.
#[derive(Clone, Debug, PartialEq)]
struct Weight {
    la: ValueId,
    labels: Labels,
    is_suffix: bool,
    sign: i8,
}

/// A running sum of a weighted product.
struct Sum {
    value: ValueId,
    axis: usize,
    weight: Weight,
    others: Vec<Factor>,
}

/// What divides a running sum: a product in place of which the states stand, or an operand of a contraction.
struct Quotient {
    sum: usize,
    /// The operand that is the sum, and the one that is the weight.
    operands: (usize, usize),
}

impl Pass for Quotients {
    fn name(&self) -> &'static str {
        "quotients"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let sums: Vec<Sum> = graph.nodes().filter_map(|(_, node)| sum(graph, node)).collect();
        let of: BTreeMap<ValueId, usize> = sums.iter().enumerate().map(|(i, sum)| (sum.value, i)).collect();
        let quotients: BTreeMap<NodeId, Quotient> =
            (graph.nodes()).filter_map(|(id, node)| Some((id, quotient(graph, &sums, &of, node)?))).collect();
        if quotients.is_empty() {
            return Ok(Changed::No);
        }
        let mut rewriter = Rewriter::new(graph);
        let mut tracer = Tracer::default();
        let mut states: BTreeMap<usize, ValueId> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            let Some(quotient) = quotients.get(&id) else {
                rewriter.copy(node)?;
                continue;
            };
            rewriter.builder().set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
            let h = match states.get(&quotient.sum) {
                Some(h) => *h,
                None => {
                    let h = scan(&mut rewriter, &mut tracer, &sums[quotient.sum])?;
                    states.insert(quotient.sum, h);
                    let place = graph.locs().describe(node.loc);
                    let kind = RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 };
                    ctx.remarks.push(Remark { pass: self.name(), place, kind });
                    h
                }
            };
            let new = read(&mut rewriter, node, quotient, h)?;
            rewriter.replace(node.results[0], new)?;
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

/// The node as a running sum of a product that has a weight.
fn sum(graph: &Graph, node: &Node) -> Option<Sum> {
    let Op::CumSum(CumSum { axis, exclusive: false, reverse: false }) = node.op else { return None };
    let x = node.operands[0]?;
    let mut factors = Vec::new();
    expand(graph, Factor { value: x, labels: all(graph, x), divides: false }, 0, &mut factors);
    let i = factors.iter().position(|f| weight(graph, f, axis).is_some())?;
    let weight = weight(graph, &factors.remove(i), axis)?;
    graph.ty(x).dtype.is_float().then_some(Sum { value: node.results[0], axis, weight, others: factors })
}

/// The node as a division of a running sum by its weight.
fn quotient(graph: &Graph, sums: &[Sum], of: &BTreeMap<ValueId, usize>, node: &Node) -> Option<Quotient> {
    let operand = |i: usize| node.operands.get(i).copied().flatten();
    let n = node.operands.len();
    for (i, value) in node.operands.iter().enumerate() {
        let Some(at) = value.and_then(|v| of.get(&v).copied()) else { continue };
        let sum = &sums[at];
        let is_inverse = |factor: Factor| {
            let mut factors = Vec::new();
            expand(graph, factor, 0, &mut factors);
            let [factor] = &factors[..] else { return false };
            let found = weight(graph, factor, sum.axis);
            found.is_some_and(|w| w == Weight { sign: -sum.weight.sign, ..sum.weight.clone() })
        };
        let by = (0..n).filter(|j| *j != i).find(|j| {
            let Some(x) = operand(*j) else { return false };
            match &node.op {
                Op::Binary(Binary { f: BinaryFn::Mul }) => {
                    is_inverse(Factor { value: x, labels: all(graph, x), divides: false })
                }
                Op::Binary(Binary { f: BinaryFn::Div }) if i == 0 => {
                    is_inverse(Factor { value: x, labels: all(graph, x), divides: true })
                }
                Op::Contract(op) => {
                    let place = |l: &u8| op.spec.inputs[i].iter().position(|k| k == l);
                    let labels = op.spec.inputs[*j].iter().map(place).collect::<Option<Vec<usize>>>();
                    labels.is_some_and(|labels| {
                        let is_unit = |axis: usize| graph.ty(x).shape[axis].is(1);
                        let labels = labels.into_iter().enumerate();
                        let labels = labels.map(|(axis, l)| (!is_unit(axis)).then_some(l as u32)).collect();
                        is_inverse(Factor { value: x, labels, divides: false })
                    })
                }
                _ => false,
            }
        });
        if let Some(j) = by {
            return Some(Quotient { sum: at, operands: (i, j) });
        }
    }
    None
}

/// The axes of a value as those of a product of its shape.
fn all(graph: &Graph, value: ValueId) -> Labels {
    let shape = graph.ty(value).shape.iter().enumerate();
    shape.map(|(i, dim)| (!dim.is(1)).then_some(i as u32)).collect()
}

/// Divides a product into its factors.
fn expand(graph: &Graph, factor: Factor, depth: usize, out: &mut Vec<Factor>) {
    let Some((node, labels)) = laid_out(graph, factor.value, factor.labels.clone()) else {
        out.push(factor);
        return;
    };
    let part = |value: ValueId, labels: Labels, divides: bool| Factor { value, labels, divides };
    let divides = factor.divides;
    let parts: Vec<Factor> = match (&node.op, &node.operands[..]) {
        (Op::Binary(Binary { f: f @ (BinaryFn::Mul | BinaryFn::Div) }), [Some(x), Some(y)]) => {
            vec![part(*x, labels.clone(), divides), part(*y, labels, divides != (*f == BinaryFn::Div))]
        }
        (Op::Unary(Unary { f: UnaryFn::Reciprocal }), [Some(x)]) => vec![part(*x, labels, !divides)],
        (Op::Contract(op), _) if op.spec.summed().is_empty() => {
            let of = |label: &u8| op.spec.output.iter().position(|l| l == label).and_then(|i| labels[i]);
            let inputs = op.spec.inputs.iter().zip(node.operands.iter().flatten());
            inputs.map(|(input, x)| part(*x, input.iter().map(of).collect(), divides)).collect()
        }
        _ => Vec::new(),
    };
    if parts.is_empty() || depth == MAX_DEPTH {
        out.push(factor);
        return;
    }
    for part in parts {
        expand(graph, part, depth + 1, out);
    }
}

/// The node behind views, with the labels of its result.
fn laid_out(graph: &Graph, value: ValueId, labels: Labels) -> Option<(&Node, Labels)> {
    let view = view::View { value, labels }.base(graph);
    Some((graph.def_node(view.value)?, view.labels))
}

/// The factor as a weight whose steps are along this axis of the product.
fn weight(graph: &Graph, factor: &Factor, axis: usize) -> Option<Weight> {
    let (mut node, mut labels) = laid_out(graph, factor.value, factor.labels.clone())?;
    if let (Op::Binary(Binary { f: BinaryFn::Add }), [Some(x), Some(y)]) = (&node.op, &node.operands[..]) {
        // A small number that keeps a divisor from 0.
        let is_guard = |v: &ValueId| view::splat(graph, *v).is_some_and(|g| g > 0.0 && g <= MAX_GUARD);
        let x = match (is_guard(x), is_guard(y)) {
            (false, true) => *x,
            (true, false) => *y,
            _ => return None,
        };
        if !factor.divides {
            return None;
        }
        (node, labels) = laid_out(graph, x, labels)?;
    }
    let (Op::Unary(Unary { f: UnaryFn::Exp }), [Some(q)]) = (&node.op, &node.operands[..]) else {
        return None;
    };
    let mut sign = if factor.divides { -1 } else { 1 };
    (node, labels) = laid_out(graph, *q, labels)?;
    while let (Op::Unary(Unary { f: UnaryFn::Neg }), [Some(x)]) = (&node.op, &node.operands[..]) {
        sign = -sign;
        (node, labels) = laid_out(graph, *x, labels)?;
    }
    let (la, along, is_suffix) = running(graph, node)?;
    let is_same =
        *graph.ty(la).shape == *graph.ty(node.results[0]).shape && labels[along] == Some(axis as u32);
    // What the weight is made of, in a layout of its own.
    let view = view::View { value: la, labels }.base(graph);
    is_same.then_some(Weight { la: view.value, labels: view.labels, is_suffix, sign })
}

/// What a node adds up, along which axis, and whether it does so over the steps after each one.
fn running(graph: &Graph, node: &Node) -> Option<(ValueId, usize, bool)> {
    let x = node.operands.first().copied().flatten()?;
    match &node.op {
        Op::CumSum(CumSum { axis, exclusive: false, reverse: false }) => Some((x, *axis, false)),
        Op::CumSum(CumSum { axis, exclusive: true, reverse: true }) => Some((x, *axis, true)),
        Op::CumSum(CumSum { axis, exclusive: false, reverse: true }) => {
            Some((later(graph, x, *axis)?, *axis, true))
        }
        Op::Reverse(op) => {
            let inner = graph.def_node(x)?;
            let Op::CumSum(CumSum { axis, exclusive: false, reverse: false }) = inner.op else { return None };
            let turned = graph.def_node(inner.operands[0]?)?;
            let Op::Reverse(other) = &turned.op else { return None };
            let is_one = axis == op.axis && other.axis == axis;
            Some((later(graph, turned.operands[0]?, axis)?, axis, true)).filter(|_| is_one)
        }
        _ => None,
    }
}

/// What the value is, one step later, with 0 behind the end.
fn later(graph: &Graph, value: ValueId, axis: usize) -> Option<ValueId> {
    let pad = graph.def_node(value)?;
    let Op::Pad(op) = &pad.op else { return None };
    let is_end = op.axis == axis && op.low.is(0) && op.high.is(1);
    let is_zero = view::splat(graph, pad.operands[1]?) == Some(0.0);
    let slice = graph.def_node(pad.operands[0]?)?;
    let Op::Slice(op) = &slice.op else { return None };
    let is_rest = op.axis == axis && op.start.is(1) && op.stride == 1;
    let x = slice.operands[0]?;
    let is_whole = graph.ty(x).shape == graph.ty(value).shape;
    (is_end && is_zero && is_rest && is_whole).then_some(x)
}

/// The states of the recurrence.
fn scan(r: &mut Rewriter<'_>, tracer: &mut Tracer, sum: &Sum) -> Result<ValueId, EditError> {
    let ty = r.old().ty(sum.value).clone();
    let shape = ty.shape;
    let target: Labels = all(r.old(), sum.value);
    let mut b: Option<ValueId> = None;
    for factor in &sum.others {
        let x = r.get(factor.value)?;
        let g = r.builder();
        let x = view::spread(g, x, &factor.labels, &target, &shape)?;
        let x = if factor.divides { g.unary(UnaryFn::Reciprocal, x)? } else { x };
        b = Some(match b {
            Some(b) => g.binary(BinaryFn::Mul, b, x)?,
            None => x,
        });
    }
    let la = r.get(sum.weight.la)?;
    let g = r.builder();
    // exp(sign * (S[s] - S[t])), of which S over later steps is the one with its sign.
    let la = if (sum.weight.sign > 0) == sum.weight.is_suffix { la } else { g.unary(UnaryFn::Neg, la)? };
    let a = g.unary(UnaryFn::Exp, la)?;
    let a = view::spread(g, a, &sum.weight.labels, &target, &shape)?;
    let b = match b {
        Some(b) => b,
        None => g.splat(1.0, a)?,
    };
    Ok(over(g, tracer, (a, b), sum.axis)?)
}

/// A scan along one axis of its operands.
fn over(
    g: &mut GraphBuilder,
    tracer: &mut Tracer,
    (a, b): (ValueId, ValueId),
    axis: usize,
) -> Result<ValueId, BuildError> {
    let rank = g.ty(a).rank();
    let is_batch = |k: &usize| *k != axis && [a, b].iter().all(|x| !tracer.reaches_weight(g.graph(), *x, *k));
    let batch = (0..rank).find(is_batch);
    let front = batch.into_iter().chain([axis]);
    let perm: Vec<usize> = front.chain((0..rank).filter(|k| *k != axis && Some(*k) != batch)).collect();
    let unit = |shape: &[Dim]| Shape::from([&[Dim::from(1)], shape].concat());
    let mut operands = Vec::new();
    for x in [a, b] {
        let x = view::permute(g, x, &perm)?;
        operands.push(Some(if batch.is_none() { g.reshape(x, unit(g.shape(x)))? } else { x }));
    }
    operands.extend([None, None]);
    let h = g.node(Scan { reverse: false }, &operands, Vec::new())?[0];
    let h = if batch.is_none() { g.reshape(h, Shape::from(&g.shape(h)[1..]))? } else { h };
    let mut inverse = vec![0; rank];
    for (to, from) in perm.iter().enumerate() {
        inverse[*from] = to;
    }
    view::permute(g, h, &inverse)
}

/// The result of a node with the states in place of the quotient.
fn read(r: &mut Rewriter<'_>, node: &Node, quotient: &Quotient, h: ValueId) -> Result<ValueId, EditError> {
    let Op::Contract(op) = &node.op else { return Ok(h) };
    let (sum, weight) = quotient.operands;
    let mut operands = Vec::new();
    let mut inputs = Vec::new();
    for (i, value) in node.operands.iter().enumerate().filter(|(i, _)| *i != weight) {
        let Some(value) = value else { continue };
        operands.push(if i == sum { h } else { r.get(*value)? });
        inputs.push(op.spec.inputs[i].clone());
    }
    let spec = Spec { inputs, output: op.spec.output.clone() };
    Ok(r.builder().op(Contract { spec }, &operands)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{CANONICAL, RAISED};
    use crate::testing::optimized;

    /// `b` weighed by `inner`, added up, and weighed by `outer`, both made of `%la`.
    fn text(sums: &str, inner: &str, outer: &str) -> String {
        format!(
            "func @f(%dt: f32[batch, seq_len, 4], %x: f32[batch, seq_len, 4], %c: f32[batch, seq_len, 3]) {{
               %decay = weight {{name=\"a\", shape=[4, 3]}} : f32[4, 3]
               %la = contract[bld,dn->bldn] %dt, %decay : f32[batch, seq_len, 4, 3]
               %b = broadcast %x {{axes=[0, 1, 2], shape=[batch, seq_len, 4, 3]}} : f32[batch, seq_len, 4, 3]
               %zero = constant {{data=[0.0], shape=[]}} : f32[]
               %small = constant {{data=[1e-12], shape=[]}} : f32[]
               %tiny = broadcast %small {{shape=[batch, seq_len, 4, 3]}} : f32[batch, seq_len, 4, 3]
               {sums}
               %up = exp %s : f32[batch, seq_len, 4, 3]
               %n = neg %s : f32[batch, seq_len, 4, 3]
               %down = exp %n : f32[batch, seq_len, 4, 3]
               %guarded = add %up, %tiny : f32[batch, seq_len, 4, 3]
               %u = {inner} : f32[batch, seq_len, 4, 3]
               %total = cumsum %u {{axis=1}} : f32[batch, seq_len, 4, 3]
               %h = {outer} : f32[batch, seq_len, 4, 3]
               %y = contract[bldn,bln->bld] %h, %c : f32[batch, seq_len, 4]
               return %y \"y\"
             }}"
        )
    }

    const UP_TO: &str = "%s = cumsum %la {axis=1} : f32[batch, seq_len, 4, 3]";
    const AFTER: &str = "%s = cumsum %la {axis=1, exclusive=true, reverse=true} : f32[batch, seq_len, 4, 3]";
    const SHIFTED: &str =
        "%rest = slice %la {axis=1, start=1, len=seq_len - 1} : f32[batch, seq_len - 1, 4, 3]
        %shifted = pad %rest, %zero {axis=1, low=0, high=1} : f32[batch, seq_len, 4, 3]
        %turned = reverse %shifted {axis=1} : f32[batch, seq_len, 4, 3]
        %sums = cumsum %turned {axis=1} : f32[batch, seq_len, 4, 3]
        %s = reverse %sums {axis=1} : f32[batch, seq_len, 4, 3]";

    fn scans(text: &str) -> usize {
        let (model, report) = optimized(text, &[CANONICAL, RAISED]);
        let scans = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Scan(_))).count();
        let sums = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::CumSum(_))).count();
        assert!(scans == 0 || sums == 0, "{}", model.graph);
        assert_eq!(report.remarks.len(), scans, "{:?}", report.remarks);
        scans
    }

    #[test]
    fn quotients_of_any_length_are_scans() {
        for sums in [UP_TO, AFTER] {
            assert_eq!(scans(&text(sums, "div %b, %up", "mul %total, %up")), 1, "{sums}");
            assert_eq!(scans(&text(sums, "mul %b, %up", "div %total, %up")), 1, "{sums}");
            assert_eq!(scans(&text(sums, "mul %down, %b", "mul %up, %total")), 1, "{sums}");
        }
        assert_eq!(scans(&text(AFTER, "mul %b, %up", "div %total, %guarded")), 1);
    }

    #[test]
    fn later_steps_by_a_shift_are_a_scan() {
        // There is a first step to leave out.
        let text = text(SHIFTED, "mul %b, %up", "div %total, %guarded");
        let text = text.replace("seq_len - 1", "later").replace("seq_len", "later + 1");
        assert_eq!(scans(&text.replace("later", "seq_len")), 1);
    }

    #[test]
    fn other_quotients_stay() {
        // The same weight twice, none at all, a sum that leaves its own step out, and one along another axis.
        assert_eq!(scans(&text(UP_TO, "mul %b, %up", "mul %total, %up")), 0);
        assert_eq!(scans(&text(UP_TO, "mul %b, %b", "div %total, %up")), 0);
        let exclusive = "%s = cumsum %la {axis=1, exclusive=true} : f32[batch, seq_len, 4, 3]";
        assert_eq!(scans(&text(exclusive, "div %b, %up", "mul %total, %up")), 0);
        let across = "%s = cumsum %la {axis=2} : f32[batch, seq_len, 4, 3]";
        assert_eq!(scans(&text(across, "div %b, %up", "mul %total, %up")), 0);
        // Weights of two sequences.
        let two = "%s = cumsum %la {axis=1} : f32[batch, seq_len, 4, 3]
            %t = cumsum %b {axis=1} : f32[batch, seq_len, 4, 3]
            %other = exp %t : f32[batch, seq_len, 4, 3]";
        assert_eq!(scans(&text(two, "div %b, %up", "mul %total, %other")), 0);
    }
}
