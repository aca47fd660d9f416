//! Models built message by message.

mod check;
mod control;
mod external;
mod microsoft;
mod mutate;
mod narrow;
mod ops;
mod scatter;
mod sequences;
mod tensors;

use super::import_model;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_shape_proto::Dimension;
use super::proto::tensor_shape_proto::dimension::Value as DimValue;
use super::proto::type_proto::{Tensor as TensorTypeProto, Value as TypeValue};
use super::proto::*;
use crate::error::ImportError;
use ssmc_ir::{DType, Interpreter, Model, Stage, Tensor, verify};
use std::collections::BTreeMap;
use std::path::Path;

/// An attribute, by the Rust type of its value.
enum A {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Floats(Vec<f32>),
    Str(&'static str),
    Graph(Box<GraphProto>),
    /// The value of this attribute of the call.
    Ref(&'static str, AttributeType),
}

fn attribute(name: &str, value: A) -> AttributeProto {
    let mut a = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let ty = match value {
        A::Int(i) => {
            a.i = Some(i);
            AttributeType::Int
        }
        A::Ints(ints) => {
            a.ints = ints;
            AttributeType::Ints
        }
        A::Float(f) => {
            a.f = Some(f);
            AttributeType::Float
        }
        A::Floats(floats) => {
            a.floats = floats;
            AttributeType::Floats
        }
        A::Str(s) => {
            a.s = Some(s.into());
            AttributeType::String
        }
        A::Graph(g) => {
            a.g = Some(*g);
            AttributeType::Graph
        }
        A::Ref(outer, ty) => {
            a.ref_attr_name = Some(outer.into());
            ty
        }
    };
    a.set_type(ty);
    a
}

/// A node named after its first output, from `"Add a b -> c"`; `_` is an absent input.
fn node(text: &str, attributes: Vec<(&str, A)>) -> NodeProto {
    let (left, right) = text.split_once("->").unwrap();
    let names =
        |s: &str| s.split_whitespace().map(|n| if n == "_" { String::new() } else { n.to_owned() }).collect();
    let mut input: Vec<String> = names(left);
    let op_type = input.remove(0);
    let output: Vec<String> = names(right);
    NodeProto {
        input,
        name: output.first().map(|o| format!("make_{o}")),
        output,
        op_type: Some(op_type),
        attribute: attributes.into_iter().map(|(n, a)| attribute(n, a)).collect(),
        ..NodeProto::default()
    }
}

/// A value of f32 (`"x[2,seq]"`), of i64 (`"i:x[2]"`) or of bool (`"b:x[]"`); `?` is a nameless dim.
fn value(text: &str) -> ValueInfoProto {
    let (text, elem_type) = match text.split_once(':') {
        Some(("i", rest)) => (rest, 7),
        Some(("b", rest)) => (rest, 9),
        _ => (text, 1),
    };
    let (name, dims) = text.trim_end_matches(']').split_once('[').unwrap();
    let dim = |d: &str| Dimension {
        value: match (d, d.parse()) {
            ("?", _) => None,
            (_, Ok(n)) => Some(DimValue::DimValue(n)),
            (name, Err(_)) => Some(DimValue::DimParam(name.into())),
        },
        denotation: None,
    };
    let dim = dims.split(',').filter(|d| !d.is_empty()).map(dim).collect();
    let tensor = TensorTypeProto { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
    let ty = TypeProto { value: Some(TypeValue::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    let (name, data_type) = (Some(name.into()), Some(1));
    TensorProto { name, data_type, dims: dims.into(), float_data: data.into(), ..TensorProto::default() }
}

fn ints(name: &str, data: &[i64]) -> TensorProto {
    let (name, data_type) = (Some(name.into()), Some(7));
    let dims = vec![data.len() as i64];
    TensorProto { name, data_type, dims, int64_data: data.into(), ..TensorProto::default() }
}

fn scalar(name: &str, x: i64) -> TensorProto {
    TensorProto { dims: vec![], ..ints(name, &[x]) }
}

fn graph(
    inputs: &[&str],
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: &[&str],
) -> GraphProto {
    GraphProto {
        name: Some("g".into()),
        node,
        initializer,
        input: inputs.iter().map(|v| value(v)).collect(),
        output: outputs.iter().map(|v| value(v)).collect(),
        ..GraphProto::default()
    }
}

fn opset(version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: None, version: Some(version) }
}

fn model(version: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset(version)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn import(model: &ModelProto) -> Result<Model, ImportError> {
    import_model(model, Path::new("no-folder/model.onnx"), &[])
}

fn tensor(dims: &[usize], data: &[f64]) -> Tensor {
    Tensor::floats(DType::F32, dims, data.to_vec()).unwrap()
}

/// Imports and runs a model; the outputs in order.
fn run(model: &ModelProto, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let model = import(model).unwrap_or_else(|e| panic!("{e}"));
    let faults = verify(&model.graph, Stage::Imported);
    assert!(faults.is_empty(), "{faults:?}");
    let inputs: BTreeMap<String, Tensor> = inputs.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    let outputs =
        Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap_or_else(|e| panic!("{e}"));
    model.graph.outputs().iter().map(|o| outputs[&o.name].clone()).collect()
}

/// The faults of a model that is refused, as `code place message`.
fn refused(model: &ModelProto) -> Vec<String> {
    let error = import(model).expect_err("the model is faulty");
    error.faults().iter().map(|f| format!("{} {} {}", f.code, f.place, f.message)).collect()
}
