//! Chains of values that may be the states of an unrolled recurrence.

use super::key::{Keys, full_factors, hash, places};
use crate::cse::is_commutative;
use crate::view::same_dense;
use ssmc_ir::ops::{Binary, BinaryFn, Op, Unary, UnaryFn};
use ssmc_ir::{Entity, Graph, Node, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// `states[i]` is made from the state before by sums and products, in the same way for all `i` as far as
/// hashes can tell; `initial` is the state before the first one.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) initial: ValueId,
    pub(super) states: Vec<ValueId>,
}

/// A value that is reached from another one, and the hash of what lies between.
type Link = (ValueId, u64);

/// Between two states lie at most this many nodes, and at most this many values are tried.
const MAX_DEPTH: usize = 6;
const MAX_TRIED: usize = 24;

/// The chains of at least two states, the first ones first. No value is in two of them.
pub(super) fn find(graph: &Graph, keys: &Keys) -> Vec<Chain> {
    let mut links: Vec<(ValueId, Vec<Link>)> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, n)| is_sum(&n.op)) {
        let found = back(graph, keys, node);
        if !found.is_empty() {
            links.push((node.results[0], found));
        }
    }
    let known: BTreeSet<(ValueId, u64)> =
        links.iter().flat_map(|(v, back)| back.iter().map(move |(_, link)| (*v, *link))).collect();
    // The longest way on from every state.
    let mut next: BTreeMap<Link, (usize, ValueId)> = BTreeMap::new();
    for (v, back) in links.iter().rev() {
        for (u, link) in back {
            let len = 1 + next.get(&(*v, *link)).map_or(0, |(len, _)| *len);
            let best = next.entry((*u, *link)).or_insert((len, *v));
            if len >= best.0 {
                *best = (len, *v);
            }
        }
    }
    let mut chains: Vec<Chain> = Vec::new();
    for (first, back) in &links {
        for (initial, link) in back.iter().filter(|link| !known.contains(*link)) {
            let mut states = vec![*first];
            while let Some((_, v)) = next.get(&(states[states.len() - 1], *link)) {
                states.push(*v);
            }
            if states.len() > 1 {
                chains.push(Chain { initial: *initial, states });
            }
        }
    }
    chains.sort_by_key(|c| (std::cmp::Reverse(c.states.len()), c.states[0]));
    let mut taken: BTreeSet<ValueId> = BTreeSet::new();
    chains.retain(|c| {
        let is_free = c.states.iter().all(|v| !taken.contains(v));
        if is_free {
            taken.extend(&c.states);
        }
        is_free
    });
    chains.sort_by_key(|c| c.states[0]);
    chains
}

/// Whether the op can make a state out of the one before.
pub(super) fn is_sum(op: &Op) -> bool {
    matches!(op, Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub }))
}

/// A way from a value back to one of its type by sums and products, at least one product among them.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) from: ValueId,
    /// The values on the way, the last one included.
    pub(super) values: BTreeSet<ValueId>,
}

/// The values of the type of the node that it is made from by sums and products, at least one product among them.
fn back(graph: &Graph, keys: &Keys, node: &Node) -> Vec<Link> {
    let mut found: Vec<Link> = Vec::new();
    walk(graph, node, |x, way| {
        // Beside a way through the parts of pairs lie the other parts, which are made from the state as well.
        let has_parts = way.iter().any(|(node, _)| matches!(node.op, Op::Concat(_) | Op::Slice(_)));
        let key = way.iter().fold(hash("state"), |key, (node, i)| match &node.op {
            op if has_parts && is_commutative(op) => hash((key, op)),
            op if has_parts => hash((key, op, i)),
            _ => hash((key, side(keys, node, *i))),
        });
        if !found.contains(&(x, key)) {
            found.push((x, key));
        }
    });
    found
}

/// The ways back to values of the type of the node.
pub(super) fn routes(graph: &Graph, node: &Node) -> Vec<Route> {
    let mut found = Vec::new();
    walk(graph, node, |x, way| {
        found.push(Route { from: x, values: way.iter().map(|(node, _)| node.results[0]).collect() });
    });
    found
}

