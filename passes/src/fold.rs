//! Constants: what does not depend on an input is computed once, when compiling.
//!
//! Whole subgraphs of constants are evaluated by the reference interpreter in `f64` and rounded once, to the element
//! type of the value that the rest of the graph needs. What only enlarges a constant (broadcasts, counters) stays in
//! the graph, and so do casts and layouts of large matrices, whose storage type is worth keeping. One number everywhere
//! becomes a broadcast literal, and small integer weights become literals, so that passes see the zeros and indices
//! that they are.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Broadcast, Constant, Op, WeightRef};
use ssmc_ir::{
    Def, Entity, Graph, GraphBuilder, Interpreter, Model, Node, NodeId, Shape, Tensor, ValueId, Weight,
    Weights,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Evaluates nodes whose operands are all constants or weights. Regions are left alone: their constants are folded
/// once a loop is raised.
pub struct Fold;

/// Matrices with more elements than this keep their storage type and layout.
const LARGE: i64 = 4096;
/// Folded values with at most this many elements become literals, others weights.
const LITERAL: i64 = 64;

impl Pass for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = fold(&model.graph, &mut model.weights)?;
        Ok(Changed::replace(model, graph))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Depends on an input, or has no constant shape.
    Varying,
    /// A literal or weight.
    Source,
    /// A function of sources that is copied where a varying node needs it, and evaluated inside a constant one.
    Lazy,
    /// A function of sources that is evaluated.
    Eager,
}

fn kind(graph: &Graph, kinds: &[Kind], node: &Node) -> Kind {
    if matches!(node.op, Op::Constant(_) | Op::WeightRef(_)) {
        return Kind::Source;
    }
    let is_const = node.regions.is_empty()
        && node.operands.iter().flatten().all(|v| match graph.def(*v) {
            Def::Input(_) => false,
            Def::Result(by, _) => kinds[by.idx()] != Kind::Varying,
        })
        && node.results.iter().all(|v| graph.ty(*v).shape.as_const().is_some());
    match &node.op {
        _ if !is_const => Kind::Varying,
        Op::DimValue(d) if d.value.as_const().is_none() => Kind::Varying,
        Op::Pad(_) | Op::Slice(_) if has_symbol(&node.op) => Kind::Varying,
        Op::Broadcast(_) | Op::Iota(_) => Kind::Lazy,
        Op::Dequantize(_) => Kind::Lazy,
        Op::Cast(_) | Op::Transpose(_) | Op::Reshape(_) => {
            let x = node.operands[0].expect("the operand is required");
            let shape = &graph.ty(x).shape;
            let is_large = shape.n_elems().as_const().is_none_or(|n| n > LARGE);
            if is_large && shape.rank() >= 2 { Kind::Lazy } else { Kind::Eager }
        }
        _ => Kind::Eager,
    }
}

fn has_symbol(op: &Op) -> bool {
    match op {
        Op::Pad(p) => p.low.as_const().is_none() || p.high.as_const().is_none(),
        Op::Slice(s) => s.start.as_const().is_none() || s.len.as_const().is_none(),
        _ => false,
    }
}

/// Values to evaluate, with the nodes that they depend on.
#[derive(Default)]
struct Cone {
    nodes: Vec<NodeId>,
    frontier: Vec<ValueId>,
}

fn fold(graph: &Graph, weights: &mut Weights) -> Result<Graph, PassError> {
    let mut kinds = Vec::with_capacity(graph.nodes().len());
    for (_, node) in graph.nodes() {
        kinds.push(kind(graph, &kinds, node));
    }
    let frontier = frontier(graph, &kinds);
    let mut folded: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for cone in cones(graph, &kinds, &frontier) {
        evaluate(graph, &cone, weights, &mut folded)?;
    }
    let mut rewriter = Rewriter::new(graph);
    let mut emitted = Emitted::default();
    for (id, node) in graph.nodes() {
        if let Some(literal) = small_integers(node, weights) {
            rewriter.builder().set_loc_id(node.loc);
            let new = rewriter.builder().op(literal, &[]).map_err(EditError::from)?;
            rewriter.set(node.results[0], new);
            continue;
        }
        if kinds[id.idx()] != Kind::Eager {
            // Lazy nodes that only constants need may miss an operand that was not copied.
            let is_complete = node.operands.iter().flatten().all(|v| rewriter.get(*v).is_ok());
            if is_complete || kinds[id.idx()] == Kind::Varying {
                rewriter.copy(node)?;
            }
            continue;
        }
        for value in &node.results {
            if let Some(tensor) = folded.remove(value) {
                rewriter.builder().set_loc_id(node.loc);
                let new = emitted.emit(rewriter.builder(), graph, *value, &tensor, weights)?;
                rewriter.set(*value, new);
            }
        }
    }
    Ok(rewriter.finish()?)
}

/// The results of eager nodes that varying nodes, outputs, or lazy nodes which these need, use.
fn frontier(graph: &Graph, kinds: &[Kind]) -> Vec<bool> {
    let mut needed = vec![false; graph.values().len()];
    for port in graph.outputs() {
        needed[port.value.idx()] = true;
    }
    for (id, node) in graph.nodes().rev() {
        let is_copied = match kinds[id.idx()] {
            Kind::Varying => true,
            Kind::Lazy => node.results.iter().any(|v| needed[v.idx()]),
            Kind::Source | Kind::Eager => false,
        };
        if is_copied {
            for value in node.operands.iter().flatten() {
                needed[value.idx()] = true;
            }
        }
    }
    for (id, node) in graph.nodes() {
        if kinds[id.idx()] != Kind::Eager {
            for value in &node.results {
                needed[value.idx()] = false;
            }
        }
    }
    for port in graph.inputs() {
        needed[port.value.idx()] = false;
    }
    needed
}

