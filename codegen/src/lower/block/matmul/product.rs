//! Which contractions are products of two matrices, and of which.

use crate::kernel::Elem;
use crate::lower::access::unwidened;
use crate::lower::{LowerError, elem_of};
use ssmc_ir::ops::{Contract, Label, Op};
use ssmc_ir::{Graph, Node, NodeId, ValueId};

/// One operand: its axes, and those of them that the other operand lacks and the result has.
pub(in crate::lower::block) struct Factor {
    pub(in crate::lower::block) value: ValueId,
    pub(in crate::lower::block) labels: Vec<Label>,
    pub(in crate::lower::block) own: Vec<Label>,
}

/// A contraction as a product of matrices.
pub(in crate::lower::block) struct Product {
    pub(in crate::lower::block) x: Factor,
    pub(in crate::lower::block) w: Factor,
    pub(in crate::lower::block) batch: Vec<Label>,
    pub(in crate::lower::block) k: Vec<Label>,
    pub(in crate::lower::block) output: Vec<Label>,
}

/// The contraction of a node as a product of matrices.
///
/// # Errors
/// It is no product of two float tensors, or sums over an axis that only one of them has.
pub(in crate::lower::block) fn recognize(
    graph: &Graph,
    node: &Node,
    is_member: &dyn Fn(NodeId) -> bool,
) -> Result<Product, LowerError> {
    let refuse = |reason: &str| LowerError::Unsupported { op: node.op.name(), reason: reason.into() };
    let Op::Contract(Contract { spec }) = &node.op else { return Err(refuse("it is no product")) };
    let ([first, second], [Some(a), Some(b)]) = (spec.inputs.as_slice(), node.operands.as_slice()) else {
        return Err(refuse("only products of two tensors have a thread-block schedule"));
    };
    for value in [a, b] {
        let dtype = graph.ty(*value).dtype;
        if !matches!(elem_of(dtype)?, Elem::F32 | Elem::F16 | Elem::Bf16) {
            return Err(LowerError::ElementType { op: node.op.name(), found: dtype.name() });
        }
    }
    let in_output = |l: &&Label| spec.output.contains(l);
    let factor = |value: ValueId, labels: &[Label], other: &[Label]| Factor {
        value: unwidened(graph, is_member, value),
        labels: labels.to_vec(),
        own: spec.output.iter().copied().filter(|l| labels.contains(l) && !other.contains(l)).collect(),
    };
    let (mut x, mut w) = (factor(*a, first, second), factor(*b, second, first));
    // Neighboring threads store neighboring columns, so the last axis of the result is one of columns.
    if spec.output.last().is_some_and(|l| x.own.contains(l)) {
        std::mem::swap(&mut x, &mut w);
    }
    let batch = spec.output.iter().copied().filter(|l| first.contains(l) && second.contains(l)).collect();
    let k: Vec<Label> = w.labels.iter().copied().filter(|l| !in_output(&l) && x.labels.contains(l)).collect();
    if k.is_empty() || k.len() != spec.summed().len() {
        return Err(refuse("only sums over axes of both operands have a thread-block schedule"));
    }
    Ok(Product { x, w, batch, k, output: spec.output.clone() })
}
