//! Chains that start from zeros.
//!
//! A state of zeros contributes nothing to the first step, and what computes it is folded away: the first state is what
//! the step adds. The chain then seems to start one step later than it does, from a state that is none of its own.

use super::chain::Chain;
use super::pack::{Form, PackId, Packer, Packs};
use crate::raise::scan_loop::is_zero;
use ssmc_ir::ops::{Binary, BinaryFn, Op, Unary, UnaryFn};
use ssmc_ir::{Graph, ValueId, Weights};

/// The steps of the chain with the one before them, if a state of zeros precedes that: the packs, and that of the next
/// states. `packer` makes a packer that knows nothing yet.
pub(super) fn from_zeros<'a, 'b>(
    graph: &'a Graph,
    weights: &Weights,
    chain: &Chain,
    (packs, next): (&Packs<'a>, PackId),
    packer: impl Fn() -> Packer<'a, 'b>,
) -> Option<(Packs<'a>, PackId)> {
    let Form::Node { op: Op::Binary(Binary { f: BinaryFn::Add }), operands, .. } = &packs.forms[next] else {
        return None;
    };
    let [Some(x), Some(y)] = operands[..] else { return None };
    let is_split = |scaled: PackId, rest: PackId| is_multiple(packs, scaled) && !reads_state(packs, rest);
    let (scaled, rest) = if is_split(x, y) {
        (x, y)
    } else if is_split(y, x) {
        (y, x)
    } else {
        return None;
    };
    let added = added(graph, weights, chain.initial);
    for added in added.into_iter().filter(|v| graph.ty(*v) == graph.ty(packs.values[rest][0])) {
        let with = |first: ValueId, id: PackId| -> Vec<ValueId> {
            std::iter::once(first).chain(packs.values[id].iter().copied()).collect()
        };
        let before = std::iter::once(chain.initial).chain(packs.values[carried(packs)?].iter().copied());
        let before: Vec<ValueId> = before.collect();
        // What multiplies zeros may be anything: the first step repeats the second one, or takes what lies before it.
        let repeated = with(packs.values[scaled][0], scaled);
        for repeats in [true, false] {
            let mut packer = packer();
            let carried = packer.carried(before.clone());
            let scaled = if repeats {
                packer.pack(repeated.clone())
            } else {
                packer.preceded(packs, scaled, carried)?
            };
            let rest = packer.pack(with(added, rest));
            let sum = packer.sum(with(chain.initial, next), [scaled, rest]);
            let found = packer.finish();
            let is_apart = found.reachable(sum).iter().any(|id| matches!(found.forms[*id], Form::Apart));
            if !is_apart {
                return Some((found, sum));
            }
        }
    }
    None
}

/// The pack of carried states.
fn carried(packs: &Packs<'_>) -> Option<PackId> {
    packs.forms.iter().position(|form| matches!(form, Form::Carried))
}

/// Whether a value is zeros, or a product with zeros.
fn is_multiple_of_zero(graph: &Graph, weights: &Weights, x: ValueId) -> bool {
    if is_zero(graph, weights, x) {
        return true;
    }
    let Some(node) = graph.def_node(x) else { return false };
    let mut operands = node.operands.iter().flatten();
    match &node.op {
        Op::Binary(Binary { f: BinaryFn::Mul }) | Op::Contract(_) => {
            operands.any(|x| is_zero(graph, weights, *x))
        }
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => {
            operands.next().is_some_and(|x| is_multiple_of_zero(graph, weights, *x))
        }
        _ => false,
    }
}

fn reads_state(packs: &Packs<'_>, id: PackId) -> bool {
    packs.reachable(id).iter().any(|id| matches!(packs.forms[*id], Form::Carried))
}

/// Whether zeros give zeros.
fn is_multiple(packs: &Packs<'_>, id: PackId) -> bool {
    let mut is: Vec<bool> = vec![false; packs.forms.len()];
    for id in packs.reachable(id) {
        is[id] = match &packs.forms[id] {
            Form::Carried => true,
            Form::Node { op, operands, .. } => {
                let mut xs = operands.iter().flatten().map(|id| is[*id]);
                match op {
                    Op::Binary(Binary { f: BinaryFn::Mul }) | Op::Contract(_) => xs.any(|x| x),
                    Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Sub })
                    | Op::Unary(Unary { f: UnaryFn::Neg })
                    | Op::Cast(_)
                    | Op::Concat(_)
                    | Op::Slice(_)
                    | Op::Reshape(_)
                    | Op::Transpose(_) => xs.all(|x| x),
                    _ => false,
                }
            }
            _ => false,
        };
    }
    is[id]
}

/// What the first state may be the input of its step: itself, or what is added to zeros.
fn added(graph: &Graph, weights: &Weights, initial: ValueId) -> Vec<ValueId> {
    if is_zero(graph, weights, initial) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(node) = graph.def_node(initial)
        && let (Op::Binary(Binary { f: BinaryFn::Add }), [Some(x), Some(y)]) = (&node.op, &node.operands[..])
    {
        for (zeros, other) in [(*x, *y), (*y, *x)] {
            if is_multiple_of_zero(graph, weights, zeros) {
                found.push(other);
            }
        }
    }
    found.push(initial);
    found
}
