//! Loops over the sequence that are no recurrence of a known kind: what they carry is state, and a piece takes as many
//! iterations as it has steps.

use super::StreamError;
use super::flow::{Flow, Reason, Stream};
use super::walk::Walker;
use ssmc_ir::ops::Loop;
use ssmc_ir::{Dim, Graph, Node, Symbol, ValueId};
use std::collections::BTreeSet;

impl Walker<'_> {
    pub(super) fn looped(&mut self, node: &Node, op: &Loop) -> Result<(), StreamError> {
        let streams = self.streams(node);
        let with = self.meet(&streams)?;
        if !with.is_pure() {
            return self.refuse(Reason::Mixed);
        }
        if op.trip_count != self.len {
            return self.refuse(Reason::OtherAxis);
        }
        self.set_temporal();
        if op.scan_reverse.iter().chain(&op.stack_reverse).any(|reverse| *reverse) {
            return self.refuse(Reason::Reverse);
        }
        if with.lead != 0 {
            let padded = with.lead > 0;
            return self.refuse(if padded { Reason::PaddedBefore } else { Reason::Lookahead(-with.lead) });
        }
        if reads_number(&node.regions[0]) {
            return self.refuse(Reason::Varies);
        }
        if self.len.as_symbol().is_some_and(|len| mentions(&node.regions[0], len)) {
            return self.refuse(Reason::TotalLength);
        }
        let given: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let (carried, rest) = given.split_at(op.n_carried);
        let (scanned, captured) = rest.split_at(op.scan_axes.len());
        let mut operands = Vec::new();
        for (value, axis) in scanned.iter().zip(&op.scan_axes) {
            let is_along = self.stream(*value).is_none_or(|stream| stream.axis == *axis);
            if !is_along {
                return self.refuse(Reason::OtherAxis);
            }
            operands.push(Some(self.aligned(*value, *axis, &with)?));
        }
        for value in captured {
            match self.flow(*value) {
                Flow::Fixed => operands.push(Some(self.new_of(*value)?)),
                Flow::Latest { .. } => return self.refuse(Reason::NeedsEnd),
                Flow::Stream(_) | Flow::Pairs(_) => return self.refuse(Reason::OverTime),
            }
        }
        let first = self.states.len();
        let mut before = Vec::new();
        for value in carried {
            let initial = self.initial(Some(*value))?;
            before.push(Some(self.state("loop", self.old.ty(*value).clone(), initial)?));
        }
        let operands = [before, operands].concat();
        let op = Loop { trip_count: self.piece.clone(), ..op.clone() };
        let stacked: Vec<usize> = op.stack_axes.clone();
        let results = self.rewriter.builder().node(op, &operands, node.regions.clone())?;
        for (i, (old, new)) in node.results.iter().zip(results).enumerate() {
            let flow = match i.checked_sub(carried.len()) {
                None => {
                    self.states[first + i].after = new;
                    Flow::Latest { padded: None }
                }
                Some(k) => Flow::Stream(Stream { zeros_before: false, ..Stream::on(stacked[k]) }),
            };
            self.set(*old, new, flow);
        }
        Ok(())
    }
}

/// Whether the body of a loop reads the number of the iteration.
fn reads_number(body: &Graph) -> bool {
    let number = body.inputs()[0].value;
    let is_output = body.outputs().iter().any(|port| port.value == number);
    is_output || body.nodes().any(|(_, node)| node.operands.contains(&Some(number)))
}

/// Whether an extent in the body is made of the symbol.
fn mentions(body: &Graph, symbol: &Symbol) -> bool {
    let mut symbols = BTreeSet::new();
    let dims = body.values().flat_map(|v| body.ty(v).shape.iter());
    dims.for_each(|dim: &Dim| dim.collect_symbols(&mut symbols));
    symbols.contains(symbol)
}
