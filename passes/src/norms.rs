//! RMS norms in front of products, folded into them.
//!
//! ```text
//! r = 1 / sqrt(mean(x^2) + eps)
//! sum over k of (r x[k] g[k]) w[n, k]  =  r * sum over k of x[k] (g[k] w[n, k])
//! ```
//!
//! [`fold`] takes a plan whose values between kernels are rounded ([`crate::compute`]) and gives a graph in which such
//! products read x itself in bf16, have the weight of the norm in their own weights, scaled in f32 and rounded once, and
//! multiply each row of their result by r. So the norm has no pass over its rows that writes them again: only r is
//! computed, one number for each. The kernel that stores x in f32 stores the copy in bf16 beside it.
//!
//! What x and the rows of the norm are rounded to has the same relative error. f16 has too small a range for rows that no
//! norm has scaled, and stays as it is.

use crate::compute::is_product;
use ssmc_ir::edit::{EditError, Rewriter, dce};
use ssmc_ir::ops::{BinaryFn, Contract, Label, Op, Reduce, ReduceFn, RmsNorm, UnaryFn};
use ssmc_ir::{
    DType, Graph, Group, Node, NodeId, Place, Plan, PrimaryMap, Tensor, TensorError, ValueId, Weight, Weights,
};
use std::collections::{BTreeMap, BTreeSet};

/// The type of the copies.
const HALF: DType = DType::BF16;

/// Why norms cannot be folded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields are named in the messages")]
pub enum FoldError {
    #[error("weight {name:?} is not among the model's weights")]
    NoWeight { name: String },
    #[error("weight {name:?}: {source}")]
    Weight { name: String, source: TensorError },
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// A norm of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Norm {
    /// Where it comes from.
    pub place: String,
    /// Its op.
    pub op: &'static str,
    /// Why it was left as it is; `None` if it was folded.
    pub kept: Option<&'static str>,
}

/// A graph with norms folded into products.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The graph.
    pub graph: Graph,
    /// Its norms before, in their order.
    pub norms: Vec<Norm>,
}

/// Weights that were scaled by those of norms, by name: programs share them.
#[derive(Clone, Debug, Default)]
pub struct Scaled(BTreeMap<String, [Weight; 3]>);

impl Scaled {
    /// The weight of this name as [`fold`] makes it of these, if it has been made of the same bytes.
    fn known(&self, name: &str, sources: [&Weight; 2]) -> Option<&Weight> {
        let [weight, scale, product] = self.0.get(name)?;
        let same = |a: &Weight, b: &Weight| a.ty == b.ty && a.bytes.as_slice() == b.bytes.as_slice();
        (same(weight, sources[0]) && same(scale, sources[1])).then_some(product)
    }
}

/// Folds the norms of a plan into the products that read them. The weights that the graph needs besides are added to
/// `weights`.
///
/// # Errors
/// A weight is missing or its bytes do not fit its type, or the graph cannot be rebuilt.
pub fn fold(plan: &Plan, weights: &mut Weights, scaled: &mut Scaled) -> Result<Folded, FoldError> {
    let graph = &plan.graph;
    let finder = Finder::new(plan);
    let mut norms = Vec::new();
    let mut found: BTreeMap<NodeId, Found> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        let kept = match &node.op {
            Op::RmsNorm(op) => finder.find(node, op).map(|folds| found.insert(id, folds)).err(),
            Op::LayerNorm(_) => Some("it subtracts a mean"),
            Op::GatedRmsNorm(_) => Some("it has a gate"),
            _ => continue,
        };
        norms.push(Norm { place: graph.locs().describe(node.loc), op: node.op.name(), kept });
    }
    let graph = rewrite(graph, &found, weights, scaled)?;
    Ok(Folded { graph, norms })
}

/// A norm that goes into all products that read it.
struct Found {
    /// What it normalizes, in halves or in f32.
    x: ValueId,
    weight: Option<ValueId>,
    eps: f64,
    products: Vec<NodeId>,
}

