//! What rewriting did: which fused op stands for which nodes, and what stayed outside a scan.

use super::Taken;
use super::lang::Head;
use super::run::{Saturated, Stop};
use super::segment::{Segment, Source, Template};
use egg::Id;
use ssmc_ir::ops::{BinaryFn, Op, UnaryFn};
use ssmc_ir::{Graph, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// How often an op of the old graph is part of a fused op.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Absorbed {
    pub op: &'static str,
    pub count: usize,
}

/// A fused scan and the nodes that it replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct FusedScan {
    pub op: &'static str,
    pub place: String,
    pub absorbed: Vec<Absorbed>,
}

/// Something next to a scan that is not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The scan.
    pub place: String,
    /// `gate`, `skip`, `read-out`, `softplus` or `discretization`.
    pub what: &'static str,
    /// Why.
    pub reason: String,
}

/// What rewriting did to a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewriteReport {
    /// How often each rule added something, over all distinct segments.
    pub fired: BTreeMap<&'static str, usize>,
    /// Segments, and how many of them are distinct.
    pub segments: usize,
    /// Distinct segments: each was rewritten once.
    pub distinct: usize,
    /// E-nodes of the largest e-graph.
    pub largest: usize,
    /// Why saturation stopped, over the distinct segments.
    pub stops: BTreeMap<Stop, usize>,
    /// The fused scans, in order.
    pub scans: Vec<FusedScan>,
    /// What stayed outside them.
    pub outside: Vec<Outside>,
}

/// Collects a report.
#[derive(Default)]
pub(crate) struct Builder(RewriteReport);

impl Builder {
    /// A distinct segment was saturated.
    pub(crate) fn template(&mut self, saturated: &Saturated) {
        let report = &mut self.0;
        report.distinct += 1;
        report.largest = report.largest.max(saturated.egraph.total_size());
        *report.stops.entry(saturated.stop).or_default() += 1;
        for (rule, n) in &saturated.fired {
            *report.fired.entry(rule).or_default() += n;
        }
    }

    /// A segment was replaced.
    pub(crate) fn segment(&mut self, graph: &Graph, segment: &Segment, taken: &Taken) {
        self.0.segments += 1;
        for ((head, _, _), origin) in taken.extracted.terms.iter().zip(&taken.origins) {
            let Head::Op(op) = head else { continue };
            if !is_fused_scan(op) {
                continue;
            }
            let nodes: Vec<&Node> = origin.iter().map(|i| graph.node(segment.nodes[*i])).collect();
            let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
            for node in &nodes {
                *counts.entry(node.op.name()).or_default() += 1;
            }
            let scan = nodes.iter().find(|n| matches!(n.op, Op::Scan(_))).or(nodes.first());
            self.0.scans.push(FusedScan {
                op: op.name(),
                place: scan.map_or_else(String::new, |n| graph.locs().describe(n.loc)),
                absorbed: counts.into_iter().map(|(op, count)| Absorbed { op, count }).collect(),
            });
        }
    }

    /// The report, with what is beside the scans of the new graph.
    pub(crate) fn finish(mut self, new: &Graph) -> RewriteReport {
        self.0.outside = outside(new);
        self.0
    }
}

fn is_fused_scan(op: &Op) -> bool {
    matches!(op, Op::DiscretizedScan(_) | Op::SelectiveScan(_) | Op::Ssd(_))
}

/// For every extracted term, the nodes of the template that it stands for.
///
/// A node stands for itself where its own op was taken. A fused op stands for the node whose value it gives and for
/// everything between that node and values that the new graph still computes.
pub(crate) fn origins(template: &Template, saturated: &Saturated) -> Vec<Vec<usize>> {
    let terms = &saturated.extracted.terms;
    let find = |id: Id| saturated.egraph.find(id);
    let mut by_class: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    for (node, class) in saturated.classes.iter().enumerate() {
        by_class.entry(find(*class)).or_default().push(node);
    }
    let kept: BTreeSet<Id> = terms.iter().map(|(_, _, id)| *id).collect();
    let mut origins: Vec<Vec<usize>> = vec![Vec::new(); terms.len()];
    for (at, (head, _, class)) in terms.iter().enumerate() {
        let Some(nodes) = by_class.get(class) else { continue };
        let same: Vec<usize> = nodes
            .iter()
            .copied()
            .filter(|n| matches!(head, Head::Op(op) if *op == template.nodes[*n].0))
            .collect();
        if !same.is_empty() {
            origins[at].extend(same);
            continue;
        }
        let mut owner = at;
        while let (Head::Proj(_) | Head::Op(Op::Reshape(_) | Op::Transpose(_)), [child], _) =
            (&terms[owner].0, &terms[owner].1[..], ())
        {
            owner = *child;
        }
        let mut stack = nodes.clone();
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        while let Some(n) = stack.pop() {
            if !seen.insert(n) {
                continue;
            }
            for source in template.nodes[n].1.iter().flatten() {
                if let Source::Result(m, _) = source
                    && !kept.contains(&find(saturated.classes[*m]))
                {
                    stack.push(*m);
                }
            }
        }
        origins[owner].extend(seen);
    }
    for origin in &mut origins {
        origin.sort_unstable();
        origin.dedup();
    }
    origins
}

