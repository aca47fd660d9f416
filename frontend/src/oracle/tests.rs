use super::*;
use crate::onnx::proto::type_proto::{Tensor as TensorTypeProto, Value};
use crate::onnx::proto::{
    GraphProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, tensor_shape_proto,
};
use crate::onnx::write_message;
use ssmc_ir::Interpreter;
use tensor_shape_proto::{Dimension, dimension};

/// `y = tanh(x) + x`, and if asked for an operator that nobody has.
fn message(is_odd: bool) -> ModelProto {
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        name: Some(format!("{op}_node")),
        op_type: Some(op.into()),
        input: input.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    };
    let info = |name: &str| {
        let dim = Dimension { value: Some(dimension::Value::DimValue(3)), ..Dimension::default() };
        let shape = Some(TensorShapeProto { dim: vec![dim] });
        let tensor = TensorTypeProto { elem_type: Some(1), shape };
        let r#type = Some(TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() });
        ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
    };
    let last = if is_odd { "NoSuchOperator" } else { "Add" };
    let graph = GraphProto {
        name: Some("g".into()),
        input: vec![info("x")],
        output: vec![info("y")],
        node: vec![node("Tanh", &["x"], "t"), node(last, &["t", "x"], "y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}

fn inputs() -> BTreeMap<String, Tensor> {
    BTreeMap::from([("x".to_owned(), Tensor::floats(DType::F32, [3], vec![0.5, -1.0, 2.0]).unwrap())])
}

#[test]
fn both_compute_the_same_at_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    write_message(&path, &message(false)).unwrap();
    let (model, sites) = import_all(&path, &[]).unwrap();
    assert_eq!(sites.iter().map(|site| site.op.as_str()).collect::<Vec<_>>(), ["Tanh", "Add"]);
    let ours = Interpreter::new(&model.graph, &model.weights).run(&inputs()).unwrap();
    let theirs = run(&path, Some(&sites), &inputs()).unwrap();
    for site in &sites {
        for (x, y) in ours[&site.value].to_f64().iter().zip(theirs[&site.value].to_f64()) {
            assert!((x - y).abs() < 1e-6, "{site:?}: {x}, expected {y}");
        }
    }
    assert_eq!(run(&path, None, &inputs()).unwrap()["y"].shape(), [3]);
}

#[test]
fn what_tract_lacks_is_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    write_message(&path, &message(true)).unwrap();
    let error = run(&path, None, &inputs()).unwrap_err();
    assert!(
        matches!(&error, OracleError::Refused { reason } if reason.contains("NoSuchOperator")),
        "{error}"
    );
    write_message(&path, &message(false)).unwrap();
    let error = run(&path, None, &BTreeMap::new()).unwrap_err();
    assert!(matches!(&error, OracleError::Input { name, .. } if name == "x"), "{error}");
}

#[test]
fn elements_survive_both_ways() {
    for dtype in [DType::F64, DType::F32, DType::F16, DType::I64, DType::I8, DType::U8, DType::Bool] {
        let tensor = Tensor::from_bytes(dtype, [2], &vec![1; dtype.bits() / 4]).unwrap();
        assert_eq!(take(&give(&tensor).unwrap()).unwrap(), tensor, "{dtype}");
    }
    assert!(give(&Tensor::zeros(DType::BF16, [1]).unwrap()).is_err());
}
