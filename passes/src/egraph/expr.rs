//! Typed terms under construction: the right sides of rules.

use super::lang::{self, Graph, Head, Term};
use egg::{Id, Language as _};
use ssmc_ir::ops::{Binary, BinaryFn, Broadcast, Contract, Op, Reshape, Spec, Transpose};
use ssmc_ir::{Dim, Shape, TensorType};
use std::collections::BTreeMap;

/// An axis label of a product under construction; unit axes have none.
pub(crate) type Label = u32;
/// The label of every axis of a tensor.
pub(crate) type Labels = Vec<Option<Label>>;

#[derive(Clone, Debug)]
enum Node {
    Class(Id),
    Apply(Head, Vec<Expr>),
}

/// A term over e-classes, with its types.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    node: Node,
    types: Vec<TensorType>,
}

impl Expr {
    /// The class as it is.
    pub(crate) fn class(egraph: &Graph, id: Id) -> Self {
        Self { node: Node::Class(id), types: egraph[id].data.types.clone() }
    }

    /// The term as it stands in its class.
    pub(crate) fn term(egraph: &Graph, term: &Term) -> Self {
        let operands: Vec<_> = term.children.iter().map(|c| Self::class(egraph, *c)).collect();
        let types: Vec<_> = operands.iter().map(|e| e.types.as_slice()).collect();
        let types = lang::infer(&term.head, &types, &egraph.analysis.leaves)
            .expect("terms of an e-graph are well typed");
        Self { node: Node::Apply(term.head.clone(), operands), types }
    }

    /// The absent operand.
    pub(crate) fn absent() -> Self {
        Self { node: Node::Apply(Head::Absent, Vec::new()), types: Vec::new() }
    }

    /// The op applied to operands; `None` if they do not fit.
    pub(crate) fn op(op: impl Into<Op>, operands: Vec<Expr>) -> Option<Self> {
        let head = Head::Op(op.into());
        let types: Vec<_> = operands.iter().map(|e| e.types.as_slice()).collect();
        let types = lang::infer(&head, &types, &[])?;
        Some(Self { node: Node::Apply(head, operands), types })
    }

    /// Result `i` of a tuple.
    pub(crate) fn proj(self, i: usize) -> Option<Self> {
        let ty = self.types.get(i)?.clone();
        Some(Self { node: Node::Apply(Head::Proj(i), vec![self]), types: vec![ty] })
    }

    /// All result types.
    pub(crate) fn types(&self) -> &[TensorType] {
        &self.types
    }

    /// The shape of a value; a scalar's for an absent operand.
    pub(crate) fn shape(&self) -> &[Dim] {
        self.types.first().map_or(&[], |ty| &ty.shape)
    }

    /// The same elements under another shape; folds reshapes of reshapes.
    pub(crate) fn reshape(self, shape: &[Dim]) -> Option<Self> {
        if self.shape() == shape {
            return Some(self);
        }
        match self.node {
            Node::Apply(Head::Op(Op::Reshape(_)), mut inner) => inner.pop()?.reshape(shape),
            _ => Self::op(Reshape { shape: Shape::from(shape) }, vec![self]),
        }
    }

    /// Permuted axes.
    pub(crate) fn transpose(self, perm: &[usize]) -> Option<Self> {
        if perm.is_sorted() {
            return Some(self);
        }
        Self::op(Transpose { perm: perm.to_vec() }, vec![self])
    }

    /// Rearranges axes so that they carry `target` in this order; both have the same labels, unit axes come and go.
    pub(crate) fn place(self, labels: &[Option<Label>], target: &[Option<Label>]) -> Option<Self> {
        let shape = self.shape().to_vec();
        let axis_of = |label: Label| labels.iter().position(|l| *l == Some(label));
        let order: Vec<usize> = target.iter().flatten().map(|l| axis_of(*l)).collect::<Option<_>>()?;
        if labels.iter().flatten().count() != order.len() {
            return None;
        }
        let dims: Vec<Dim> = target
            .iter()
            .map(|l| l.and_then(axis_of).map_or(Dim::from(1), |axis| shape[axis].clone()))
            .collect();
        if order.is_sorted() {
            return self.reshape(&dims);
        }
        let units = (0..labels.len()).filter(|axis| labels[*axis].is_none());
        let perm: Vec<usize> = order.iter().copied().chain(units).collect();
        self.transpose(&perm)?.reshape(&dims)
    }

