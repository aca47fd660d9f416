use super::edit::{constant_node, int_attribute, node};
use super::*;
use ssmc_frontend::onnx::proto::{
    OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use ssmc_frontend::onnx::{import, read_message, write_message};
use ssmc_ir::{DType, Interpreter, Tensor};

fn port(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |n: &i64| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(*n)),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// y = (x[:, 1] + x[:, -1]) w + (x[:, 1] + x[:, -1]) w, with everything that can be spelled in another way.
fn model() -> ModelProto {
    let name = |text: &str| text.to_owned();
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let axis = || vec![int_attribute("axis", 1)];
    let float = |name: &str, dims: &[i64], data: Vec<f32>| TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::Float as i32),
        float_data: data,
        ..TensorProto::default()
    };
    let graph = GraphProto {
        name: Some(name("g")),
        input: vec![port("x", &[2, 3, 4])],
        output: vec![port("y", &[2, 5])],
        value_info: vec![port("sum", &[2, 4]), port("first", &[2, 4])],
        initializer: vec![
            int_tensor(name("one"), vec![], vec![1]),
            float("w", &[4, 5], (0..20).map(|i| i as f32 / 7.0 - 1.0).collect()),
        ],
        node: vec![
            constant_node(int_tensor(name("last"), vec![], vec![-1])),
            node("Gather", names(&["x", "one"]), name("first"), axis()),
            node("Gather", names(&["x", "last"]), name("second"), axis()),
            node("Add", names(&["first", "second"]), name("sum"), vec![]),
            node("Add", names(&["first", "second"]), name("again"), vec![]),
            node("MatMul", names(&["sum", "w"]), name("p"), vec![]),
            node("MatMul", names(&["again", "w"]), name("q"), vec![]),
            node("Add", names(&["p", "q"]), name("y"), vec![]),
        ],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn run(model: &ModelProto) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    write_message(&path, model).unwrap();
    assert_eq!(read_message(&path).unwrap(), *model);
    let model = import(&path).unwrap_or_else(|error| panic!("{error}"));
    let x = Tensor::floats(DType::F32, [2, 3, 4], (0..24).map(|i| f64::from(i) / 8.0).collect()).unwrap();
    let inputs = BTreeMap::from([("x".to_owned(), x)]);
    Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap()["y"].to_f64()
}

#[test]
fn every_kind_of_change_keeps_the_function() {
    let truth = run(&model());
    let mut seen = Changes::new();
    for seed in 0..60 {
        let mut other = model();
        for (kind, n) in scramble(&mut other, seed) {
            *seen.entry(kind).or_default() += n;
        }
        let found = run(&other);
        let close = truth.iter().zip(&found).all(|(x, y)| (x - y).abs() < 1e-9);
        assert!(close, "seed {seed}: {truth:?}, {found:?}");
    }
    for kind in [
        "constants to initializers",
        "gathers to slices",
        "graphs reordered",
        "initializers to constants",
        "nodes duplicated",
        "nodes shared",
        "operands swapped",
        "products to einsums",
        "transposes inserted",
        "values renamed",
    ] {
        assert!(seen.contains_key(kind), "{kind} did not happen: {seen:?}");
    }
}

#[test]
fn slices_of_length_one_become_gathers() {
    let truth = run(&model());
    let mut happened = false;
    for seed in 0..20 {
        let mut other = model();
        let mut s = Scrambler {
            rng: Rng::new(seed),
            changes: Changes::new(),
            opset: 17,
            n_fresh: 0,
            taken: BTreeSet::new(),
        };
        let graph = other.graph.as_mut().unwrap();
        s.taken = names::all(graph);
        s.gathers_to_slices(graph);
        // As if an exporter had written them.
        graph.node.iter_mut().for_each(|node| node.name = Some("named".to_owned()));
        s.slices_to_gathers(graph);
        happened |= s.changes.contains_key("slices to gathers");
        assert_eq!(run(&other), truth, "seed {seed}");
    }
    assert!(happened);
}

#[test]
fn a_seed_gives_the_same_model() {
    let of = |seed| {
        let mut model = model();
        scramble(&mut model, seed);
        model
    };
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
}
