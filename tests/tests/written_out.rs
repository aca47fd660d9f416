//! Recurrences that ONNX files spell without a loop become scans: parallel scans, quotients of running sums, and steps
//! that are written out one by one.
#![expect(clippy::unwrap_used, reason = "a fault of a test's own helper ends the test")]

use prost::Message;
use ssmc_frontend::onnx::proto::attribute_proto::AttributeType;
use ssmc_frontend::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use ssmc_frontend::onnx::proto::*;
use ssmc_frontend::safetensors::ImportOptions;
use ssmc_frontend::safetensors::synthetic::{Mixer, Storage, SyntheticModel};
use ssmc_frontend::safetensors::unrolled::{self, Extent};
use ssmc_ir::ops::Op;
use ssmc_ir::{Interpreter, Model, Tensor};
use ssmc_passes::manager::Manager;
use ssmc_passes::pipeline::{CANONICAL, RAISED};
use std::collections::BTreeMap;

const STEPS: usize = 6;
const CHANNELS: usize = 3;

fn port(name: &str, dims: &[usize]) -> ValueInfoProto {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    named_port(name, &dims)
}

/// A tensor whose extents are numbers or symbols.
fn named_port(name: &str, dims: &[String]) -> ValueInfoProto {
    let dim = |n: &String| {
        let symbol = || dimension::Value::DimParam(n.clone());
        let value = n.parse().map_or_else(|_| symbol(), dimension::Value::DimValue);
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(i),
        ..AttributeProto::default()
    }
}

fn ints(name: &str, data: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![data.len() as i64],
        data_type: Some(7),
        int64_data: data.to_vec(),
        ..TensorProto::default()
    }
}

fn number(name: &str, x: f32) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(1),
        float_data: vec![x],
        ..TensorProto::default()
    }
}

