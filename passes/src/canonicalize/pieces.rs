//! Tensors that are written piece by piece are one concatenation.
//!
//! Exporters write a slice of a buffer as the parts around it joined with the new one, or as rows that are scattered,
//! once for each write. A chain of writes is followed from its last link, so that each row is looked at once, however
//! long the chain is.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view;
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Concat, Op, Scatter, ScatterFn, Slice};
use ssmc_ir::{BuildError, Dim, Entity, Graph, GraphBuilder, Model, Node, ValueId};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Opens concatenations of (slices of) concatenations, and chains of scattered rows at known indices that fill a
/// tensor in a regular order. Regions are left alone.
pub struct Pieces;

impl Pass for Pieces {
    fn name(&self) -> &'static str {
        "pieces"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let plan = Finder::new(&model.graph).run();
        if plan.is_empty() {
            return Ok(Changed::No);
        }
        let graph = rewrite(&model.graph, |r, _, node| {
            let Some(whole) = node.results.first().and_then(|v| plan.get(v)) else { return Ok(Action::Copy) };
            let mut parts = Vec::new();
            for part in &whole.parts {
                let x = r.get(part.value)?;
                parts.push(match &part.range {
                    None => x,
                    Some(range) => sliced(r.builder(), x, whole.axis, *range)?,
                });
            }
            let b = r.builder();
            let shape = model.graph.ty(node.results[0]).shape.clone();
            let joined = match &parts[..] {
                [one] => *one,
                parts if whole.stacks => stacked(b, parts)?,
                parts => b.op(Concat { axis: whole.axis }, parts)?,
            };
            let joined = view::reshape(b, joined, &shape)?;
            r.replace(node.results[0], joined)?;
            Ok::<_, EditError>(Action::Done)
        })?;
        Ok(Changed::replace(model, graph))
    }
}

fn sliced(
    b: &mut GraphBuilder,
    x: ValueId,
    axis: usize,
    (start, len): (i64, i64),
) -> Result<ValueId, BuildError> {
    if start == 0 && b.shape(x)[axis].is(len) {
        return Ok(x);
    }
    b.op(Slice { axis, start: start.into(), len: len.into(), stride: 1 }, &[x])
}

/// The tensors along a new second axis.
fn stacked(b: &mut GraphBuilder, parts: &[ValueId]) -> Result<ValueId, BuildError> {
    let mut rows = Vec::new();
    for x in parts {
        let mut dims = b.shape(*x).to_vec();
        dims.insert(1, Dim::from(1));
        rows.push(view::reshape(b, *x, &dims)?);
    }
    b.op(Concat { axis: 1 }, &rows)
}

/// A tensor, or a range of it along the axis: start and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    value: ValueId,
    range: Option<(i64, i64)>,
}

/// A tensor made of others.
#[derive(Clone, Debug)]
struct Whole {
    axis: usize,
    parts: Vec<Part>,
    /// The parts are stacked along a second axis, which is then merged into the first.
    stacks: bool,
}

