//! Products with broadcasts, transposes and sums become labelled contractions.
//!
//! Multiplications merge only through nodes that are used once, and never into or across a product with a weight
//! matrix.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use crate::view::{self, Label, Labels, View};
use ssmc_ir::edit::{EditError, Rewriter};
use ssmc_ir::ops::{Binary, BinaryFn, Contract, Op, ReduceFn, Spec};
use ssmc_ir::{Entity, Graph, Model, Node, ValueId};
use std::collections::BTreeMap;

/// Gives every product of floating-point tensors its canonical form; see the [module](super). Nodes that were merged
/// into others stay, unused. Regions are left alone.
pub struct Products;

/// Products with more factors than this are left apart.
const MAX_FACTORS: usize = 8;
/// Labels of a contraction.
const N_LETTERS: usize = 52;

impl Pass for Products {
    fn name(&self) -> &'static str {
        "products"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = &model.graph;
        let n_uses = uses(graph);
        let mut rewriter = Rewriter::new(graph);
        for (_, node) in graph.nodes() {
            let product = Collector { graph, n_uses: &n_uses }.product(node);
            rewriter.builder().set_loc_id(node.loc);
            match product {
                Some(product) if product.is_new(graph, node) => {
                    let new = product.emit(&mut rewriter, graph, node.results[0])?;
                    rewriter.replace(node.results[0], new)?;
                }
                _ => rewriter.copy(node)?,
            }
        }
        let graph = rewriter.finish()?;
        Ok(Changed::replace(model, graph))
    }
}

/// How often each value is read, by what reads it or a view of it.
fn uses(graph: &Graph) -> Vec<usize> {
    let mut n_uses = vec![0; graph.values().len()];
    for port in graph.outputs() {
        n_uses[port.value.idx()] += 1;
    }
    for (_, node) in graph.nodes().rev() {
        let by = match node.results[..] {
            [result] if view::is_view(graph, node) => n_uses[result.idx()],
            _ => 1,
        };
        for x in node.operands.iter().flatten() {
            n_uses[x.idx()] += by;
        }
    }
    n_uses
}

/// Factors with labels; those that `output` lacks are summed over.
struct Product {
    factors: Vec<View>,
    output: Labels,
}

struct Collector<'a> {
    graph: &'a Graph,
    n_uses: &'a [usize],
}

