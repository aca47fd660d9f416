//! Names of values and nodes.

use ssmc_frontend::onnx::proto::GraphProto;
use std::collections::{BTreeMap, BTreeSet};

/// The names of all values of a graph and of the graphs in it.
pub(super) fn all(graph: &GraphProto) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    names.extend(graph.input.iter().chain(&graph.output).map(|port| port.name().to_owned()));
    names.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| names.extend(all(graph)));
        }
    }
    names.remove("");
    names
}

/// Replaces the names of values in one graph, and those of its nodes by numbers.
pub(super) fn apply(graph: &mut GraphProto, new: &BTreeMap<String, String>, n_nodes: &mut usize) {
    let replaced = |name: &str| new.get(name).cloned().unwrap_or_else(|| name.to_owned());
    for port in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        port.name = Some(replaced(port.name()));
    }
    for tensor in &mut graph.initializer {
        tensor.name = Some(replaced(tensor.name()));
    }
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| *name = replaced(name));
        node.name = Some(format!("n{n_nodes}"));
        node.doc_string = None;
        node.metadata_props.clear();
        *n_nodes += 1;
    }
}
