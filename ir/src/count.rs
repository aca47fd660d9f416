//! Integer tensors that count: affine in the number of an iteration and in the indices of their own elements.
//!
//! Loops that end on a condition are counted by these, and writes into a buffer are placed by them.

use crate::dim::Dim;
use crate::entity::ValueId;
use crate::graph::{Graph, Node};
use crate::ops::{Binary, BinaryFn, Cmp, Compare, Op, Slice, Unary, UnaryFn};
use crate::types::{DType, Shape};
use std::collections::BTreeMap;

/// Expressions are followed through this many nodes.
const MAX_DEPTH: usize = 64;
/// Constants with more elements than this are not looked into.
const MAX_CONSTANT: usize = 1 << 12;
/// The most terms of a dim.
const MAX_TERMS: usize = 32;

/// `offset + iteration * i + sum of axes[k] * index[k]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The element with all indices 0 in the first iteration.
    pub offset: Dim,
    /// What an iteration adds.
    pub iteration: Dim,
    /// What a step along each axis adds.
    pub axes: Vec<Dim>,
    /// The carried value that is added, while its own next value is read.
    state: Option<ValueId>,
}

/// A carried integer of a loop.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Its value in an iteration.
    pub state: ValueId,
    /// Its value in the next one.
    pub next: ValueId,
    /// Its value in the first iteration.
    pub initial: Option<Dim>,
}

/// Reads values of a graph, or of the body of a loop, as counts. What is returned holds in 64-bit arithmetic without
/// overflow, as sizes do.
#[derive(Debug, Default)]
pub struct Counts {
    iteration: Option<ValueId>,
    /// Carried integers.
    pub carried: Vec<Carried>,
    /// What is known of values from outside.
    pub captured: BTreeMap<ValueId, Count>,
    memo: BTreeMap<ValueId, Option<Count>>,
    /// The carried value whose next value is being read.
    open: Option<ValueId>,
    depth: usize,
}

impl Count {
    /// One number everywhere.
    pub fn number(n: Dim, rank: usize) -> Self {
        Self { offset: n, iteration: Dim::from(0), axes: vec![Dim::from(0); rank], state: None }
    }

    /// The number that all elements are in all iterations.
    pub fn as_number(&self) -> Option<&Dim> {
        let is_fixed = self.iteration.is(0) && self.axes.iter().all(|a| a.is(0)) && self.state.is_none();
        is_fixed.then_some(&self.offset)
    }

    /// Whether all elements are the same in one iteration.
    pub fn is_uniform(&self) -> bool {
        self.axes.iter().all(|a| a.is(0))
    }

    /// The slices along axis 0, one for each iteration.
    pub fn sliced(mut self) -> Self {
        let along = self.axes.remove(0);
        self.iteration = self.iteration + &along;
        self
    }

    /// The difference of two counts of one shape that depend on no other carried value.
    pub fn minus(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a.clone() - b)
    }

    fn zip(&self, other: &Self, f: impl Fn(&Dim, &Dim) -> Dim) -> Self {
        Self {
            offset: f(&self.offset, &other.offset),
            iteration: f(&self.iteration, &other.iteration),
            axes: self.axes.iter().zip(&other.axes).map(|(a, b)| f(a, b)).collect(),
            state: self.state.or(other.state),
        }
    }

    fn map(&self, f: impl Fn(&Dim) -> Dim) -> Self {
        self.zip(self, |a, _| f(a))
    }

    /// Whether no element is negative in any iteration.
    pub fn is_non_negative(&self) -> bool {
        let mut parts = [&self.offset, &self.iteration].into_iter().chain(&self.axes);
        self.state.is_none() && parts.all(is_non_negative)
    }

    /// The count of a tensor of this shape after an op that lays it out anew.
    pub fn laid_out(self, shape: &Shape, op: &Op) -> Option<Self> {
        let zero = |rank: usize| vec![Dim::from(0); rank];
        let axes = match op {
            Op::Broadcast(op) => {
                let mut axes = zero(op.shape.rank());
                for (i, to) in op.axes.iter().enumerate() {
                    if shape[i] == op.shape[*to] && !shape[i].is(1) {
                        axes[*to] = self.axes[i].clone();
                    }
                }
                axes
            }
            Op::Reshape(op) => {
                let mut axes = zero(op.shape.rank());
                // Unit axes come and go.
                let dense = |shape: &Shape| -> Vec<usize> {
                    (0..shape.rank()).filter(|i| !shape[*i].is(1)).collect()
                };
                let (old, new) = (dense(shape), dense(&op.shape));
                if old.iter().map(|i| &shape[*i]).eq(new.iter().map(|j| &op.shape[*j])) {
                    old.into_iter().zip(new).for_each(|(i, j)| axes[j] = self.axes[i].clone());
                } else if !self.is_uniform() {
                    return None;
                }
                axes
            }
            Op::Transpose(op) => op.perm.iter().map(|axis| self.axes[*axis].clone()).collect(),
            _ => return None,
        };
        Some(Self { axes, ..self })
    }

    fn is_short(&self) -> bool {
        let mut parts = [&self.offset, &self.iteration].into_iter().chain(&self.axes);
        parts.all(|d| !d.is_undefined() && d.terms().count() <= MAX_TERMS)
    }
}

