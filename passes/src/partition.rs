//! Groups nodes into kernels and gives every stored value a place.
//!
//! Reductions, contractions, scans, convolutions and norms are roots of kernels. Elementwise and layout nodes are
//! computed where they are needed: as epilogue of the root before them if that is their only use, else inside their
//! consumers, unless that would compute them more than once. An output that only reshapes what a kernel stores is
//! written by that kernel, and so is one that only converts a further result of a root: a state kept in halves.
//! Where kernels may keep copies, one that stores a value in f32 also stores what a conversion to halves makes of it.

use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Constant, Op, Reshape};
use ssmc_ir::{DType, Def, Dim, Graph, Group, Node, NodeId, Place, Plan, PrimaryMap, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

mod regions;

/// Why a graph has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum PartitionError {
    /// Branches that were not written out have no kernel.
    #[error("{place}: {op} has no kernel")]
    NoKernel { place: String, op: &'static str },
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// Partitions a rewritten graph.
///
/// # Errors
/// Every branch; the first is named.
pub fn partition(graph: &Graph) -> Result<Plan, PartitionError> {
    partition_as(graph, false)
}

/// As [`partition`], where products and elementwise kernels that store their result in f32 also store a copy in halves,
/// if the graph has one.
///
/// # Errors
/// As [`partition`].
pub fn partition_with_copies(graph: &Graph) -> Result<Plan, PartitionError> {
    partition_as(graph, true)
}

fn partition_as(graph: &Graph, may_copy: bool) -> Result<Plan, PartitionError> {
    let graph = distinct_outputs(&regions::without_literals(graph)?)?;
    for (_, node) in graph.nodes() {
        if matches!(node.op, Op::If(_)) {
            return Err(PartitionError::NoKernel {
                place: graph.locs().describe(node.loc),
                op: node.op.name(),
            });
        }
    }
    let mut p = Partition::new(&graph);
    if may_copy {
        p.choose_copies();
    }
    let aliases = p.aliases();
    let mut groups = p.groups(&aliases);
    for group in &mut groups {
        group.region = regions::of(graph.node(group.root))?;
    }
    let (places, slots) = places(&graph, &mut groups, &aliases);
    Ok(Plan { groups, places, slots, graph })
}

/// The graph with every output a value of its own that some node computes.
fn distinct_outputs(graph: &Graph) -> Result<Graph, EditError> {
    let mut rewriter = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        rewriter.copy(node)?;
    }
    let mut seen = BTreeSet::new();
    let mut outputs = Vec::new();
    for port in graph.outputs() {
        let in_memory = match graph.def(port.value) {
            Def::Input(_) => true,
            Def::Result(node, _) => is_literal(&graph.node(node).op),
        };
        let mut value = rewriter.get(port.value)?;
        if in_memory || !seen.insert(port.value) {
            let shape = graph.ty(port.value).shape.clone();
            value = rewriter.builder().op(Reshape { shape }, &[value])?;
        }
        outputs.push((port.name.clone(), value));
    }
    let mut builder = ssmc_ir::GraphBuilder::extend(rewriter.finish_with(&[])?);
    for (name, value) in outputs {
        builder.output(name, value);
    }
    Ok(builder.finish())
}

/// Whether the op's bytes are known when compiling.
fn is_literal(op: &Op) -> bool {
    match op {
        Op::WeightRef(_) => true,
        Op::Constant(Constant { shape, .. }) => !shape.n_elems().is(1),
        _ => false,
    }
}

struct Partition<'a> {
    graph: &'a Graph,
    users: PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
    outputs: BTreeSet<ValueId>,
    /// Values that lie in memory.
    stored: BTreeSet<ValueId>,
    /// Epilogue of each root.
    epilogues: BTreeMap<NodeId, Vec<NodeId>>,
    /// The conversions that kernels store in the place of further results of their roots.
    conversions: BTreeMap<ValueId, NodeId>,
    /// The conversions to halves that kernels store beside the ends of their epilogues.
    copies: BTreeMap<ValueId, Vec<NodeId>>,
}