/// A node from `"Add a b -> c"`.
fn node(text: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let (left, right) = text.split_once(" -> ").unwrap();
    let mut words = left.split_whitespace().map(str::to_owned);
    NodeProto {
        op_type: words.next(),
        input: words.collect(),
        output: vec![right.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

/// A model over `la` and `b`, log decays and inputs, that computes `h`.
fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Model {
    let dims = [2, STEPS, CHANNELS].map(|n| n.to_string());
    file(&["la", "b"], &["h"], &dims, node, initializer)
}

/// A model whose inputs and outputs have one shape.
fn file(
    inputs: &[&str],
    outputs: &[&str],
    dims: &[String],
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
) -> Model {
    let ports = |names: &[&str]| names.iter().map(|name| named_port(name, dims)).collect();
    let graph = GraphProto {
        name: Some("written".to_owned()),
        input: ports(inputs),
        output: ports(outputs),
        node,
        initializer,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let file = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, file.encode_to_vec()).unwrap();
    ssmc_frontend::onnx::import(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// How many scans there are in the end, and what is computed from log decays of this size.
fn raised(mut model: Model, scale: f64) -> (usize, Vec<f64>) {
    Manager::new().verify_each(true).run(&mut model, &[CANONICAL, RAISED]).unwrap();
    let scans = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Scan(_))).count();
    let n = 2 * STEPS * CHANNELS;
    let tensor = |f: &dyn Fn(usize) -> f64| {
        let data = (0..n).map(f).collect();
        Tensor::floats(ssmc_ir::DType::F32, vec![2, STEPS, CHANNELS], data).unwrap().rounded()
    };
    let inputs = BTreeMap::from([
        ("la".to_owned(), tensor(&|i| -scale * (1.0 + (i % 5) as f64 / 5.0))),
        ("b".to_owned(), tensor(&|i| 1.0 + (i % 7) as f64)),
    ]);
    let out = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
    (scans, out["h"].to_f64())
}

/// The recurrence itself.
fn expected(scale: f64) -> Vec<f64> {
    let mut h = vec![0.0; 2 * STEPS * CHANNELS];
    for batch in 0..2 {
        for t in 0..STEPS {
            for c in 0..CHANNELS {
                let i = (batch * STEPS + t) * CHANNELS + c;
                let la = f64::from((-scale * (1.0 + (i % 5) as f64 / 5.0)) as f32);
                let before = if t == 0 { 0.0 } else { h[i - CHANNELS] };
                h[i] = la.exp() * before + 1.0 + (i % 7) as f64;
            }
        }
    }
    h
}

#[track_caller]
fn is_scan(model: Model) {
    // With the second size of decays the quotients as they are written are 0 / 0.
    for scale in [0.3, 300.0] {
        let (scans, found) = raised(model.clone(), scale);
        assert_eq!(scans, 1);
        for (x, y) in found.iter().zip(expected(scale)) {
            assert!((x - y).abs() <= 1e-6 * y.abs().max(1.0), "{x} found, {y} expected");
        }
    }
}

#[test]
fn a_quotient_of_running_sums_is_a_scan() {
    is_scan(model(
        vec![
            node("CumSum la axis -> sums", vec![]),
            node("Exp sums -> decays", vec![]),
            node("Div b decays -> scaled", vec![]),
            node("CumSum scaled axis -> total", vec![]),
            node("Mul total decays -> h", vec![]),
        ],
        vec![ints("axis", &[1])],
    ));
}

#[test]
fn a_quotient_with_a_guard_by_reversed_sums_is_a_scan() {
    is_scan(model(
        vec![
            node("Slice la one end axis -> later", vec![]),
            node("Pad later pads -> padded", vec![]),
            node("CumSum padded axis -> sums", vec![int("reverse", 1)]),
            node("Exp sums -> decays", vec![]),
            node("Mul b decays -> scaled", vec![]),
            node("CumSum scaled axis -> total", vec![]),
            node("Add decays tiny -> guarded", vec![]),
            node("Div total guarded -> h", vec![]),
        ],
        vec![
            ints("axis", &[1]),
            ints("one", &[1]),
            ints("end", &[STEPS as i64]),
            ints("pads", &[0, 0, 0, 0, 1, 0]),
            number("tiny", 1e-12),
        ],
    ));
}

#[test]
fn shifted_copies_at_doubled_distances_are_a_scan() {
    let mut nodes = vec![node("Exp la -> a0", vec![]), node("Identity b -> b0", vec![])];
    let mut constants = vec![ints("axis", &[1]), ints("zero", &[0]), number("one", 1.0)];
    for (i, d) in [1, 2, 4].into_iter().enumerate() {
        let next = i + 1;
        constants.push(ints(&format!("end{i}"), &[(STEPS - d) as i64]));
        constants.push(ints(&format!("pads{i}"), &[0, d as i64, 0, 0, 0, 0]));
        let last = if next == 3 { "h".to_owned() } else { format!("b{next}") };
        for text in [
            format!("Slice a{i} zero end{i} axis -> as{i}"),
            format!("Slice b{i} zero end{i} axis -> bs{i}"),
            format!("Pad as{i} pads{i} one -> ap{i}"),
            format!("Pad bs{i} pads{i} -> bp{i}"),
            format!("Mul a{i} bp{i} -> t{i}"),
            format!("Add b{i} t{i} -> {last}"),
            format!("Mul a{i} ap{i} -> a{next}"),
        ] {
            nodes.push(node(&text, vec![]));
        }
    }
    is_scan(model(nodes, constants));
}

/// Steps of sequences of an even and an odd length: combinations at doubled distances with decays that are weights, `batch`
/// sequences, complex numbers as two tensors, powers computed from logarithm and angle.
#[test]
fn complex_scans_with_constant_decays_are_a_scan() {
    for steps in [7, 12] {
        let (model, decay) = complex_scan(steps, "Sub");
        let mut raised = model.clone();
        let report = Manager::new().verify_each(true).run(&mut raised, &[CANONICAL, RAISED]).unwrap();
        assert_eq!(raised.graph.nodes().filter(|(_, n)| matches!(n.op, Op::ComplexScan(_))).count(), 1);
        assert!(report.remarks.iter().any(|r| r.pass == "linear-scan"));
        for batch in [1, 3] {
            let n = batch * steps * CHANNELS;
            let tensor = |k: usize| {
                let data = (0..n).map(|i| ((i * (k + 3)) % 11) as f64 - 5.0).collect();
                Tensor::floats(ssmc_ir::DType::F32, vec![batch, steps, CHANNELS], data).unwrap()
            };
            let inputs = BTreeMap::from([("r0".to_owned(), tensor(0)), ("i0".to_owned(), tensor(1))]);
            let out = Interpreter::new(&raised.graph, &raised.weights).run(&inputs).unwrap();
            let (re, im) = (out["r"].to_f64(), out["i"].to_f64());
            for i in 0..n {
                let (c, t) = (i % CHANNELS, i / CHANNELS % steps);
                let before = |x: &[f64]| if t == 0 { 0.0 } else { x[i - CHANNELS] };
                let ((p, q), (x, y)) = (decay[c], (before(&re), before(&im)));
                let expected =
                    [p * x - q * y + inputs["r0"].to_f64()[i], p * y + q * x + inputs["i0"].to_f64()[i]];
                for (found, expected) in [re[i], im[i]].into_iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-4, "{found} found, {expected} expected");
                }
            }
        }
    }
    // A product of conjugates is no recurrence.
    let (mut model, _) = complex_scan(8, "Add");
    Manager::new().verify_each(true).run(&mut model, &[CANONICAL, RAISED]).unwrap();
    assert!(model.graph.nodes().all(|(_, n)| !matches!(n.op, Op::ComplexScan(_) | Op::Scan(_))));
}

/// The model and its decays; `product` joins the products of which the real part consists.
fn complex_scan(steps: usize, product: &str) -> (Model, [(f64, f64); CHANNELS]) {
    let (log, angle) = ([-0.1f32, -0.3, -0.02], [0.4f32, 1.1, 2.0]);
    let vector = |name: &str, data: &[f32]| TensorProto {
        dims: vec![data.len() as i64],
        float_data: data.to_vec(),
        ..number(name, 0.0)
    };
    let mut constants =
        vec![vector("log", &log), vector("angle", &angle), ints("axis", &[1]), ints("zero", &[0])];
    let mut nodes = Vec::new();
    let mut distances = Vec::new();
    while distances.last().is_none_or(|d| 2 * d < steps) {
        distances.push(1 << distances.len());
    }
    for (k, d) in distances.iter().enumerate() {
        let next = k + 1;
        constants.push(ints(&format!("end{k}"), &[(steps - d) as i64]));
        constants.push(ints(&format!("pads{k}"), &[0, *d as i64, 0, 0, 0, 0]));
        constants.push(TensorProto { dims: Vec::new(), ..number(&format!("d{k}"), *d as f32) });
        let name = |x: &str| if next == distances.len() { x.to_owned() } else { format!("{x}{next}") };
        for text in [
            format!("Mul log d{k} -> log{k}"),
            format!("Mul angle d{k} -> angle{k}"),
            format!("Exp log{k} -> size{k}"),
            format!("Cos angle{k} -> cos{k}"),
            format!("Sin angle{k} -> sin{k}"),
            format!("Mul size{k} cos{k} -> p{k}"),
            format!("Mul size{k} sin{k} -> q{k}"),
            format!("Slice r{k} zero end{k} axis -> rs{k}"),
            format!("Slice i{k} zero end{k} axis -> is{k}"),
            format!("Pad rs{k} pads{k} -> x{k}"),
            format!("Pad is{k} pads{k} -> y{k}"),
            format!("Mul p{k} x{k} -> px{k}"),
            format!("Mul y{k} q{k} -> qy{k}"),
            format!("Mul y{k} p{k} -> py{k}"),
            format!("Mul q{k} x{k} -> qx{k}"),
            format!("{product} px{k} qy{k} -> re{k}"),
            format!("Add qx{k} py{k} -> im{k}"),
            format!("Add r{k} re{k} -> {}", name("r")),
            format!("Add im{k} i{k} -> {}", name("i")),
        ] {
            nodes.push(node(&text, vec![]));
        }
    }
    let dims = ["batch".to_owned(), steps.to_string(), CHANNELS.to_string()];
    let model = file(&["r0", "i0"], &["r", "i"], &dims, nodes, constants);
    let decay = |c: usize| {
        let (size, angle) = (f64::from(log[c]).exp(), f64::from(angle[c]));
        (size * angle.cos(), size * angle.sin())
    };
    (model, std::array::from_fn(decay))
}

/// A loop that joins each state to those before: `grown` says from what and in which order.
fn growing_loop(join: &str) -> Model {
    let dims = [2, CHANNELS];
    let scalar = |name: &str, elem_type: i32| {
        let mut port = port(name, &[]);
        let tensor = type_proto::Tensor {
            elem_type: Some(elem_type),
            shape: Some(TensorShapeProto { dim: Vec::new() }),
        };
        port.r#type =
            Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
        port
    };
    let body = GraphProto {
        name: Some("body".to_owned()),
        input: vec![scalar("i", 7), scalar("goes", 9), port("state", &dims), port("all", &[2, 0, CHANNELS])],
        output: vec![scalar("on", 9), port("next", &dims), port("more", &[2, 1, CHANNELS])],
        node: vec![
            node("Identity goes -> on", vec![]),
            node("Gather decays i -> a", vec![int("axis", 1)]),
            node("Gather b i -> x", vec![int("axis", 1)]),
            node("Mul a state -> kept", vec![]),
            node("Add kept x -> next", vec![]),
            node("Unsqueeze next axis -> row", vec![]),
            node(&format!("Concat {join} -> more"), vec![int("axis", 1)]),
        ],
        ..GraphProto::default()
    };
    let region = AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(body),
        ..AttributeProto::default()
    };
    let trips = TensorProto { dims: Vec::new(), ..ints("trips", &[STEPS as i64]) };
    let zeros = |name: &str, dims: &[i64]| TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: vec![0.0; dims.iter().product::<i64>() as usize],
        ..TensorProto::default()
    };
    let mut run = node("Loop trips  zero none -> last", vec![region]);
    run.input = vec!["trips".into(), String::new(), "zero".into(), "none".into()];
    run.output = vec!["last".into(), "h".into()];
    model(
        vec![node("Exp la -> decays", vec![]), run],
        vec![
            trips,
            ints("axis", &[1]),
            zeros("zero", &[2, CHANNELS as i64]),
            zeros("none", &[2, 0, CHANNELS as i64]),
        ],
    )
}