/// Whether the dim is at least 0 for all values of its symbols.
pub fn is_non_negative(d: &Dim) -> bool {
    d.at_least(&Dim::from(0)) == *d
}

impl Counts {
    /// Counts in the body of a loop, whose iterations have this number.
    pub fn of_loop(iteration: ValueId) -> Self {
        Self { iteration: Some(iteration), ..Self::default() }
    }

    /// The value as a count; `None` if it is none, or not provably.
    pub fn read(&mut self, graph: &Graph, value: ValueId) -> Option<Count> {
        if let Some(known) = self.memo.get(&value) {
            return known.clone();
        }
        if self.depth == MAX_DEPTH || !graph.ty(value).dtype.is_int() {
            return None;
        }
        self.depth += 1;
        let count = self.look(graph, value).filter(Count::is_short);
        self.depth -= 1;
        self.memo.insert(value, count.clone());
        count
    }

    fn look(&mut self, graph: &Graph, value: ValueId) -> Option<Count> {
        let rank = graph.ty(value).rank();
        if let Some(count) = self.captured.get(&value) {
            return Some(count.clone());
        }
        if self.iteration == Some(value) {
            return Some(Count { iteration: Dim::from(1), ..Count::number(Dim::from(0), rank) });
        }
        match graph.def_node(value) {
            Some(node) => self.node(graph, node),
            None => self.state(graph, value),
        }
    }

    /// A carried value that grows by the same number in each iteration.
    fn state(&mut self, graph: &Graph, value: ValueId) -> Option<Count> {
        let rank = graph.ty(value).rank();
        let zero = Count::number(Dim::from(0), rank);
        if self.open == Some(value) {
            return Some(Count { state: Some(value), ..zero });
        }
        let carried = self.carried.iter().find(|c| c.state == value)?.clone();
        if self.open.is_some() {
            return None;
        }
        self.open = Some(value);
        let memo = std::mem::take(&mut self.memo);
        let next = self.read(graph, carried.next);
        self.memo = memo;
        self.open = None;
        let next = next.filter(|n| n.state == Some(value) && n.iteration.is(0) && n.is_uniform())?;
        Some(Count { offset: carried.initial?, iteration: next.offset, ..zero })
    }