/// The connected parts of the constant subgraph that hold values to evaluate. Sources do not connect.
fn cones(graph: &Graph, kinds: &[Kind], frontier: &[bool]) -> Vec<Cone> {
    let is_inner = |id: NodeId| matches!(kinds[id.idx()], Kind::Eager | Kind::Lazy);
    let mut sets = petgraph::unionfind::UnionFind::<usize>::new(kinds.len());
    let mut wanted = vec![false; kinds.len()];
    for (id, node) in graph.nodes().rev().filter(|(id, _)| is_inner(*id)) {
        wanted[id.idx()] |= node.results.iter().any(|v| frontier[v.idx()]);
        if !wanted[id.idx()] {
            continue;
        }
        for value in node.operands.iter().flatten() {
            if let Def::Result(by, _) = graph.def(*value)
                && is_inner(by)
            {
                wanted[by.idx()] = true;
                sets.union(id.idx(), by.idx());
            }
        }
    }
    let mut cones: BTreeMap<usize, Cone> = BTreeMap::new();
    for (id, node) in graph.nodes().filter(|(id, _)| wanted[id.idx()]) {
        let cone = cones.entry(sets.find(id.idx())).or_default();
        cone.nodes.push(id);
        cone.frontier.extend(node.results.iter().filter(|v| frontier[v.idx()]));
    }
    cones.into_values().collect()
}

/// Runs the interpreter on a cone.
fn evaluate(
    graph: &Graph,
    cone: &Cone,
    weights: &Weights,
    folded: &mut BTreeMap<ValueId, Tensor>,
) -> Result<(), PassError> {
    let mut b = GraphBuilder::with_locs("constants", graph.locs().clone());
    let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for id in &cone.nodes {
        let node = graph.node(*id);
        for value in node.operands.iter().flatten() {
            if let Some(source) = graph.def_node(*value)
                && !map.contains_key(value)
            {
                map.insert(*value, b.node(source.op.clone(), &[], Vec::new())?[0]);
            }
        }
        b.set_loc_id(node.loc);
        let operands: Vec<_> = node.operands.iter().map(|v| v.map(|v| map[&v])).collect();
        let results = b.node(node.op.clone(), &operands, Vec::new())?;
        map.extend(node.results.iter().copied().zip(results));
    }
    for value in &cone.frontier {
        b.output(value.to_string(), map[value]);
    }
    let constants = b.finish();
    let mut outputs = Interpreter::new(&constants, weights).run(&BTreeMap::new())?;
    for value in &cone.frontier {
        folded.extend(outputs.remove(&value.to_string()).map(|tensor| (*value, tensor)));
    }
    Ok(())
}

/// The literal that an integer weight with few elements is.
fn small_integers(node: &Node, weights: &Weights) -> Option<Constant> {
    let Op::WeightRef(w) = &node.op else { return None };
    let is_small = w.shape.n_elems().as_const().is_some_and(|n| n <= LITERAL);
    let weight = weights.get(&w.name).filter(|_| is_small && w.dtype.is_int() && w.dtype.bits() >= 8)?;
    Some(Constant { dtype: w.dtype, shape: w.shape.clone(), data: weight.bytes.as_slice().to_vec() })
}

/// The element that all of a tensor consists of, bit by bit.
fn repeated(bytes: &[u8], bits: usize) -> Option<&[u8]> {
    let size = bits.is_multiple_of(8).then_some(bits / 8)?;
    let element = bytes.get(..size)?;
    bytes.chunks_exact(size).all(|other| other == element).then_some(element)
}

/// Weights that were made of folded values, by a hash of their bytes: equal ones are one.
#[derive(Default)]
struct Emitted {
    names: BTreeMap<u64, Vec<String>>,
}

impl Emitted {
    /// The literal or weight node for a folded value.
    fn emit(
        &mut self,
        b: &mut GraphBuilder,
        graph: &Graph,
        value: ValueId,
        tensor: &Tensor,
        weights: &mut Weights,
    ) -> Result<ValueId, EditError> {
        let ty = graph.ty(value).clone();
        let bytes = tensor.to_bytes();
        if ty.shape.n_elems().as_const().is_some_and(|n| n <= LITERAL) {
            let constant = Constant { dtype: ty.dtype, shape: ty.shape, data: bytes };
            return Ok(b.op(constant, &[])?);
        }
        if let Some(element) = repeated(&bytes, ty.dtype.bits()) {
            let number = Constant { dtype: ty.dtype, shape: Shape::scalar(), data: element.to_vec() };
            let number = b.op(number, &[])?;
            return Ok(b.op(Broadcast { axes: Vec::new(), shape: ty.shape }, &[number])?);
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let known = self.names.entry(hasher.finish()).or_default();
        let is_equal =
            |name: &&String| weights.get(name).is_some_and(|w| w.ty == ty && w.bytes.as_slice() == bytes);
        if let Some(name) = known.iter().find(is_equal) {
            let node = WeightRef { dtype: ty.dtype, name: name.clone(), shape: ty.shape };
            return Ok(b.op(node, &[])?);
        }
        let name = (weights.len()..).map(|i| format!("folded.{i}")).find(|name| weights.get(name).is_none());
        let name = name.expect("there are more numbers than weights");
        known.push(name.clone());
        let node = WeightRef { dtype: ty.dtype, name: name.clone(), shape: ty.shape.clone() };
        weights.insert(name, Weight { ty, bytes: bytes.into() });
        Ok(b.op(node, &[])?)
    }
}
