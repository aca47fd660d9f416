//! What passes may do to a graph: build a new one out of it.
//!
//! Graphs are not changed in place. A pass walks the old graph in order with a [`Rewriter`], which knows the new value
//! of every old one; for each node the pass copies it, emits other nodes through the [`GraphBuilder`], or skips it.

use crate::builder::{BuildError, GraphBuilder};
use crate::dim::{Dim, Symbol};
use crate::entity::{Entity, NodeId, ValueId};
use crate::graph::{Graph, Node, Port};
use crate::ops::{AttrMut, Broadcast, Constant, Op};
use crate::types::{Shape, TensorType};
use std::collections::BTreeMap;

/// Why a graph cannot be edited this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum EditError {
    #[error("there is no input {name:?}")]
    UnknownInput { name: String },
    #[error("there is no output {name:?}")]
    UnknownOutput { name: String },
    #[error("{value} is used, but the edit dropped the node that defines it")]
    Dropped { value: ValueId },
    #[error("replacement of {value}: expected {expected}, found {found}")]
    ReplacementType { value: ValueId, expected: TensorType, found: TensorType },
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Builds a new graph while a pass walks an old one.
///
/// Values of the old graph are mapped to values of the new one. Locations keep their ids. Nodes that are emitted while
/// a node is visited by [`rewrite`] have that node's location unless the pass sets another one.
#[derive(Debug)]
pub struct Rewriter<'a> {
    old: &'a Graph,
    builder: GraphBuilder,
    map: Vec<Option<ValueId>>,
}

impl<'a> Rewriter<'a> {
    /// A rewriter whose new graph has the inputs of the old one.
    pub fn new(old: &'a Graph) -> Self {
        let mut rewriter = Self::without_inputs(old);
        for port in old.inputs() {
            let value = rewriter.builder.input(&port.name, old.ty(port.value).clone());
            rewriter.set(port.value, value);
        }
        rewriter
    }

    /// A rewriter whose new graph has no inputs yet.
    pub fn without_inputs(old: &'a Graph) -> Self {
        let builder = GraphBuilder::with_locs(old.name(), old.locs().clone());
        Self { old, builder, map: vec![None; old.values().len()] }
    }

    /// The graph that is walked.
    pub fn old(&self) -> &'a Graph {
        self.old
    }

    /// The builder of the new graph.
    pub fn builder(&mut self) -> &mut GraphBuilder {
        &mut self.builder
    }

    /// The new value of an old one.
    ///
    /// # Errors
    /// Its node was skipped, or comes later.
    pub fn get(&self, old: ValueId) -> Result<ValueId, EditError> {
        self.map.get(old.idx()).copied().flatten().ok_or(EditError::Dropped { value: old })
    }

    /// From now on the new value stands for the old one; its type may be another one.
    pub fn set(&mut self, old: ValueId, new: ValueId) {
        self.map[old.idx()] = Some(new);
    }

    /// Like [`Rewriter::set`], for replacements that must keep the type.
    ///
    /// # Errors
    /// The types differ.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), EditError> {
        let (expected, found) = (self.old.ty(old), self.builder.ty(new));
        if expected != found {
            let (expected, found) = (expected.clone(), found.clone());
            return Err(EditError::ReplacementType { value: old, expected, found });
        }
        self.set(old, new);
        Ok(())
    }

    /// The new operands of an old node.
    ///
    /// # Errors
    /// See [`Rewriter::get`].
    pub fn operands(&self, node: &Node) -> Result<Vec<Option<ValueId>>, EditError> {
        node.operands.iter().map(|v| v.map(|v| self.get(v)).transpose()).collect()
    }

    /// Copies a node with its location and regions.
    ///
    /// # Errors
    /// An operand was dropped, or no longer fits the op.
    pub fn copy(&mut self, node: &Node) -> Result<(), EditError> {
        self.copy_as(node, node.op.clone(), node.regions.clone())
    }

    /// Copies a node with another op and other regions; results are mapped one to one.
    ///
    /// # Errors
    /// An operand was dropped, or does not fit the op.
    pub fn copy_as(&mut self, node: &Node, op: Op, regions: Vec<Graph>) -> Result<(), EditError> {
        let operands = self.operands(node)?;
        self.builder.set_loc_id(node.loc);
        let results = self.builder.node(op, &operands, regions)?;
        for (old, new) in node.results.iter().zip(results) {
            self.set(*old, new);
        }
        Ok(())
    }

    /// The new graph with the outputs of the old one.
    ///
    /// # Errors
    /// The node of an output was dropped.
    pub fn finish(self) -> Result<Graph, EditError> {
        let outputs = self.old.outputs();
        self.finish_with(outputs)
    }

    /// The new graph with outputs that are given as ports of the old one.
    ///
    /// # Errors
    /// The node of an output was dropped.
    pub fn finish_with(mut self, outputs: &[Port]) -> Result<Graph, EditError> {
        for port in outputs {
            let value = self.get(port.value)?;
            self.builder.output(&port.name, value);
        }
        Ok(self.builder.finish())
    }
}

/// What to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Copy it.
    Copy,
    /// Nothing more: the pass has set the results that are needed.
    Done,
}