struct Finder<'p> {
    plan: &'p Plan,
    users: PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
    /// What kernels store that can store a copy beside it.
    may_be_copied: BTreeSet<ValueId>,
}

impl<'p> Finder<'p> {
    fn new(plan: &'p Plan) -> Self {
        let graph = &plan.graph;
        let may_copy = |group: &&Group| {
            let root = &graph.node(group.root).op;
            matches!(root, Op::Contract(_)) || root.is_elementwise()
        };
        let first = |group: &Group| group.outputs.first().copied();
        let may_be_copied = plan.groups.iter().filter(may_copy).filter_map(first).collect();
        Self { plan, users: graph.users(), may_be_copied }
    }

    fn graph(&self) -> &'p Graph {
        &self.plan.graph
    }

    /// How a norm is folded, or why it is not.
    fn find(&self, node: &Node, op: &RmsNorm) -> Result<Found, &'static str> {
        let graph = self.graph();
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let (Some(x), weight) = (operand(0), operand(1)) else { return Err("it has no operand") };
        let mut products = Vec::new();
        self.readers(node.results[0], &mut products)?;
        if products.is_empty() {
            return Err("no product reads it");
        }
        if weight.is_some_and(|g| !matches!(graph.def_op(g), Some(Op::WeightRef(_) | Op::Constant(_)))) {
            return Err("its weight is computed");
        }
        let x = graph.def_node(x).and_then(|by| graph.widened(by)).unwrap_or(x);
        match graph.ty(x).dtype {
            HALF if self.is_stored(x) => {}
            DType::F32 if self.may_be_copied.contains(&x) => {}
            DType::F16 => return Err("f16 has too small a range"),
            _ => return Err("no kernel stores its rows"),
        }
        Ok(Found { x, weight, eps: op.eps.get(), products })
    }

    /// The products that read a norm through casts to halves and back, and reshapes that keep its rows. None of them reads
    /// anything else of it.
    fn readers(&self, value: ValueId, products: &mut Vec<NodeId>) -> Result<(), &'static str> {
        let graph = self.graph();
        if graph.outputs().iter().any(|port| port.value == value) {
            return Err("it is an output");
        }
        for (id, _) in &self.users[value] {
            let node = graph.node(*id);
            match &node.op {
                Op::Cast(op) if matches!(op.to, HALF | DType::F32) => {
                    self.readers(node.results[0], products)?
                }
                Op::Cast(_) => return Err("f16 has too small a range"),
                Op::Reshape(op) if op.shape.last() == graph.ty(value).shape.last() => {
                    self.readers(node.results[0], products)?;
                }
                Op::Contract(op) if is_product(node) => {
                    self.fits(op, node, value)?;
                    products.push(*id);
                }
                _ => return Err("something else than products reads it"),
            }
        }
        Ok(())
    }

    /// Whether a product sums over the rows of this factor, which it has once, and its other factor is a weight in halves
    /// that nothing else reads.
    fn fits(&self, op: &Contract, node: &Node, value: ValueId) -> Result<(), &'static str> {
        let graph = self.graph();
        let Some((rows, weight)) = split(node, value) else { return Err("a product squares it") };
        let (x_labels, w_labels) = (&op.spec.inputs[rows], &op.spec.inputs[1 - rows]);
        let Some((k, others)) = x_labels.split_last() else { return Err("a product has no rows of it") };
        let at = |label: &Label| op.spec.output.iter().position(|l| l == label);
        let axes: Option<Vec<usize>> = others.iter().map(at).collect();
        let is_by_rows = op.spec.summed() == [*k]
            && w_labels.contains(k)
            && axes.is_some_and(|axes| axes.is_sorted_by(|a, b| a < b));
        if !is_by_rows {
            return Err("a product sums over something else than its rows");
        }
        let Some(stored) = source(graph, weight).filter(|stored| graph.ty(*stored).dtype == HALF) else {
            return Err("a product has another factor than a weight in bf16");
        };
        match [stored, weight].iter().all(|value| self.users[*value].len() == 1) {
            true => Ok(()),
            false => Err("something else reads the weight of a product"),
        }
    }

    /// Whether a value shows a tensor in memory that a kernel stores, by views of whole rows.
    fn is_stored(&self, mut value: ValueId) -> bool {
        while !self.plan.places.contains_key(&value)
            && let Some(node) = self.graph().def_node(value)
            && let (Op::Reshape(_), Some(Some(inner))) = (&node.op, node.operands.first())
        {
            value = *inner;
        }
        matches!(self.plan.places.get(&value), Some(Place::Slot(_) | Place::Output(_)))
    }
}

