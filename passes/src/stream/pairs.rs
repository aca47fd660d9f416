//! Values for pairs of steps: attention and its relatives, over a window of past steps that is carried as state.
//!
//! A value that has an element for every pair of a step (the query) and another one (the key) has two time axes. In the
//! derived graph the axis of the queries has the extent of a piece, that of the keys the window: the steps before the
//! piece, as many as the window holds, and those of the piece. What comes later than its query must have no effect in
//! the whole graph, which is proved from its masks ([`Future`]); sums and maxima over the keys then leave out what lies
//! after the query or before the sequence.

use super::StreamError;
use super::flow::{Flow, Future, Pairs, Reason, Stream};
use super::walk::Walker;
use super::window::DEPTH;
use crate::view::splat;
use ssmc_ir::ops::{Binary, BinaryFn, Contract, Op, Reduce, ReduceFn, Unary, UnaryFn};
use ssmc_ir::{Node, ValueId};

/// The exponential of a score that is at most this is nothing beside that of any other: what masks are made of.
const LOWEST: f64 = -1e4;

impl Walker<'_> {
    /// Where the operands of an elementwise op relate steps to others, the axes of queries and keys.
    pub(super) fn pair_axes(&self, node: &Node) -> Result<Option<(usize, usize)>, StreamError> {
        let mut pairs: Option<(usize, usize)> = None;
        let mut axes: Vec<usize> = Vec::new();
        for operand in node.operands.iter().flatten() {
            match self.flow(*operand) {
                Flow::Pairs(p) if pairs.is_none_or(|known| known == (p.query, p.keys)) => {
                    pairs = Some((p.query, p.keys));
                }
                Flow::Pairs(_) => return self.refuse(Reason::AllPairs),
                Flow::Stream(stream) if !axes.contains(&stream.axis) => axes.push(stream.axis),
                _ => {}
            }
        }
        axes.sort_unstable();
        match (pairs, &axes[..]) {
            (Some(_), _) => Ok(pairs),
            (None, [x, y]) if self.past.is_some() => Ok(Some(self.oriented(*x, *y))),
            (None, [] | [_]) => Ok(None),
            (None, [_, _]) => self.refuse(Reason::NeedsWindow),
            _ => self.refuse(Reason::AllPairs),
        }
    }

    /// Queries and keys of two time axes, the first of which comes first.
    fn oriented(&self, first: usize, second: usize) -> (usize, usize) {
        if self.keys_first { (second, first) } else { (first, second) }
    }

    /// A node with an operand for pairs of steps.
    pub(super) fn pairwise(&mut self, node: &Node) -> Result<(), StreamError> {
        let pairs = |walker: &Self| match node.operands[0].map(|v| walker.flow(v)) {
            Some(Flow::Pairs(pairs)) => Ok(*pairs),
            _ => walker.refuse(Reason::AllPairs),
        };
        match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) => {
                match self.pair_axes(node)? {
                    Some(axes) => self.pairs_pointwise(node, axes),
                    None => self.refuse(Reason::AllPairs),
                }
            }
            Op::Contract(op) => self.pairs_contract(node, op),
            Op::Reduce(op) => {
                let pairs = pairs(self)?;
                self.pairs_reduce(node, op, pairs)
            }
            Op::Broadcast(op) => {
                let Pairs { query, keys, future } = pairs(self)?;
                self.pairs_layout(node, Pairs { query: op.axes[query], keys: op.axes[keys], future })
            }
            Op::Transpose(op) => {
                let Pairs { query, keys, future } = pairs(self)?;
                let to =
                    |axis| op.perm.iter().position(|p| *p == axis).expect("a permutation has every axis");
                self.pairs_layout(node, Pairs { query: to(query), keys: to(keys), future })
            }
            Op::Reshape(op) => {
                let Pairs { query, keys, future } = pairs(self)?;
                let from = &self.old.ty(first(node)).shape;
                let to = |axis| Self::moved(from, axis, &op.shape);
                match (to(query), to(keys)) {
                    (Some(query), Some(keys)) => self.pairs_layout(node, Pairs { query, keys, future }),
                    _ => self.refuse(Reason::Mixed),
                }
            }
            _ => self.refuse(Reason::AllPairs),
        }
    }

    fn pairs_layout(&mut self, node: &Node, pairs: Pairs) -> Result<(), StreamError> {
        let x = self.new_of(first(node))?;
        let op = self.resized(node, [Some(pairs.query), Some(pairs.keys)])?;
        let new = self.rewriter.builder().op(op, &[x])?;
        self.set(node.results[0], new, Flow::Pairs(pairs));
        Ok(())
    }

    pub(super) fn pairs_pointwise(
        &mut self,
        node: &Node,
        (query, keys): (usize, usize),
    ) -> Result<(), StreamError> {
        self.set_temporal();
        let axes = [Some(query), Some(keys)];
        let (mut operands, mut futures) = (Vec::new(), Vec::new());
        for operand in node.operands.iter().flatten() {
            operands.push(self.spread(*operand, axes, DEPTH)?);
            futures.push(self.future(*operand, query, keys));
        }
        let future = match &node.op {
            Op::Select(_) => self.future_of_select(node, &futures, (query, keys)),
            op => future_of(op, &futures, |i| node.operands[i].and_then(|v| splat(self.old, v))),
        };
        let new = self.rewriter.builder().op(node.op.clone(), &operands)?;
        self.set(node.results[0], new, Flow::Pairs(Pairs { query, keys, future }));
        Ok(())
    }

    /// The future of a choice whose condition is known there, or whose sides agree.
    fn future_of_select(&mut self, node: &Node, futures: &[Future], (query, keys): (usize, usize)) -> Future {
        let [_, yes, no] = futures[..] else { return Future::Any };
        if yes == no {
            return yes;
        }
        let Some(cond) = node.operands[0].filter(|v| matches!(self.flow(*v), Flow::Fixed)) else {
            return Future::Any;
        };
        if self.in_future(cond, query, keys, |x| x == 0.0) {
            no
        } else if self.in_future(cond, query, keys, |x| x != 0.0) {
            yes
        } else {
            Future::Any
        }
    }

    /// What a value has where the key is later than the query.
    fn future(&mut self, old: ValueId, query: usize, keys: usize) -> Future {
        match self.flow(old) {
            Flow::Pairs(pairs) => pairs.future,
            Flow::Fixed => match splat(self.old, old) {
                Some(0.0) => Future::Zero,
                Some(x) if x <= LOWEST => Future::Lowest,
                Some(_) => Future::Any,
                None if self.in_future(old, query, keys, |x| x == 0.0) => Future::Zero,
                None if self.in_future(old, query, keys, |x| x <= LOWEST) => Future::Lowest,
                None => Future::Any,
            },
            _ => Future::Any,
        }
    }

    /// Whether all elements of a fixed value whose key is later than their query are like this. A value whose elements
    /// are not known is not.
    fn in_future(&mut self, old: ValueId, query: usize, keys: usize, is: impl Fn(f64) -> bool) -> bool {
        let Some(tensor) = self.evaluate(old) else { return false };
        let shape = tensor.shape();
        let inner = |axis: usize| shape[axis + 1..].iter().product::<usize>().max(1);
        let of = |i: usize, axis: usize| i / inner(axis) % shape[axis];
        let data = tensor.to_f64();
        shape[query] > 1 && data.iter().enumerate().all(|(i, x)| of(i, keys) <= of(i, query) || is(*x))
    }

    fn pairs_reduce(&mut self, node: &Node, op: &Reduce, pairs: Pairs) -> Result<(), StreamError> {
        let Pairs { query, keys, future } = pairs;
        if op.axes.contains(&query) {
            return self.refuse(Reason::OverTime);
        }
        let after = |axis: usize| axis - op.axes.iter().filter(|a| **a < axis).count();
        let mut x = self.new_of(first(node))?;
        if !op.axes.contains(&keys) {
            let future = if future == Future::Zero && op.f != ReduceFn::Prod { future } else { Future::Any };
            let new = self.rewriter.builder().op(op.clone(), &[x])?;
            let pairs = Pairs { query: after(query), keys: after(keys), future };
            self.set(node.results[0], new, Flow::Pairs(pairs));
            return Ok(());
        }
        let neutral = match (op.f, future) {
            (ReduceFn::Sum, Future::Zero) => 0.0,
            (ReduceFn::Max, Future::Lowest) => f64::NEG_INFINITY,
            (ReduceFn::Sum | ReduceFn::Max, _) => return self.refuse(Reason::Unmasked),
            _ => return self.refuse(Reason::OverTime),
        };
        x = self.visible(x, (query, keys), neutral)?;
        let new = self.rewriter.builder().op(op.clone(), &[x])?;
        let stream = Stream { zeros_before: false, ..Stream::on(after(query)) };
        self.set(node.results[0], new, Flow::Stream(stream));
        Ok(())
    }

    /// A product of values along two time axes.
    pub(super) fn pairs_contract(&mut self, node: &Node, op: &Contract) -> Result<(), StreamError> {
        self.set_temporal();
        self.past()?;
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let place = |label: u8| op.spec.output.iter().position(|l| *l == label);
        let mut labels: Vec<u8> = Vec::new();
        let mut known: Option<(u8, u8)> = None;
        for (v, of) in operands.iter().zip(&op.spec.inputs) {
            match self.flow(*v) {
                Flow::Pairs(p) if known.is_none_or(|known| known == (of[p.query], of[p.keys])) => {
                    known = Some((of[p.query], of[p.keys]));
                }
                Flow::Pairs(_) => return self.refuse(Reason::AllPairs),
                Flow::Stream(stream) if !labels.contains(&of[stream.axis]) => labels.push(of[stream.axis]),
                _ => {}
            }
        }
        let (query, keys) = match (known, &labels[..]) {
            (Some(known), labels) if labels.iter().all(|l| [known.0, known.1].contains(l)) => known,
            (None, [x, y]) => match (place(*x), place(*y)) {
                (Some(_), None) => (*x, *y),
                (None, Some(_)) => (*y, *x),
                (Some(i), Some(j)) if self.keys_first == (i < j) => (*y, *x),
                (Some(_), Some(_)) => (*x, *y),
                (None, None) => return self.refuse(Reason::OverTime),
            },
            _ => return self.refuse(Reason::AllPairs),
        };
        let Some(query_at) = place(query) else { return self.refuse(Reason::OverTime) };
        let (mut new, mut zero) = (Vec::new(), None);
        for (i, (v, of)) in operands.iter().zip(&op.spec.inputs).enumerate() {
            let axis = |label: u8| of.iter().position(|l| *l == label);
            let axes = [axis(query), axis(keys)];
            new.push(self.spread(*v, axes, DEPTH)?);
            if let [Some(q), Some(k)] = axes
                && self.future(*v, q, k) == Future::Zero
            {
                zero = Some((i, (q, k)));
            }
        }
        let flow = match (place(keys), zero) {
            (Some(keys), zero) => {
                let future = if zero.is_some() { Future::Zero } else { Future::Any };
                Flow::Pairs(Pairs { query: query_at, keys, future })
            }
            (None, Some((i, axes))) => {
                new[i] = self.visible(new[i], axes, 0.0)?;
                Flow::Stream(Stream { zeros_before: false, ..Stream::on(query_at) })
            }
            (None, None) => return self.refuse(Reason::Unmasked),
        };
        let new = self.rewriter.builder().op(op.clone(), &new)?;
        self.set(node.results[0], new, flow);
        Ok(())
    }
}

