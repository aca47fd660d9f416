//! Weighted means that were written out step by step, with a running maximum that keeps their exponentials in range.
//!
//! ```text
//! num' = exp(m + w - m')*num + exp(k - m')*v, den' = exp(m + w - m')*den + exp(k - m');
//! y = num' / den', or (exp(m - q)*num + exp(u + k - q)*v) / (exp(m - q)*den + exp(u + k - q))
//! ```
//!
//! Sums are read as terms exp(e)*x whose exponents e are sums and differences of values. What a state is multiplied
//! with to be free of the maximum, exp(m), follows from the term that a step adds; with it the step is
//! N' = exp(w)*N + exp(k)*v, whatever the maximum is. So the maximum need not be understood, and the order and the
//! association of sums and products do not matter.

mod build;

use crate::pass::{Changed, Evidence, Pass, PassCtx, PassError, Remark, RemarkKind};
use crate::view::{self, same_dense};
use ssmc_ir::edit::Rewriter;
use ssmc_ir::ops::{Binary, BinaryFn, Concat, Op, Slice, Unary, UnaryFn};
use ssmc_ir::{Graph, Loc, Model, Node, Shape, ValueId};
use std::collections::BTreeMap;

/// Raises stabilized scans; see the [module](self).
pub struct Stabilized;

/// How deep the sums of a step may be nested.
const DEPTH: usize = 6;

impl Pass for Stabilized {
    fn name(&self) -> &'static str {
        "stabilized"
    }

    fn run(&self, model: &mut Model, ctx: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let mut finder = Finder::new(graph);
        let mut rewriter = Rewriter::new(graph);
        for (_, node) in graph.nodes() {
            finder.visit(node);
            let found = match &node.op {
                Op::Concat(op) => finder.scan(node, op),
                _ => None,
            };
            let Some(found) = found else {
                rewriter.copy(node)?;
                continue;
            };
            let (Decay::Same(w) | Decay::Along(w, _)) = found.w;
            let old = [found.k.0, found.v.0, w].into_iter().chain(found.u);
            let new = old.map(|v| Ok((v, rewriter.get(v)?))).collect::<Result<_, PassError>>()?;
            let b = rewriter.builder();
            b.set_loc(Loc::Derived { by: self.name().into(), from: vec![node.loc] });
            let y = found.build(b, &new, &graph.ty(node.results[0]).shape)?;
            rewriter.replace(node.results[0], y)?;
            ctx.remarks.push(Remark {
                pass: self.name(),
                place: graph.locs().describe(node.loc),
                kind: RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 },
            });
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

/// A value of one step: an element of a tensor, or a value as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Atom {
    Step { x: ValueId, axis: usize, index: i64 },
    Value(ValueId),
}

/// A sum of values, each a number of times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lin(BTreeMap<Atom, i64>);

impl Lin {
    fn of(atom: Atom) -> Self {
        Self(BTreeMap::from([(atom, 1)]))
    }

    fn plus(mut self, other: &Self, times: i64) -> Self {
        for (atom, n) in &other.0 {
            *self.0.entry(*atom).or_default() += n * times;
        }
        self.0.retain(|_, n| *n != 0);
        self
    }

    /// The one value that the sum is.
    fn single(&self) -> Option<Atom> {
        match self.0.iter().collect::<Vec<_>>()[..] {
            [(atom, 1)] => Some(*atom),
            _ => None,
        }
    }
}

/// exp(exponent) * factor
#[derive(Clone, Debug)]
struct Term {
    exponent: Lin,
    factor: Option<Atom>,
}

/// A tensor and its axis that steps run along.
type Along = (ValueId, usize);

/// The logarithm of the decay: the same at every step, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decay {
    Same(ValueId),
    Along(ValueId, usize),
}

/// What a step adds to a state: exp(k), times v in a numerator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Added {
    k: Along,
    v: Option<Along>,
    index: i64,
    /// What the exponent lacks of k.
    gauge: Lin,
}

/// A sum over the steps up to one.
#[derive(Clone, Debug)]
struct State {
    added: Added,
    /// Unknown at the first step.
    decay: Option<Decay>,
}

/// A mean at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mean {
    /// That of one step.
    First { v: Along },
    /// That of the steps up to this one; the decay is not known at the second one. With `is_bonus`, the last step counts
    /// by exp(u + k) and the others as they are before it.
    Later { k: Along, v: Along, w: Option<Decay>, u: Option<ValueId>, is_bonus: bool, index: i64 },
}

/// A scan in place of a concatenation of means.
struct Found {
    k: Along,
    v: Along,
    w: Decay,
    u: Option<ValueId>,
    is_bonus: bool,
    /// The shape of a state.
    state: Shape,
    /// The axis of the concatenation, and its parts.
    axis: usize,
    n: i64,
}