impl Collector<'_> {
    /// The node read as a product.
    fn product(&self, node: &Node) -> Option<Product> {
        let graph = self.graph;
        let [result] = node.results[..] else { return None };
        let dtype = graph.ty(result).dtype;
        if !(dtype.is_float() || dtype.is_complex()) {
            return None;
        }
        let whole = View::numbered(graph, result);
        let mut next = whole.labels.len() as Label;
        let first = next;
        let mut factors = self.open(node, &whole.labels, Some(&mut next))?;
        if let Op::Reduce(_) = node.op {
            // A sum is a product only if its operand is one.
            let inner = factors.pop()?;
            let by = graph.def_node(inner.value).filter(|_| self.is_single(inner.value))?;
            factors = self.open(by, &inner.labels, Some(&mut next))?;
            if matches!(by.op, Op::Contract(_)) && self.is_barrier(&factors, first) {
                return None;
            }
        }
        if !self.is_barrier(&factors, first) {
            self.merge(&mut factors);
        }
        // A sum along an axis that no factor has is a multiplication by its extent.
        if !(first..next).all(|l| factors.iter().any(|f| f.labels.contains(&Some(l)))) {
            return None;
        }
        Product { factors, output: whole.labels }.compact()
    }

    fn is_single(&self, value: ValueId) -> bool {
        self.n_uses[value.idx()] == 1
    }

    /// A sum of products with a weight.
    fn is_barrier(&self, factors: &[View], first_summed: Label) -> bool {
        let is_sum = factors.iter().any(|f| f.labels.iter().flatten().any(|l| *l >= first_summed));
        is_sum && factors.iter().any(|f| is_weight(self.graph, f.value))
    }

    /// The factors of one node whose result bears these labels; summed labels are taken from `fresh`.
    fn open(
        &self,
        node: &Node,
        labels: &[Option<Label>],
        mut fresh: Option<&mut Label>,
    ) -> Option<Vec<View>> {
        let graph = self.graph;
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let view = |value: ValueId, labels: Labels| View { value, labels }.base(graph);
        match &node.op {
            Op::Binary(Binary { f: BinaryFn::Mul }) => {
                let xs = [operand(0)?, operand(1)?];
                if xs.iter().any(|x| view::splat(graph, *x).is_some()) {
                    return None;
                }
                Some(xs.map(|x| view(x, labels.to_vec())).into())
            }
            Op::Contract(c) => {
                let mut names: BTreeMap<u8, Option<Label>> =
                    c.spec.output.iter().copied().zip(labels.iter().copied()).collect();
                let mut factors = Vec::new();
                for (i, letters) in c.spec.inputs.iter().enumerate() {
                    let value = operand(i)?;
                    for (letter, dim) in letters.iter().zip(graph.ty(value).shape.iter()) {
                        if !names.contains_key(letter) {
                            let fresh = fresh.as_deref_mut()?;
                            let label = if dim.is(1) { None } else { Some(take(fresh)) };
                            names.insert(*letter, label);
                        }
                    }
                    factors.push(view(value, letters.iter().map(|l| names[l]).collect()));
                }
                Some(factors)
            }
            Op::Reduce(r) if r.f == ReduceFn::Sum => {
                let (x, fresh) = (operand(0)?, fresh?);
                let mut kept = labels.iter().copied();
                let labels = (graph.ty(x).shape.iter().enumerate())
                    .map(|(axis, dim)| match (r.axes.contains(&axis), dim.is(1)) {
                        (true, true) => None,
                        (true, false) => Some(take(fresh)),
                        (false, _) => kept.next().flatten(),
                    })
                    .collect();
                Some(vec![view(x, labels)])
            }
            _ => None,
        }
    }

    /// Opens factors that are products without sums, as long as they are used once.
    fn merge(&self, factors: &mut Vec<View>) {
        let mut i = 0;
        while i < factors.len() {
            let factor = &factors[i];
            let opened = self
                .graph
                .def_node(factor.value)
                .filter(|_| self.is_single(factor.value))
                .and_then(|node| self.open(node, &factor.labels, None));
            match opened {
                Some(inner) if factors.len() + inner.len() <= MAX_FACTORS + 1 => {
                    factors.splice(i..=i, inner);
                }
                _ => i += 1,
            }
        }
    }
}

fn take(fresh: &mut Label) -> Label {
    *fresh += 1;
    *fresh - 1
}

/// Whether the value is a weight, perhaps cast or in another layout.
pub(super) fn is_weight(graph: &Graph, mut value: ValueId) -> bool {
    while let Some(node) = graph.def_node(value) {
        match &node.op {
            Op::WeightRef(_) | Op::Constant(_) => return true,
            Op::Cast(_) | Op::Dequantize(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) => {}
            _ => return false,
        }
        let Some(x) = node.operands.first().copied().flatten() else { return false };
        value = x;
    }
    false
}

impl Product {
    fn summed(&self) -> bool {
        self.factors.iter().flat_map(|f| f.labels.iter().flatten()).any(|l| !self.output.contains(&Some(*l)))
    }

    /// Both factors of a product of two have all axes of the result, in its order.
    fn is_plain(&self) -> bool {
        let full: Vec<Label> = self.output.iter().flatten().copied().collect();
        let has_all = |f: &View| {
            let mut labels = f.dense();
            labels.sort_unstable();
            labels == full
        };
        self.factors.len() == 2 && !self.summed() && self.factors.iter().all(has_all)
    }

