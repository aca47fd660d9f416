//! Which weights are stored in few bits: the matrices of large products.
//!
//! A weight is chosen if
//! - it is floating point, has two axes of at least [`MIN_EXTENT`], and
//! - every use of it, behind casts and transpositions, is a factor of a product that sums over one of its axes, always
//!   the same, or a table whose rows are looked up.
//!
//! It stays as it is if it belongs to the path of the time step, whose error the exponential amplifies:
//! - the product with it is read by a softplus alone (the projection to the time step), or
//! - its product is what such a projection multiplies, behind slices and norms (the low-rank time step, with B and C).
//!
//! Tables, and with them the last product of a language model that ties it to its embedding, take 8 bits where others
//! take 4.
//!
//! By this rule `a_log`, `dt_bias`, `d`, convolutions, norms and biases keep their precision: none of them is a matrix of
//! a product.

use ssmc_ir::ops::{Op, UnaryFn};
use ssmc_ir::{Entity, Graph, Node, NodeId, PrimaryMap, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Fewest rows and columns of a matrix that is worth less precision.
pub const MIN_EXTENT: usize = 64;

/// A weight that products multiply with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The axis that products sum over.
    pub k_axis: usize,
    /// Whether its rows are looked up, as those of an embedding.
    pub is_table: bool,
}

/// The weights that may be stored in few bits, by name.
pub fn matrices(graph: &Graph) -> BTreeMap<String, Matrix> {
    let uses = Uses { graph, users: graph.users() };
    let mut chosen: BTreeMap<String, Option<Matrix>> = BTreeMap::new();
    let kept = uses.time_step_products();
    for (_, node) in graph.nodes() {
        let Op::WeightRef(weight) = &node.op else { continue };
        let found = uses.matrix(node, &kept);
        let entry = chosen.entry(weight.name.clone()).or_insert_with(|| found.clone());
        // Nodes of one name must agree.
        if *entry != found {
            *entry = None;
        }
    }
    for name in named_in_regions(graph) {
        chosen.insert(name, None);
    }
    chosen.into_iter().filter_map(|(name, matrix)| Some((name, matrix?))).collect()
}

/// The weights that bodies of loops and branches refer to.
fn named_in_regions(graph: &Graph) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open: Vec<&Graph> = graph.nodes().flat_map(|(_, node)| &node.regions).collect();
    while let Some(region) = open.pop() {
        for (_, node) in region.nodes() {
            if let Op::WeightRef(weight) = &node.op {
                names.insert(weight.name.clone());
            }
            open.extend(&node.regions);
        }
    }
    names
}

struct Uses<'a> {
    graph: &'a Graph,
    users: PrimaryMap<ValueId, Vec<(NodeId, usize)>>,
}

impl Uses<'_> {
    /// The matrix that a weight is, if it is to be stored in few bits.
    fn matrix(&self, node: &Node, kept: &BTreeSet<NodeId>) -> Option<Matrix> {
        let value = node.results[0];
        let ty = self.graph.ty(value);
        let dims = ty.shape.as_const()?;
        let [rows, columns] = dims[..] else { return None };
        let shape = [usize::try_from(rows).ok()?, usize::try_from(columns).ok()?];
        if !ty.dtype.is_float() || shape.iter().any(|n| *n < MIN_EXTENT) {
            return None;
        }
        let mut k_axis = None;
        let (mut is_used, mut is_table) = (false, false);
        // Values with the axes of the weight, in their order.
        let mut open: Vec<(ValueId, Vec<usize>)> = vec![(value, vec![0, 1])];
        while let Some((value, axes)) = open.pop() {
            for (user, i) in self.users[value].iter().copied() {
                let node = self.graph.node(user);
                is_used = true;
                match &node.op {
                    Op::Cast(_) => open.push((node.results[0], axes.clone())),
                    Op::Transpose(op) => {
                        open.push((node.results[0], op.perm.iter().map(|p| axes[*p]).collect()));
                    }
                    // A lookup takes the rows of the weight as they lie.
                    Op::Gather(op) if i == 0 && axes[op.axis] == 0 => is_table = true,
                    Op::Contract(op) if !kept.contains(&user) && op.spec.inputs.len() == 2 => {
                        let labels = &op.spec.inputs[i];
                        let summed: Vec<usize> =
                            (0..2).filter(|a| !op.spec.output.contains(&labels[*a])).collect();
                        let [axis] = summed[..] else { return None };
                        let in_other = op.spec.inputs[1 - i].contains(&labels[axis]);
                        if !in_other || k_axis.is_some_and(|k| k != axes[axis]) {
                            return None;
                        }
                        k_axis = Some(axes[axis]);
                    }
                    _ => return None,
                }
            }
        }
        is_used.then(|| Matrix { shape, k_axis: k_axis.unwrap_or(1), is_table })
    }

    /// The products on the path of the time step.
    fn time_step_products(&self) -> BTreeSet<NodeId> {
        let projections: Vec<NodeId> = self
            .graph
            .nodes()
            .filter(|(_, node)| self.is_product(node) && self.feeds_softplus_alone(node.results[0]))
            .map(|(id, _)| id)
            .collect();
        let mut kept: BTreeSet<NodeId> = projections.iter().copied().collect();
        let mut seen = vec![false; self.graph.values().len()];
        let mut open: Vec<ValueId> = projections
            .iter()
            .flat_map(|id| self.graph.node(*id).operands.iter().flatten().copied())
            .collect();
        while let Some(value) = open.pop() {
            if std::mem::replace(&mut seen[value.idx()], true) {
                continue;
            }
            let ssmc_ir::Def::Result(by, _) = self.graph.def(value) else { continue };
            let node = self.graph.node(by);
            if self.is_product(node) {
                kept.insert(by);
            } else if node.op.is_layout() || node.op.is_elementwise() || matches!(node.op, Op::Reduce(_)) {
                open.extend(node.operands.iter().flatten());
            }
        }
        kept
    }

    fn is_product(&self, node: &Node) -> bool {
        matches!(&node.op, Op::Contract(op) if op.spec.inputs.len() == 2 && !op.spec.summed().is_empty())
    }

    /// Whether a value reaches a softplus, and nothing else, by way of a bias and conversions.
    fn feeds_softplus_alone(&self, value: ValueId) -> bool {
        let users = &self.users[value];
        !users.is_empty()
            && users.iter().all(|(user, _)| {
                let node = self.graph.node(*user);
                match &node.op {
                    Op::Unary(op) if op.f == UnaryFn::Softplus => true,
                    Op::Binary(_) | Op::Cast(_) | Op::Reshape(_) | Op::Transpose(_) => {
                        self.feeds_softplus_alone(node.results[0])
                    }
                    _ => false,
                }
            })
    }
}
