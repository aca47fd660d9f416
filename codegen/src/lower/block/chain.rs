//! Groups that one kernel does where there is one row: decoding one sequence is bound by the number of launches.
//!
//! ```text
//! norm -> product -> step of a convolution      each column scales its own sum and advances its own channel
//! product -> step of a scan                     each channel computes its own step size
//! ```
//!
//! The norm may be folded into the product, so that its group stores the scale of each row alone. A plan has these as groups that follow each other. With one row nothing is computed twice but the mean square of the
//! row, by lanes that read the row anyway. With more rows the groups run one by one.

use super::matmul::product::{Product, recognize};
use super::matmul::{few_rows, vector};
use super::share::reaches;
use super::update::{self, Update};
use super::{Lowered, in_block};
use crate::lower::conv1d::Conv;
use crate::lower::sink::Sink;
use crate::lower::{LowerError, elem_of};
use ssmc_ir::ops::{BinaryFn, Contract, Op};
use ssmc_ir::{Dim, Graph, Group, Node, NodeId, Place, Plan, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Groups of a plan, by their places, that one kernel does where there is one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The groups.
    pub groups: Range<usize>,
    kind: Kind,
    rows: Dim,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A product with a norm before it, the step of a convolution behind it, or both.
    Product { norm: bool, conv: bool },
    /// The step of a scan whose step sizes a product makes.
    Scan,
}

impl Chain {
    /// 1 where the groups run as one kernel, 0 where they run one by one.
    pub fn is_one(&self) -> Dim {
        reaches(&self.rows, 1) - &reaches(&self.rows, 2)
    }

    /// What one kernel does: the group that decides, with the members and outputs of all.
    pub fn merged(&self, plan: &Plan) -> Group {
        let groups = &plan.groups[self.groups.clone()];
        let main = self.main(groups);
        let members: BTreeSet<NodeId> =
            groups.iter().flat_map(|group| group.members.iter().copied()).collect();
        let made: BTreeSet<ValueId> = self.inner(groups).collect();
        let outputs = groups.iter().flat_map(|group| group.outputs.iter().copied());
        Group {
            root: main.root,
            members: members.into_iter().collect(),
            epilogue: main.epilogue.clone(),
            outputs: outputs.filter(|value| !made.contains(value)).collect(),
            region: None,
        }
    }

    /// The group whose root decides the schedule.
    fn main<'g>(&self, groups: &'g [Group]) -> &'g Group {
        match self.kind {
            Kind::Product { norm, .. } => &groups[usize::from(norm)],
            Kind::Scan => &groups[1],
        }
    }

    /// The values that nobody else needs in memory.
    fn inner<'g>(&self, groups: &'g [Group]) -> impl Iterator<Item = ValueId> + 'g {
        let has_inner = !matches!(self.kind, Kind::Product { norm: false, .. });
        groups.iter().take(usize::from(has_inner)).flat_map(|group| group.outputs.iter().copied())
    }
}

/// The value that a tensor only views or converts: the first one that lies in memory.
fn behind(plan: &Plan, mut value: ValueId) -> ValueId {
    while !plan.places.contains_key(&value)
        && let Some(node) = plan.graph.def_node(value)
        && let Op::Reshape(_) | Op::Cast(_) = &node.op
        && let Some(Some(inner)) = node.operands.first()
    {
        value = *inner;
    }
    value
}

/// As [`behind`], where parts may be cut out of the last axis; also where the part begins.
fn part_of(plan: &Plan, mut value: ValueId) -> Option<(ValueId, i64)> {
    let graph = &plan.graph;
    let mut start = 0;
    while !plan.places.contains_key(&value) {
        let node = graph.def_node(value)?;
        let inner = node.operands.first().copied().flatten()?;
        let last = |value: ValueId| graph.ty(value).shape.last();
        match &node.op {
            Op::Cast(_) => {}
            Op::Reshape(_) if last(inner) == last(value) => {}
            Op::Slice(op) if op.axis + 1 == graph.ty(inner).rank() && op.stride == 1 => {
                start += op.start.as_const()?;
            }
            _ => return None,
        }
        value = inner;
    }
    Some((value, start))
}

/// A product of one matrix with some rows, both with k last.
struct Rows {
    p: Product,
    rows: Dim,
    columns: i64,
    depth: i64,
}

fn product(graph: &Graph, group: &Group) -> Option<Rows> {
    let p = recognize(graph, graph.node(group.root), &|id| group.members.contains(&id)).ok()?;
    let [rows, columns, depth] = vector::extents(graph, group)?;
    let is_plain = p.batch.is_empty()
        && p.k.len() == 1
        && p.w.own.len() == 1
        && [&p.x, &p.w].iter().all(|factor| factor.labels.last() == p.k.last());
    is_plain.then_some(())?;
    Some(Rows { p, rows, columns: columns.as_const()?, depth: depth.as_const()? })
}