/// A new graph, made by asking `visit` what to do with each node of the old one, in order.
///
/// # Errors
/// What `visit` returns, or that a value is used whose node was dropped.
pub fn rewrite<'a, E: From<EditError>>(
    graph: &'a Graph,
    mut visit: impl FnMut(&mut Rewriter<'a>, NodeId, &'a Node) -> Result<Action, E>,
) -> Result<Graph, E> {
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.nodes() {
        rewriter.builder.set_loc_id(node.loc);
        if visit(&mut rewriter, id, node)? == Action::Copy {
            rewriter.copy(node)?;
        }
    }
    Ok(rewriter.finish()?)
}

/// The nodes that outputs depend on.
fn reachable(graph: &Graph, outputs: &[Port]) -> Vec<bool> {
    let mut values = vec![false; graph.values().len()];
    let mut nodes = vec![false; graph.nodes().len()];
    for port in outputs {
        values[port.value.idx()] = true;
    }
    for (id, node) in graph.nodes().rev() {
        if node.results.iter().any(|v| values[v.idx()]) {
            nodes[id.idx()] = true;
            for value in node.operands.iter().flatten() {
                values[value.idx()] = true;
            }
        }
    }
    nodes
}

fn keep_reachable(graph: &Graph, outputs: &[Port]) -> Result<Graph, EditError> {
    let nodes = reachable(graph, outputs);
    let mut rewriter = Rewriter::new(graph);
    for (_, node) in graph.nodes().filter(|(id, _)| nodes[id.idx()]) {
        let regions = node.regions.iter().map(dce).collect::<Result<_, _>>()?;
        rewriter.copy_as(node, node.op.clone(), regions)?;
    }
    rewriter.finish_with(outputs)
}

/// The graph without nodes that no output depends on, in regions too. Inputs stay.
///
/// # Errors
/// The graph is not valid.
pub fn dce(graph: &Graph) -> Result<Graph, EditError> {
    keep_reachable(graph, graph.outputs())
}

/// The graph with only these outputs, in this order, without nodes that none of them depends on. Inputs stay.
///
/// # Errors
/// There is no such output.
pub fn select_outputs(graph: &Graph, names: &[&str]) -> Result<Graph, EditError> {
    let port = |name: &&str| {
        let unknown = || EditError::UnknownOutput { name: (*name).to_owned() };
        graph.outputs().iter().find(|p| p.name == **name).cloned().ok_or_else(unknown)
    };
    let outputs = names.iter().map(port).collect::<Result<Vec<_>, _>>()?;
    keep_reachable(graph, &outputs)
}

/// The graph without inputs that no node and no output uses.
///
/// # Errors
/// The graph is not valid.
pub fn drop_unused_inputs(graph: &Graph) -> Result<Graph, EditError> {
    let users = graph.users();
    let mut rewriter = Rewriter::without_inputs(graph);
    for port in graph.inputs() {
        if !users[port.value].is_empty() || graph.outputs().iter().any(|o| o.value == port.value) {
            let value = rewriter.builder.input(&port.name, graph.ty(port.value).clone());
            rewriter.set(port.value, value);
        }
    }
    for (_, node) in graph.nodes() {
        rewriter.copy(node)?;
    }
    rewriter.finish()
}

/// An op with symbols replaced in its attributes.
fn substitute_op(op: &Op, with: &BTreeMap<Symbol, Dim>) -> Op {
    let mut op = op.clone();
    op.attrs(&mut |_: &'static str, value: AttrMut<'_>| match value {
        AttrMut::Dim(dim) => *dim = dim.substitute(with),
        AttrMut::Shape(shape) => *shape = substitute_shape(shape, with),
        _ => {}
    });
    op
}

fn substitute_shape(shape: &Shape, with: &BTreeMap<Symbol, Dim>) -> Shape {
    shape.iter().map(|d| d.substitute(with)).collect()
}

/// The graph with symbols replaced by dims, in regions too; all types are inferred again.
///
/// # Errors
/// An op does not fit the extents that result, such as a slice that is longer than its operand.
pub fn substitute(graph: &Graph, with: &BTreeMap<Symbol, Dim>) -> Result<Graph, EditError> {
    let mut rewriter = Rewriter::without_inputs(graph);
    for port in graph.inputs() {
        let ty = graph.ty(port.value);
        let ty = ty.with_shape(substitute_shape(&ty.shape, with));
        let value = rewriter.builder.input(&port.name, ty);
        rewriter.set(port.value, value);
    }
    for (_, node) in graph.nodes() {
        let regions = node.regions.iter().map(|r| substitute(r, with)).collect::<Result<_, _>>()?;
        rewriter.copy_as(node, substitute_op(&node.op, with), regions)?;
    }
    rewriter.finish()
}

/// The graph without this input, in whose place zeros stand.
///
/// # Errors
/// There is no such input.
pub fn bind_input(graph: &Graph, name: &str) -> Result<Graph, EditError> {
    if graph.input(name).is_none() {
        return Err(EditError::UnknownInput { name: name.to_owned() });
    }
    let mut rewriter = Rewriter::without_inputs(graph);
    for port in graph.inputs() {
        let ty = graph.ty(port.value).clone();
        let value = if port.name == name {
            let zero = rewriter.builder.op(Constant::scalar(ty.dtype, 0.0), &[])?;
            rewriter.builder.op(Broadcast { axes: Vec::new(), shape: ty.shape }, &[zero])?
        } else {
            rewriter.builder.input(&port.name, ty)
        };
        rewriter.set(port.value, value);
    }
    for (_, node) in graph.nodes() {
        rewriter.copy(node)?;
    }
    rewriter.finish()
}

#[cfg(test)]
mod tests;
