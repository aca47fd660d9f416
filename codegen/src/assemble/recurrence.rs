//! Classes of recurrences, as the launch list names them.

use ssmc_ir::ops::{Op, Scan};
use ssmc_ir::{Graph, Node, ValueId};

/// The class of the recurrence that a node is: `s6`, `ssd`, `matrix`, `wkv`, `diag`, `long_conv`, with `step_` before
/// it for a single step; empty if the node is none.
pub(super) fn class(graph: &Graph, node: &Node) -> String {
    let (class, sequence) = match &node.op {
        Op::SelectiveScan(_) => ("s6", node.operands[0]),
        Op::Ssd(_) => ("ssd", node.operands[0]),
        Op::DiscretizedScan(_) => ("diag", node.operands[0]),
        // A decay that all keys of a head share makes it state space duality.
        Op::LinearAttention(_) => {
            let is_shared = |decay: ValueId| graph.ty(decay).shape[3].is(1);
            let is_diagonal = node.operands[4].is_none() && node.operands[5].is_none();
            let is_ssd = is_diagonal && node.operands[3].is_none_or(is_shared);
            (if is_ssd { "ssd" } else { "matrix" }, node.operands[0])
        }
        Op::Wkv(_) => ("wkv", node.operands[1]),
        Op::Scan(Scan { .. }) => ("diag", node.operands[1]),
        Op::ComplexScan(_) => ("diag", node.operands[2]),
        Op::LongConv(_) => ("long_conv", node.operands[0]),
        _ => return String::new(),
    };
    let is_step = sequence.is_some_and(|x| graph.ty(x).shape.get(1).is_some_and(|d| d.is(1)));
    if is_step { format!("step_{class}") } else { class.to_owned() }
}
