//! Common subexpressions: equal ops on equal operands are one node.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::Op;
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
        let key = (&node.op, r.operands(node)?);
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
