//! Whole-graph checks. All faults are reported, not only the first.

use crate::diag::Diagnostic;
use crate::entity::NodeId;
use crate::graph::{Def, Graph, Node, Port};
use crate::ops::Op;
use crate::stage::Stage;
use crate::weights::Weights;
use std::collections::BTreeSet;

/// An operand or output names no value of the graph.
pub const UNDEFINED_VALUE: &str = "ssmc::ir::undefined_value";
/// An operand is defined by the same or a later node.
pub const USE_BEFORE_DEF: &str = "ssmc::ir::use_before_def";
/// The op does not take its operands, attributes or regions.
pub const INVALID_OP: &str = "ssmc::ir::invalid_op";
/// The stored type of a result is not the inferred one.
pub const TYPE_MISMATCH: &str = "ssmc::ir::type_mismatch";
/// The node has more or fewer results than its op.
pub const RESULT_COUNT: &str = "ssmc::ir::result_count";
/// The table of values does not name the node or input that defines a value.
pub const WRONG_DEF: &str = "ssmc::ir::wrong_def";
/// Two inputs have one name.
pub const DUPLICATE_INPUT: &str = "ssmc::ir::duplicate_input";
/// Two outputs have one name.
pub const DUPLICATE_OUTPUT: &str = "ssmc::ir::duplicate_output";
/// A fused op before the stage `rewritten`.
pub const FUSED_OP: &str = "ssmc::ir::fused_op";
/// A region on an op that owns none.
pub const STRAY_REGION: &str = "ssmc::ir::stray_region";
/// The graph uses a weight that does not exist.
pub const WEIGHT_MISSING: &str = "ssmc::ir::weight_missing";
/// The graph and the weights disagree on a type.
pub const WEIGHT_TYPE: &str = "ssmc::ir::weight_type";

/// All faults of a graph at a stage; empty if it is valid. Regions are checked like graphs.
pub fn verify(graph: &Graph, stage: Stage) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    Verifier { graph, stage, path: "" }.run(&mut faults);
    faults
}

/// All weights that the graph uses and that are missing or have another type.
pub fn verify_weights(graph: &Graph, weights: &Weights) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    for (_, node) in graph.nodes() {
        faults.extend(node.regions.iter().flat_map(|region| verify_weights(region, weights)));
        let Op::WeightRef(weight) = &node.op else { continue };
        let place = || format!("weight {:?}", weight.name);
        let Some(found) = weights.get(&weight.name) else {
            let text = format!("{} uses a weight that does not exist", graph.locs().describe(node.loc));
            faults.push(Diagnostic::error(WEIGHT_MISSING, place(), text));
            continue;
        };
        if found.ty.dtype != weight.dtype || found.ty.shape != weight.shape {
            let text = format!("expected {}{}, found {}", weight.dtype, weight.shape, found.ty);
            faults.push(Diagnostic::error(WEIGHT_TYPE, place(), text));
        }
    }
    faults
}

struct Verifier<'a> {
    graph: &'a Graph,
    stage: Stage,
    /// Names of the enclosing nodes, each with a slash.
    path: &'a str,
}

impl Verifier<'_> {
    fn run(&self, faults: &mut Vec<Diagnostic>) {
        let graph = self.graph;
        self.ports(&graph.inputs, "input", DUPLICATE_INPUT, faults);
        self.ports(&graph.outputs, "output", DUPLICATE_OUTPUT, faults);
        for (i, port) in graph.inputs.iter().enumerate() {
            if graph.values.get(port.value).is_some_and(|v| v.def != Def::Input(i)) {
                let text = format!("{} is not recorded as input {i}", port.value);
                faults.push(Diagnostic::error(
                    WRONG_DEF,
                    self.place(&format!("input {:?}", port.name)),
                    text,
                ));
            }
        }
        for (id, node) in graph.nodes() {
            self.node(id, node, faults);
        }
    }

    fn place(&self, what: &str) -> String {
        format!("{}{what}", self.path)
    }

    fn node_place(&self, node: &Node) -> String {
        let result = node.results.first().map_or_else(String::new, |v| format!("{v} = "));
        self.place(&format!("{result}{} ({})", node.op.name(), self.graph.locs().describe(node.loc)))
    }

    fn ports(&self, ports: &[Port], what: &str, code: &'static str, faults: &mut Vec<Diagnostic>) {
        let mut seen = BTreeSet::new();
        for port in ports {
            let place = || self.place(&format!("{what} {:?}", port.name));
            if !seen.insert(&port.name) {
                faults.push(Diagnostic::error(code, place(), format!("a second {what} has this name")));
            }
            if self.graph.values.get(port.value).is_none() {
                let text = format!("{} is not a value of the graph", port.value);
                faults.push(Diagnostic::error(UNDEFINED_VALUE, place(), text));
            }
        }
    }

    fn node(&self, id: NodeId, node: &Node, faults: &mut Vec<Diagnostic>) {
        let graph = self.graph;
        let mut report =
            |code, text: String| faults.push(Diagnostic::error(code, self.node_place(node), text));
        if node.op.fused() && !self.stage.allows_fused() {
            report(
                FUSED_OP,
                format!("{} is for rewrites only, found at stage {}", node.op.name(), self.stage),
            );
        }
        let mut usable = true;
        for value in node.operands.iter().copied().flatten() {
            match graph.values.get(value).map(|v| v.def) {
                None => {
                    usable = false;
                    report(UNDEFINED_VALUE, format!("{value} is not a value of the graph"));
                }
                Some(Def::Result(by, _)) if by >= id => {
                    report(USE_BEFORE_DEF, format!("{value} is used before {by} defines it"));
                }
                Some(Def::Input(_) | Def::Result(..)) => {}
            }
        }
        for (i, value) in node.results.iter().enumerate() {
            if graph.values.get(*value).map(|v| v.def) != Some(Def::Result(id, i)) {
                usable = false;
                report(WRONG_DEF, format!("{value} is not recorded as result {i} of {id}"));
            }
        }
        if !node.regions.is_empty() && !matches!(node.op, Op::Loop(_) | Op::If(_)) {
            report(STRAY_REGION, format!("{} owns no region, found {}", node.op.name(), node.regions.len()));
        }
        let mut regions_are_valid = true;
        for (i, region) in node.regions.iter().enumerate() {
            let path = format!("{}{}/region {i}/", self.path, node.op.name());
            let before = faults.len();
            Verifier { graph: region, stage: self.stage, path: &path }.run(faults);
            // A region whose outputs name no value cannot be asked for their types.
            regions_are_valid &= !faults[before..].iter().any(|f| f.code == UNDEFINED_VALUE);
        }
        if usable && regions_are_valid {
            self.types(node, faults);
        }
    }

    fn types(&self, node: &Node, faults: &mut Vec<Diagnostic>) {
        let mut report =
            |code, text: String| faults.push(Diagnostic::error(code, self.node_place(node), text));
        let operands: Vec<_> = node.operands.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
        let types = match node.op.infer(&operands, &node.regions) {
            Ok(types) => types,
            Err(error) => return report(INVALID_OP, error.to_string()),
        };
        if types.len() != node.results.len() {
            report(RESULT_COUNT, format!("expected {} results, found {}", types.len(), node.results.len()));
        }
        for (value, inferred) in node.results.iter().zip(&types) {
            let stored = self.graph.ty(*value);
            if stored != inferred {
                report(TYPE_MISMATCH, format!("{value}: expected {inferred}, found {stored}"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