#[test]
fn a_loop_that_joins_its_states_is_a_scan() {
    is_scan(growing_loop("all row"));
}

/// A loop that ends by its counter and writes each state into a buffer, as `write` does: `more` from `buffer`, the state
/// `row` and the counter `t`.
fn writing_loop(write: &[(&str, &[(&str, i64)])]) -> Model {
    let (state, all) = ([2, CHANNELS], [2, STEPS, CHANNELS]);
    let scalar = |name: &str, elem_type: i32| {
        let mut port = port(name, &[]);
        if let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut port.r#type {
            tensor.elem_type = Some(elem_type);
        }
        port
    };
    let mut nodes = vec![
        node("Gather decays t -> a", vec![int("axis", 1)]),
        node("Gather b t -> x", vec![int("axis", 1)]),
        node("Mul a state -> kept", vec![]),
        node("Add kept x -> next", vec![]),
        node("Unsqueeze next axis -> row", vec![]),
        node("Add t one -> t2", vec![]),
        node("Less t2 n -> on", vec![]),
    ];
    nodes.extend(
        write
            .iter()
            .map(|(text, attributes)| node(text, attributes.iter().map(|(name, i)| int(name, *i)).collect())),
    );
    let body = GraphProto {
        name: Some("body".to_owned()),
        input: vec![
            scalar("i", 7),
            scalar("goes", 9),
            scalar("t", 7),
            port("state", &state),
            port("buffer", &all),
        ],
        output: vec![scalar("on", 9), scalar("t2", 7), port("next", &state), port("more", &all)],
        node: nodes,
        ..GraphProto::default()
    };
    let region = AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(body),
        ..AttributeProto::default()
    };
    let mut run = node("Loop any zero start empty -> end", vec![region]);
    run.input.insert(0, String::new());
    run.output.extend(["last".to_owned(), "h".to_owned()]);
    let single = |name: &str, i: i64| TensorProto { dims: Vec::new(), ..ints(name, &[i]) };
    let zeros = |name: &str, dims: &[usize]| TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: Some(1),
        float_data: vec![0.0; dims.iter().product()],
        ..TensorProto::default()
    };
    let steps: Vec<i64> = (0..STEPS as i64).collect();
    model(
        vec![node("Exp la -> decays", vec![]), node("Less zero n -> any", vec![]), run],
        vec![
            single("zero", 0),
            single("one", 1),
            single("n", STEPS as i64),
            ints("axis", &[1]),
            ints("like_row", &[2, 1, CHANNELS as i64]),
            ints("steps", &steps),
            zeros("start", &state),
            zeros("empty", &all),
        ],
    )
}

