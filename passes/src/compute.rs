//! Which values between kernels are in half precision.
//!
//! [`round`] takes a plan and gives a graph in which values that a kernel stores for another one are rounded: to half
//! precision by one cast, and back by another, which consumers compute as they load. What kernels compute stays as it is,
//! and so do inputs, outputs and states. Partitioned again, the graph has the rounded values in memory.
//!
//! A value is rounded if a consumer multiplies matrices with it whose other factor is in that type too, or is a
//! convolution, the input, gate, B or C of a scan, or a norm. It stays as it is if
//! - a norm and a sum read it: the residual stream, which sums over all layers, or
//! - nothing but a step size, a gate or other arithmetic reads it: the step size, whose error the exponential amplifies.
//!
//! Factors of products with weights in that type are rounded in any case, so that matrix units take them.

use crate::names::{self, UnknownName};
use ssmc_ir::edit::{EditError, Rewriter, dce};
use ssmc_ir::ops::{BinaryFn, Op};
use ssmc_ir::{DType, Def, Entity, Graph, Node, Place, Plan, ValueId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The type of values between kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ComputeType {
    /// As the graph says.
    #[default]
    F32,
    Bf16,
    F16,
    /// That of most factors of products among the weights, if it is a half; otherwise as the graph says.
    Weights,
}

impl ComputeType {
    /// The spellings that users may write.
    pub const NAMES: [&'static str; 4] = ["f32", "bf16", "f16", "weights"];

    /// Largest relative root mean square by which the logits of a language model may differ from those of values in f32:
    /// what is promised for models that were trained, checked on the demo model.
    pub const BOUND: f64 = 0.01;

    /// The half type of this for a graph, if there is one.
    pub fn half(self, graph: &Graph) -> Option<DType> {
        match self {
            ComputeType::F32 => None,
            ComputeType::Bf16 => Some(DType::BF16),
            ComputeType::F16 => Some(DType::F16),
            ComputeType::Weights => of_weights(graph),
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

impl FromStr for ComputeType {
    type Err = UnknownName;

    /// Reads one of [`ComputeType::NAMES`].
    ///
    /// # Errors
    /// Any other name.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        names::choose(
            &[ComputeType::F32, ComputeType::Bf16, ComputeType::F16, ComputeType::Weights],
            &Self::NAMES,
            name,
        )
    }
}

/// A value between kernels, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// Where the node that computes it comes from.
    pub place: String,
    /// Its op.
    pub op: &'static str,
    /// The element type in memory.
    pub dtype: DType,
    /// Why.
    pub reason: &'static str,
}

/// A graph whose values between kernels are rounded.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// The graph.
    pub graph: Graph,
    /// Its values between kernels that were f32, in their order.
    pub values: Vec<Between>,
}

/// What consumers do with a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Uses {
    /// A product, convolution or scan reads it.
    mixed: bool,
    normed: bool,
    summed: bool,
}

impl Uses {
    fn also(self, other: Uses) -> Uses {
        Uses {
            mixed: self.mixed || other.mixed,
            normed: self.normed || other.normed,
            summed: self.summed || other.summed,
        }
    }

    /// Whether the value is rounded, and why.
    fn decide(self) -> (bool, &'static str) {
        match self {
            Uses { normed: true, summed: true, .. } => (false, "a norm and a sum read it"),
            Uses { mixed: true, .. } => (true, "a product, convolution or scan reads it"),
            Uses { normed: true, .. } => (true, "a norm reads it"),
            Uses { .. } => (false, "nothing gains by rounding it"),
        }
    }
}

/// Rounds the values between the kernels of a plan to a half type.
///
/// # Errors
/// The graph cannot be rebuilt.
pub fn round(plan: &Plan, half: DType) -> Result<Rounded, EditError> {
    let values = Values::of(plan, half);
    let uses = values.uses();
    let graph = &plan.graph;
    let mut found = Vec::new();
    let mut rounded = BTreeSet::new();
    for value in values.between.iter().copied() {
        let Def::Result(by, _) = graph.def(value) else { continue };
        let node = graph.node(by);
        let (is_half, reason) = uses[value.idx()].decide();
        if is_half {
            rounded.insert(value);
        }
        found.push(Between {
            place: graph.locs().describe(node.loc),
            op: node.op.name(),
            dtype: if is_half { half } else { DType::F32 },
            reason,
        });
    }
    let graph = values.rewrite(&rounded)?;
    Ok(Rounded { graph, values: found })
}

/// The half type of most weights that are factors of products.
fn of_weights(graph: &Graph) -> Option<DType> {
    let mut counts: BTreeMap<DType, usize> = BTreeMap::new();
    for (_, node) in graph.nodes().filter(|(_, node)| is_product(node)) {
        for value in node.operands.iter().flatten() {
            if let Some(dtype) = weight_type(graph, *value) {
                *counts.entry(dtype).or_default() += 1;
            }
        }
    }
    let (most, _) = counts.into_iter().max_by_key(|(dtype, n)| (*n, *dtype == DType::BF16))?;
    is_half(most).then_some(most)
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// Whether a node is a product of two factors with a sum.
pub(crate) fn is_product(node: &Node) -> bool {
    matches!(&node.op, Op::Contract(op) if op.spec.inputs.len() == 2 && !op.spec.summed().is_empty())
}

/// Whether the op only moves or repeats elements of its first operand, whatever their type.
fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Reverse(_) | Op::Broadcast(_))
}

/// The value that views and conversions show.
fn origin(graph: &Graph, mut value: ValueId) -> ValueId {
    while let Some(node) = graph.def_node(value)
        && (is_view(&node.op) || matches!(node.op, Op::Cast(_)))
        && let Some(Some(inner)) = node.operands.first()
    {
        value = *inner;
    }
    value
}

