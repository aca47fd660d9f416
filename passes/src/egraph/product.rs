//! The contraction searcher: e-classes read as labelled products.
//!
//! A class is read as a product of factors modulo association, operand order, label names, unit axes, broadcasts and
//! transposes. Sums of products are opened at the outermost level only: a product with a weight matrix further down
//! stays a factor.

use super::expr::{Expr, Label, Labels};
use super::lang::{Graph, Term};
use egg::Id;
use ssmc_ir::ops::{BinaryFn, Op, ReduceFn};
use std::collections::{BTreeMap, BTreeSet};

/// A class with a label for each axis that is not a unit axis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Factor {
    pub(crate) id: Id,
    pub(crate) labels: Labels,
}

impl Factor {
    /// The class with its axes numbered.
    pub(crate) fn numbered(egraph: &Graph, id: Id) -> Self {
        let id = egraph.find(id);
        let shape = &egraph[id].data.types[0].shape;
        let labels = shape.iter().enumerate().map(|(i, d)| (!d.is(1)).then_some(i as Label)).collect();
        Self { id, labels }
    }

    /// Whether the factor varies along this label.
    pub(crate) fn has(&self, label: Label) -> bool {
        self.labels.contains(&Some(label))
    }

    /// The labels, ascending.
    pub(crate) fn label_set(&self) -> BTreeSet<Label> {
        self.labels.iter().flatten().copied().collect()
    }

    /// The term of the factor and its labels, for [`Expr::product`].
    pub(crate) fn expr(&self, egraph: &Graph) -> (Expr, Labels) {
        (Expr::class(egraph, self.id), self.labels.clone())
    }

    /// The factor and what it is a view of: broadcasts, transposes, and reshapes of unit axes are taken off.
    pub(crate) fn bases(&self, egraph: &Graph) -> Vec<Factor> {
        let mut found = vec![Factor { id: egraph.find(self.id), labels: self.labels.clone() }];
        let mut next = 0;
        while next < found.len() {
            let outer = found[next].clone();
            next += 1;
            for term in &egraph[outer.id].nodes {
                if let Some(inner) = outer.look_through(egraph, term)
                    && !found.contains(&inner)
                {
                    found.push(inner);
                }
            }
        }
        found
    }

    fn look_through(&self, egraph: &Graph, term: &Term) -> Option<Factor> {
        let id = egraph.find(*term.children.first()?);
        let shape = &egraph[id].data.types.first()?.shape;
        let labels = match term.op()? {
            Op::Broadcast(b) => b
                .axes
                .iter()
                .zip(shape.iter())
                .map(|(to, d)| if d.is(1) { None } else { self.labels[*to] })
                .collect(),
            Op::Transpose(t) => {
                let mut labels = vec![None; t.perm.len()];
                for (to, from) in t.perm.iter().enumerate() {
                    labels[*from] = self.labels[to];
                }
                labels
            }
            Op::Reshape(r) => {
                let dense = |shape: &[ssmc_ir::Dim]| -> Vec<ssmc_ir::Dim> {
                    shape.iter().filter(|d| !d.is(1)).cloned().collect()
                };
                if dense(&r.shape) != dense(shape) {
                    return None;
                }
                let mut dense = self.labels.iter().flatten();
                shape.iter().map(|d| if d.is(1) { None } else { dense.next().copied() }).collect()
            }
            _ => return None,
        };
        Some(Factor { id, labels })
    }

    /// A form that is the same for most views of one tensor that bear the same labels: the oldest base.
    pub(crate) fn canonical(&self, egraph: &Graph) -> Factor {
        self.bases(egraph).into_iter().min().expect("the factor is among its bases")
    }

    /// Whether both are views of one tensor and bear the same labels.
    pub(crate) fn is_same_view(&self, other: &Factor, egraph: &Graph) -> bool {
        self == other || {
            let bases = self.bases(egraph);
            other.bases(egraph).iter().any(|base| bases.contains(base))
        }
    }
}

/// A class read as a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// The factors in canonical form.
    pub(crate) factors: Vec<Factor>,
    /// The labels of the class itself: its axis numbers. Other labels of the factors are summed over.
    pub(crate) output: Labels,
    /// The product term of the class that was opened first.
    pub(crate) top: Term,
    next_label: Label,
}

/// Bounds on the readings of one class.
const MAX_READINGS: usize = 96;
const MAX_FACTORS: usize = 8;

impl Product {
    /// The factors other than those at `without`.
    pub(crate) fn rest(&self, without: &[usize]) -> Vec<Factor> {
        let kept = self.factors.iter().enumerate().filter(|(i, _)| !without.contains(i));
        kept.map(|(_, f)| f.clone()).collect()
    }

    /// Whether the label is summed over.
    pub(crate) fn is_summed(&self, label: Label) -> bool {
        !self.output.contains(&Some(label))
    }

    /// Whether nothing is summed over. Products under a sum are left as they are: they would merge into the product
    /// with a weight matrix that sums them.
    pub(crate) fn is_plain(&self) -> bool {
        self.factors.iter().flat_map(Factor::label_set).all(|l| !self.is_summed(l))
    }

