//! Carried buffers that each iteration writes at an index of its own: what was written, step by step.
//!
//! A write is a scatter of rows or a choice by a mask, at `first + i` or `first - i` along one axis in iteration `i`.
//! Nothing may read the buffer in the loop: what does is never known, and the loop stays.

use super::{Lifted, Obstacle, Raise};
use crate::view;
use ssmc_ir::count::{Carried, Count, Counts, is_non_negative};
use ssmc_ir::ops::{Cmp, Compare, Concat, Op, Reverse, ScatterFn, Slice, Unary, UnaryFn};
use ssmc_ir::{Dim, Entity, Graph, GraphBuilder, Node, Shape, ValueId};

/// The axes of a buffer, by their numbers, that an axis of another layout of it is made of; none for unit axes.
type Labels = Vec<Vec<usize>>;

/// What an iteration writes.
struct Write {
    /// A body value that holds it.
    rows: ValueId,
    /// Its shape and the axes of the buffer that it has.
    shape: Vec<Dim>,
    labels: Vec<usize>,
    /// The axis of the buffer along which iterations write.
    axis: usize,
    /// The index in the first iteration.
    first: Dim,
    /// Later iterations write before earlier ones.
    falls: bool,
}

impl Raise<'_, '_> {
    /// Resolves a carried buffer that each iteration writes at its own index; `false` if it is none, or if what is
    /// written is not known yet.
    pub(super) fn buffer(&mut self, carried: usize) -> Result<bool, Obstacle> {
        if self.reverse {
            return Ok(false);
        }
        let Some(origin) = origin(self.body, self.next(carried)) else { return Ok(false) };
        let mut counts = self.counts();
        let Some(write) = write(self.body, &mut counts, self.state(carried), &origin) else {
            return Ok(false);
        };
        let Some(rows) = self.known[write.rows.idx()] else { return Ok(false) };
        let trips = self.lifter.trips.clone();
        let initial = self.initial[carried];
        let extent = self.lifter.b.shape(initial)[write.axis].clone();
        let start = if write.falls { write.first - &trips + 1 } else { write.first };
        let behind = extent - &start - &trips;
        if !(is_non_negative(&start) && is_non_negative(&behind)) {
            return Ok(false);
        }
        let rows = self.lifter.stacked(rows)?;
        let b = &mut *self.lifter.b;
        let rows = b.reshape(rows, [std::slice::from_ref(&trips), &write.shape].concat())?;
        // To the order of the buffer, in which the iterations are along the axis that they write.
        let labels: Vec<usize> = std::iter::once(write.axis).chain(write.labels).collect();
        let mut perm: Vec<usize> = (0..labels.len()).collect();
        perm.sort_by_key(|i| labels[*i]);
        let rows = view::permute(b, rows, &perm)?;
        let mut shape = b.shape(initial).to_vec();
        shape[write.axis] = trips.clone();
        let mut rows = b.reshape(rows, Shape::from(&shape[..]))?;
        if write.falls {
            rows = b.op(Reverse { axis: write.axis }, &[rows])?;
        }
        let mut parts = Vec::new();
        let part = |b: &mut GraphBuilder, start: Dim, len: Dim| {
            b.op(Slice { axis: write.axis, start, len, stride: 1 }, &[initial])
        };
        if !start.is(0) {
            parts.push(part(b, Dim::from(0), start.clone())?);
        }
        parts.push(rows);
        if !behind.is(0) {
            parts.push(part(b, start + &trips, behind)?);
        }
        let last = if parts.len() > 1 { b.op(Concat { axis: write.axis }, &parts)? } else { rows };
        self.last[carried] = Some(last);
        Ok(true)
    }

    /// What counts in the body.
    fn counts(&self) -> Counts {
        let around = self.lifter.b.graph();
        let mut outside = Counts::default();
        let inputs = self.body.inputs();
        let mut counts = Counts::of_loop(inputs[0].value);
        for (i, initial) in self.initial.iter().enumerate() {
            let initial = outside.read(around, *initial).and_then(|c| c.as_number().cloned());
            counts.carried.push(Carried { state: self.state(i), next: self.next(i), initial });
        }
        for input in &inputs[1 + self.op.n_carried..] {
            let count = match self.known[input.value.idx()] {
                Some(Lifted::Same(x)) => outside.read(around, x),
                Some(Lifted::Stacked(x)) => outside.read(around, x).map(Count::sliced),
                None => None,
            };
            counts.captured.extend(count.map(|count| (input.value, count)));
        }
        counts
    }
}