    /// Whether the node does not have this form already.
    fn is_new(&self, graph: &Graph, node: &Node) -> bool {
        match &node.op {
            Op::Binary(_) => {
                let operands: Vec<_> = node.operands.iter().flatten().copied().collect();
                let factors: Vec<_> = self.factors.iter().map(|f| f.value).collect();
                !(self.is_plain() && (operands == factors || self.is_transposed()))
            }
            Op::Contract(c) => {
                let operands: Vec<_> = node.operands.iter().flatten().copied().collect();
                let factors = self.ordered(graph);
                let has_unit = operands.iter().any(|v| graph.ty(*v).shape.iter().any(|d| d.is(1)));
                let same = factors.iter().map(|f| f.value).eq(operands.iter().copied());
                !same
                    || has_unit
                    || (factors.len() == 1 && !self.summed())
                    || c.spec != self.spec(&factors)
                    || self.is_plain()
            }
            _ => true,
        }
    }

    /// Whether a factor has the axes of the result in another order: the transpose then stays visible.
    fn is_transposed(&self) -> bool {
        self.factors.iter().any(|f| !f.dense().is_sorted())
    }

    /// The factors in canonical order: weights last, then by labels, then by age.
    fn ordered(&self, graph: &Graph) -> Vec<View> {
        let mut factors = self.factors.clone();
        factors.sort_by_cached_key(|f| (is_weight(graph, f.value), f.dense(), f.value));
        factors
    }

    /// The letters of these factors, with the labels of the result that a factor has.
    fn spec(&self, factors: &[View]) -> Spec {
        let letter = |l: Label| if l < 26 { b'a' + l as u8 } else { b'A' + (l - 26) as u8 };
        let inputs = factors.iter().map(|f| f.dense().into_iter().map(letter).collect()).collect();
        let output = self.kept().into_iter().map(letter).collect();
        Spec { inputs, output }.renamed()
    }

    /// The labels of the result that a factor has.
    fn kept(&self) -> Vec<Label> {
        let has = |l: &Label| self.factors.iter().any(|f| f.labels.contains(&Some(*l)));
        self.output.iter().flatten().copied().filter(has).collect()
    }

    fn emit(&self, r: &mut Rewriter<'_>, graph: &Graph, result: ValueId) -> Result<ValueId, EditError> {
        let shape = graph.ty(result).shape.clone();
        let factors = self.ordered(graph);
        let mut operands = Vec::new();
        if self.is_plain() {
            for factor in &self.factors {
                let x = r.get(factor.value)?;
                operands.push(view::spread(r.builder(), x, &factor.labels, &self.output, &shape)?);
            }
            return Ok(r.builder().op(Binary { f: BinaryFn::Mul }, &operands)?);
        }
        for factor in &factors {
            let x = r.get(factor.value)?;
            operands.push(view::place(r.builder(), x, &factor.labels, &factor.dense())?);
        }
        if let ([x], false) = (&operands[..], self.summed()) {
            let labels: Labels = factors[0].dense().into_iter().map(Some).collect();
            return Ok(view::spread(r.builder(), *x, &labels, &self.output, &shape)?);
        }
        let y = r.builder().op(Contract { spec: self.spec(&factors) }, &operands)?;
        let kept: Labels = self.kept().into_iter().map(Some).collect();
        Ok(view::spread(r.builder(), y, &kept, &self.output, &shape)?)
    }

    /// Numbers the labels from 0, those of the output first; `None` if there are more labels than letters.
    fn compact(mut self) -> Option<Self> {
        let mut names: BTreeMap<Label, Label> = BTreeMap::new();
        let all =
            self.output.iter().flatten().chain(self.factors.iter().flat_map(|f| f.labels.iter().flatten()));
        for label in all {
            let n = names.len() as Label;
            names.entry(*label).or_insert(n);
        }
        let rename = |labels: &mut Labels| {
            for label in labels.iter_mut().flatten() {
                *label = names[label];
            }
        };
        rename(&mut self.output);
        self.factors.iter_mut().for_each(|f| rename(&mut f.labels));
        (names.len() <= N_LETTERS).then_some(self)
    }
}
