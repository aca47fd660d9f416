//! Which axes weights reach. An axis of a state that no weight varies along is a batch axis.

use crate::view;
use ssmc_ir::ops::Op;
use ssmc_ir::{Def, Graph, ValueId};
use std::collections::BTreeSet;

/// Follows axes from values back to what they come from. What was found once is kept, so that many questions about one
/// growing graph take linear time together.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    /// Axes that no weight reaches.
    cleared: BTreeSet<(ValueId, usize)>,
}

impl Tracer {
    /// Whether a weight, or a literal that is not one number, varies along this axis of the value.
    pub(super) fn reaches_weight(&mut self, graph: &Graph, value: ValueId, axis: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack = vec![(value, axis)];
        while let Some((value, axis)) = stack.pop() {
            if graph.ty(value).shape[axis].is(1)
                || self.cleared.contains(&(value, axis))
                || !seen.insert((value, axis))
            {
                continue;
            }
            if !step(graph, value, axis, &mut stack) {
                return true;
            }
        }
        self.cleared.extend(seen);
        false
    }
}

/// Pushes the axes that this one comes from; `false` if it is that of a weight.
fn step(graph: &Graph, value: ValueId, axis: usize, out: &mut Vec<(ValueId, usize)>) -> bool {
    let Def::Result(by, result) = graph.def(value) else { return true };
    let node = graph.node(by);
    let operand = |i: usize| node.operands.get(i).copied().flatten();
    let x = operand(0);
    match &node.op {
        Op::WeightRef(_) => return false,
        Op::Constant(_) => return view::splat(graph, value).is_some(),
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) | Op::Concat(_) => {
            out.extend(node.operands.iter().flatten().map(|x| (*x, axis)));
        }
        Op::Slice(_) | Op::Reverse(_) | Op::Pad(_) | Op::CumSum(_) => out.extend(x.map(|x| (x, axis))),
        Op::Broadcast(op) => {
            let from = op.axes.iter().position(|to| *to == axis);
            out.extend(x.zip(from));
        }
        Op::Transpose(op) => out.extend(x.map(|x| (x, op.perm[axis]))),
        Op::Reshape(op) => out.extend(x.into_iter().flat_map(|x| {
            reshaped(&graph.ty(x).shape, &op.shape, axis).into_iter().map(move |axis| (x, axis))
        })),
        Op::Reduce(op) => {
            let kept = x.and_then(|x| (0..graph.ty(x).rank()).filter(|i| !op.axes.contains(i)).nth(axis));
            out.extend(x.zip(kept));
        }
        Op::TopK(_) => out.extend(x.map(|x| (x, axis))),
        Op::Scatter(_) if axis == 0 => return false,
        Op::Scatter(_) => out.extend([x, operand(2)].into_iter().flatten().map(|x| (x, axis))),
        Op::ArgMax(op) => out.extend(x.map(|x| (x, axis + usize::from(axis >= op.axis)))),
        Op::Gather(op) => {
            let rank = operand(1).map_or(0, |v| graph.ty(v).rank());
            let from_x = if axis < op.axis { axis } else { (axis + 1).saturating_sub(rank) };
            if (op.axis..op.axis + rank).contains(&axis) {
                out.extend(operand(1).map(|v| (v, axis - op.axis)));
            } else {
                out.extend(x.map(|x| (x, from_x)));
            }
        }
        Op::Contract(op) => {
            let label = op.spec.output[axis];
            for (labels, x) in op.spec.inputs.iter().zip(node.operands.iter().flatten()) {
                out.extend(labels.iter().position(|l| *l == label).map(|axis| (*x, axis)));
            }
        }
        Op::Conv(_) if axis == 1 => return false,
        Op::CausalConv1d(_) | Op::LongConv(_) if axis == 2 => return false,
        Op::Conv(_) | Op::CausalConv1d(_) | Op::LongConv(_) | Op::Dft(_) => out.extend(x.map(|x| (x, axis))),
        Op::ComplexScan(_) => {
            let axis = if result > 1 && axis > 0 { axis + 1 } else { axis };
            out.extend((0..4).filter_map(operand).map(|x| (x, axis)));
        }
        Op::Scan(_) => {
            let axis = if result == 1 && axis > 0 { axis + 1 } else { axis };
            out.extend([operand(0), operand(1)].into_iter().flatten().map(|x| (x, axis)));
        }
        // Batch, steps and heads of the output are those of the queries.
        Op::LinearAttention(_) if result == 0 && axis < 3 => out.extend(x.map(|x| (x, axis))),
        Op::Wkv(_) if result == 0 => {
            out.extend([operand(1), operand(2)].into_iter().flatten().map(|x| (x, axis)))
        }
        _ => {}
    }
    true
}

/// The operand axes that a result axis of a reshape comes from: exactly where the axes before or after agree, else all
/// those between the ones that do.
fn reshaped(from: &[ssmc_ir::Dim], to: &[ssmc_ir::Dim], axis: usize) -> Vec<usize> {
    let dense =
        |shape: &[ssmc_ir::Dim]| -> Vec<usize> { (0..shape.len()).filter(|i| !shape[*i].is(1)).collect() };
    let (from_axes, to_axes) = (dense(from), dense(to));
    let Some(at) = to_axes.iter().position(|i| *i == axis) else { return Vec::new() };
    let same = |(i, j): (&usize, &usize)| from[*i] == to[*j];
    let n_front = from_axes.iter().zip(&to_axes).take_while(|pair| same(*pair)).count();
    let n_back = from_axes.iter().rev().zip(to_axes.iter().rev()).take_while(|pair| same(*pair)).count();
    let from_back = to_axes.len() - 1 - at;
    if at < n_front {
        vec![from_axes[at]]
    } else if from_back < n_back {
        vec![from_axes[from_axes.len() - 1 - from_back]]
    } else {
        let middle = n_front..from_axes.len().saturating_sub(n_back);
        from_axes.get(middle).map_or(from_axes.clone(), <[usize]>::to_vec)
    }
}