/// Which factor of a product is this value, and the other one.
fn split(node: &Node, value: ValueId) -> Option<(usize, ValueId)> {
    let [Some(a), Some(b)] = node.operands[..] else { return None };
    match (a == value, b == value) {
        (true, false) => Some((0, b)),
        (false, true) => Some((1, a)),
        _ => None,
    }
}

/// The weight that a value is, perhaps widened.
fn source(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let inner = graph.def_node(value).and_then(|node| graph.widened(node)).unwrap_or(value);
    matches!(graph.def_op(inner), Some(Op::WeightRef(_))).then_some(inner)
}

/// A norm that was folded: its rows in halves, and the scale of each row, by values of the new graph.
struct Rows<'f> {
    found: &'f Found,
    half: ValueId,
    scale: ValueId,
}

fn rewrite(
    graph: &Graph,
    found: &BTreeMap<NodeId, Found>,
    weights: &mut Weights,
    scaled: &mut Scaled,
) -> Result<Graph, FoldError> {
    let mut r = Rewriter::new(graph);
    let mut rows: BTreeMap<NodeId, Rows<'_>> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        r.builder().set_loc_id(node.loc);
        if let Some(found) = found.get(&id) {
            let (half, scale) = measured(&mut r, found)?;
            rows.extend(found.products.iter().map(|product| (*product, Rows { found, half, scale })));
        }
        match (rows.get(&id), &node.op) {
            (Some(rows), Op::Contract(op)) => {
                let product = scaled_product(&mut r, (node, op), rows, (weights, scaled))?;
                r.replace(node.results[0], product)?;
            }
            _ => r.copy(node)?,
        }
    }
    Ok(dce(&r.finish()?)?)
}

/// The rows of a norm in halves, and what it multiplies each of them by.
fn measured(r: &mut Rewriter<'_>, found: &Found) -> Result<(ValueId, ValueId), EditError> {
    let x = r.get(found.x)?;
    let b = r.builder();
    let half = b.cast(x, HALF)?;
    let wide = b.cast(half, DType::F32)?;
    let square = b.binary(BinaryFn::Mul, wide, wide)?;
    let last = b.shape(square).rank() - 1;
    let mean = b.op(Reduce { axes: vec![last], f: ReduceFn::Mean }, &[square])?;
    let eps = b.splat(found.eps, mean)?;
    let sum = b.binary(BinaryFn::Add, mean, eps)?;
    let scale = b.unary(UnaryFn::Rsqrt, sum)?;
    Ok((half, scale))
}

