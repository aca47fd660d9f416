//! Graphs: pure data flow in static single assignment form.

use crate::entity::{Entity, LocId, NodeId, PrimaryMap, ValueId};
use crate::loc::{LocTable, SameLocs};
use crate::ops::Op;
use crate::types::{DType, TensorType};

/// One application of an op.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Node {
    pub op: Op,
    /// `None` where an optional operand is absent.
    pub operands: Vec<Option<ValueId>>,
    pub results: Vec<ValueId>,
    /// Nested graphs; only `loop` and `if` have any.
    pub regions: Vec<Graph>,
    pub loc: LocId,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// The graph input of this index.
    Input(usize),
    /// A result of a node.
    Result(NodeId, usize),
}

/// A named input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Port {
    pub name: String,
    pub value: ValueId,
}

#[derive(Clone, Debug)]
pub(crate) struct ValueData {
    pub(crate) ty: TensorType,
    pub(crate) def: Def,
}

/// A function from named tensors to named tensors.
///
/// Nodes are stored in an order in which every operand is defined before it is used; the builder is the only door for
/// new nodes, so that a graph is well typed from birth. [`verify`](crate::verify()) checks a whole graph again.
///
/// Graphs are equal if their text forms are equal up to the numbers of values: same ports, nodes, types and locations
/// in the same order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) nodes: PrimaryMap<NodeId, Node>,
    pub(crate) values: PrimaryMap<ValueId, ValueData>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) locs: LocTable,
}

impl Graph {
    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs in order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs in order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// All nodes in an order in which operands come before their users.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter()
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// All values, ascending.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = ValueId> + ExactSizeIterator + use<> {
        self.values.keys()
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value].ty
    }

    /// Where a value comes from.
    pub fn def(&self, value: ValueId) -> Def {
        self.values[value].def
    }

    /// The node that defines a value, unless it is an input.
    pub fn def_node(&self, value: ValueId) -> Option<&Node> {
        match self.def(value) {
            Def::Input(_) => None,
            Def::Result(node, _) => Some(&self.nodes[node]),
        }
    }

    /// What a node widens from a half type to `f32`, exactly, if it does that.
    pub fn widened(&self, node: &Node) -> Option<ValueId> {
        let x = node.operands.first().copied().flatten()?;
        let is_half = matches!(self.ty(x).dtype, DType::F16 | DType::BF16);
        (is_half && matches!(&node.op, Op::Cast(op) if op.to == DType::F32)).then_some(x)
    }

    /// The op that defines a value, unless it is an input.
    pub fn def_op(&self, value: ValueId) -> Option<&Op> {
        self.def_node(value).map(|n| &n.op)
    }

    /// The source locations.
    pub fn locs(&self) -> &LocTable {
        &self.locs
    }

    /// The users of every value, indexed by value: node and operand position, in node order. Outputs are not users.
    pub fn users(&self) -> PrimaryMap<ValueId, Vec<(NodeId, usize)>> {
        let mut users = PrimaryMap::new();
        for _ in self.values() {
            users.push(Vec::new());
        }
        for (id, node) in self.nodes.iter() {
            for (i, operand) in node.operands.iter().enumerate() {
                if let Some(v) = operand {
                    users[*v].push((id, i));
                }
            }
        }
        users
    }

    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.inputs.iter().find(|p| p.name == name).map(|p| p.value)
    }

    /// The output of this name.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|p| p.name == name).map(|p| p.value)
    }
}

impl Graph {
    /// The position of every value in the order in which inputs and nodes define them.
    fn positions(&self) -> Vec<Option<usize>> {
        let mut positions = vec![None; self.values.len()];
        let defined = self.inputs.iter().map(|p| p.value);
        let defined = defined.chain(self.nodes.values().flat_map(|n| n.results.iter().copied()));
        for (i, value) in defined.enumerate() {
            if let Some(position) = positions.get_mut(value.idx()) {
                *position = Some(i);
            }
        }
        positions
    }
}

impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.positions(), other.positions());
        let same_value = |a: ValueId, b: ValueId| mine.get(a.idx()) == theirs.get(b.idx());
        let same_ports = |a: &[Port], b: &[Port]| {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name == b.name && same_value(a.value, b.value))
        };
        let same_types = |a: &mut dyn Iterator<Item = ValueId>, b: &mut dyn Iterator<Item = ValueId>| {
            a.zip(b).all(|(a, b)| self.values.get(a).map(|v| &v.ty) == other.values.get(b).map(|v| &v.ty))
        };
        let mut locs = SameLocs::new(&self.locs, &other.locs);
        let mut same_node = |a: &Node, b: &Node| {
            a.op == b.op
                && a.operands.len() == b.operands.len()
                && a.operands.iter().zip(&b.operands).all(|(a, b)| match (a, b) {
                    (Some(a), Some(b)) => same_value(*a, *b),
                    (a, b) => a == b,
                })
                && a.results.len() == b.results.len()
                && same_types(&mut a.results.iter().copied(), &mut b.results.iter().copied())
                && a.regions == b.regions
                && locs.same(a.loc, b.loc)
        };
        self.name == other.name
            && same_ports(&self.inputs, &other.inputs)
            && same_types(&mut self.inputs.iter().map(|p| p.value), &mut other.inputs.iter().map(|p| p.value))
            && same_ports(&self.outputs, &other.outputs)
            && self.nodes.len() == other.nodes.len()
            && self.nodes.values().zip(other.nodes.values()).all(|(a, b)| same_node(a, b))
    }
}

impl Eq for Graph {}
