//! Regions that remain after raising, written out: short loops of constant length and branches.
//!
//! Kernels have no control flow between them. A loop whose length is known is as many copies of its body; a branch is
//! both of its sides and a choice between their results, which costs both but computes nothing that could fail. What
//! is longer than the limit stays a loop, which code generation refuses by its node.

use crate::pass::{Changed, Pass, PassCtx, PassError, Remark, RemarkKind};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Concat, Constant, Loop, Op, Select, Slice};
use ssmc_ir::{DType, Dim, Graph, GraphBuilder, LocId, Model, Node, Shape, ValueId};
use std::collections::BTreeMap;

/// Writes out loops and branches.
pub struct Flatten;

/// Writes out branches alone: recurrences inside of them are raised like any other.
pub struct Branches;

/// The most nodes that one graph grows by.
const MAX_GROWTH: usize = 1 << 14;

impl Pass for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        write_out(model, ctx, copies)
    }
}

impl Pass for Branches {
    fn name(&self) -> &'static str {
        "branches"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        write_out(model, ctx, |node| if let Op::If(_) = node.op { copies(node) } else { None })
    }
}

/// Writes out what `copies` gives a size for, as long as the graph does not grow too much.
fn write_out(
    model: &mut Model,
    ctx: &mut PassCtx,
    copies: fn(&Node) -> Option<usize>,
) -> Result<Changed, PassError> {
    let mut budget = MAX_GROWTH;
    let mut changed = Changed::No;
    // Each round opens one level of nesting.
    while model.graph.nodes().any(|(_, node)| copies(node).is_some_and(|n| n <= budget)) {
        model.graph = flatten(&model.graph, &mut budget, ctx, copies)?;
        changed = Changed::Yes;
    }
    Ok(changed)
}

/// Whether the loop or branch is written out if nothing else becomes of it.
pub(crate) fn is_short(node: &Node) -> bool {
    copies(node).is_some_and(|n| n <= MAX_GROWTH)
}

/// How many nodes take the place of a node with regions; `None` if it stays.
fn copies(node: &Node) -> Option<usize> {
    let size = |graph: &Graph| graph.nodes().len() + 4;
    match &node.op {
        Op::Loop(op) => {
            let trips = usize::try_from(op.trip_count.as_const()?).ok()?;
            let around = op.scan_axes.len() * 2 + op.stack_axes.len() + 1;
            trips.checked_mul(size(node.regions.first()?) + around)
        }
        Op::If(_) => Some(node.regions.iter().map(size).sum()),
        _ => None,
    }
}

fn flatten(
    graph: &Graph,
    budget: &mut usize,
    ctx: &mut PassCtx,
    copies: fn(&Node) -> Option<usize>,
) -> Result<Graph, PassError> {
    let mut rewriter = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        let Some(n) = copies(node).filter(|n| n <= budget) else {
            rewriter.copy(node)?;
            continue;
        };
        *budget -= n;
        let operands =
            node.operands.iter().flatten().map(|v| rewriter.get(*v)).collect::<Result<Vec<_>, _>>()?;
        let results = match &node.op {
            Op::Loop(op) => {
                ctx.remarks.push(Remark {
                    pass: "flatten",
                    place: graph.locs().describe(node.loc),
                    kind: RemarkKind::Kept { reason: format!("{} iterations written out", op.trip_count) },
                });
                iterations(&mut rewriter, graph, node, op, &operands)?
            }
            _ => branches(&mut rewriter, node, &operands)?,
        };
        for (old, new) in node.results.iter().zip(results) {
            rewriter.set(*old, new);
        }
    }
    Ok(rewriter.finish()?)
}