/// The groups of a plan that can be one kernel each, in their order.
pub fn chains(plan: &Plan) -> Vec<Chain> {
    let finder = Finder::new(plan);
    let mut found: Vec<Chain> = Vec::new();
    let mut at = 0;
    while at < plan.groups.len() {
        match finder.chain(at) {
            Some(chain) => {
                at = chain.groups.end;
                found.push(chain);
            }
            None => at += 1,
        }
    }
    found
}

struct Finder<'p> {
    plan: &'p Plan,
    /// Groups that read a value.
    readers: BTreeMap<ValueId, Vec<usize>>,
}

impl<'p> Finder<'p> {
    fn new(plan: &'p Plan) -> Self {
        let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        for (i, group) in plan.groups.iter().enumerate() {
            for member in &group.members {
                for value in plan.graph.node(*member).operands.iter().flatten() {
                    let known = readers.entry(*value).or_default();
                    if known.last() != Some(&i) {
                        known.push(i);
                    }
                }
            }
        }
        Self { plan, readers }
    }

    fn chain(&self, at: usize) -> Option<Chain> {
        self.scan(at).or_else(|| self.norm(at)).or_else(|| self.conv(at, None))
    }

    /// Whether a group stores what its root computes, perhaps converted.
    fn is_bare(&self, group: &Group) -> bool {
        group.epilogue.iter().all(|id| matches!(self.plan.graph.node(*id).op, Op::Cast(_)))
    }

    /// The only output of a group without an epilogue, if the group behind it alone reads it.
    fn handed_on(&self, at: usize) -> Option<ValueId> {
        let group = &self.plan.groups[at];
        let [value] = group.outputs[..] else { return None };
        (self.is_bare(group) && self.is_inner(at, value)).then_some(value)
    }

    /// Whether the group behind one alone reads a value that it stores.
    fn is_inner(&self, at: usize, value: ValueId) -> bool {
        let readers = self.readers.get(&value).map(Vec::as_slice).unwrap_or_default();
        let others = readers.iter().filter(|reader| **reader != at);
        others.copied().eq([at + 1]) && matches!(self.plan.places[&value], Place::Slot(_))
    }

    /// As [`Finder::is_bare`] for a product, which may also scale its row.
    fn is_bare_but_for(&self, group: &Group, scale: Option<ValueId>) -> bool {
        let graph = &self.plan.graph;
        let is_scale = |value: &ValueId| {
            let inner = graph.def_node(*value).and_then(|node| node.operands.first().copied().flatten());
            let inner = inner.filter(|_| matches!(graph.def_op(*value), Some(Op::Broadcast(_))));
            inner.is_some_and(|inner| Some(behind(self.plan, inner)) == scale)
        };
        group.epilogue.iter().all(|id| {
            let node = graph.node(*id);
            match &node.op {
                Op::Cast(_) => true,
                Op::Binary(op) => op.f == BinaryFn::Mul && node.operands.iter().flatten().any(is_scale),
                _ => false,
            }
        })
    }

    fn n_elems(&self, value: ValueId) -> Dim {
        self.plan.graph.ty(value).shape.n_elems()
    }

    /// A norm and the product behind it, with what follows that.
    fn norm(&self, at: usize) -> Option<Chain> {
        let graph = &self.plan.graph;
        let norm = vector::Norm::of(graph, &self.plan.groups[at])?;
        let scale = norm.stored_scale();
        let rows = product(graph, self.plan.groups.get(at + 1)?)?;
        // The product reads what the norm makes, or what it reads.
        let read = match scale {
            None => self.handed_on(at)?,
            Some(scale) if self.is_inner(at, scale) => behind(self.plan, norm.x()),
            Some(_) => return None,
        };
        let fits = behind(self.plan, rows.p.x.value) == read
            && graph.ty(norm.x()).shape.last()?.is(rows.depth)
            && self.n_elems(norm.x()) == rows.rows.clone() * Dim::from(rows.depth);
        fits.then_some(())?;
        self.conv(at + 1, Some(scale))
            .or_else(|| self.checked(at..at + 2, Kind::Product { norm: true, conv: false }, rows.rows))
    }

    /// A product and the step of a convolution behind it; with `norm` also the norm before it, with what the product
    /// scales its row by.
    fn conv(&self, at: usize, norm: Option<Option<ValueId>>) -> Option<Chain> {
        let graph = &self.plan.graph;
        let group = &self.plan.groups[at];
        let next = self.plan.groups.get(at + 1)?;
        let node = graph.node(next.root);
        let Op::CausalConv1d(_) = &node.op else { return None };
        let conv = Conv::of_node(graph, node).ok()?;
        let (value, start) = part_of(self.plan, conv.x)?;
        let rows = product(graph, group)?;
        let fits = self.is_bare_but_for(group, norm.flatten())
            && group.outputs == [value]
            && conv.seq_idx.is_none()
            && conv.shape[1].is(1)
            && self.n_elems(conv.x) == rows.rows.clone() * Dim::from(conv.channels)
            && start + conv.channels <= rows.columns;
        fits.then_some(())?;
        let norm = norm.is_some();
        let first = at - usize::from(norm);
        self.checked(first..at + 2, Kind::Product { norm, conv: true }, rows.rows)
    }

