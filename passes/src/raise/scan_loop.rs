//! Loops whose carried values are first-order diagonal recurrences become scans.
//!
//! Loop fission: what does not depend on a carried value is hoisted and computed for all iterations at once; a carried
//! value h' = a*h + b whose coefficients were hoisted becomes one `ssm.scan`; what reads its states is then sunk behind
//! the scan, again for all iterations at once, and may hold the coefficients of the next one. A buffer that each
//! iteration writes at its own index (`buffer`) is what was written. What is left is a loop of its own (`rest`).

mod buffer;
mod rest;

use super::affine::{Affine, Coef, Reader};
use super::lift::{Lifted, Lifter, Obstacle, value};
use super::matrix;
use super::pairs::{self, Complex};
use super::trace::Tracer;
use crate::flatten;
use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view;
use ssmc_ir::edit::Rewriter;
use ssmc_ir::ops::{
    Binary, BinaryFn, Cast, ComplexScan, Concat, Iota, Loop, Op, Reshape, Reverse, Scan, Slice,
};
use ssmc_ir::{
    BuildError, DType, Dim, Entity, Graph, GraphBuilder, Loc, Model, Node, Shape, ValueId, Weights,
};
use std::collections::BTreeMap;

/// Replaces every loop of the outermost graph whose carried values are all first-order recurrences (or counters,
/// delays, or buffers). Of other loops those that are become scans, and the rest stays a loop, with a remark that says
/// why.
pub struct ScanLoop;