/// The product of rows that are not scaled yet, scaled.
fn scaled_product(
    r: &mut Rewriter<'_>,
    (node, op): (&Node, &Contract),
    rows: &Rows<'_>,
    (weights, scaled): (&mut Weights, &mut Scaled),
) -> Result<ValueId, FoldError> {
    let graph = r.old();
    let dropped = || EditError::Dropped { value: node.results[0] };
    // A factor that is a weight is no row of a norm.
    let is_weight = |value: &Option<ValueId>| value.is_some_and(|value| source(graph, value).is_some());
    let at = node.operands.iter().position(is_weight).ok_or_else(dropped)?;
    let (weight, factor) =
        (node.operands[at].ok_or_else(dropped)?, node.operands[1 - at].ok_or_else(dropped)?);
    let (x_labels, w_labels) = (&op.spec.inputs[1 - at], &op.spec.inputs[at]);
    let axis = w_labels.iter().position(|label| x_labels.last() == Some(label)).ok_or_else(dropped)?;
    let stored = source(graph, weight).ok_or_else(dropped)?;
    let mut operands = [r.get(weight)?; 2];
    if let Some(g) = rows.found.weight
        && let Some((name, product)) = scaled_weight(graph, (stored, axis), g, (weights, scaled))?
    {
        let new = r.builder().weight(name.clone(), &product.ty).map_err(EditError::from)?;
        operands[at] = r.builder().cast(new, graph.ty(weight).dtype).map_err(EditError::from)?;
        weights.insert(name, product);
    }
    let shape = graph.ty(factor).shape.clone();
    let b = r.builder();
    let mut build = || -> Result<ValueId, ssmc_ir::BuildError> {
        let half = b.reshape(rows.half, shape.clone())?;
        operands[1 - at] = b.cast(half, DType::F32)?;
        let product = b.op(op.clone(), &operands)?;
        let outer: ssmc_ir::Shape = shape.iter().take(shape.rank() - 1).cloned().collect();
        let scale = b.reshape(rows.scale, outer)?;
        let place = |label: &Label| op.spec.output.iter().position(|l| l == label);
        let axes: Vec<usize> = x_labels.iter().filter_map(place).collect();
        let whole = b.shape(product).clone();
        let scale = b.broadcast(scale, &axes, whole)?;
        b.binary(BinaryFn::Mul, product, scale)
    };
    Ok(build().map_err(EditError::from)?)
}

/// A weight multiplied along an axis by that of a norm, in f32 and rounded once, with its name; `None` if that is the
/// weight itself.
fn scaled_weight(
    graph: &Graph,
    (weight, axis): (ValueId, usize),
    g: ValueId,
    (weights, scaled): (&Weights, &mut Scaled),
) -> Result<Option<(String, Weight)>, FoldError> {
    let stored = |value: ValueId| -> Result<(String, Weight), FoldError> {
        match graph.def_op(value) {
            Some(Op::Constant(op)) => {
                let ty = graph.ty(value).clone();
                Ok((String::from("constant"), Weight { ty, bytes: op.data.clone().into() }))
            }
            Some(Op::WeightRef(op)) => {
                let found = weights.get(&op.name).cloned();
                let found = found.ok_or_else(|| FoldError::NoWeight { name: op.name.clone() })?;
                Ok((op.name.clone(), found))
            }
            _ => Err(EditError::Dropped { value }.into()),
        }
    };
    let ((name, weight), (g_name, g)) = (stored(weight)?, stored(g)?);
    let tensor = |name: &str, weight: &Weight| {
        let dims = weight.ty.shape.as_const().unwrap_or_default();
        let dims: Vec<usize> = dims.into_iter().map(|n| n as usize).collect();
        Tensor::from_bytes(weight.ty.dtype, dims, weight.bytes.as_slice())
            .map_err(|source| FoldError::Weight { name: name.to_owned(), source })
    };
    let factors = tensor(&g_name, &g)?.to_f64();
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    let name = format!("{name} * {g_name}");
    if let Some(product) = scaled.known(&name, [&weight, &g]) {
        return Ok(Some((name, product.clone())));
    }
    let exact = tensor(&name, &weight)?;
    let dims = exact.shape().to_vec();
    let inner: usize = dims[axis + 1..].iter().product();
    let mut data = exact.to_f64();
    for (i, x) in data.iter_mut().enumerate() {
        *x *= factors[i / inner.max(1) % factors.len()];
    }
    let product = Tensor::floats(weight.ty.dtype, dims, data)
        .map_err(|source| FoldError::Weight { name: name.clone(), source })?;
    let product = Weight { ty: weight.ty.clone(), bytes: product.rounded().to_bytes().into() };
    scaled.0.insert(name.clone(), [weight, g, product.clone()]);
    Ok(Some((name, product)))
}

#[cfg(test)]
mod tests;