struct Finder<'a> {
    graph: &'a Graph,
    /// Where the operands of concatenations start.
    offsets: HashMap<ValueId, Option<Rc<Vec<i64>>>>,
    /// What something else than a join, or a part of one, reads: it is computed anyway, so that nothing is gained by
    /// joining its parts once more.
    is_read: Vec<bool>,
    /// How many parts may still be written; what is made of many parts in many ways stays as it is.
    budget: usize,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a Graph) -> Self {
        let budget = 4 * graph.nodes().len() + 64;
        let mut finder =
            Self { graph, offsets: HashMap::new(), is_read: vec![false; graph.values().len()], budget };
        finder.mark();
        finder
    }

    fn mark(&mut self) {
        let graph = self.graph;
        for port in graph.outputs() {
            self.is_read[port.value.idx()] = true;
        }
        for (_, node) in graph.nodes().rev() {
            let passes_on = match &node.op {
                Op::Concat(_) => true,
                Op::Slice(op) if range(op).is_some() => {
                    !self.is_read[node.results[0].idx()] || self.whole(node).is_some()
                }
                _ => false,
            };
            if !passes_on {
                node.operands.iter().flatten().for_each(|v| self.is_read[v.idx()] = true);
            }
        }
    }

    /// What can be opened of all that outputs depend on once it is.
    fn run(mut self) -> BTreeMap<ValueId, Whole> {
        let mut plan = BTreeMap::new();
        let mut needed = vec![false; self.graph.values().len()];
        for port in self.graph.outputs() {
            needed[port.value.idx()] = true;
        }
        for (_, node) in self.graph.nodes().rev() {
            if !node.results.iter().any(|v| needed[v.idx()]) {
                continue;
            }
            let Some(whole) = self.whole(node) else {
                node.operands.iter().flatten().for_each(|v| needed[v.idx()] = true);
                continue;
            };
            whole.parts.iter().for_each(|part| needed[part.value.idx()] = true);
            self.budget -= whole.parts.len().min(self.budget);
            plan.insert(node.results[0], whole);
        }
        plan
    }

    fn whole(&mut self, node: &Node) -> Option<Whole> {
        match &node.op {
            Op::Concat(op) => {
                let parts = node.operands.iter().flatten().map(|v| Part { value: *v, range: None });
                let parts = self.opened(parts.collect(), op.axis, false)?;
                Some(Whole { axis: op.axis, parts, stacks: false })
            }
            Op::Slice(op) => {
                let part = Part { value: node.operands[0]?, range: Some(range(op)?) };
                let parts = self.opened(vec![part], op.axis, true)?;
                (parts.len() == 1).then_some(Whole { axis: op.axis, parts, stacks: false })
            }
            Op::Scatter(op) => self.rows(node, op),
            _ => None,
        }
    }

    /// The parts without concatenations among them but those that are read, unless `all` are opened; `None` if there
    /// was none to open.
    fn opened(&mut self, mut stack: Vec<Part>, axis: usize, all: bool) -> Option<Vec<Part>> {
        stack.reverse();
        let mut is_opened = false;
        let mut parts: Vec<Part> = Vec::new();
        while let Some(part) = stack.pop() {
            let node = self.graph.def_node(part.value);
            match node.map(|n| (&n.op, n)) {
                Some((Op::Slice(op), node)) if op.axis == axis && range(op).is_some() => {
                    let (start, len) = range(op)?;
                    let (from, n) = part.range.unwrap_or((0, len));
                    stack.push(Part { value: node.operands[0]?, range: Some((start + from, n)) });
                }
                Some((Op::Concat(op), node))
                    if op.axis == axis && (all || !self.is_read[part.value.idx()]) =>
                {
                    match part.range {
                        None => {
                            is_opened = true;
                            let inner = node.operands.iter().flatten().rev();
                            stack.extend(inner.map(|v| Part { value: *v, range: None }));
                        }
                        Some((start, len)) => match self.starts(part.value, axis) {
                            None => push(&mut parts, part),
                            Some(starts) => {
                                is_opened = true;
                                let end = start + len;
                                let first = starts.partition_point(|s| *s <= start).saturating_sub(1);
                                let last = starts.partition_point(|s| *s < end);
                                for i in (first..last.min(node.operands.len())).rev() {
                                    let (low, high) = (start.max(starts[i]), end.min(starts[i + 1]));
                                    let range = Some((low - starts[i], high - low));
                                    if high > low {
                                        stack.push(Part { value: node.operands[i]?, range });
                                    }
                                }
                            }
                        },
                    }
                }
                _ => push(&mut parts, part),
            }
            if parts.len() > if all { 1 } else { self.budget } {
                return None;
            }
        }
        (is_opened && !parts.is_empty()).then_some(parts)
    }

    /// Where the operands of a concatenation start, and where the last one ends.
    fn starts(&mut self, value: ValueId, axis: usize) -> Option<Rc<Vec<i64>>> {
        let graph = self.graph;
        let found = self.offsets.entry(value).or_insert_with(|| {
            let mut starts = vec![0];
            for x in graph.def_node(value)?.operands.iter().flatten() {
                starts.push(starts[starts.len() - 1] + graph.ty(*x).shape[axis].as_const()?);
            }
            Some(Rc::new(starts))
        });
        found.clone()
    }

    /// A chain of scattered rows that fills the whole tensor, each update as many rows, in a regular order.
    fn rows(&mut self, node: &Node, op: &Scatter) -> Option<Whole> {
        let graph = self.graph;
        let extent = graph.ty(node.results[0]).shape[0].as_const()?;
        let n = usize::try_from(extent).ok().filter(|n| *n > 0 && *n <= self.budget)?;
        // The update and its row that each row was last written by.
        let mut owner: Vec<Option<(ValueId, usize)>> = vec![None; n];
        let (mut node, mut op, mut left) = (node, op, n);
        loop {
            let (x, updates) = (node.operands[0]?, node.operands[2]?);
            if op.f != ScatterFn::Set {
                return None;
            }
            let indices = indices(graph, node.operands[1]?)?;
            for (m, i) in indices.iter().enumerate().rev() {
                let i = usize::try_from(if *i < 0 { i + extent } else { *i }).ok()?;
                let place = owner.get_mut(i)?;
                if place.is_none() {
                    *place = Some((updates, m));
                    left -= 1;
                }
            }
            if left == 0 {
                break;
            }
            match graph.def_node(x).map(|n| (&n.op, n)) {
                Some((Op::Scatter(inner), by)) => (node, op) = (by, inner),
                _ => return None,
            }
        }
        let owner: Vec<(ValueId, usize)> = owner.into_iter().collect::<Option<_>>()?;
        let height = graph.ty(owner[0].0).shape[0].as_const().and_then(|m| usize::try_from(m).ok())?;
        if height == 0 || !n.is_multiple_of(height) {
            return None;
        }
        let count = n / height;
        let is_tall = |v: &ValueId| graph.ty(*v).shape[0].is(height as i64);
        // Row k of all updates, then row k + 1; or one update after the other.
        for (stacks, place) in [(true, count), (false, 1)] {
            let values: Vec<ValueId> =
                (0..count).map(|k| owner[if stacks { k } else { k * height }].0).collect();
            let at = |k: usize, m: usize| if stacks { k + m * place } else { k * height + m };
            let agrees = |k: usize| (0..height).all(|m| owner[at(k, m)] == (values[k], m));
            if values.iter().all(is_tall) && (0..count).all(agrees) {
                let parts = values.into_iter().map(|value| Part { value, range: None }).collect();
                return Some(Whole { axis: 0, parts, stacks });
            }
        }
        None
    }
}

/// Adds a part, to the one before if it goes on there.
fn push(parts: &mut Vec<Part>, part: Part) {
    if let (Some(last), Some((start, len))) = (parts.last_mut(), part.range)
        && last.value == part.value
        && let Some((from, n)) = &mut last.range
        && *from + *n == start
    {
        *n += len;
        return;
    }
    parts.push(part);
}

/// Start and length of a slice of neighbors at a known place.
fn range(op: &Slice) -> Option<(i64, i64)> {
    let range = (op.start.as_const()?, op.len.as_const()?);
    (op.stride == 1).then_some(range)
}

fn indices(graph: &Graph, value: ValueId) -> Option<Vec<i64>> {
    let Op::Constant(c) = graph.def_op(value)? else { return None };
    let size = c.dtype.bits() / 8;
    let decode = |e: &[u8]| ssmc_ir::scalar::decode(c.dtype, e).map(|i| i as i64);
    if size == 0 { None } else { c.data.chunks_exact(size).map(decode).collect() }
}