/// The write that a value comes from, and what lays that out anew, the last one first.
fn origin(body: &Graph, mut value: ValueId) -> Option<(&Node, Vec<&Node>)> {
    let mut layouts = Vec::new();
    loop {
        let node = body.def_node(value)?;
        match &node.op {
            Op::Reshape(_) | Op::Transpose(_) => {
                layouts.push(node);
                value = node.operands[0]?;
            }
            Op::Scatter(_) | Op::Select(_) => return Some((node, layouts)),
            _ => return None,
        }
    }
}

/// Reads the next value of a buffer as a write into the present one.
fn write(
    body: &Graph,
    counts: &mut Counts,
    state: ValueId,
    (node, layouts): &(&Node, Vec<&Node>),
) -> Option<Write> {
    let shape = &body.ty(state).shape;
    let (write, labels) = match &node.op {
        Op::Scatter(op) if op.f == ScatterFn::Set => {
            let labels = layout(body, state, node.operands[0]?)?;
            (scattered(body, counts, node, shape, &labels)?, labels)
        }
        Op::Select(_) => chosen(body, counts, node, state)?,
        _ => return None,
    };
    // What was laid out for the write is laid out as before after it.
    let back = layouts.iter().rev().try_fold(labels, |labels, node| {
        let from = &body.ty(node.operands[0]?).shape;
        relabeled(&labels, from, &node.op, shape)
    })?;
    let is_same = back.iter().zip(shape.iter()).enumerate().all(|(i, (axis, dim))| match &axis[..] {
        [] => dim.is(1),
        [label] => *label == i,
        _ => false,
    });
    (is_same && back.len() == shape.rank()).then_some(write)
}

/// The labels of the buffer in another layout of it.
fn layout(body: &Graph, state: ValueId, value: ValueId) -> Option<Labels> {
    let shape = &body.ty(state).shape;
    if value == state {
        return Some((0..shape.rank()).map(|i| if shape[i].is(1) { Vec::new() } else { vec![i] }).collect());
    }
    let node = body.def_node(value)?;
    if !matches!(node.op, Op::Reshape(_) | Op::Transpose(_)) {
        return None;
    }
    let x = node.operands[0]?;
    relabeled(&layout(body, state, x)?, &body.ty(x).shape, &node.op, shape)
}

/// The labels behind a transpose or reshape; the extents of labels are those of `of`.
fn relabeled(labels: &Labels, from: &Shape, op: &Op, of: &Shape) -> Option<Labels> {
    match op {
        Op::Transpose(op) => Some(op.perm.iter().map(|axis| labels[*axis].clone()).collect()),
        Op::Reshape(op) if op.shape == *from => Some(labels.clone()),
        Op::Reshape(op) => {
            let mut flat = labels.iter().flatten().copied();
            let mut axes = Vec::new();
            for dim in op.shape.iter() {
                let (mut axis, mut n) = (Vec::new(), Dim::from(1));
                while n != *dim {
                    let label = flat.next()?;
                    n = n * &of[label];
                    axis.push(label);
                }
                axes.push(axis);
            }
            flat.next().is_none().then_some(axes)
        }
        _ => None,
    }
}