/// The future of an elementwise op by those of its operands; `number` gives operands that are one number.
fn future_of(op: &Op, futures: &[Future], number: impl Fn(usize) -> Option<f64>) -> Future {
    use Future::{Any, Lowest, Zero};
    let positive = |i| number(i).is_some_and(|x| x > 0.0);
    match (op, futures) {
        (Op::Cast(op), [x]) if op.to.is_float() => *x,
        (Op::Unary(Unary { f }), [x]) => match (f, x) {
            (UnaryFn::Exp | UnaryFn::Sigmoid | UnaryFn::Relu, Lowest) => Zero,
            (UnaryFn::Neg | UnaryFn::Abs | UnaryFn::Relu | UnaryFn::Tanh, Zero) => Zero,
            _ => Any,
        },
        (Op::Binary(Binary { f }), [x, y]) => match (f, x, y) {
            (BinaryFn::Add | BinaryFn::Sub, Zero, Zero) => Zero,
            (BinaryFn::Add, Lowest, _) | (BinaryFn::Add, _, Lowest) => Lowest,
            (BinaryFn::Sub, Lowest, Any | Zero) => Lowest,
            (BinaryFn::Mul, Zero, Any | Zero) | (BinaryFn::Mul, Any, Zero) => Zero,
            (BinaryFn::Mul, Lowest, _) if positive(1) => Lowest,
            (BinaryFn::Mul, _, Lowest) if positive(0) => Lowest,
            (BinaryFn::Div, Zero, _) => Zero,
            (BinaryFn::Div, Lowest, _) if positive(1) => Lowest,
            (BinaryFn::Min, Lowest, _) | (BinaryFn::Min, _, Lowest) => Lowest,
            (BinaryFn::Max, Lowest, Lowest) => Lowest,
            (BinaryFn::Max | BinaryFn::Min, Zero, Zero) => Zero,
            _ => Any,
        },
        _ => Any,
    }
}

fn first(node: &Node) -> ValueId {
    node.operands[0].expect("the operand is required")
}
