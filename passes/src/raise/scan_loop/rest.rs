//! What is left of a loop after some of its carried values were raised: a loop over the others.

use super::{Lifted, Obstacle, Raise};
use ssmc_ir::ops::Loop;
use ssmc_ir::{BuildError, DType, Entity, GraphBuilder, LocId, Node, Shape, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What the loop over the rest reads and computes, in terms of the body.
struct Rest<'a> {
    /// In order.
    nodes: Vec<&'a Node>,
    /// Values that are known, one slice for each iteration.
    scanned: BTreeSet<ValueId>,
    /// Values that are known and the same in every iteration.
    captured: BTreeSet<ValueId>,
}

impl<'a> Raise<'a, '_> {
    /// The results of the loop. Those that are not known come from a loop over the carried values that are not resolved,
    /// which takes what is known slice by slice.
    pub(super) fn with_rest(&mut self) -> Result<Vec<ValueId>, Obstacle> {
        let open: Vec<usize> = (0..self.last.len()).filter(|i| self.last[*i].is_none()).collect();
        let stacks = (0..self.op.stack_axes.len()).map(|i| self.stack(i)).collect::<Result<Vec<_>, _>>()?;
        let unknown: Vec<usize> = (0..stacks.len()).filter(|i| stacks[*i].is_none()).collect();
        let outputs = self.body.outputs();
        let wanted: Vec<ValueId> = (open.iter().copied())
            .chain(unknown.iter().map(|i| self.op.n_carried + i))
            .map(|i| outputs[i].value)
            .collect();
        let rest = self.rest(&open, &wanted)?;
        let mut left = self.build_rest(&open, &unknown, &wanted, &rest)?.into_iter();
        let known = self.last.iter().copied().chain(stacks);
        Ok(known.filter_map(|x| x.or_else(|| left.next())).collect())
    }

    /// What these values are computed from.
    fn rest(&self, open: &[usize], wanted: &[ValueId]) -> Result<Rest<'a>, Obstacle> {
        let mut found: BTreeSet<ValueId> = open.iter().map(|i| self.state(*i)).collect();
        found.extend(wanted);
        let mut nodes = Vec::new();
        for (_, node) in self.body.nodes().rev() {
            let is_open = |v: &ValueId| self.known[v.idx()].is_none() && found.contains(v);
            if node.results.iter().any(is_open) {
                found.extend(node.operands.iter().flatten());
                nodes.push(node);
            }
        }
        nodes.reverse();
        let mut rest = Rest { nodes, scanned: BTreeSet::new(), captured: BTreeSet::new() };
        for value in found {
            match self.known[value.idx()] {
                Some(Lifted::Stacked(_)) => {
                    rest.scanned.insert(value);
                }
                Some(Lifted::Same(_)) => {
                    rest.captured.insert(value);
                }
                None if self.body.def_node(value).is_some() => {}
                None if open.iter().any(|i| self.state(*i) == value) => {}
                // The states of a matrix that an op hides, or a buffer that something reads.
                None => return Err(Obstacle::Coupled { carried: open[0] }),
            }
        }
        Ok(rest)
    }

    /// The loop: the last carried values, then the stacked results.
    fn build_rest(
        &mut self,
        open: &[usize],
        unknown: &[usize],
        wanted: &[ValueId],
        rest: &Rest<'_>,
    ) -> Result<Vec<ValueId>, BuildError> {
        let mut body = GraphBuilder::new(self.body.name());
        let ty = |value: &ValueId| self.body.ty(*value).clone();
        let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut operands = Vec::new();
        body.input("iteration", TensorType::new(DType::I64, Shape::scalar()));
        for i in open {
            let state = self.state(*i);
            map.insert(state, body.input(format!("carried_{i}"), ty(&state)));
            operands.push(Some(self.initial[*i]));
        }
        for (i, value) in rest.scanned.iter().chain(&rest.captured).enumerate() {
            map.insert(*value, body.input(format!("read_{i}"), ty(value)));
            operands.push(self.known[value.idx()].map(super::value));
        }
        let mut locs: BTreeMap<LocId, LocId> = BTreeMap::new();
        for node in &rest.nodes {
            let loc = match locs.get(&node.loc) {
                Some(loc) => *loc,
                None => body.intern_loc(self.body.locs().get(node.loc).clone()),
            };
            locs.insert(node.loc, loc);
            body.set_loc_id(loc);
            let operands: Vec<Option<ValueId>> = node.operands.iter().map(|v| v.map(|v| map[&v])).collect();
            let results = body.node(node.op.clone(), &operands, node.regions.clone())?;
            map.extend(node.results.iter().copied().zip(results));
        }
        for (i, value) in wanted.iter().enumerate() {
            body.output(format!("out_{i}"), map[value]);
        }
        let op = Loop {
            n_carried: open.len(),
            scan_axes: vec![0; rest.scanned.len()],
            scan_reverse: vec![self.reverse; rest.scanned.len()],
            stack_axes: unknown.iter().map(|i| self.op.stack_axes[*i]).collect(),
            stack_reverse: unknown.iter().map(|i| self.op.stack_reverse[*i]).collect(),
            trip_count: self.op.trip_count.clone(),
        };
        self.lifter.b.node(op, &operands, vec![body.finish()])
    }
}