impl<'a> Partition<'a> {
    fn new(graph: &'a Graph) -> Self {
        let outputs = graph.outputs().iter().map(|p| p.value).collect();
        let mut p = Self {
            graph,
            users: graph.users(),
            outputs,
            stored: BTreeSet::new(),
            epilogues: BTreeMap::new(),
            conversions: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        p.choose_stored();
        p.choose_conversions();
        p.choose_epilogues();
        p
    }

    fn is_used(&self, value: ValueId) -> bool {
        !self.users[value].is_empty() || self.outputs.contains(&value)
    }

    fn choose_stored(&mut self) {
        for port in self.graph.inputs() {
            self.stored.insert(port.value);
        }
        for (_, node) in self.graph.nodes() {
            for value in node.results.iter().copied() {
                if !self.is_used(value) {
                    continue;
                }
                if !node.op.is_elementwise() || self.outputs.contains(&value) || self.is_captured(value) {
                    self.stored.insert(value);
                } else if self.needs_memory(node, value) {
                    self.stored.insert(self.moved(value));
                }
            }
        }
    }

    /// Further results of roots that nothing but one conversion reads, whose result is an output.
    fn choose_conversions(&mut self) {
        for (_, node) in self.graph.nodes().filter(|(_, node)| is_root(&node.op)) {
            if matches!(node.op, Op::Scatter(_) | Op::Loop(_)) {
                continue;
            }
            for value in node.results.iter().skip(1).copied() {
                let [(user, _)] = self.users[value][..] else { continue };
                let Node { op: Op::Cast(_), results, .. } = self.graph.node(user) else { continue };
                if !self.outputs.contains(&value) && self.becomes_output(results[0]) {
                    self.stored.remove(&value);
                    self.stored.insert(results[0]);
                    self.conversions.insert(value, user);
                }
            }
        }
    }

    /// What products and elementwise kernels store in f32, converted to halves.
    fn choose_copies(&mut self) {
        let stores_elements = |op: &Op| match op {
            Op::Contract(_) => true,
            op => op.is_elementwise(),
        };
        let in_epilogue: BTreeSet<NodeId> = self.epilogues.values().flatten().copied().collect();
        let mut ends: BTreeSet<ValueId> = BTreeSet::new();
        for (id, _) in self.graph.nodes().filter(|(id, node)| {
            !in_epilogue.contains(id) && !is_literal(&node.op) && stores_elements(&node.op)
        }) {
            let last = self.epilogues.get(&id).and_then(|chain| chain.last()).unwrap_or(&id);
            ends.insert(self.graph.node(*last).results[0]);
        }
        for (id, node) in self.graph.nodes() {
            let (Op::Cast(op), [Some(value)]) = (&node.op, node.operands.as_slice()) else { continue };
            let is_rounding =
                matches!(op.to, DType::BF16 | DType::F16) && self.graph.ty(*value).dtype == DType::F32;
            let is_kept = self.stored.contains(value) && ends.contains(value);
            let is_free = !self.stored.contains(&node.results[0]) && !in_epilogue.contains(&id);
            if is_rounding && is_kept && is_free && !self.users[node.results[0]].is_empty() {
                self.stored.insert(node.results[0]);
                self.copies.entry(*value).or_default().push(id);
            }
        }
    }

    /// Whether a value is an output, or nothing but reshapes to one read it.
    fn becomes_output(&self, mut value: ValueId) -> bool {
        while !self.outputs.contains(&value) {
            let [(user, _)] = self.users[value][..] else { return false };
            let node = self.graph.node(user);
            if !matches!(node.op, Op::Reshape(_)) {
                return false;
            }
            value = node.results[0];
        }
        true
    }

    /// What a kernel stores of a further result of its root.
    fn kept(&self, value: ValueId) -> ValueId {
        self.conversions.get(&value).map_or(value, |id| self.graph.node(*id).results[0])
    }

    /// Whether the iterations of a loop read the value as it is.
    fn is_captured(&self, value: ValueId) -> bool {
        self.users[value].iter().any(|(user, i)| match &self.graph.node(*user).op {
            Op::Loop(op) => *i >= op.n_carried + op.scan_axes.len(),
            _ => false,
        })
    }

    /// The value whose elements a chain of views only moves, repeats or widens: with it in memory the chain costs nothing.
    fn moved(&self, mut value: ValueId) -> ValueId {
        while let Some(node) = self.graph.def_node(value)
            && (matches!(node.op, Op::Reshape(_) | Op::Transpose(_) | Op::Reverse(_) | Op::Broadcast(_))
                || widens_rounded(self.graph, node))
        {
            value = node.operands[0].expect("the operand is required");
        }
        value
    }

    /// Whether consumers would compute an elementwise value more than once per element.
    fn needs_memory(&self, node: &Node, value: ValueId) -> bool {
        let is_view = self.is_view(value);
        let users = &self.users[value];
        let gathers = matches!(node.op, Op::Gather(_) | Op::Concat(_) | Op::Pad(_));
        if users.len() > 1 && (!is_view || gathers) {
            return true;
        }
        !is_view && users.iter().any(|(user, i)| self.reads_again(self.graph.node(*user), *i))
    }

    /// Whether a value is only moved, repeated or converted from values in memory.
    fn is_view(&self, value: ValueId) -> bool {
        let Some(node) = self.graph.def_node(value) else { return true };
        if self.stored.contains(&value) {
            return true;
        }
        node.op.is_layout() && node.operands.iter().flatten().all(|v| self.is_view(*v))
    }

    /// Whether a node needs elements of its operand `i` more than once.
    fn reads_again(&self, user: &Node, i: usize) -> bool {
        match &user.op {
            Op::Contract(op) => op.spec.output.iter().any(|l| !op.spec.inputs[i].contains(l)),
            Op::Broadcast(op) => {
                let operand = user.operands[i].expect("a broadcast has its operand");
                self.graph.ty(operand).shape.n_elems() != op.shape.n_elems()
            }
            Op::Gather(_) => true,
            // The indices are read for every column.
            Op::Scatter(_) => i == 1,
            Op::TopK(_) => true,
            Op::Conv(_) | Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GatedRmsNorm(_) => true,
            Op::CausalConv1d(_) => i != 0,
            Op::LongConv(_) | Op::Dft(_) => true,
            Op::ComplexScan(_) => {
                let shape = |i: usize| user.operands[i].map(|v| &self.graph.ty(v).shape);
                i > 3 || shape(i) != shape(2)
            }
            // x, dt and z are read once per element; everything else is shared by channels, states or steps.
            Op::SelectiveScan(_) => !matches!(i, 0 | 1 | 6),
            Op::Ssd(_) | Op::DiscretizedScan(_) => true,
            // v is read once per element; keys and queries serve all values of their head.
            Op::LinearAttention(_) => i != 2,
            Op::Wkv(_) => !matches!(i, 1 | 2),
            Op::Scan(_) => {
                let shape = |i: usize| user.operands[i].map(|v| &self.graph.ty(v).shape);
                i > 1 || shape(i) != shape(1)
            }
            Op::Constant(_)
            | Op::WeightRef(_)
            | Op::DimValue(_)
            | Op::Iota(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select(_)
            | Op::Cast(_)
            | Op::Dequantize(_)
            | Op::Bitcast(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Reverse(_)
            | Op::Concat(_)
            | Op::Pad(_)
            | Op::Reduce(_)
            | Op::CumSum(_)
            | Op::ArgMax(_)
            | Op::Loop(_)
            | Op::If(_) => false,
        }
    }

    /// Whether a kernel with this root stores more than the end of its epilogue.
    fn has_more(&self, root: &Node) -> bool {
        root.results.iter().skip(1).any(|v| self.stored.contains(&self.kept(*v)))
    }

    /// Whether everything in memory that a value is computed from is there before `root` in graph order. A kernel that
    /// stores further results runs at the place of its root: what comes between it and the end of its epilogue may
    /// read these.
    fn is_early(&self, value: ValueId, root: NodeId) -> bool {
        let Def::Result(by, _) = self.graph.def(value) else { return true };
        let node = self.graph.node(by);
        by < root
            || is_literal(&node.op)
            || (!self.stored.contains(&value)
                && !is_root(&node.op)
                && node.operands.iter().flatten().all(|v| self.is_early(*v, root)))
    }

    /// The nodes behind `root` that a value, early for it, is computed from inside the root's kernel.
    fn computed_early(&self, value: ValueId, root: NodeId, nodes: &mut BTreeSet<NodeId>) {
        let Def::Result(by, _) = self.graph.def(value) else { return };
        let node = self.graph.node(by);
        if by > root && !is_literal(&node.op) && nodes.insert(by) {
            node.operands.iter().flatten().for_each(|v| self.computed_early(*v, root, nodes));
        }
    }

    /// Later roots claim first, so that what they share with earlier ones comes from memory.
    fn choose_epilogues(&mut self) {
        let mut claimed: BTreeSet<NodeId> = BTreeSet::new();
        // What kernels compute inside themselves because it is not in memory when they run.
        let mut computed_early: BTreeSet<NodeId> = BTreeSet::new();
        let roots: Vec<NodeId> =
            self.graph.nodes().filter(|(_, n)| is_root(&n.op)).map(|(id, _)| id).collect();
        for root in roots.into_iter().rev() {
            // A scatter reads its result back, so that nothing else may be stored in its place; a loop stores what its
            // body computes.
            if matches!(self.graph.node(root).op, Op::Scatter(_) | Op::Loop(_)) {
                continue;
            }
            let first = self.graph.node(root).results[0];
            let has_more = self.has_more(self.graph.node(root));
            let mut chain: Vec<NodeId> = Vec::new();
            let mut value = first;
            while !self.outputs.contains(&value) {
                let [(user, i)] = self.users[value][..] else { break };
                let node = self.graph.node(user);
                let others = node.operands.iter().flatten().filter(|v| **v != value);
                let is_late = has_more && others.copied().any(|v| !self.is_early(v, root));
                let is_taken = claimed.contains(&user) || computed_early.contains(&user);
                if is_taken || is_late || !self.continues(node, i, value) {
                    break;
                }
                chain.push(user);
                value = node.results[0];
            }
            // A reshape at the end does nothing, and neither does widening what was rounded; consumers see through them.
            while let Some(last) = chain.last() {
                let node = self.graph.node(*last);
                let is_nothing = matches!(node.op, Op::Reshape(_)) || widens_rounded(self.graph, node);
                if !is_nothing || self.outputs.contains(&node.results[0]) {
                    break;
                }
                chain.pop();
            }
            let Some(last) = chain.last() else { continue };
            self.stored.remove(&first);
            for id in &chain {
                self.stored.remove(&self.graph.node(*id).results[0]);
            }
            self.stored.insert(self.graph.node(*last).results[0]);
            if has_more {
                let operands = |id: &NodeId| self.graph.node(*id).operands.iter().flatten();
                let others = chain.iter().flat_map(operands);
                let outside = others.filter(|v| match self.graph.def(**v) {
                    Def::Result(by, _) => by != root && !chain.contains(&by),
                    Def::Input(_) => false,
                });
                outside.for_each(|v| self.computed_early(*v, root, &mut computed_early));
            }
            claimed.extend(&chain);
            self.epilogues.insert(root, chain);
        }
    }

    /// Whether a node maps each element of its operand `i` to the element of its result at the same place.
    fn continues(&self, node: &Node, i: usize, value: ValueId) -> bool {
        let n_uses = node.operands.iter().filter(|v| **v == Some(value)).count();
        n_uses == 1
            && match &node.op {
                Op::Unary(_)
                | Op::Binary(_)
                | Op::Compare(_)
                | Op::Select(_)
                | Op::Cast(_)
                | Op::Bitcast(_)
                | Op::Reshape(_) => true,
                Op::Contract(op) => op.spec.summed().is_empty() && op.spec.inputs[i] == op.spec.output,
                _ => false,
            }
    }

    /// The outputs that only reshape a value which a kernel stores: reshape node -> value. The kernel writes the output
    /// itself, since a reshape moves nothing. Outputs and values are one to one.
    fn aliases(&self) -> BTreeMap<NodeId, ValueId> {
        let in_epilogue: BTreeSet<NodeId> = self.epilogues.values().flatten().copied().collect();
        let mut aliases = BTreeMap::new();
        let mut taken = self.outputs.clone();
        for (id, node) in self.graph.nodes() {
            let (Op::Reshape(_), Some(mut value)) = (&node.op, node.operands.first().copied().flatten())
            else {
                continue;
            };
            if !self.outputs.contains(&node.results[0]) || in_epilogue.contains(&id) {
                continue;
            }
            while let Some(Op::Reshape(_)) = self.graph.def_op(value)
                && !self.stored.contains(&value)
            {
                let inner = self.graph.def_node(value).expect("it has an op");
                value = inner.operands[0].expect("the operand is required");
            }
            let is_computed = match self.graph.def(value) {
                Def::Input(_) => false,
                Def::Result(by, _) => !is_literal(&self.graph.node(by).op),
            };
            if is_computed && self.stored.contains(&value) && taken.insert(value) {
                aliases.insert(id, value);
            }
        }
        aliases
    }

    /// Groups in order of execution.
    fn groups(&self, aliases: &BTreeMap<NodeId, ValueId>) -> Vec<Group> {
        let copies = self.copies.values().flatten();
        let behind_roots = self.epilogues.values().flatten().chain(self.conversions.values()).chain(copies);
        let behind_roots: BTreeSet<NodeId> = behind_roots.copied().collect();
        let mut groups: Vec<(NodeId, Group)> = Vec::new();
        for (id, node) in self.graph.nodes() {
            if is_literal(&node.op) || behind_roots.contains(&id) || aliases.contains_key(&id) {
                continue;
            }
            let epilogue = self.epilogues.get(&id).cloned().unwrap_or_default();
            let last = epilogue.last().copied().unwrap_or(id);
            let mut outputs: Vec<ValueId> = vec![self.graph.node(last).results[0]];
            outputs.extend(node.results.iter().skip(1).map(|v| self.kept(*v)));
            let copies = self.copies.get(&outputs[0]).map(Vec::as_slice).unwrap_or_default();
            outputs.extend(copies.iter().map(|copy| self.graph.node(*copy).results[0]));
            outputs.retain(|v| self.stored.contains(v));
            if outputs.is_empty() {
                continue;
            }
            let mut members = BTreeSet::from([id]);
            members.extend(node.results.iter().filter_map(|v| self.conversions.get(v)));
            members.extend(copies);
            for member in std::iter::once(&id).chain(&epilogue) {
                members.insert(*member);
                self.collect_inside(*member, &epilogue, &mut members);
            }
            let at = if self.has_more(node) { id } else { last };
            groups.push((
                at,
                Group { root: id, members: members.into_iter().collect(), epilogue, outputs, region: None },
            ));
        }
        groups.sort_by_key(|(at, _)| *at);
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// Adds the nodes whose values a member needs and that lie nowhere in memory.
    fn collect_inside(&self, id: NodeId, epilogue: &[NodeId], members: &mut BTreeSet<NodeId>) {
        for value in self.graph.node(id).operands.iter().flatten() {
            let Def::Result(def, _) = self.graph.def(*value) else { continue };
            let op = &self.graph.node(def).op;
            if self.stored.contains(value) || is_literal(op) || is_root(op) || epilogue.contains(&def) {
                continue;
            }
            if members.insert(def) {
                self.collect_inside(def, epilogue, members);
            }
        }
    }
}

/// Whether a node converts back what was rounded to a half type: nothing is gained by storing more than the halves.
fn widens_rounded(graph: &Graph, node: &Node) -> bool {
    let mut value = graph.widened(node);
    while let Some(by) = value.and_then(|value| graph.def_node(value)) {
        match &by.op {
            Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Reverse(_) | Op::Broadcast(_) => {
                value = by.operands[0];
            }
            Op::Cast(_) => return by.operands[0].is_some_and(|x| graph.ty(x).dtype == DType::F32),
            _ => return false,
        }
    }
    false
}

/// Whether the op has loops of its own.
fn is_root(op: &Op) -> bool {
    !op.is_elementwise() && !is_literal(op)
}

/// A place for every value in memory, and the sizes of the arena's slots.
fn places(
    graph: &Graph,
    groups: &mut [Group],
    aliases: &BTreeMap<NodeId, ValueId>,
) -> (BTreeMap<ValueId, Place>, Vec<Dim>) {
    let mut places = BTreeMap::new();
    for (i, port) in graph.inputs().iter().enumerate() {
        places.insert(port.value, Place::Input(i));
    }
    for (_, node) in graph.nodes().filter(|(_, n)| is_literal(&n.op)) {
        places.insert(node.results[0], Place::Weight);
    }
    for (i, port) in graph.outputs().iter().enumerate() {
        places.insert(port.value, Place::Output(i));
        if let Def::Result(by, _) = graph.def(port.value)
            && let Some(alias) = aliases.get(&by)
        {
            places.insert(*alias, Place::Output(i));
        }
    }
    // The last group that reads each value.
    let mut last_read: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (i, group) in groups.iter().enumerate() {
        // The kernel behind a norm of single rows may take the norm over, and reads then what the norm reads.
        let end = if is_norm_of_rows(graph, group) { i + 1 } else { i };
        for member in &group.members {
            for value in graph.node(*member).operands.iter().flatten() {
                let last = last_read.entry(*value).or_default();
                *last = end.max(*last);
            }
        }
    }
    let mut slots: Vec<Dim> = Vec::new();
    let mut free: BTreeSet<usize> = BTreeSet::new();
    let mut ends: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, group) in groups.iter_mut().enumerate() {
        for value in &group.outputs {
            if places.contains_key(value) {
                continue;
            }
            let ty = graph.ty(*value);
            let slot = choose_slot(&mut slots, &mut free, &bytes(ty));
            places.insert(*value, Place::Slot(slot));
            ends.entry(last_read.get(value).copied().unwrap_or(i).max(i)).or_default().push(slot);
        }
        if let (Some(region), Op::Loop(op)) = (&mut group.region, &graph.node(group.root).op) {
            let mut choose = |bytes: &Dim| choose_slot(&mut slots, &mut free, bytes);
            let taken = regions::place(region, op, &mut choose);
            ends.entry(i).or_default().extend(taken);
        }
        free.extend(ends.remove(&i).unwrap_or_default());
    }
    (places, slots)
}

/// Whether a group normalizes one row of each sequence.
fn is_norm_of_rows(graph: &Graph, group: &Group) -> bool {
    let node = graph.node(group.root);
    let is_one_each = || {
        let shape = &graph.ty(node.results[0]).shape;
        shape.iter().skip(1).rev().skip(1).all(|extent| extent.is(1))
    };
    matches!(node.op, Op::RmsNorm(_)) && is_one_each()
}

/// The size of a tensor in memory.
fn bytes(ty: &TensorType) -> Dim {
    ty.shape.n_elems() * Dim::from(ty.dtype.bits().div_ceil(8))
}

/// A slot that is at least as large, where that is certain; else the largest free one, made larger; else a new one.
fn choose_slot(slots: &mut Vec<Dim>, free: &mut BTreeSet<usize>, bytes: &Dim) -> usize {
    let fits = |slot: &&usize| slots[**slot].at_least(bytes) == slots[**slot];
    if let Some(slot) = free.iter().find(fits).copied() {
        free.remove(&slot);
        return slot;
    }
    if let Some(slot) = free.iter().find(|slot| slots[**slot].at_most(bytes) == slots[**slot]).copied() {
        free.remove(&slot);
        slots[slot] = bytes.clone();
        return slot;
    }
    slots.push(bytes.clone());
    slots.len() - 1
}

#[cfg(test)]
mod tests;