/// Copies the nodes of a region; gives what its outputs are.
fn inline(b: &mut GraphBuilder, region: &Graph, inputs: &[ValueId]) -> Result<Vec<ValueId>, EditError> {
    let mut map: BTreeMap<ValueId, ValueId> =
        region.inputs().iter().map(|port| port.value).zip(inputs.iter().copied()).collect();
    let mut locs: BTreeMap<LocId, LocId> = BTreeMap::new();
    for (_, node) in region.nodes() {
        let loc = match locs.get(&node.loc) {
            Some(loc) => *loc,
            None => {
                let loc = b.intern_loc(region.locs().get(node.loc).clone());
                locs.insert(node.loc, loc);
                loc
            }
        };
        b.set_loc_id(loc);
        let operands: Vec<Option<ValueId>> = node.operands.iter().map(|v| v.map(|v| map[&v])).collect();
        let results = b.node(node.op.clone(), &operands, node.regions.clone())?;
        map.extend(node.results.iter().copied().zip(results));
    }
    Ok(region.outputs().iter().map(|port| map[&port.value]).collect())
}

/// The results of a loop of constant length.
fn iterations(
    rewriter: &mut Rewriter<'_>,
    graph: &Graph,
    node: &Node,
    op: &Loop,
    operands: &[ValueId],
) -> Result<Vec<ValueId>, EditError> {
    let (mut carried, rest) = (operands[..op.n_carried].to_vec(), &operands[op.n_carried..]);
    let (scanned, captured) = rest.split_at(op.scan_axes.len());
    let trips = op.trip_count.as_const().expect("only loops of constant length are written out");
    let b = rewriter.builder();
    let mut stacks: Vec<Vec<ValueId>> = vec![Vec::new(); op.stack_axes.len()];
    for i in 0..trips {
        b.set_loc_id(node.loc);
        let number = Constant { dtype: DType::I64, shape: Shape::scalar(), data: i.to_le_bytes().to_vec() };
        let mut inputs = vec![b.op(number, &[])?];
        inputs.extend(&carried);
        for ((x, axis), reverse) in scanned.iter().zip(&op.scan_axes).zip(&op.scan_reverse) {
            let at = if *reverse { trips - 1 - i } else { i };
            let mut dims = b.shape(*x).to_vec();
            let row = Slice { axis: *axis, start: Dim::from(at), len: Dim::from(1), stride: 1 };
            let row = b.op(row, &[*x])?;
            dims.remove(*axis);
            inputs.push(b.reshape(row, dims)?);
        }
        inputs.extend(captured);
        let mut outputs = inline(b, &node.regions[0], &inputs)?;
        let stacked = outputs.split_off(op.n_carried);
        carried = outputs;
        b.set_loc_id(node.loc);
        for ((stack, x), axis) in stacks.iter_mut().zip(stacked).zip(&op.stack_axes) {
            let mut dims = b.shape(x).to_vec();
            dims.insert(*axis, Dim::from(1));
            stack.push(b.reshape(x, dims)?);
        }
    }
    let mut results = carried;
    for (k, mut parts) in stacks.into_iter().enumerate() {
        if op.stack_reverse[k] {
            parts.reverse();
        }
        results.push(match parts.as_slice() {
            [] => {
                let ty = graph.ty(node.results[op.n_carried + k]);
                let zero = b.scalar(ty.dtype, 0.0)?;
                b.op(ssmc_ir::ops::Broadcast { axes: Vec::new(), shape: ty.shape.clone() }, &[zero])?
            }
            [only] => *only,
            _ => b.op(Concat { axis: op.stack_axes[k] }, &parts)?,
        });
    }
    Ok(results)
}