    fn node(&mut self, graph: &Graph, node: &Node) -> Option<Count> {
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let shape_of = |v: ValueId| &graph.ty(v).shape;
        let rank = graph.ty(*node.results.first()?).rank();
        Some(match &node.op {
            Op::DimValue(op) => Count::number(op.value.clone(), rank),
            Op::Constant(op) => constant(op.dtype, &op.shape, &op.data)?,
            Op::Iota(op) => {
                let mut count = Count::number(Dim::from(0), rank);
                count.axes[op.axis] = Dim::from(1);
                count
            }
            Op::Cast(op) if is_exact(graph.ty(operand(0)?).dtype, op.to) => self.read(graph, operand(0)?)?,
            Op::Broadcast(_) | Op::Reshape(_) | Op::Transpose(_) => {
                let x = operand(0)?;
                self.read(graph, x)?.laid_out(shape_of(x), &node.op)?
            }
            Op::Slice(op) => self.slice(graph, operand(0)?, op)?,
            Op::Unary(Unary { f: UnaryFn::Neg }) => {
                let x = self.read(graph, operand(0)?)?;
                if x.state.is_some() {
                    return None;
                }
                x.map(|d| -d.clone())
            }
            Op::Binary(Binary { f }) => {
                let (x, y) = (self.read(graph, operand(0)?)?, self.read(graph, operand(1)?)?);
                match f {
                    BinaryFn::Add if x.state.is_none() || y.state.is_none() => {
                        x.zip(&y, |a, b| a.clone() + b)
                    }
                    BinaryFn::Sub if y.state.is_none() => x.zip(&y, |a, b| a.clone() - b),
                    BinaryFn::Mul if x.state.is_none() && y.state.is_none() => {
                        let (k, other) = match (x.as_number(), y.as_number()) {
                            (Some(k), _) => (k, &y),
                            (_, Some(k)) => (k, &x),
                            _ => return None,
                        };
                        other.map(|d| d.clone() * k)
                    }
                    _ => return None,
                }
            }
            // An index that may count from the end, and does not.
            Op::Select(_) => {
                let kept = self.read(graph, operand(2)?)?;
                let cond = graph.def_node(operand(0)?)?;
                let Op::Compare(Compare { cmp: Cmp::Lt }) = cond.op else { return None };
                let (x, y) = (cond.operands[0]?, cond.operands[1]?);
                let is_sign = self.read(graph, x)? == kept && self.read(graph, y)?.as_number()?.is(0);
                if !(is_sign && kept.is_non_negative()) {
                    return None;
                }
                kept
            }
            _ => return None,
        })
    }

    fn slice(&mut self, graph: &Graph, x: ValueId, op: &Slice) -> Option<Count> {
        let mut start = op.start.clone();
        // One of the parts of a concatenation.
        if let Some(Node { op: Op::Concat(concat), operands, .. }) = graph.def_node(x)
            && concat.axis == op.axis
            && op.len.is(1)
        {
            for part in operands.iter().flatten() {
                let extent = &graph.ty(*part).shape[op.axis];
                if start.is(0) && extent.is(1) {
                    return self.read(graph, *part);
                }
                start = start - extent;
            }
            return None;
        }
        let mut from = self.read(graph, x)?;
        from.offset = from.offset + &(from.axes[op.axis].clone() * &start);
        from.axes[op.axis] =
            if op.len.is(1) { Dim::from(0) } else { from.axes[op.axis].clone() * &Dim::from(op.stride) };
        Some(from)
    }
}

/// Whether every integer of one type is one of the other.
fn is_exact(from: DType, to: DType) -> bool {
    matches!((from, to), (DType::I32, DType::I64)) || from == to && from.is_int()
}

/// A constant whose elements are affine in their indices.
fn constant(dtype: DType, shape: &Shape, data: &[u8]) -> Option<Count> {
    let size = dtype.bits() / 8;
    if !matches!(dtype, DType::I64 | DType::I32) || data.is_empty() || data.len() / size > MAX_CONSTANT {
        return None;
    }
    let dims: Vec<usize> =
        shape.as_const()?.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<_>>()?;
    let elems: Vec<i64> = data
        .chunks_exact(size)
        .map(|e| match e.try_into() {
            Ok(e) => i64::from_le_bytes(e),
            Err(_) => e.try_into().map_or(0, |e| i64::from(i32::from_le_bytes(e))),
        })
        .collect();
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    let first = *elems.first()?;
    let along = |(n, stride): (&usize, &usize)| {
        if *n > 1 { elems.get(*stride)?.checked_sub(first) } else { Some(0) }
    };
    let axes: Vec<i64> = dims.iter().zip(&strides).map(along).collect::<Option<_>>()?;
    let expected = |i: usize| {
        let indices = dims.iter().zip(&strides).map(|(n, stride)| i / stride % n);
        indices.zip(&axes).try_fold(first, |sum, (index, step)| {
            sum.checked_add(step.checked_mul(i64::try_from(index).ok()?)?)
        })
    };
    let is_affine = elems.iter().enumerate().all(|(i, x)| expected(i) == Some(*x));
    is_affine.then(|| Count {
        axes: axes.into_iter().map(Dim::from).collect(),
        ..Count::number(Dim::from(first), 0)
    })
}

