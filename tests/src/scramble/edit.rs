//! Looking at nodes and graphs.

use ssmc_frontend::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};
use std::collections::{BTreeMap, BTreeSet};

/// The graph and those in the attributes of its nodes.
pub(super) fn each_graph(graph: &mut GraphProto, visit: &mut dyn FnMut(&mut GraphProto)) {
    visit(graph);
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| each_graph(graph, visit));
    }
}

/// Whether the operator is one of ONNX itself.
pub(super) fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
}

fn has_graph(node: &NodeProto) -> bool {
    node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty())
}

/// Whether a node gives the same values whenever it has the same operands, and has no graph of its own.
pub(super) fn is_pure(node: &NodeProto) -> bool {
    let random = ["Random", "Bernoulli", "Multinomial", "Dropout"];
    is_standard(node) && !has_graph(node) && !random.iter().any(|prefix| node.op_type().starts_with(prefix))
}

/// The names of all values that a node reads, those that its graphs take from outside included.
pub(super) fn reads(node: &NodeProto) -> BTreeSet<&str> {
    let mut all: BTreeSet<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        all.extend(graph.node.iter().flat_map(reads));
        all.extend(graph.output.iter().map(|o| o.name()));
    }
    all
}

/// Replaces names that a node reads, in its graphs too.
pub(super) fn rename_reads(node: &mut NodeProto, names: &BTreeMap<String, String>) {
    let replace = |name: &mut String| {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    };
    node.input.iter_mut().for_each(replace);
    for graph in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
        graph.node.iter_mut().for_each(|node| rename_reads(node, names));
        for output in &mut graph.output {
            if let Some(new) = names.get(output.name()) {
                output.name = Some(new.clone());
            }
        }
    }
}

/// How often each value is read; being an output of the graph counts.
pub(super) fn n_users(graph: &GraphProto) -> BTreeMap<String, usize> {
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    let read = graph.node.iter().flat_map(reads).chain(graph.output.iter().map(|o| o.name()));
    for name in read {
        *users.entry(name.to_owned()).or_default() += 1;
    }
    users
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

pub(super) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

pub(super) fn ints_attribute(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values,
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}

pub(super) fn text_attribute(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        s: Some(value.as_bytes().to_vec().into()),
        r#type: Some(AttributeType::String as i32),
        ..AttributeProto::default()
    }
}

/// A node of a standard operator without name.
pub(super) fn node(
    op: &str,
    input: Vec<String>,
    output: String,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto { op_type: Some(op.to_owned()), input, output: vec![output], attribute, ..NodeProto::default() }
}

/// The tensor of a Constant node that states one.
pub(super) fn constant(node: &NodeProto) -> Option<&TensorProto> {
    let is_constant = is_standard(node) && node.op_type() == "Constant" && node.output.len() == 1;
    attribute(node, "value").filter(|_| is_constant)?.t.as_ref()
}

/// The Constant node of an initializer.
pub(super) fn constant_node(tensor: TensorProto) -> NodeProto {
    let output = tensor.name().to_owned();
    let value = AttributeProto {
        name: Some("value".to_owned()),
        t: Some(TensorProto { name: None, ..tensor }),
        r#type: Some(AttributeType::Tensor as i32),
        ..AttributeProto::default()
    };
    node("Constant", Vec::new(), output, vec![value])
}

/// Whether the elements of a tensor lie in the model file.
pub(super) fn is_inline(tensor: &TensorProto) -> bool {
    tensor.external_data.is_empty() && tensor.data_location() as i32 == 0 && tensor.segment.is_none()
}

/// The elements of an i64 tensor.
pub(super) fn ints(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type() != DataType::Int64 as i32 || !is_inline(tensor) {
        return None;
    }
    if tensor.raw_data().is_empty() {
        return Some(tensor.int64_data.clone());
    }
    let chunks = tensor.raw_data().chunks_exact(8);
    Some(chunks.map(|bytes| i64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"))).collect())
}

/// The i64 constants of a graph: shape and elements by name.
pub(super) fn int_constants(graph: &GraphProto) -> BTreeMap<String, (Vec<i64>, Vec<i64>)> {
    let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name()).collect();
    let of = |name: &str, tensor: &TensorProto| Some((name.to_owned(), (tensor.dims.clone(), ints(tensor)?)));
    let initializers = graph.initializer.iter().filter(|t| !inputs.contains(t.name()));
    let nodes = graph.node.iter().filter_map(|node| of(&node.output[0], constant(node)?));
    initializers.filter_map(|t| of(t.name(), t)).chain(nodes).collect()
}