    /// The step of a scan and the product before it.
    fn scan(&self, at: usize) -> Option<Chain> {
        let graph = &self.plan.graph;
        let next = self.plan.groups.get(at + 1)?;
        let update = Update::of(graph, graph.node(next.root))?;
        let rows = product(graph, &self.plan.groups[at])?;
        let value = self.handed_on(at)?;
        let fits = behind(self.plan, update.dt()) == value
            && self.n_elems(value) == rows.rows.clone() * Dim::from(rows.columns);
        fits.then_some(())?;
        update.takes(&step_sizes(graph, &rows).ok()?).then_some(())?;
        self.checked(at..at + 2, Kind::Scan, rows.rows)
    }

    /// The chain, unless it would write where it still reads.
    fn checked(&self, groups: Range<usize>, kind: Kind, rows: Dim) -> Option<Chain> {
        let chain = Chain { groups, kind, rows };
        let plan = self.plan;
        let slot = |value: &ValueId| match plan.places.get(value) {
            Some(Place::Slot(slot)) => Some(*slot),
            _ => None,
        };
        let all = &plan.groups[chain.groups.clone()];
        let made: BTreeSet<ValueId> = all.iter().flat_map(|group| group.outputs.iter().copied()).collect();
        let merged = chain.merged(plan);
        let operands = merged.members.iter().flat_map(|id| plan.graph.node(*id).operands.iter().flatten());
        let reads: BTreeSet<usize> =
            operands.filter(|value| !made.contains(value)).filter_map(slot).collect();
        let is_safe = merged.outputs.iter().filter_map(slot).all(|slot| !reads.contains(&slot));
        is_safe.then_some(chain)
    }
}

/// The product of step sizes as the step of a scan needs it.
fn step_sizes(graph: &Graph, rows: &Rows) -> Result<update::StepSizes, LowerError> {
    let Rows { p, depth, .. } = rows;
    Ok(update::StepSizes {
        x: p.x.value,
        rank: p.x.labels.len(),
        w: p.w.value,
        w_elem: elem_of(graph.ty(p.w.value).dtype)?,
        depth: *depth,
    })
}

/// The kernel of a chain.
///
/// # Errors
/// As [`super::lower_block`].
pub fn lower_chain(plan: &Plan, chain: &Chain) -> Result<Lowered, LowerError> {
    let graph = &plan.graph;
    let groups = &plan.groups[chain.groups.clone()];
    let main = chain.main(groups);
    let node = graph.node(main.root);
    let refuse = || LowerError::Unsupported { op: node.op.name(), reason: "the groups do not follow".into() };
    // The other roots are computed nowhere but where the schedule does.
    let roots: Vec<NodeId> = groups.iter().map(|group| group.root).collect();
    let merged = chain.merged(plan);
    let is_inside = |id: &NodeId| *id == main.root || !roots.contains(id);
    let members: Vec<NodeId> = merged.members.into_iter().filter(is_inside).collect();
    let group = Group { members, outputs: main.outputs.clone(), ..main.clone() };
    let lowered = match (chain.kind, &node.op) {
        (Kind::Product { norm, conv }, Op::Contract(op)) => {
            let norm = norm.then(|| vector::Norm::of(graph, &groups[0]).ok_or_else(refuse)).transpose()?;
            let conv = conv.then(|| &groups[groups.len() - 1]);
            lower_product(plan, op, &group, (norm, conv))?
        }
        (Kind::Scan, _) => {
            let rows = product(graph, &groups[0]).ok_or_else(refuse)?;
            let sizes = step_sizes(graph, &rows)?;
            let update = Update::of(graph, node).ok_or_else(refuse)?;
            in_block(graph, &group, update::THREADS, |l| update.lower(l, Some(&sizes)))?
        }
        (Kind::Product { .. }, _) => return Err(refuse()),
    };
    let share = chain.is_one();
    Ok(Lowered { grid: lowered.grid * &share, flops: lowered.flops * &share, ..lowered })
}

fn lower_product(
    plan: &Plan,
    op: &Contract,
    group: &Group,
    (norm, conv): (Option<vector::Norm>, Option<&Group>),
) -> Result<Lowered, LowerError> {
    let graph = &plan.graph;
    let few = few_rows(graph, group)?;
    in_block(graph, group, few.threads(), |l| {
        let tail = match conv {
            None => None,
            Some(conv) => Some(tail(plan, conv)?),
        };
        vector::lower(l, op, group, (few, vector::Around { norm, tail }))
    })
}

/// The step of a convolution behind a product.
fn tail<'a>(plan: &'a Plan, group: &'a Group) -> Result<vector::Tail<'a>, LowerError> {
    let node: &Node = plan.graph.node(group.root);
    let refuse = || LowerError::Unsupported { op: node.op.name(), reason: "the groups do not follow".into() };
    let Op::CausalConv1d(op) = &node.op else { return Err(refuse()) };
    let conv = Conv::of_node(&plan.graph, node)?;
    let (_, start) = part_of(plan, conv.x).ok_or_else(refuse)?;
    Ok(vector::Tail { op, conv, start, sink: Sink::new(&plan.graph, group) })
}
