//! The stage `partitioned`: a graph whose nodes are grouped into kernels and whose values have a place in memory.

use crate::dim::Dim;
use crate::entity::{NodeId, ValueId};
use crate::graph::Graph;
use crate::ops::Op;
use std::collections::BTreeMap;

/// Where a value that is not computed inside a kernel lies, row-major and without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The graph input of this index.
    Input(usize),
    /// The graph output of this index.
    Output(usize),
    /// A slot of the arena.
    Slot(usize),
    /// The bytes of the `weight` node that defines the value.
    Weight,
}

/// Nodes that one kernel computes.
///
/// Every member but the root and its epilogue is recomputed where an element of it is needed; a node may be a member
/// of several groups.
#[derive(Clone, Debug)]
pub struct Group {
    /// The node that decides the schedule.
    pub root: NodeId,
    /// Members in graph order, the root among them.
    pub members: Vec<NodeId>,
    /// Elementwise nodes applied to the root's first result, in order: each takes the one before it. The last one's
    /// result is stored instead of the root's.
    pub epilogue: Vec<NodeId>,
    /// Values that the kernel writes: the end of the epilogue first, then further results of the root, or what a cast
    /// among the members makes of one, then what casts among them make of the end of the epilogue.
    pub outputs: Vec<ValueId>,
    /// What the body of the root needs, if that is a loop.
    pub region: Option<Box<Region>>,
}

/// The body of a loop, whose groups run one after another in each iteration, and its part of the arena.
///
/// All that the body takes from outside lies in memory; weights and literals are among it.
#[derive(Clone, Debug)]
pub struct Region {
    /// The body, partitioned.
    pub plan: Plan,
    /// The slot of each input of the body that changes from iteration to iteration, if anything reads it; `None` for
    /// what is the same in all of them.
    pub inputs: Vec<Option<usize>>,
    /// The slot of each output of the body.
    pub outputs: Vec<usize>,
    /// The slots that take the place of those of the plan.
    pub slots: Vec<usize>,
}

/// A partitioned graph.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Plan {
    pub graph: Graph,
    /// In order of execution.
    pub groups: Vec<Group>,
    /// Every value that is read from or written to memory. An output that only reshapes a stored value lies at the same
    /// place as that value and has no group.
    pub places: BTreeMap<ValueId, Place>,
    /// Size of every arena slot in bytes; values with disjoint lifetimes share a slot.
    pub slots: Vec<Dim>,
}

impl Op {
    /// Whether each element of the result follows from elements of the operands by index alone, so that consumers can
    /// compute it where they need it.
    pub fn is_elementwise(&self) -> bool {
        match self {
            Op::Constant(op) => op.shape.n_elems().is(1),
            Op::Contract(op) => op.spec.summed().is_empty(),
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) => true,
            _ => self.is_layout(),
        }
    }

    /// Whether the op only moves, repeats, counts or converts elements, so that computing one again costs no more
    /// than loading it.
    pub fn is_layout(&self) -> bool {
        match self {
            Op::Constant(op) => op.shape.n_elems().is(1),
            Op::DimValue(_)
            | Op::Iota(_)
            | Op::Cast(_)
            | Op::Dequantize(_)
            | Op::Bitcast(_)
            | Op::Broadcast(_)
            | Op::Reshape(_)
            | Op::Transpose(_)
            | Op::Slice(_)
            | Op::Reverse(_)
            | Op::Concat(_)
            | Op::Pad(_)
            | Op::Gather(_) => true,
            Op::WeightRef(_)
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Compare(_)
            | Op::Select(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::CumSum(_)
            | Op::ArgMax(_)
            | Op::TopK(_)
            | Op::Scatter(_)
            | Op::Conv(_)
            | Op::CausalConv1d(_)
            | Op::LongConv(_)
            | Op::Dft(_)
            | Op::ComplexScan(_)
            | Op::Scan(_)
            | Op::DiscretizedScan(_)
            | Op::SelectiveScan(_)
            | Op::Ssd(_)
            | Op::LinearAttention(_)
            | Op::Wkv(_)
            | Op::RmsNorm(_)
            | Op::LayerNorm(_)
            | Op::GatedRmsNorm(_)
            | Op::Loop(_)
            | Op::If(_) => false,
        }
    }
}