    fn sort(&mut self) {
        self.factors.sort();
    }
}

/// All readings of the class as a product, those with fewest openings first. The class itself must hold a product term;
/// views of products are read by [`readings_of`].
pub(crate) fn readings(egraph: &Graph, id: Id) -> Vec<Product> {
    let whole = Factor::numbered(egraph, id);
    let output = whole.labels.clone();
    let first = output.len() as Label;
    let mut found: Vec<Product> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut push = |found: &mut Vec<Product>, factors: Vec<Factor>, top: &Term, next_label| {
        let mut product = Product { factors, output: output.clone(), top: top.clone(), next_label };
        product.sort();
        // A sum along an axis that no factor has is a multiplication by its extent, which is no product of the factors.
        if !(first..next_label).all(|l| product.factors.iter().any(|f| f.has(l))) {
            return;
        }
        if product.factors.len() <= MAX_FACTORS && seen.insert(product.factors.clone()) {
            found.push(product);
        }
    };
    for term in &egraph[whole.id].nodes {
        let mut next = first;
        if let Some(factors) = open(egraph, &whole, term, Some(&mut next)) {
            push(&mut found, factors, term, next);
        }
    }
    let mut at = 0;
    while at < found.len() && found.len() < MAX_READINGS {
        let product = found[at].clone();
        at += 1;
        for (i, factor) in product.factors.iter().enumerate() {
            for base in factor.bases(egraph) {
                for term in &egraph[base.id].nodes {
                    if let Some(inner) = open(egraph, &base, term, None) {
                        let factors = [product.rest(&[i]), inner].concat();
                        push(&mut found, factors, &product.top, product.next_label);
                    }
                }
            }
        }
    }
    found
}

/// The readings of everything that the factor is a view of, with the labels of the factor for the output.
pub(crate) fn readings_of(egraph: &Graph, factor: &Factor) -> Vec<Product> {
    let fresh = factor.labels.iter().flatten().max().map_or(0, |l| l + 1);
    let mut found = Vec::new();
    for base in factor.bases(egraph) {
        let rank = base.labels.len() as Label;
        let rename = |l: Label| if l < rank { base.labels[l as usize] } else { Some(l - rank + fresh) };
        let rename = |labels: &Labels| -> Labels { labels.iter().map(|l| l.and_then(rename)).collect() };
        for product in readings(egraph, base.id) {
            let factors =
                product.factors.iter().map(|f| Factor { id: f.id, labels: rename(&f.labels) }).collect();
            let mut renamed = Product {
                factors,
                output: factor.labels.clone(),
                top: product.top.clone(),
                next_label: product.next_label - rank + fresh,
            };
            renamed.sort();
            if !found.contains(&renamed) {
                found.push(renamed);
            }
        }
    }
    found
}

/// The factors of one product term that bears the labels of `whole`. Summed labels are taken from `fresh`.
fn open(egraph: &Graph, whole: &Factor, term: &Term, mut fresh: Option<&mut Label>) -> Option<Vec<Factor>> {
    let child =
        |i: usize, labels: Labels| Factor { id: egraph.find(term.children[i]), labels }.canonical(egraph);
    let dims = |i: usize| &egraph[term.children[i]].data.types[0].shape;
    match term.op()? {
        Op::Binary(b) if b.f == BinaryFn::Mul => {
            Some((0..2).map(|i| child(i, whole.labels.clone())).collect())
        }
        Op::Binary(b) if b.f == BinaryFn::Pow => {
            let exponent = egraph[term.children[1]].data.splat?;
            (exponent.get() == 2.0).then(|| (0..2).map(|_| child(0, whole.labels.clone())).collect())
        }
        Op::Contract(c) => {
            let mut names: BTreeMap<u8, Option<Label>> =
                c.spec.output.iter().copied().zip(whole.labels.iter().copied()).collect();
            for (i, letters) in c.spec.inputs.iter().enumerate() {
                for (letter, dim) in letters.iter().zip(dims(i).iter()) {
                    if names.contains_key(letter) {
                        continue;
                    }
                    let label = if dim.is(1) { None } else { Some(take(fresh.as_deref_mut()?)) };
                    names.insert(*letter, label);
                }
            }
            let inputs = c.spec.inputs.iter().enumerate();
            Some(inputs.map(|(i, letters)| child(i, letters.iter().map(|l| names[l]).collect())).collect())
        }
        Op::Reduce(r) if r.f == ReduceFn::Sum => {
            let fresh = fresh?;
            let mut kept = whole.labels.iter().copied();
            let labels = (dims(0).iter().enumerate())
                .map(|(axis, dim)| match (r.axes.contains(&axis), dim.is(1)) {
                    (true, true) => None,
                    (true, false) => Some(take(fresh)),
                    (false, _) => kept.next().flatten(),
                })
                .collect();
            Some(vec![child(0, labels)])
        }
        _ => None,
    }
}

fn take(fresh: &mut Label) -> Label {
    *fresh += 1;
    *fresh - 1
}