#[test]
fn a_loop_that_writes_its_states_at_its_counter_is_a_scan() {
    // By elements, and by a mask.
    is_scan(writing_loop(&[
        ("Expand t like_row -> at", &[]),
        ("ScatterElements buffer at row -> more", &[("axis", 1)]),
    ]));
    is_scan(writing_loop(&[
        ("Equal steps t -> now", &[]),
        ("Unsqueeze now axis -> mask", &[]),
        ("Where mask row buffer -> more", &[]),
    ]));
}

/// The generator of long unrolled models agrees with the importer of folders, and each layer is one scan again.
#[test]
fn an_unrolled_synthetic_model_is_the_same_as_its_folder() {
    let shape = SyntheticModel {
        mixer: Mixer::Mamba { dt_rank: 2 },
        d_model: 8,
        d_inner: 16,
        d_state: 4,
        n_layers: 2,
        vocab_size: 20,
        ..SyntheticModel::mamba_130m(Storage::F32)
    };
    let folder = tempfile::tempdir().unwrap();
    unrolled::write(&shape, folder.path(), Extent { batch: 1, steps: 7 }).unwrap();
    let mut unrolled = ssmc_frontend::onnx::import(&folder.path().join("model.onnx")).unwrap();
    Manager::new().verify_each(true).run(&mut unrolled, &[CANONICAL, RAISED]).unwrap();
    let scans = unrolled.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Scan(_))).count();
    assert_eq!(scans, shape.n_layers);
    let adds = unrolled.graph.nodes().filter(|(_, n)| n.op.name() == "add").count();
    assert!(adds < 4 * shape.n_layers + 2, "steps are left\n{}", unrolled.graph);
    let imported = ssmc_frontend::import(folder.path(), &ImportOptions::default()).unwrap();
    let forward = ssmc_passes::programs::derive(&imported.graph).unwrap().swap_remove(0);
    let imported = Model { graph: forward.graph, ..imported };
    let ids = Tensor::ints(ssmc_ir::DType::I64, vec![1, 7], vec![3, 1, 4, 1, 5, 9, 2]).unwrap();
    let logits = |model: &Model| {
        let inputs = BTreeMap::from([("input_ids".to_owned(), ids.clone())]);
        let mut interpreter = Interpreter::new(&model.graph, &model.weights);
        for (symbol, extent) in [("batch", 1), ("seq_len", 7)] {
            interpreter = interpreter.bind(ssmc_ir::Symbol::new(symbol), extent);
        }
        interpreter.run(&inputs).unwrap()["logits"].to_f64()
    };
    let (x, y) = (logits(&unrolled), logits(&imported));
    assert_eq!(x.len(), y.len());
    let peak = y.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (p, q) in x.iter().zip(&y) {
        assert!((p - q).abs() <= 1e-5 * peak, "{p} unrolled, {q} from the folder");
    }
}