/// Nodes with the operand that is followed.
type Way<'a> = Vec<(&'a Node, usize)>;

/// Shows every value of the type of the node that it is made from by sums and products, at least one product among
/// them, with the way there.
fn walk<'a>(graph: &'a Graph, node: &'a Node, mut show: impl FnMut(ValueId, &Way<'a>)) {
    let ty = graph.ty(node.results[0]);
    if !ty.dtype.is_float() {
        return;
    }
    let mut stack: Vec<(Way<'a>, bool)> =
        linear(graph, node).into_iter().map(|i| (vec![(node, i)], scales(&node.op))).collect();
    stack.reverse();
    let mut tried = 0;
    while let Some((way, scaled)) = stack.pop() {
        tried += 1;
        let (node, i) = way[way.len() - 1];
        let Some(x) = node.operands[i] else { continue };
        if scaled && graph.ty(x) == ty {
            show(x, &way);
        }
        let Some(inner) = graph.def_node(x).filter(|inner| !(scaled && is_sum(&inner.op))) else { continue };
        if way.len() > MAX_DEPTH || tried > MAX_TRIED {
            continue;
        }
        for i in linear(graph, inner).into_iter().rev() {
            let mut way = way.clone();
            way.push((inner, i));
            stack.push((way, scaled || scales(&inner.op)));
        }
    }
}

fn scales(op: &Op) -> bool {
    matches!(op, Op::Binary(Binary { f: BinaryFn::Mul | BinaryFn::Div }) | Op::Contract(_))
}

/// The operands in which a node is linear, taken alone.
fn linear(graph: &Graph, node: &Node) -> Vec<usize> {
    match &node.op {
        Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Mul | BinaryFn::Sub }) => vec![0, 1],
        Op::Binary(Binary { f: BinaryFn::Div }) | Op::Unary(Unary { f: UnaryFn::Neg }) => vec![0],
        Op::Cast(op) => {
            let is_float = op.to.is_float() && node.operands[0].is_some_and(|x| graph.ty(x).dtype.is_float());
            if is_float { vec![0] } else { Vec::new() }
        }
        Op::Contract(op) => full_factors(op).collect(),
        // A batch of one sequence comes and goes.
        Op::Reshape(op) => {
            let is_view = node.operands[0].is_some_and(|x| same_dense(&op.shape, &graph.ty(x).shape));
            if is_view { vec![0] } else { Vec::new() }
        }
        // Complex numbers are pairs along an axis.
        Op::Slice(op) => {
            let is_pair = node.operands[0].is_some_and(|x| graph.ty(x).shape[op.axis].is(2));
            if is_pair && op.len.is(1) { vec![0] } else { Vec::new() }
        }
        Op::Concat(op) => {
            let is_part = |x: &Option<ValueId>| x.is_some_and(|x| graph.ty(x).shape[op.axis].is(1));
            if node.operands.len() == 2 && node.operands.iter().all(is_part) {
                vec![0, 1]
            } else {
                Vec::new()
            }
        }
        _ => Vec::new(),
    }
}

/// The hash of a node without the operand that is followed.
fn side(keys: &Keys, node: &Node, i: usize) -> u64 {
    let others = (0..node.operands.len()).filter(|j| *j != i);
    let key = |j: usize| node.operands[j].map(|v| keys.of(v));
    match &node.op {
        Op::Contract(op) => {
            let mut others: Vec<_> = others.map(|j| (places(&op.spec, j), key(j))).collect();
            others.sort_unstable();
            hash(("contract", others))
        }
        op if is_commutative(op) => hash((op, others.map(key).collect::<Vec<_>>())),
        op => hash((op, i, others.map(key).collect::<Vec<_>>())),
    }
}

/// Index of chain and state of every value that is a state.
pub(super) fn states(graph: &Graph, chains: &[Chain]) -> Vec<Option<(usize, usize)>> {
    let mut of = vec![None; graph.values().len()];
    for (c, chain) in chains.iter().enumerate() {
        for (i, value) in chain.states.iter().enumerate() {
            of[value.idx()] = Some((c, i));
        }
    }
    of
}