impl Pass for ScanLoop {
    fn name(&self) -> &'static str {
        "scan-loop"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let mut rewriter = Rewriter::new(graph);
        let mut tracer = Tracer::default();
        for (_, node) in graph.nodes() {
            let Op::Loop(op) = &node.op else {
                rewriter.copy(node)?;
                continue;
            };
            let operands: Vec<ValueId> = rewriter.operands(node)?.into_iter().flatten().collect();
            let by = Loc::Derived { by: self.name().into(), from: vec![node.loc] };
            let place = graph.locs().describe(node.loc);
            rewriter.builder().set_loc(by);
            let mut raise = |matrices| {
                Raise::new(rewriter.builder(), node, op, &model.weights, &mut tracer, &operands)?
                    .run(matrices)
            };
            // A matrix that a scan op hides may be what another carried value needs.
            let raised = match raise(true) {
                Ok(whole @ Raised { rest: None, .. }) => Ok(whole),
                part => match raise(false) {
                    Ok(whole @ Raised { rest: None, .. }) => Ok(whole),
                    other => part.or(other),
                },
            };
            let raised = match raised {
                // A short loop is written out as a whole.
                Ok(Raised { rest: Some(obstacle), .. }) if flatten::is_short(node) => Err(obstacle),
                raised => raised,
            };
            let mut remark =
                |kind| ctx.remarks.push(Remark { pass: "scan-loop", place: place.clone(), kind });
            match raised {
                Ok(Raised { results, scans, rest }) => {
                    for (old, new) in node.results.iter().zip(results) {
                        rewriter.replace(*old, new)?;
                    }
                    remark(RemarkKind::Raised { evidence: Evidence::Structural, scans });
                    if let Some(obstacle) = rest {
                        remark(RemarkKind::Kept { reason: format!("the rest of the loop: {obstacle}") });
                    }
                }
                Err(obstacle) => {
                    rewriter.copy(node)?;
                    remark(RemarkKind::Kept { reason: obstacle.to_string() });
                }
            }
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

/// What takes the place of a loop.
pub(super) struct Raised {
    pub(super) results: Vec<ValueId>,
    /// The number of scans among what computes them.
    pub(super) scans: usize,
    /// Why a part of it is a loop still.
    pub(super) rest: Option<Obstacle>,
}

/// One loop on its way to scans.
pub(super) struct Raise<'a, 'b> {
    lifter: Lifter<'b>,
    body: &'a Graph,
    op: &'a Loop,
    weights: &'a Weights,
    tracer: &'a mut Tracer,
    /// The initial carried values.
    initial: Vec<ValueId>,
    /// The last carried values.
    last: Vec<Option<ValueId>>,
    /// Stacked tensors hold the iterations in reverse order.
    reverse: bool,
    /// What stands for every value of the body; `None` while it depends on unresolved carried values.
    known: Vec<Option<Lifted>>,
    scans: usize,
}

impl<'a, 'b> Raise<'a, 'b> {
    pub(super) fn new(
        b: &'b mut GraphBuilder,
        node: &'a Node,
        op: &'a Loop,
        weights: &'a Weights,
        tracer: &'a mut Tracer,
        operands: &[ValueId],
    ) -> Result<Self, Obstacle> {
        let body = &node.regions[0];
        let n_scanned = op.scan_axes.len();
        let reverse = op.scan_reverse.first().or(op.stack_reverse.first()).copied().unwrap_or(false);
        let trips = op.trip_count.clone();
        let mut known = vec![None; body.values().len()];
        let mut inputs = body.inputs().iter().map(|p| p.value);
        let iteration = inputs.next().expect("the type rule of loop gives the body an iteration number");
        let iota = b.op(Iota { axis: 0, dtype: DType::I64, shape: [trips.clone()].into() }, &[])?;
        let iota = if reverse { b.op(Reverse { axis: 0 }, &[iota])? } else { iota };
        known[iteration.idx()] = Some(Lifted::Stacked(iota));
        for (i, (input, x)) in inputs.zip(operands).enumerate() {
            let Some(scanned) = i.checked_sub(op.n_carried) else { continue };
            known[input.idx()] = Some(if scanned < n_scanned {
                let axis = op.scan_axes[scanned];
                let others = (0..b.ty(*x).rank()).filter(|other| *other != axis);
                let perm: Vec<usize> = std::iter::once(axis).chain(others).collect();
                let x = view::permute(b, *x, &perm)?;
                let turns = op.scan_reverse[scanned] != reverse;
                Lifted::Stacked(if turns { b.op(Reverse { axis: 0 }, &[x])? } else { x })
            } else {
                Lifted::Same(*x)
            });
        }
        Ok(Self {
            lifter: Lifter { b, trips },
            body,
            op,
            weights,
            tracer,
            initial: operands[..op.n_carried].to_vec(),
            last: vec![None; op.n_carried],
            reverse,
            known,
            scans: 0,
        })
    }

    /// What replaces the loop. With `matrices`, a carried matrix that is read by queries becomes one op, and its states
    /// no values.
    pub(super) fn run(mut self, matrices: bool) -> Result<Raised, Obstacle> {
        self.advance()?;
        let rest = self.resolve_all(matrices)?;
        match rest {
            Some(obstacle) if self.scans == 0 => Err(obstacle),
            Some(obstacle) => {
                Ok(Raised { results: self.with_rest()?, scans: self.scans, rest: Some(obstacle) })
            }
            None => {
                let mut results: Vec<ValueId> = self.last.iter().copied().flatten().collect();
                for i in 0..self.op.stack_axes.len() {
                    results.push(self.stack(i)?.ok_or(Obstacle::Coupled { carried: 0 })?);
                }
                Ok(Raised { results, scans: self.scans, rest: None })
            }
        }
    }

    /// Resolves what can be; why not all of it.
    fn resolve_all(&mut self, matrices: bool) -> Result<Option<Obstacle>, Obstacle> {
        while self.last.iter().any(Option::is_none) {
            let mut first = None;
            let mut progress = false;
            for carried in 0..self.last.len() {
                if self.last[carried].is_some() {
                    continue;
                }
                if matrices && self.matrix(carried) {
                    self.advance()?;
                    progress = true;
                    continue;
                }
                if self.buffer(carried)? {
                    progress = true;
                    continue;
                }
                match self.form(carried) {
                    Ok(form) => {
                        self.resolve(carried, form)?;
                        self.advance()?;
                        progress = true;
                    }
                    Err(_) if self.complex(carried)? => {
                        self.advance()?;
                        progress = true;
                    }
                    Err(obstacle) => first = first.or(Some(obstacle)),
                }
            }
            if !progress {
                return Ok(first);
            }
        }
        Ok(None)
    }

    /// What the loop gives as its stacked result `i`, if that is known.
    fn stack(&mut self, i: usize) -> Result<Option<ValueId>, Obstacle> {
        let port = &self.body.outputs()[self.op.n_carried + i];
        let Some(x) = self.known[port.value.idx()] else { return Ok(None) };
        let mut x = self.lifter.stacked(x)?;
        if self.op.stack_reverse[i] != self.reverse {
            x = self.lifter.b.op(Reverse { axis: 0 }, &[x])?;
        }
        let rank = self.lifter.b.ty(x).rank();
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(self.op.stack_axes[i], 0);
        Ok(Some(view::permute(self.lifter.b, x, &perm)?))
    }

    /// Lifts every node of the body whose operands are known.
    fn advance(&mut self) -> Result<(), Obstacle> {
        for (_, node) in self.body.nodes() {
            if node.results.iter().all(|v| self.known[v.idx()].is_some()) {
                continue;
            }
            let operands: Vec<Option<Option<Lifted>>> =
                node.operands.iter().map(|v| v.map(|v| self.known[v.idx()])).collect();
            if operands.iter().flatten().any(Option::is_none) {
                continue;
            }
            let operands: Vec<Option<Lifted>> = operands.into_iter().map(Option::flatten).collect();
            let results = match self.element(node, &operands)? {
                Some(x) => vec![x],
                None => self.lifter.node(self.body, node, &operands)?,
            };
            for (old, new) in node.results.iter().zip(results) {
                self.known[old.idx()].get_or_insert(new);
            }
        }
        Ok(())
    }

    /// Element `i` of a tensor in iteration `i`, if there are as many: the tensor itself.
    fn element(&mut self, node: &Node, operands: &[Option<Lifted>]) -> Result<Option<Lifted>, Obstacle> {
        let Op::Gather(op) = &node.op else { return Ok(None) };
        let iteration = self.known[self.body.inputs()[0].value.idx()];
        let (Some(Lifted::Same(x)), true) = (operands[0], operands[1] == iteration) else { return Ok(None) };
        let b = &mut *self.lifter.b;
        if b.shape(x)[op.axis] != self.lifter.trips {
            return Ok(None);
        }
        let others = (0..b.ty(x).rank()).filter(|axis| *axis != op.axis);
        let perm: Vec<usize> = std::iter::once(op.axis).chain(others).collect();
        let x = view::permute(b, x, &perm)?;
        let x = if self.reverse { b.op(Reverse { axis: 0 }, &[x])? } else { x };
        Ok(Some(Lifted::Stacked(x)))
    }

    fn state(&self, carried: usize) -> ValueId {
        self.body.inputs()[carried + 1].value
    }

    fn next(&self, carried: usize) -> ValueId {
        self.body.outputs()[carried].value
    }

    /// Raises a carried matrix that is read by queries; `false` if it is none.
    fn matrix(&mut self, carried: usize) -> bool {
        let initial = self.initial[carried];
        let is_zero = is_zero(self.lifter.b.graph(), self.weights, initial);
        let reader = matrix::Reader::new(
            (self.body, &self.known),
            (carried, self.state(carried), self.next(carried)),
            &mut self.lifter,
            self.reverse,
        );
        let Ok(raised) = reader.raise((!is_zero).then_some(initial)) else { return false };
        let (node, y) = raised.read_out;
        self.known[node.idx()] = Some(Lifted::Stacked(y));
        self.last[carried] = Some(raised.h_last);
        self.scans += 1;
        true
    }

    /// The next carried value in terms of the present one.
    fn form(&mut self, carried: usize) -> Result<Affine, Obstacle> {
        let state = self.state(carried);
        let next = self.next(carried);
        let mut reader = Reader {
            body: self.body,
            known: &self.known,
            carried,
            state,
            lifter: &mut self.lifter,
            memo: BTreeMap::new(),
        };
        reader.read(next)
    }

    /// Makes known the states before and after every iteration, and the last one.
    fn resolve(&mut self, carried: usize, form: Affine) -> Result<(), Obstacle> {
        let (state, next, initial) = (self.state(carried), self.next(carried), self.initial[carried]);
        let ty = self.body.ty(state).clone();
        if form == (Affine { a: Coef::One, b: Coef::Zero }) {
            self.known[state.idx()] = Some(Lifted::Same(initial));
            self.known[next.idx()] = Some(Lifted::Same(initial));
            self.last[carried] = Some(initial);
            return Ok(());
        }
        let (states, last) = match form {
            Affine { a: Coef::Zero, b } => (self.coef(b, state)?, None),
            Affine { a: Coef::One, b: Coef::Value(Lifted::Same(step)) } if ty.dtype.is_int() => {
                (self.count(initial, step)?, None)
            }
            Affine { a, b } if ty.dtype.is_float() || ty.dtype.is_complex() => {
                let (a, b) = (self.coef(a, state)?, self.coef(b, state)?);
                let op = Scan { reverse: self.reverse };
                let [h, h_last] = self.scan(op.into(), &[a, b], &[initial])?[..] else {
                    return Err(Obstacle::DType { carried, ty });
                };
                (h, Some(h_last))
            }
            Affine { .. } => return Err(Obstacle::DType { carried, ty }),
        };
        self.settle(carried, states, last)
    }

    /// Resolves a carried value that is a complex recurrence over pairs along some axis; `false` if it is none.
    fn complex(&mut self, carried: usize) -> Result<bool, Obstacle> {
        let (state, next) = (self.state(carried), self.next(carried));
        let ty = self.body.ty(state).clone();
        if !ty.dtype.is_float() {
            return Ok(false);
        }
        for axis in (0..ty.rank()).rev().filter(|axis| ty.shape[*axis].is(2)) {
            let mut reader = Reader {
                body: self.body,
                known: &self.known,
                carried,
                state,
                lifter: &mut self.lifter,
                memo: BTreeMap::new(),
            };
            match pairs::complex(&mut reader, next, axis) {
                Ok(Some(form)) => {
                    self.resolve_complex(carried, axis, form)?;
                    return Ok(true);
                }
                Ok(None) | Err(Obstacle::NotAffine { .. } | Obstacle::Coupled { .. }) => {}
                Err(obstacle) => return Err(obstacle),
            }
        }
        Ok(false)
    }

    /// One scan over both parts, which are joined again behind it.
    fn resolve_complex(&mut self, carried: usize, axis: usize, form: Complex) -> Result<(), Obstacle> {
        let initial = self.initial[carried];
        let trips = self.lifter.trips.clone();
        let pair = self.lifter.b.shape(initial).to_vec();
        let without = |front: &[Dim]| -> Shape {
            let dims = pair.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d);
            front.iter().chain(dims).cloned().collect()
        };
        let mut stacked = Vec::new();
        for x in form.a.into_iter().chain(form.b) {
            let x = self.lifter.stacked(x)?;
            stacked.push(self.lifter.b.reshape(x, without(std::slice::from_ref(&trips)))?);
        }
        let mut starts = Vec::new();
        for part in 0..2 {
            let x = self.lifter.b.slice(initial, axis, part, 1)?;
            starts.push(self.lifter.b.reshape(x, without(&[]))?);
        }
        let op = ComplexScan { reverse: self.reverse };
        let results = self.scan(op.into(), &stacked, &starts)?;
        let mut joined = Vec::new();
        for (i, parts) in results.chunks(2).enumerate() {
            let mut dims = pair.clone();
            dims[axis] = Dim::from(1);
            if i == 0 {
                dims.insert(0, trips.clone());
            }
            let b = &mut *self.lifter.b;
            let parts =
                parts.iter().map(|x| b.reshape(*x, Shape::from(&dims[..]))).collect::<Result<Vec<_>, _>>()?;
            joined.push(b.op(Concat { axis: axis + usize::from(i == 0) }, &parts)?);
        }
        self.settle(carried, joined[0], Some(joined[1]))
    }

    /// Makes known what a carried value is before and after every iteration.
    fn settle(&mut self, carried: usize, states: ValueId, last: Option<ValueId>) -> Result<(), Obstacle> {
        let (state, next, initial) = (self.state(carried), self.next(carried), self.initial[carried]);
        let ty = self.body.ty(state).clone();
        let all = self.with_initial(states, initial)?;
        let at = |start: Dim, len: Dim| Slice { axis: 0, start, len, stride: 1 };
        let (trips, one) = (self.lifter.trips.clone(), Dim::from(1));
        let (before, end) =
            if self.reverse { (one.clone(), Dim::from(0)) } else { (Dim::from(0), trips.clone()) };
        let before = self.lifter.b.op(at(before, trips), &[all])?;
        let last = match last {
            Some(last) => last,
            None => {
                let last = self.lifter.b.op(at(end, one), &[all])?;
                self.lifter.b.reshape(last, ty.shape)?
            }
        };
        self.known[state.idx()] = Some(Lifted::Stacked(before));
        self.known[next.idx()] = Some(Lifted::Stacked(states));
        self.last[carried] = Some(last);
        Ok(())
    }

    /// A coefficient as a stacked tensor of the type of the state.
    fn coef(&mut self, x: Coef, like: ValueId) -> Result<ValueId, Obstacle> {
        let mut reader = Reader {
            body: self.body,
            known: &self.known,
            carried: 0,
            state: like,
            lifter: &mut self.lifter,
            memo: BTreeMap::new(),
        };
        let x = reader.tensor(x, like)?;
        Ok(self.lifter.stacked(x)?)
    }

    /// The initial state, then the state after every iteration, in the order of the stacked tensors.
    fn with_initial(&mut self, states: ValueId, initial: ValueId) -> Result<ValueId, BuildError> {
        let b = &mut *self.lifter.b;
        let shape: Shape = std::iter::once(&Dim::from(1)).chain(b.shape(initial).iter()).collect();
        let first = b.op(Reshape { shape }, &[initial])?;
        let parts = if self.reverse { [states, first] } else { [first, states] };
        b.op(Concat { axis: 0 }, &parts)
    }

    /// h0 + (i + 1) * step after iteration i.
    fn count(&mut self, initial: ValueId, step: ValueId) -> Result<ValueId, Obstacle> {
        let dtype = self.lifter.b.ty(initial).dtype;
        let iteration = self.known[self.body.inputs()[0].value.idx()].expect("the iteration number is known");
        let i = self.lifter.elementwise(&Cast { to: dtype }.into(), &[iteration])?;
        let i = self.lifter.stacked(i)?;
        let rows: Shape =
            std::iter::once(&self.lifter.trips).chain(self.lifter.b.shape(initial).iter()).collect();
        let i = Lifted::Stacked(self.lifter.b.broadcast(i, &[0], rows)?);
        let (mul, add) = (Binary { f: BinaryFn::Mul }.into(), Binary { f: BinaryFn::Add }.into());
        let done = self.lifter.elementwise(&mul, &[i, Lifted::Same(step)])?;
        let done = self.lifter.elementwise(&add, &[done, Lifted::Same(step)])?;
        Ok(value(self.lifter.elementwise(&add, &[done, Lifted::Same(initial)])?))
    }

    /// The results of a scan op: stacked states, then last states. Its operands are stacked coefficients and inputs,
    /// initial states, and no sequence numbers.
    fn scan(&mut self, op: Op, coefs: &[ValueId], initial: &[ValueId]) -> Result<Vec<ValueId>, Obstacle> {
        self.scans += 1;
        let g = &mut *self.lifter.b;
        let rank = g.ty(initial[0]).rank();
        let graph = g.graph();
        let is_batch = |axis: &usize| !coefs.iter().any(|x| self.tracer.reaches_weight(graph, *x, axis + 1));
        let batch = (0..rank).find(is_batch);
        let is_zero = initial.iter().all(|x| is_zero(graph, self.weights, *x));
        let unit = |shape: &[Dim]| Shape::from([&[Dim::from(1)], shape].concat());
        // From [T,s..] to [B,T,s..] and from [s..] to [B,s..].
        let (stacked, single): (Vec<usize>, Vec<usize>) = match batch {
            Some(k) => {
                let rest = (0..rank).filter(|axis| *axis != k);
                let single: Vec<usize> = std::iter::once(k).chain(rest.clone()).collect();
                ([k + 1, 0].into_iter().chain(rest.map(|axis| axis + 1)).collect(), single)
            }
            None => ((0..=rank).collect(), (0..rank).collect()),
        };
        let mut operands = Vec::new();
        let coefs = coefs.iter().map(|x| (Some(*x), &stacked));
        let initial = initial.iter().map(|x| ((!is_zero).then_some(*x), &single));
        for (x, perm) in coefs.chain(initial) {
            let Some(x) = x else {
                operands.push(None);
                continue;
            };
            let x = view::permute(g, x, perm)?;
            let x = if batch.is_none() { g.reshape(x, unit(g.shape(x)))? } else { x };
            operands.push(Some(x));
        }
        operands.push(None);
        let results = g.node(op, &operands, Vec::new())?;
        let n_stacked = results.len() / 2;
        let mut back = Vec::new();
        for (i, x) in results.into_iter().enumerate() {
            let perm = if i < n_stacked { &stacked } else { &single };
            let x = if batch.is_none() { g.reshape(x, Shape::from(&g.shape(x)[1..]))? } else { x };
            let mut inverse = vec![0; perm.len()];
            for (to, from) in perm.iter().enumerate() {
                inverse[*from] = to;
            }
            back.push(view::permute(g, x, &inverse)?);
        }
        Ok(back)
    }
}

/// Whether every element of the value is 0.
pub(super) fn is_zero(graph: &Graph, weights: &Weights, x: ValueId) -> bool {
    if let Some(x) = view::splat(graph, x) {
        return x == 0.0;
    }
    let Some(node) = graph.def_node(x) else { return false };
    match &node.op {
        Op::WeightRef(w) => {
            weights.get(&w.name).is_some_and(|weight| all_zero(w.dtype, weight.bytes.as_slice()))
        }
        Op::Constant(c) => all_zero(c.dtype, &c.data),
        Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Cast(_) => {
            node.operands[0].is_some_and(|x| is_zero(graph, weights, x))
        }
        _ => false,
    }
}

/// Whether all elements are 0, of whatever sign.
fn all_zero(dtype: DType, bytes: &[u8]) -> bool {
    let size = dtype.bits() / 8;
    size > 0 && bytes.chunks_exact(size).all(|e| ssmc_ir::scalar::decode(dtype, e) == Some(0.0))
}