/// Whether a loop goes on after iteration `i`: while `rise * i + offset` is negative.
#[derive(Clone, Debug, PartialEq, Eq)]
struct While {
    rise: i64,
    offset: Dim,
}

impl Counts {
    /// How many iterations a loop has whose first one is sure, and that goes on as long as the condition holds that
    /// each of them computes. `None`: the condition is no comparison of counts, or the end is not provable.
    pub fn trips(&mut self, graph: &Graph, goes_on: ValueId) -> Option<Dim> {
        let conditions = self.conditions(graph, goes_on)?;
        // The first iteration after which one of them does not hold is the last one.
        let ends = conditions.iter().map(|c| c.ends_after(&c.offset) + &Dim::from(1));
        ends.reduce(|a, b| a.at_most(&b)).filter(|d| !d.is_undefined())
    }

    /// The same for a loop whose first iteration comes about by a condition in the graph around it. It must be the one
    /// that the body computes, one iteration earlier.
    pub fn trips_if(
        &mut self,
        graph: &Graph,
        goes_on: ValueId,
        around: &Graph,
        starts: ValueId,
    ) -> Option<Dim> {
        let conditions = self.conditions(graph, goes_on)?;
        let before = Self::default().conditions(around, starts)?;
        let [condition] = &conditions[..] else { return None };
        let [While { rise: 0, offset }] = &before[..] else { return None };
        let earlier = condition.offset.clone() - &Dim::from(condition.rise);
        (earlier == *offset).then(|| condition.ends_after(&earlier)).filter(|d| !d.is_undefined())
    }

    /// Comparisons that hold together as long as the value is true.
    fn conditions(&mut self, graph: &Graph, value: ValueId) -> Option<Vec<While>> {
        let node = graph.def_node(value)?;
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        match &node.op {
            Op::Reshape(_) | Op::Broadcast(_) if graph.ty(value).shape.n_elems().is(1) => {
                self.conditions(graph, operand(0)?)
            }
            Op::Binary(Binary { f: BinaryFn::And }) => {
                let (x, y) = (operand(0)?, operand(1)?);
                let mut all = Vec::new();
                for v in [x, y].into_iter().filter(|v| !is_true(graph, *v)) {
                    let Op::Compare(_) = graph.def_node(v)?.op else { return None };
                    all.extend(self.conditions(graph, v)?);
                }
                (!all.is_empty()).then_some(all)
            }
            Op::Unary(Unary { f: UnaryFn::Not }) => {
                let inner = graph.def_node(operand(0)?)?;
                let Op::Compare(Compare { cmp }) = inner.op else { return None };
                let cmp = match cmp {
                    Cmp::Lt => Cmp::Ge,
                    Cmp::Le => Cmp::Gt,
                    Cmp::Gt => Cmp::Le,
                    Cmp::Ge => Cmp::Lt,
                    Cmp::Eq | Cmp::Ne => return None,
                };
                Some(vec![self.compared(graph, cmp, inner.operands[0]?, inner.operands[1]?)?])
            }
            Op::Compare(Compare { cmp }) => {
                Some(vec![self.compared(graph, *cmp, operand(0)?, operand(1)?)?])
            }
            _ => None,
        }
    }

    fn compared(&mut self, graph: &Graph, cmp: Cmp, x: ValueId, y: ValueId) -> Option<While> {
        let (x, y) = (self.read(graph, x)?, self.read(graph, y)?);
        let (low, high, least) = match cmp {
            Cmp::Lt => (x, y, 0),
            Cmp::Le => (x, y, 1),
            Cmp::Gt => (y, x, 0),
            Cmp::Ge => (y, x, 1),
            Cmp::Eq | Cmp::Ne => return None,
        };
        if !(low.is_uniform() && high.is_uniform()) {
            return None;
        }
        let rise = (low.iteration - &high.iteration).as_const().filter(|n| *n >= 0)?;
        let offset = low.offset - &high.offset - &Dim::from(least);
        Some(While { rise, offset })
    }
}