/// Rows that a scatter writes: one for every combination of the indices of axes but one, which counts iterations.
fn scattered(
    body: &Graph,
    counts: &mut Counts,
    node: &Node,
    shape: &Shape,
    labels: &Labels,
) -> Option<Write> {
    let (outer, inner) = labels.split_first()?;
    let mut indices = node.operands[1]?;
    // Positions are counted by the axes that they had before they were made one.
    while let Some(Node { op: Op::Reshape(_), operands, .. }) = body.def_node(indices) {
        indices = operands[0]?;
    }
    let count = counts.read(body, indices)?;
    let grid = &body.ty(indices).shape;
    let mut steps = Vec::new();
    let mut step = Dim::from(1);
    for label in outer.iter().rev() {
        steps.push((*label, step.clone()));
        step = step * &shape[*label];
    }
    let (falls, rise) = match is_non_negative(&count.iteration) {
        true => (false, count.iteration.clone()),
        false => (true, -count.iteration.clone()),
    };
    let (axis, step) = steps.iter().find(|(_, step)| *step == rise)?.clone();
    let mut free: Vec<&(usize, Dim)> = steps.iter().filter(|(label, _)| *label != axis).collect();
    let mut rows = Vec::new();
    for (extent, along) in grid.iter().zip(&count.axes).filter(|(extent, _)| !extent.is(1)) {
        let i = free.iter().position(|(label, step)| step == along && shape[*label] == *extent)?;
        rows.push(free.remove(i).0);
    }
    let first = if count.offset.is(0) { Dim::from(0) } else { count.offset.div_exact(&step)? };
    if !free.is_empty() {
        return None;
    }
    rows.extend(inner.iter().flatten());
    let dims = rows.iter().map(|label| shape[*label].clone()).collect();
    Some(Write { rows: node.operands[2]?, shape: dims, labels: rows, axis, first, falls })
}

/// A choice between the buffer and what is repeated along the axis that a mask runs along.
fn chosen(body: &Graph, counts: &mut Counts, node: &Node, state: ValueId) -> Option<(Write, Labels)> {
    let (difference, is_equal) = mask(body, counts, node.operands[0]?)?;
    let (new, old) = if is_equal { (1, 2) } else { (2, 1) };
    let labels = layout(body, state, node.operands[old]?)?;
    let mut along = (0..difference.axes.len()).filter(|i| !difference.axes[*i].is(0));
    let (Some(place), None) = (along.next(), along.next()) else { return None };
    let [axis] = labels[place][..] else { return None };
    // sign * (index - first - rise * i) = 0
    let sign = difference.axes[place].as_const().filter(|n| n.abs() == 1)?;
    let rise = (difference.iteration * &Dim::from(-sign)).as_const().filter(|n| n.abs() == 1)?;
    let first = difference.offset * &Dim::from(-sign);
    let Some(Node { op: Op::Broadcast(op), operands, .. }) = body.def_node(node.operands[new]?) else {
        return None;
    };
    let rows = operands[0]?;
    let dims = &body.ty(rows).shape;
    let mut kept: Vec<usize> = Vec::new();
    for (i, to) in op.axes.iter().enumerate() {
        if dims[i].is(1) {
            continue;
        }
        kept.extend(labels[*to].iter().copied());
    }
    // Repeated along that axis and no other.
    let all = labels.iter().flatten().filter(|label| **label != axis).count();
    if kept.contains(&axis) || kept.len() != all {
        return None;
    }
    let shape = &body.ty(state).shape;
    let dims = kept.iter().map(|label| shape[*label].clone()).collect();
    Some((Write { rows, shape: dims, labels: kept, axis, first, falls: rise < 0 }, labels))
}

/// What a mask compares with 0, and whether it is true where that is 0.
fn mask(body: &Graph, counts: &mut Counts, value: ValueId) -> Option<(Count, bool)> {
    let node = body.def_node(value)?;
    let x = node.operands.first().copied().flatten()?;
    match &node.op {
        Op::Compare(Compare { cmp: cmp @ (Cmp::Eq | Cmp::Ne) }) => {
            let (x, y) = (counts.read(body, x)?, counts.read(body, node.operands[1]?)?);
            Some((x.minus(&y), *cmp == Cmp::Eq))
        }
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => {
            let (count, is_equal) = mask(body, counts, x)?;
            Some((count.laid_out(&body.ty(x).shape, &node.op)?, is_equal))
        }
        Op::Unary(Unary { f: UnaryFn::Not }) => {
            let (count, is_equal) = mask(body, counts, x)?;
            Some((count, !is_equal))
        }
        _ => None,
    }
}
