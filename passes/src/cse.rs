//! Common subexpressions: equal ops on equal operands are one node, whatever the order of operands that may change
//! places.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Binary, BinaryFn, Cmp, Compare, Op};
use ssmc_ir::{Graph, Model, ValueId};
use std::collections::HashMap;

/// Merges equal nodes, in regions too. Nodes that own regions are never merged.
pub struct Cse;

impl Pass for Cse {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let graph = cse(&model.graph)?;
        Ok(Changed::replace(model, graph))
    }
}

fn cse(graph: &Graph) -> Result<Graph, EditError> {
    let mut known: HashMap<(&Op, Vec<Option<ValueId>>), Vec<ValueId>> = HashMap::new();
    rewrite(graph, |r, _, node| {
        if !node.regions.is_empty() {
            let regions = node.regions.iter().map(cse).collect::<Result<_, _>>()?;
            r.copy_as(node, node.op.clone(), regions)?;
            return Ok(Action::Done);
        }
        let mut operands = r.operands(node)?;
        if is_commutative(&node.op) {
            operands.sort_unstable();
        }
        let key = (&node.op, operands);
        if let Some(results) = known.get(&key) {
            for (old, new) in node.results.iter().zip(results) {
                r.set(*old, *new);
            }
            return Ok(Action::Done);
        }
        r.copy(node)?;
        let results = node.results.iter().map(|v| r.get(*v)).collect::<Result<_, _>>()?;
        known.insert(key, results);
        Ok(Action::Done)
    })
}

/// Whether the two operands may change places without changing a bit.
pub(crate) fn is_commutative(op: &Op) -> bool {
    use BinaryFn::{Add, And, Max, Min, Mul, Or, Xor};
    match op {
        Op::Binary(Binary { f }) => matches!(f, Add | Mul | Min | Max | And | Or | Xor),
        Op::Compare(Compare { cmp }) => matches!(cmp, Cmp::Eq | Cmp::Ne),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Phase;
    use crate::testing::{ops, optimized};
    use ssmc_ir::Stage;

    const MERGED: Phase = Phase { stage: Stage::Canonical, passes: &[&Cse] };

    fn merged(first: &str, second: &str) -> usize {
        let text = format!(
            "func @f(%x: f32[2], %y: f32[2]) {{
               %0 = {first} : f32[2]
               %1 = {second} : f32[2]
               return %0 \"p\", %1 \"q\"
             }}"
        );
        ops(&optimized(&text, &[MERGED]).0.graph).len()
    }

    #[test]
    fn operands_of_commutative_ops_have_no_order() {
        for op in ["add", "mul", "min", "max"] {
            assert_eq!(merged(&format!("{op} %x, %y"), &format!("{op} %y, %x")), 1, "{op}");
            assert_eq!(merged(&format!("{op} %x, %y"), &format!("{op} %y, %y")), 2, "{op}");
        }
        for op in ["sub", "div"] {
            assert_eq!(merged(&format!("{op} %x, %y"), &format!("{op} %y, %x")), 2, "{op}");
        }
    }
}