struct Finder<'a> {
    graph: &'a Graph,
    states: BTreeMap<ValueId, State>,
    means: BTreeMap<ValueId, Mean>,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self { graph, states: BTreeMap::new(), means: BTreeMap::new() }
    }

    /// Takes in a node; those before it were taken in.
    fn visit(&mut self, node: &Node) {
        let [result] = node.results[..] else { return };
        if !self.graph.ty(result).dtype.is_float() {
            return;
        }
        match &node.op {
            Op::Binary(Binary { f: BinaryFn::Add | BinaryFn::Mul })
            | Op::Unary(Unary { f: UnaryFn::Exp }) => {
                if let Some(state) = self.state(result) {
                    self.states.insert(result, state);
                }
            }
            Op::Binary(Binary { f: BinaryFn::Div }) => {
                if let [Some(x), Some(y)] = node.operands[..]
                    && let Some(mean) = self.mean(x, y)
                {
                    self.means.insert(result, mean);
                }
            }
            _ => {}
        }
    }

    fn atom(&self, v: ValueId) -> Atom {
        let graph = self.graph;
        let mut x = v;
        while let Some(node) = graph.def_node(x) {
            match (&node.op, node.operands.first().copied().flatten()) {
                (Op::Reshape(op), Some(inner)) if same_dense(&op.shape, &graph.ty(inner).shape) => x = inner,
                (Op::Slice(Slice { axis, start, len, .. }), Some(of)) if len.is(1) => {
                    return match start.as_const() {
                        Some(index) => Atom::Step { x: of, axis: *axis, index },
                        None => Atom::Value(v),
                    };
                }
                _ => break,
            }
        }
        Atom::Value(v)
    }

    fn lin(&self, v: ValueId, depth: usize) -> Lin {
        let node = self.graph.def_node(v).filter(|_| depth > 0);
        let operands: Vec<ValueId> = node.iter().flat_map(|n| n.operands.iter().flatten().copied()).collect();
        match (node.map(|n| &n.op), &operands[..]) {
            (Some(Op::Binary(Binary { f: BinaryFn::Add })), [x, y]) => {
                self.lin(*x, depth - 1).plus(&self.lin(*y, depth - 1), 1)
            }
            (Some(Op::Binary(Binary { f: BinaryFn::Sub })), [x, y]) => {
                self.lin(*x, depth - 1).plus(&self.lin(*y, depth - 1), -1)
            }
            (Some(Op::Unary(Unary { f: UnaryFn::Neg })), [x]) => {
                Lin::default().plus(&self.lin(*x, depth - 1), -1)
            }
            _ => Lin::of(self.atom(v)),
        }
    }

    /// The exponent, if the value is an exponential.
    fn exponent(&self, v: ValueId) -> Option<Lin> {
        let node = self.graph.def_node(v)?;
        match (&node.op, node.operands.first().copied().flatten()) {
            (Op::Unary(Unary { f: UnaryFn::Exp }), Some(x)) => Some(self.lin(x, DEPTH)),
            _ => None,
        }
    }

    fn is_zero(&self, v: ValueId) -> bool {
        view::splat(self.graph, v) == Some(0.0)
    }

    /// The terms of a sum.
    fn terms(&self, v: ValueId, depth: usize) -> Vec<Term> {
        if self.is_zero(v) {
            return Vec::new();
        }
        if let Some(exponent) = self.exponent(v) {
            return vec![Term { exponent, factor: None }];
        }
        let node = self.graph.def_node(v).filter(|_| depth > 0);
        let operands: Vec<ValueId> = node.iter().flat_map(|n| n.operands.iter().flatten().copied()).collect();
        match (node.map(|n| &n.op), &operands[..]) {
            (Some(Op::Binary(Binary { f: BinaryFn::Add })), [x, y]) => {
                [self.terms(*x, depth - 1), self.terms(*y, depth - 1)].concat()
            }
            // Nothing times anything is nothing, as in a first step that starts from zeros.
            (Some(Op::Binary(Binary { f: BinaryFn::Mul })), [x, y])
                if self.is_zero(*x) || self.is_zero(*y) =>
            {
                Vec::new()
            }
            (Some(Op::Binary(Binary { f: BinaryFn::Mul })), [x, y]) => {
                let (scale, other) = match (self.exponent(*x), self.exponent(*y)) {
                    (Some(p), Some(q)) => return vec![Term { exponent: p.plus(&q, 1), factor: None }],
                    (Some(p), None) => (p, *y),
                    (None, Some(q)) => (q, *x),
                    (None, None) => return vec![self.plain(v)],
                };
                vec![Term { exponent: scale, factor: Some(self.atom(other)) }]
            }
            _ => vec![self.plain(v)],
        }
    }

    fn plain(&self, v: ValueId) -> Term {
        Term { exponent: Lin::default(), factor: Some(self.atom(v)) }
    }

    /// What a term adds at a step.
    fn added(&self, term: &Term) -> Option<Added> {
        let mut steps = term.exponent.0.iter().filter_map(|(atom, n)| match atom {
            Atom::Step { x, axis, index } => Some(((*x, *axis), *index, *n)),
            Atom::Value(_) => None,
        });
        let (Some((k, index, 1)), None) = (steps.next(), steps.next()) else { return None };
        let v = match term.factor {
            None => None,
            Some(Atom::Step { x, axis, index: at }) if at == index => Some((x, axis)),
            Some(_) => return None,
        };
        let step = Lin::of(Atom::Step { x: k.0, axis: k.1, index });
        Some(Added { k, v, index, gauge: step.plus(&term.exponent, -1) })
    }

    /// The terms of a state that was recorded and of what a step adds to it.
    fn split(&self, terms: &[Term]) -> Option<(Lin, &State, Added)> {
        let [x, y] = terms else { return None };
        let before = |term: &Term| match term.factor {
            Some(Atom::Value(v)) => self.states.get(&v),
            _ => None,
        };
        let (scaled, state, other) = match (before(x), before(y)) {
            (Some(state), None) => (x, state, y),
            (None, Some(state)) => (y, state, x),
            _ => return None,
        };
        let added = self.added(other)?;
        let follows =
            added.index == state.added.index + 1 && (added.k, added.v) == (state.added.k, state.added.v);
        // exp(e)*S = exp(e - gauge)*N
        let exponent = scaled.exponent.clone().plus(&state.added.gauge, -1);
        follows.then_some((exponent, state, added))
    }

    fn state(&self, v: ValueId) -> Option<State> {
        let terms = self.terms(v, DEPTH);
        if let [term] = &terms[..] {
            let added = self.added(term).filter(|added| added.index == 0)?;
            return Some(State { added, decay: None });
        }
        let (exponent, before, added) = self.split(&terms)?;
        let decay = match exponent.plus(&added.gauge, 1).single()? {
            Atom::Value(w) => Decay::Same(w),
            Atom::Step { x, axis, index } if index == added.index => Decay::Along(x, axis),
            Atom::Step { .. } => return None,
        };
        before.decay.is_none_or(|known| known == decay).then_some(State { added, decay: Some(decay) })
    }

    /// The mean that a quotient is.
    fn mean(&self, x: ValueId, y: ValueId) -> Option<Mean> {
        let (num, den) = (self.terms(x, DEPTH), self.terms(y, DEPTH));
        if let ([p], [q]) = (&num[..], &den[..])
            && let (Some(Atom::Step { x, axis, index: 0 }), None) = (p.factor, q.factor)
            && p.exponent == q.exponent
        {
            return Some(Mean::First { v: (x, axis) });
        }
        if let (Some(p), Some(q)) = (self.states.get(&x), self.states.get(&y))
            && let (Some(w), Some(other)) = (p.decay, q.decay)
        {
            let (p, q) = (&p.added, &q.added);
            let fits = (p.k, p.index, &p.gauge) == (q.k, q.index, &q.gauge) && w == other && q.v.is_none();
            let later = |v| Mean::Later { k: p.k, v, w: Some(w), u: None, is_bonus: false, index: p.index };
            return p.v.filter(|_| fits).map(later);
        }
        let ((scale, p, num), (other, q, den)) = (self.split(&num)?, self.split(&den)?);
        let fits = scale == other
            && (num.k, &num.gauge) == (den.k, &den.gauge)
            && den.v.is_none()
            && (p.decay == q.decay)
            && num.index == den.index;
        // The exponent of the state is taken from that of the input, which is u + k.
        let u = Lin::default().plus(&num.gauge, -1).plus(&scale, -1);
        let u = match u.single() {
            Some(Atom::Value(u)) => Some(u),
            None if u.0.is_empty() => None,
            _ => return None,
        };
        let v = num.v.filter(|_| fits)?;
        Some(Mean::Later { k: num.k, v, w: p.decay, u, is_bonus: true, index: num.index })
    }

    /// The scan whose means a concatenation puts together.
    fn scan(&self, node: &Node, op: &Concat) -> Option<Found> {
        let graph = self.graph;
        let (mut first, mut step, mut decay) = (None, None, None);
        for (i, operand) in (0..).zip(node.operands.iter().flatten()) {
            let mean = self.unwrapped(*operand);
            match (self.means.get(&mean)?, &first) {
                (Mean::First { v }, None) => first = Some((*v, graph.ty(mean).shape.clone())),
                (Mean::Later { k, v, w, u, is_bonus, index }, Some((known, _))) => {
                    let same_step = *step.get_or_insert((*k, *u, *is_bonus)) == (*k, *u, *is_bonus);
                    let same_decay = decay.is_none_or(|decay| Some(decay) == *w);
                    if *index != i || v != known || !same_step || !same_decay {
                        return None;
                    }
                    decay = *w;
                }
                _ => return None,
            }
        }
        let ((v, state), (k, u, is_bonus), w) = (first?, step?, decay?);
        let n = node.operands.len() as i64;
        let found = Found { k, v, w, u, is_bonus, state, axis: op.axis, n };
        found.fits(graph, &graph.ty(node.results[0]).shape).then_some(found)
    }

    /// A value without the unit axes that were put around it.
    fn unwrapped(&self, v: ValueId) -> ValueId {
        let Some(node) = self.graph.def_node(v) else { return v };
        match (&node.op, node.operands.first().copied().flatten()) {
            (Op::Reshape(op), Some(x)) if same_dense(&op.shape, &self.graph.ty(x).shape) => self.unwrapped(x),
            _ => v,
        }
    }
}

#[cfg(test)]
mod tests;
