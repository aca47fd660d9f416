//! Cutting a graph into segments that are rewritten one by one.
//!
//! A cut lies where exactly one value of the data flow is alive: between two layers, the residual stream. Weights,
//! constants, what is computed from these alone, and graph inputs do not count. Equal segments have equal templates.

use ssmc_ir::ops::{Op, WeightRef};
use ssmc_ir::{Def, Entity, Graph, NodeId, PrimaryMap, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Where an operand of a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A value from outside the segment.
    Leaf(usize),
    /// A result of a node of the segment.
    Result(usize, usize),
}

/// What a segment computes, without the names of weights and the places in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Template {
    pub(crate) nodes: Vec<(Op, Vec<Option<Source>>)>,
    pub(crate) leaves: Vec<TensorType>,
    pub(crate) roots: Vec<Source>,
}

/// A part of a graph.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) template: Template,
    /// The nodes in the order of the template.
    pub(crate) nodes: Vec<NodeId>,
    /// The values that are the leaves of the template.
    pub(crate) leaves: Vec<ValueId>,
    /// The values that are its roots.
    pub(crate) roots: Vec<ValueId>,
}

/// A part of a graph, in order.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Nodes that are rewritten together.
    Segment(Segment),
    /// A node that stays as it is: it owns regions.
    Opaque(NodeId),
}

/// Between two cuts lie at least this many nodes; smaller parts stay with their neighbor, so that no cut falls between
/// a function and what absorbs it.
const MIN_BLOCK: usize = 12;

/// Cuts a graph.
pub(crate) fn cut(graph: &Graph) -> Vec<Part> {
    let is_source = sources(graph);
    let last_use = last_uses(graph);
    let users = graph.users();
    let outputs: BTreeSet<ValueId> = graph.outputs().iter().map(|p| p.value).collect();
    let mut parts = Vec::new();
    let (mut segment, mut block): (Vec<NodeId>, Vec<NodeId>) = (Vec::new(), Vec::new());
    let mut live: Vec<ValueId> = Vec::new();
    let mut groups: Vec<Vec<NodeId>> = Vec::new();
    for (id, node) in graph.nodes() {
        if is_source[id.idx()] {
            continue;
        }
        live.retain(|v| last_use[v.idx()] > Some(id));
        live.extend(node.results.iter().filter(|v| last_use[v.idx()] > Some(id)));
        if !node.regions.is_empty() {
            segment.append(&mut block);
            groups.push(std::mem::take(&mut segment));
            groups.push(vec![id]);
            continue;
        }
        block.push(id);
        if live.len() <= 1 {
            if block.len() >= MIN_BLOCK && !segment.is_empty() {
                groups.push(std::mem::take(&mut segment));
            }
            segment.append(&mut block);
        }
    }
    segment.append(&mut block);
    groups.push(segment);
    for group in groups.into_iter().filter(|g| !g.is_empty()) {
        match group[..] {
            [id] if !graph.node(id).regions.is_empty() => parts.push(Part::Opaque(id)),
            _ => parts.push(Part::Segment(Builder::new(graph, &is_source).build(&group, &users, &outputs))),
        }
    }
    parts
}

/// Whether each node depends on no graph input.
fn sources(graph: &Graph) -> Vec<bool> {
    let mut is_source: Vec<bool> = Vec::new();
    for (_, node) in graph.nodes() {
        let from_sources = node.operands.iter().flatten().all(|v| match graph.def(*v) {
            Def::Input(_) => false,
            Def::Result(id, _) => is_source[id.idx()],
        });
        is_source.push(from_sources && node.regions.is_empty());
    }
    is_source
}

fn last_uses(graph: &Graph) -> Vec<Option<NodeId>> {
    let mut last = vec![None; graph.values().len()];
    for (id, node) in graph.nodes() {
        for v in node.operands.iter().flatten() {
            last[v.idx()] = Some(id);
        }
    }
    last
}

struct Builder<'a> {
    graph: &'a Graph,
    is_source: &'a [bool],
    segment: Segment,
    known: BTreeMap<ValueId, Source>,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, is_source: &'a [bool]) -> Self {
        Self { graph, is_source, segment: Segment::default(), known: BTreeMap::new() }
    }

    fn build(
        mut self,
        group: &[NodeId],
        users: &PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
        outputs: &BTreeSet<ValueId>,
    ) -> Segment {
        for id in group {
            self.add(*id);
        }
        let inside = |id: &NodeId| group.binary_search(id).is_ok();
        for id in group {
            for v in &self.graph.node(*id).results {
                if outputs.contains(v) || users[*v].iter().any(|(user, _)| !inside(user)) {
                    self.segment.roots.push(*v);
                    self.segment.template.roots.push(self.known[v]);
                }
            }
        }
        self.segment
    }

    fn add(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let operands = node.operands.iter().map(|v| v.map(|v| self.source(v))).collect();
        let at = self.segment.nodes.len();
        self.segment.nodes.push(id);
        self.segment.template.nodes.push((node.op.clone(), operands));
        for (i, v) in node.results.iter().enumerate() {
            self.known.insert(*v, Source::Result(at, i));
        }
    }

    /// Where the value comes from; what is computed from weights and constants alone is drawn into the segment.
    fn source(&mut self, v: ValueId) -> Source {
        if let Some(source) = self.known.get(&v) {
            return *source;
        }
        if let Def::Result(id, _) = self.graph.def(v)
            && self.is_source[id.idx()]
            && !matches!(self.graph.node(id).op, Op::WeightRef(WeightRef { .. }))
        {
            self.add(id);
            return self.known[&v];
        }
        let leaf = Source::Leaf(self.segment.leaves.len());
        self.segment.leaves.push(v);
        self.segment.template.leaves.push(self.graph.ty(v).clone());
        self.known.insert(v, leaf);
        leaf
    }
}