/// Both sides of a branch, and a choice between their results.
fn branches(
    rewriter: &mut Rewriter<'_>,
    node: &Node,
    operands: &[ValueId],
) -> Result<Vec<ValueId>, EditError> {
    let (cond, captured) = (operands[0], &operands[1..]);
    let b = rewriter.builder();
    let yes = inline(b, &node.regions[0], captured)?;
    let no = inline(b, &node.regions[1], captured)?;
    b.set_loc_id(node.loc);
    let mut results = Vec::new();
    for (yes, no) in yes.into_iter().zip(no) {
        let shape = b.shape(yes).clone();
        let cond = if shape.rank() == 0 {
            cond
        } else {
            b.op(ssmc_ir::ops::Broadcast { axes: Vec::new(), shape }, &[cond])?
        };
        results.push(b.op(Select, &[cond, yes, no])?);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Manager;
    use crate::pipeline::{CANONICAL, RAISED};
    use ssmc_ir::ops::{Binary, BinaryFn, If};
    use ssmc_ir::{Interpreter, Tensor, TensorType};

    fn ty(dims: &[i64]) -> TensorType {
        TensorType::new(DType::F32, dims.iter().copied().collect::<Shape>())
    }

    fn floats(dims: &[usize], values: &[f64]) -> Tensor {
        Tensor::floats(DType::F32, dims, values.to_vec()).unwrap()
    }

    /// h = h * h + x with its slices stacked backwards: no recurrence that can be raised.
    fn square_loop(trips: i64) -> Graph {
        let mut body = GraphBuilder::new("body");
        let number = body.input("iteration", TensorType::new(DType::I64, Shape::scalar()));
        let h = body.input("h", ty(&[2]));
        let x = body.input("x", ty(&[2]));
        let square = body.binary(BinaryFn::Mul, h, h).unwrap();
        let sum = body.binary(BinaryFn::Add, square, x).unwrap();
        let number = body.cast(number, DType::F32).unwrap();
        let number = body.broadcast(number, &[], [2]).unwrap();
        let shown = body.binary(BinaryFn::Add, sum, number).unwrap();
        body.output("h", sum);
        body.output("y", shown);
        let mut b = GraphBuilder::new("main");
        let h = b.input("h", ty(&[2]));
        let x = b.input("x", ty(&[2, trips]));
        let op = Loop {
            n_carried: 1,
            scan_axes: vec![1],
            scan_reverse: vec![true],
            stack_axes: vec![0],
            stack_reverse: vec![true],
            trip_count: Dim::from(trips),
        };
        let results = b.node(Op::from(op), &[Some(h), Some(x)], vec![body.finish()]).unwrap();
        b.output("h_last", results[0]);
        b.output("y", results[1]);
        b.finish()
    }

    fn check(graph: Graph, inputs: &[(&str, Tensor)]) -> Graph {
        let inputs: BTreeMap<String, Tensor> =
            inputs.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        let mut model = Model { graph, ..Model::default() };
        let expected = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
        Manager::new().run(&mut model, &[CANONICAL, RAISED]).unwrap();
        let found = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
        assert_eq!(found, expected);
        model.graph
    }

    #[test]
    fn loops_of_constant_length_are_written_out() {
        for trips in [0i64, 1, 3] {
            let n = trips as usize;
            let x: Vec<f64> = (0..2 * n).map(|i| 0.25 * i as f64).collect();
            let inputs = [("h", floats(&[2], &[0.5, -0.5])), ("x", floats(&[2, n], &x))];
            let graph = check(square_loop(trips), &inputs);
            assert!(graph.nodes().all(|(_, node)| node.regions.is_empty()), "{graph}");
        }
    }

    #[test]
    fn long_loops_stay() {
        let mut model = Model { graph: square_loop(1 << 13), ..Model::default() };
        let mut ctx = PassCtx::default();
        assert_eq!(Flatten.run(&mut model, &mut ctx).unwrap(), Changed::No);
    }

    #[test]
    fn branches_become_a_choice() {
        let side = |f| {
            let mut b = GraphBuilder::new("side");
            let x = b.input("x", ty(&[2]));
            let y = b.op(Binary { f }, &[x, x]).unwrap();
            b.output("y", y);
            b.finish()
        };
        for yes in [false, true] {
            let mut b = GraphBuilder::new("main");
            let cond = b.input("cond", TensorType::new(DType::Bool, Shape::scalar()));
            let x = b.input("x", ty(&[2]));
            let regions = vec![side(BinaryFn::Add), side(BinaryFn::Mul)];
            let results = b.node(Op::from(If), &[Some(cond), Some(x)], regions).unwrap();
            b.output("y", results[0]);
            let cond = Tensor::bools([0usize; 0], vec![yes]).unwrap();
            let graph = check(b.finish(), &[("cond", cond), ("x", floats(&[2], &[3.0, 4.0]))]);
            assert!(graph.nodes().all(|(_, node)| node.regions.is_empty()));
        }
    }
}