/// What a person would expect inside the scans of a graph and is not.
fn outside(graph: &Graph) -> Vec<Outside> {
    let users = graph.users();
    let mut found = Vec::new();
    for (_, node) in graph.nodes() {
        let place = || graph.locs().describe(node.loc);
        let mut push = |what, reason: String| found.push(Outside { place: place(), what, reason });
        match &node.op {
            Op::Scan(_) => {
                push("discretization", "the coefficients are not exp(dt*a) and dt*b*x of one dt".into())
            }
            Op::DiscretizedScan(_) => {
                push("read-out", "the states are used other than by one product with c".into())
            }
            Op::SelectiveScan(_) | Op::Ssd(_) => {
                let dt = node.operands[1].and_then(|v| behind(graph, v));
                if let Some(dt) = dt
                    && !softpluses(&node.op)
                    && has_softplus(graph, dt)
                {
                    push("softplus", format!("{} follows it before the scan", dt.op.name()));
                }
                if node.operands[6].is_none()
                    && let Some(reason) = gate_outside(graph, &users, node.results[0])
                {
                    push("gate", reason);
                }
            }
            _ => {}
        }
    }
    found
}

fn softpluses(op: &Op) -> bool {
    match op {
        Op::SelectiveScan(s) => s.dt_softplus,
        Op::Ssd(s) => s.dt_softplus,
        _ => false,
    }
}

fn is_layout(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Transpose(_) | Op::Broadcast(_) | Op::Reverse(_))
}

/// The node that computes the value, seen through layout ops.
fn behind(graph: &Graph, mut value: ValueId) -> Option<&Node> {
    loop {
        let node = graph.def_node(value)?;
        match node.operands.first() {
            Some(Some(inner)) if is_layout(&node.op) => value = *inner,
            _ => return Some(node),
        }
    }
}

fn has_softplus(graph: &Graph, node: &Node) -> bool {
    let is_softplus = |n: &Node| matches!(&n.op, Op::Unary(u) if u.f == UnaryFn::Softplus);
    is_softplus(node) || node.operands.iter().flatten().filter_map(|v| behind(graph, *v)).any(is_softplus)
}

/// Why the silu gate behind a scan is not part of it; `None` if there is none within reach.
fn gate_outside(
    graph: &Graph,
    users: &ssmc_ir::PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
    y: ValueId,
) -> Option<String> {
    let mut value = y;
    let mut reason = None;
    for _ in 0..8 {
        let [(user, _)] = users[value][..] else {
            return Some(format!("y has {} users", users[value].len())).filter(|_| reason.is_some());
        };
        let node = graph.node(user);
        let is_gate = |v: &ValueId| {
            *v != value
                && behind(graph, *v).is_some_and(|n| matches!(&n.op, Op::Unary(u) if u.f == UnaryFn::Silu))
        };
        match &node.op {
            op if is_layout(op) => {}
            Op::Binary(b) if b.f == BinaryFn::Mul => {
                if node.operands.iter().flatten().any(is_gate) {
                    return Some(
                        reason.unwrap_or_else(|| "the product with silu(z) has another layout".into()),
                    );
                }
                reason = Some("the gate comes after another product".into());
            }
            Op::Binary(b) if b.f == BinaryFn::Add => {
                let scans = node.operands.iter().flatten().filter_map(|v| behind(graph, *v));
                let n_scans = scans.filter(|n| is_fused_scan(&n.op)).count();
                reason = Some(if n_scans > 1 {
                    format!("the gate comes after the sum of {n_scans} scans")
                } else {
                    "the gate comes after a sum".into()
                });
            }
            Op::RmsNorm(_) | Op::LayerNorm(_) => reason = Some("the gate comes after a norm".into()),
            Op::GatedRmsNorm(_) => return Some("the gate is part of a norm".into()),
            _ => return None,
        }
        value = *node.results.first()?;
    }
    None
}
