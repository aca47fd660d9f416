//! Classes of recurrences, as the launch list names them.

use ssmc_ir::ops::{Op, Scan};
use ssmc_ir::{Graph, Node};

/// The class of the recurrence that a node is: `s6`, `ssd`, `diag`, with `step_` before it for a single step; empty
/// if the node is none.
pub(super) fn class(graph: &Graph, node: &Node) -> String {
    let (class, sequence) = match &node.op {
        Op::SelectiveScan(_) => ("s6", node.operands[0]),
        Op::Ssd(_) => ("ssd", node.operands[0]),
        Op::DiscretizedScan(_) => ("diag", node.operands[0]),
        Op::Scan(Scan { .. }) => ("diag", node.operands[1]),
        _ => return String::new(),
    };
    let is_step = sequence.is_some_and(|x| graph.ty(x).shape.get(1).is_some_and(|d| d.is(1)));
    if is_step { format!("step_{class}") } else { class.to_owned() }
}