/// The element type of the weight that a value shows.
fn weight_type(graph: &Graph, value: ValueId) -> Option<DType> {
    let value = origin(graph, value);
    matches!(graph.def_op(value), Some(Op::WeightRef(_))).then(|| graph.ty(value).dtype)
}

struct Values<'p> {
    graph: &'p Graph,
    half: DType,
    /// What a kernel stores in f32 for another one.
    between: BTreeSet<ValueId>,
}

impl<'p> Values<'p> {
    fn of(plan: &'p Plan, half: DType) -> Self {
        let graph = &plan.graph;
        let is_between = |(value, place): (&ValueId, &Place)| {
            let is_f32 = graph.ty(*value).dtype == DType::F32;
            let is_first = matches!(graph.def(*value), Def::Result(_, 0));
            (is_f32 && is_first && matches!(place, Place::Slot(_))).then_some(*value)
        };
        Self { graph, half, between: plan.places.iter().filter_map(is_between).collect() }
    }

    /// Whether the factor of a product is, or can be, in half precision.
    fn has_half(&self, factor: ValueId) -> bool {
        let origin = origin(self.graph, factor);
        self.graph.ty(origin).dtype == self.half || self.between.contains(&origin)
    }

    /// What the consumers of every value do with it.
    fn uses(&self) -> Vec<Uses> {
        let mut uses = vec![Uses::default(); self.graph.values().len()];
        for (_, node) in self.graph.nodes().rev() {
            let of_result = node.results.first().map(|v| uses[v.idx()]).unwrap_or_default();
            for (i, value) in node.operands.iter().enumerate() {
                let Some(value) = value else { continue };
                let found = self.uses_of(node, i, of_result);
                uses[value.idx()] = uses[value.idx()].also(found);
            }
        }
        uses
    }

    fn uses_of(&self, node: &Node, i: usize, of_result: Uses) -> Uses {
        let mixed = |mixed: bool| Uses { mixed, ..Uses::default() };
        match &node.op {
            Op::Contract(_) if is_product(node) => {
                mixed(node.operands[1 - i].is_some_and(|other| self.has_half(other)))
            }
            Op::CausalConv1d(_) => mixed(i == 0),
            Op::SelectiveScan(_) | Op::Ssd(_) => mixed(matches!(i, 0 | 3 | 4 | 6)),
            Op::GatedRmsNorm(_) if i == 1 => mixed(true),
            Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GatedRmsNorm(_) => {
                Uses { normed: i == 0, ..Uses::default() }
            }
            Op::Binary(op) => {
                Uses { summed: matches!(op.f, BinaryFn::Add | BinaryFn::Sub), ..Uses::default() }
            }
            op if is_view(op) && i == 0 => of_result,
            _ => Uses::default(),
        }
    }

    /// The graph with these values rounded, and factors of products with factors in half precision.
    fn rewrite(&self, rounded: &BTreeSet<ValueId>) -> Result<Graph, EditError> {
        let mut r = Rewriter::new(self.graph);
        // The new values in half precision that old values are widened from.
        let mut halves: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for (_, node) in self.graph.nodes() {
            r.builder().set_loc_id(node.loc);
            let result = node.results.first().copied();
            // A view of a rounded value is a view of halves, which is widened later.
            let shown = node.operands.first().copied().flatten().and_then(|v| halves.get(&v).copied());
            if let (Some(half), Some(result), true) = (shown, result, is_view(&node.op)) {
                let view = r.builder().op(node.op.clone(), &[half])?;
                self.widen(&mut r, &mut halves, (result, view))?;
                continue;
            }
            if is_product(node) {
                self.copy_product(&mut r, node, &halves)?;
            } else {
                r.copy(node)?;
            }
            if let Some(value) = result.filter(|value| rounded.contains(value)) {
                let exact = r.get(value)?;
                let half = r.builder().cast(exact, self.half)?;
                self.widen(&mut r, &mut halves, (value, half))?;
            }
        }
        dce(&r.finish()?)
    }

    fn widen(
        &self,
        r: &mut Rewriter<'_>,
        halves: &mut BTreeMap<ValueId, ValueId>,
        (old, half): (ValueId, ValueId),
    ) -> Result<(), EditError> {
        let wide = r.builder().cast(half, DType::F32)?;
        r.set(old, wide);
        halves.insert(old, half);
        Ok(())
    }

    /// A product whose factors are rounded if the others are in half precision.
    fn copy_product(
        &self,
        r: &mut Rewriter<'_>,
        node: &Node,
        halves: &BTreeMap<ValueId, ValueId>,
    ) -> Result<(), EditError> {
        let is_in_half =
            |value: ValueId| halves.contains_key(&value) || weight_type(self.graph, value) == Some(self.half);
        let mut operands = r.operands(node)?;
        for (i, operand) in operands.iter_mut().enumerate().take(2) {
            let (Some(value), Some(other)) = (node.operands[i], node.operands[1 - i]) else { continue };
            let is_exact = self.graph.ty(value).dtype == DType::F32
                && !is_in_half(value)
                && weight_type(self.graph, value).is_none();
            if is_exact && is_in_half(other) {
                let exact = r.get(value)?;
                let half = r.builder().cast(exact, self.half)?;
                *operand = Some(r.builder().cast(half, DType::F32)?);
            }
        }
        let results = r.builder().node(node.op.clone(), &operands, node.regions.clone())?;
        for (old, new) in node.results.iter().zip(results) {
            r.set(*old, new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
