//! Dead code: what no output depends on.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::ops::Op;
use ssmc_ir::{Graph, Model, Weights, edit};
use std::collections::BTreeSet;

/// Removes nodes that no output depends on, in regions too, and weights that no node names.
pub struct Dce;

impl Pass for Dce {
    fn name(&self) -> &'static str {
        "dce"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let changed = Changed::replace(model, edit::dce(&model.graph)?);
        let mut used = BTreeSet::new();
        collect_weights(&model.graph, &mut used);
        let mut weights = Weights::new();
        for (name, weight) in model.weights.iter().filter(|(name, _)| used.contains(*name)) {
            weights.insert(name, weight.clone());
        }
        model.weights = weights;
        Ok(changed)
    }
}

fn collect_weights<'a>(graph: &'a Graph, used: &mut BTreeSet<&'a str>) {
    for (_, node) in graph.nodes() {
        if let Op::WeightRef(weight) = &node.op {
            used.insert(&weight.name);
        }
        for region in &node.regions {
            collect_weights(region, used);
        }
    }
}