    /// The same view of the same term as at most one transpose and one reshape: transposes and reshapes of unit axes
    /// compose.
    pub(crate) fn normalized(self) -> Option<Self> {
        let dense = |shape: &[Dim]| shape.iter().filter(|d| !d.is(1)).cloned().collect::<Vec<_>>();
        let target: Labels =
            self.shape().iter().enumerate().map(|(i, d)| (!d.is(1)).then_some(i as Label)).collect();
        let (mut term, mut labels) = (self, target.clone());
        while let Node::Apply(Head::Op(op), operands) = &term.node
            && let [inner] = &operands[..]
        {
            labels = match op {
                Op::Transpose(t) => {
                    let mut moved = vec![None; t.perm.len()];
                    t.perm.iter().zip(&labels).for_each(|(from, label)| moved[*from] = *label);
                    moved
                }
                Op::Reshape(_) if dense(inner.shape()) == dense(term.shape()) => {
                    let mut dense = labels.iter().flatten();
                    inner.shape().iter().map(|d| if d.is(1) { None } else { dense.next().copied() }).collect()
                }
                _ => break,
            };
            term = inner.clone();
        }
        term.place(&labels, &target)
    }

    /// Like [`Expr::place`], but repeats along labels of the target that the term lacks.
    fn spread(self, labels: &[Option<Label>], target: &[Option<Label>], shape: &[Dim]) -> Option<Self> {
        let has = |l: &Option<Label>| l.is_some() && labels.contains(l);
        let narrow: Labels = target.iter().map(|l| if has(l) { *l } else { None }).collect();
        let placed = self.place(labels, &narrow)?;
        if placed.shape() == shape {
            return Some(placed);
        }
        let axes = (0..shape.len()).collect();
        Self::op(Broadcast { axes, shape: Shape::from(shape) }, vec![placed])
    }

    /// The product of labelled factors, summed over the labels that the output lacks.
    pub(crate) fn product(
        mut factors: Vec<(Expr, Labels)>,
        output: &[Option<Label>],
        shape: &[Dim],
    ) -> Option<Self> {
        let known = |l: Label| factors.iter().any(|(_, labels)| labels.contains(&Some(l)));
        let kept: Vec<Label> = output.iter().flatten().copied().filter(|l| known(*l)).collect();
        let is_summed =
            factors.iter().flat_map(|(_, labels)| labels.iter().flatten()).any(|l| !kept.contains(l));
        if factors.len() == 1 && !is_summed {
            let (factor, labels) = factors.pop()?;
            return factor.spread(&labels, output, shape);
        }
        let is_full = |labels: &Labels| labels.iter().flatten().count() == output.iter().flatten().count();
        if factors.len() == 2 && !is_summed && factors.iter().all(|(_, labels)| is_full(labels)) {
            let (y, y_labels) = factors.pop()?;
            let (x, x_labels) = factors.pop()?;
            let operands = vec![x.place(&x_labels, output)?, y.place(&y_labels, output)?];
            return Self::op(Binary { f: BinaryFn::Mul }, operands);
        }
        let mut letters: BTreeMap<Label, u8> = BTreeMap::new();
        let mut letter = |l: Label| -> Option<u8> {
            let n = u8::try_from(letters.len()).ok().filter(|n| *n < 52)?;
            Some(*letters.entry(l).or_insert(if n < 26 { b'a' + n } else { b'A' + n - 26 }))
        };
        let (mut inputs, mut operands) = (Vec::new(), Vec::new());
        for (factor, labels) in factors {
            let dense: Labels = labels.iter().copied().filter(Option::is_some).collect();
            inputs.push(dense.iter().flatten().map(|l| letter(*l)).collect::<Option<Vec<_>>>()?);
            operands.push(factor.place(&labels, &dense)?);
        }
        let spec = Spec { inputs, output: kept.iter().map(|l| letter(*l)).collect::<Option<_>>()? };
        let kept: Labels = kept.into_iter().map(Some).collect();
        Self::op(Contract { spec }, operands)?.spread(&kept, output, shape)
    }

    /// The class of the term, if every part of it is in the e-graph already.
    pub(crate) fn lookup(&self, egraph: &Graph) -> Option<Id> {
        match &self.node {
            Node::Class(id) => Some(egraph.find(*id)),
            Node::Apply(head, operands) => {
                let children = operands.iter().map(|e| e.lookup(egraph)).collect::<Option<_>>()?;
                egraph.lookup(Term { head: head.clone(), children })
            }
        }
    }

    /// Adds the term; the returned id names this very term in explanations.
    pub(crate) fn add(&self, egraph: &mut Graph) -> Id {
        match &self.node {
            Node::Class(id) => *id,
            Node::Apply(head, operands) => {
                let children = operands.iter().map(|e| e.add(egraph)).collect();
                let term = Term { head: head.clone(), children };
                debug_assert!(term.children().iter().all(|c| usize::from(*c) < egraph.nodes().len()));
                egraph.add_uncanonical(term)
            }
        }
    }
}