impl While {
    /// How many iterations go on from one on in which the comparison stands at `offset`.
    fn ends_after(&self, offset: &Dim) -> Dim {
        if self.rise == 0 {
            return Dim::undefined();
        }
        (-offset.clone()).ceildiv(&Dim::from(self.rise)).at_least(&Dim::from(0))
    }
}

/// Whether the value is the literal truth.
fn is_true(graph: &Graph, value: ValueId) -> bool {
    match graph.def_node(value) {
        Some(Node { op: Op::Constant(c), .. }) => c.dtype == DType::Bool && c.data.iter().all(|b| *b != 0),
        Some(Node { op: Op::Reshape(_) | Op::Broadcast(_), operands, .. }) => {
            operands[0].is_some_and(|x| is_true(graph, x))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// The count of `%k` in a body that carries `%n` from 3 on.
    fn count(nodes: &str, ty: &str) -> Option<Count> {
        let text = format!(
            "func @body(%i: i64[], %n: i64[], %x: i64[4]) {{
               %one = constant {{data=[1], dtype=i64, shape=[]}} : i64[]
               %two = constant {{data=[2], dtype=i64, shape=[]}} : i64[]
               %next = add %n, %two : i64[]
               {nodes} : {ty}
               return %k \"k\", %next \"next\"
             }}"
        );
        let graph = parse(&text).unwrap_or_else(|e| panic!("{e:?}"));
        let inputs: Vec<ValueId> = graph.inputs().iter().map(|p| p.value).collect();
        let mut counts = Counts::of_loop(inputs[0]);
        let initial = Some(Dim::from(3));
        counts.carried.push(Carried { state: inputs[1], next: graph.output("next")?, initial });
        counts.read(&graph, graph.output("k")?)
    }

    #[track_caller]
    fn is(nodes: &str, ty: &str, offset: i64, iteration: i64, axes: &[i64]) {
        let found = count(nodes, ty).unwrap_or_else(|| panic!("{nodes}"));
        let dims = |xs: &[i64]| xs.iter().copied().map(Dim::from).collect::<Vec<_>>();
        assert_eq!(
            (found.offset, found.iteration, found.axes),
            (Dim::from(offset), Dim::from(iteration), dims(axes)),
            "{nodes}"
        );
    }

    #[test]
    fn iterations_and_carried_numbers_count() {
        is("%k = add %i, %one", "i64[]", 1, 1, &[]);
        is("%1 = mul %two, %i : i64[] %k = sub %one, %1", "i64[]", 1, -2, &[]);
        is("%k = sub %n, %i", "i64[]", 3, 1, &[]);
    }

    #[test]
    fn indices_count_along_their_axes() {
        is("%k = constant {data=[1, 3, 5, 2, 4, 6], dtype=i64, shape=[2, 3]}", "i64[2, 3]", 1, 0, &[1, 2]);
        is(
            "%1 = iota {axis=0, dtype=i64, shape=[4]} : i64[4] %2 = broadcast %i {shape=[4]} : i64[4]
             %3 = add %1, %2 : i64[4] %4 = slice %3 {axis=0, len=2, start=1, stride=2} : i64[2]
             %k = reshape %4 {shape=[2, 1]}",
            "i64[2, 1]",
            1,
            1,
            &[2, 0],
        );
    }

    #[test]
    fn what_does_not_count_is_none() {
        assert_eq!(count("%k = mul %i, %i", "i64[]"), None);
        assert_eq!(count("%k = neg %x", "i64[4]"), None);
        assert_eq!(count("%k = constant {data=[0, 1, 3], dtype=i64, shape=[3]}", "i64[3]"), None);
        // Two axes that are one.
        let joined = "%1 = iota {axis=1, dtype=i64, shape=[2, 3]} : i64[2, 3] %k = reshape %1 {shape=[6]}";
        assert_eq!(count(joined, "i64[6]"), None);
    }
}
