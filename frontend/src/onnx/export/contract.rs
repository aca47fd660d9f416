//! Labelled contractions as matrix products, elementwise products and sums.

use super::body::Name;
use super::writer::Writer;
use ssmc_ir::ops::{Contract, Label};
use ssmc_ir::{Dim, Node, Shape, ValueId};
use std::collections::BTreeMap;

/// An operand on the way: a name, a label per axis, and the weight that it is.
#[derive(Clone)]
struct Term {
    name: Name,
    labels: Vec<Label>,
    /// Set as long as the term is an operand of the node.
    value: Option<ValueId>,
}

/// The size that a symbol counts as when orders of products are compared.
const SYMBOL_SIZE: f64 = 64.0;

struct Extents(BTreeMap<Label, Dim>);

impl Extents {
    fn size(&self, labels: &[Label]) -> f64 {
        labels.iter().map(|l| self.0[l].as_const().map_or(SYMBOL_SIZE, |n| n.max(1) as f64)).product()
    }

    fn shape(&self, labels: &[Label]) -> Shape {
        labels.iter().map(|l| &self.0[l]).collect()
    }

    fn product(&self, labels: &[Label]) -> Dim {
        self.shape(labels).n_elems()
    }
}

impl Writer<'_> {
    pub(super) fn contract(&mut self, node: &Node, op: &Contract) -> Result<Name, String> {
        let values: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let types: Vec<_> = values.iter().map(|v| Some(self.ty(*v))).collect();
        let extents = Extents(op.extents(&types).map_err(|error| error.to_string())?);
        let output = &op.spec.output;
        let mut terms = Vec::new();
        for (i, (value, labels)) in values.iter().zip(&op.spec.inputs).enumerate() {
            let others = op.spec.inputs.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, l)| l);
            let others: Vec<Label> = others.chain(output).copied().collect();
            terms.push(self.term(*value, labels, &others)?);
        }
        while terms.len() > 1 {
            let (i, j) = cheapest(&terms, output, &extents);
            let (y, x) = (terms.remove(j), terms.remove(i));
            let kept: Vec<Label> = terms.iter().flat_map(|t| &t.labels).chain(output).copied().collect();
            let order = terms.is_empty().then_some(output.as_slice());
            let product = self.pair(x, y, &kept, order, &extents)?;
            terms.insert(0, product);
        }
        let last = terms.remove(0);
        self.ordered(last, output)
    }

    /// An operand, summed over labels that nothing else has.
    fn term(&mut self, value: ValueId, labels: &[Label], others: &[Label]) -> Result<Term, String> {
        let alone: Vec<i64> =
            (0..labels.len()).filter(|i| !others.contains(&labels[*i])).map(|i| i as i64).collect();
        if alone.is_empty() {
            let (name, full) = self.broadcastable(value)?;
            if full.contains(&false) {
                let name = self.full(value)?;
                return Ok(Term { name, labels: labels.to_vec(), value: None });
            }
            return Ok(Term { name, labels: labels.to_vec(), value: Some(value) });
        }
        let x = self.full(value)?;
        let name = self.body.reduce("ReduceSum", &x, &alone, false);
        let labels = labels.iter().filter(|l| others.contains(l)).copied().collect();
        Ok(Term { name, labels, value: None })
    }

    /// The product of two terms; in this order of axes if one is given.
    fn pair(
        &mut self,
        x: Term,
        y: Term,
        kept: &[Label],
        order: Option<&[Label]>,
        extents: &Extents,
    ) -> Result<Term, String> {
        let summed: Vec<Label> =
            x.labels.iter().filter(|l| y.labels.contains(l) && !kept.contains(l)).copied().collect();
        if summed.is_empty() {
            let default = || {
                let (long, short) = if x.labels.len() >= y.labels.len() { (&x, &y) } else { (&y, &x) };
                let more = short.labels.iter().filter(|l| !long.labels.contains(l));
                long.labels.iter().chain(more).copied().collect::<Vec<_>>()
            };
            let labels = order.map_or_else(default, <[Label]>::to_vec);
            let (a, b) = (self.spread_to(&x, &labels)?, self.spread_to(&y, &labels)?);
            return Ok(Term { name: self.body.op("Mul", &[&a, &b]), labels, value: None });
        }
        self.matmul(x, y, &summed, order, extents)
    }

    /// The term with its axes in the order of `labels` and extents of 1 for those it lacks, as far as needed.
    fn spread_to(&mut self, x: &Term, labels: &[Label]) -> Result<Name, String> {
        let present: Vec<Label> = labels.iter().filter(|l| x.labels.contains(l)).copied().collect();
        let name = self.ordered(x.clone(), &present)?;
        let first = labels.iter().position(|l| x.labels.contains(l)).unwrap_or(labels.len());
        let missing: Vec<i64> = (first..labels.len())
            .filter(|i| !x.labels.contains(&labels[*i]))
            .map(|i| (i - first) as i64)
            .collect();
        Ok(self.body.unsqueeze(&name, &missing))
    }

    /// The term with its axes in this order. Weights are stored that way.
    fn ordered(&mut self, x: Term, labels: &[Label]) -> Result<Name, String> {
        let perm: Vec<usize> = labels
            .iter()
            .map(|l| x.labels.iter().position(|k| k == l).ok_or("a label is in no operand"))
            .collect::<Result<_, _>>()?;
        if perm.is_sorted() {
            return Ok(x.name);
        }
        if let Some(value) = x.value
            && let Some(name) = self.permuted(value, &perm)?
        {
            return Ok(name);
        }
        Ok(self.body.transpose(&x.name, &perm))
    }

    /// Batched matrix product: labels of both that are kept, then those of one, then the summed ones.
    fn matmul(
        &mut self,
        x: Term,
        y: Term,
        summed: &[Label],
        order: Option<&[Label]>,
        extents: &Extents,
    ) -> Result<Term, String> {
        let only = |a: &Term, b: &Term| -> Vec<Label> {
            a.labels.iter().filter(|l| !b.labels.contains(l)).copied().collect()
        };
        // In the order of the larger operand: transposes are for the smaller one.
        let (large, small) =
            if extents.size(&x.labels) >= extents.size(&y.labels) { (&x, &y) } else { (&y, &x) };
        let shared = |l: &&Label| small.labels.contains(l) && !summed.contains(l);
        let batch: Vec<Label> = large.labels.iter().filter(shared).copied().collect();
        // The operand whose own labels come first in the result is the left one.
        let left_first = |own: &[Label]| order.and_then(|o| o.iter().position(|l| own.contains(l)));
        let is_weight = |t: &Term| t.value.is_some_and(|v| self.is_weight(v));
        let swap = match (left_first(&only(&x, &y)), left_first(&only(&y, &x))) {
            _ if is_weight(&x) && !is_weight(&y) && batch.is_empty() => true,
            _ if is_weight(&y) && batch.is_empty() => false,
            (Some(a), Some(b)) => b < a,
            _ => false,
        };
        let (x, y) = if swap { (y, x) } else { (x, y) };
        let (rows, columns) = (only(&x, &y), only(&y, &x));
        if rows.is_empty() && columns.is_empty() {
            // A product of one row and one column each: there is nothing to multiply as matrices.
            let labels = [order.unwrap_or(&batch), summed].concat();
            let (a, b) = (self.ordered(x, &labels)?, self.ordered(y, &labels)?);
            let products = self.body.op("Mul", &[&a, &b]);
            let axes: Vec<i64> = (labels.len() - summed.len()..labels.len()).map(|a| a as i64).collect();
            let name = self.body.reduce("ReduceSum", &products, &axes, false);
            let labels = labels[..labels.len() - summed.len()].to_vec();
            return Ok(Term { name, labels, value: None });
        }
        let left = self.ordered(x, &[batch.as_slice(), &rows, summed].concat())?;
        let right = self.ordered(y, &[batch.as_slice(), summed, &columns].concat())?;
        // Without batch labels, the rows may be any number of axes.
        let free_rows = batch.is_empty() && !rows.is_empty();
        let fold = |this: &mut Self, name: Name, groups: [&[Label]; 2], keep: bool| -> Result<Name, String> {
            let fits = |labels: &[Label]| labels.len() == 1;
            if (fits(groups[0]) || keep) && fits(groups[1]) {
                return Ok(name);
            }
            let mut dims = extents.shape(&batch).into_dims();
            if keep {
                dims.extend(extents.shape(groups[0]).into_dims());
            } else {
                dims.push(extents.product(groups[0]));
            }
            dims.push(extents.product(groups[1]));
            this.reshaped(&name, &Shape::from(dims))
        };
        let left = fold(self, left, [&rows, summed], free_rows)?;
        let right = fold(self, right, [summed, &columns], false)?;
        let mut product = self.body.op("MatMul", &[&left, &right]);
        let mut dims = extents.shape(&batch).into_dims();
        if free_rows {
            dims.extend(extents.shape(&rows).into_dims());
        } else {
            dims.push(extents.product(&rows));
        }
        dims.push(extents.product(&columns));
        self.body.shapes.extend(Shape::from(dims).as_const().map(|dims| (product.clone(), dims)));
        let labels = [batch.as_slice(), &rows, &columns].concat();
        let unfold = !((rows.len() == 1 || free_rows) && columns.len() == 1);
        if unfold {
            product = self.reshaped(&product, &extents.shape(&labels))?;
        }
        let term = Term { name: product, labels, value: None };
        let Some(order) = order else { return Ok(term) };
        let name = self.ordered(term, order)?;
        Ok(Term { name, labels: order.to_vec(), value: None })
    }

    fn is_weight(&self, value: ValueId) -> bool {
        matches!(self.graph.def_op(value), Some(ssmc_ir::ops::Op::WeightRef(_)))
    }
}

/// The pair whose product is the smallest.
fn cheapest(terms: &[Term], output: &[Label], extents: &Extents) -> (usize, usize) {
    let mut best = (f64::INFINITY, (0, 1));
    for i in 0..terms.len() {
        for j in i + 1..terms.len() {
            let kept = |l: &Label| {
                let others = terms.iter().enumerate().filter(|(k, _)| *k != i && *k != j);
                output.contains(l) || others.flat_map(|(_, t)| &t.labels).any(|k| k == l)
            };
            let mut labels: Vec<Label> =
                terms[i].labels.iter().chain(&terms[j].labels).filter(|l| kept(l)).copied().collect();
            labels.sort_unstable();
            labels.dedup();
            let size = extents.size(&labels);
            if size < best.0 {
                best = (size, (i, j));
            }
        }
    }
    best.1
}
