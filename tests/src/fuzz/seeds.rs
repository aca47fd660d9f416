//! Models to start from: small ones that use much, and what advisories about other importers are made of.

use prost::Message;
use ssmc_frontend::onnx::proto::attribute_proto::AttributeType;
use ssmc_frontend::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use ssmc_frontend::onnx::proto::*;

/// Where the seeds lie, in the repository.
pub const FOLDER: &str = "fuzz/seeds";

/// An f32 value with these dims; negative ones are symbols.
fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |n: &i64| Dimension {
        value: Some(match n {
            0.. => dimension::Value::DimValue(*n),
            _ => dimension::Value::DimParam(format!("d{}", -n)),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn ints(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(7),
        int64_data: data.to_vec(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: data.to_vec(),
        ..TensorProto::default()
    }
}

/// A node from `"Add a b -> c"`.
fn node(text: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let mut words = text.split_whitespace().map(str::to_owned);
    let op_type = words.next();
    let words: Vec<String> = words.collect();
    let arrow = words.iter().position(|word| word == "->").unwrap_or(words.len());
    let output = words.get(arrow + 1..).unwrap_or_default().to_vec();
    NodeProto { op_type, input: words[..arrow].to_vec(), output, attribute, ..NodeProto::default() }
}

fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(ty as i32), ..AttributeProto::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

fn int_list(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }
}

fn graph(
    inputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: Vec<ValueInfoProto>,
) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        input: inputs,
        initializer,
        node,
        output: outputs,
        ..GraphProto::default()
    }
}

fn file(graph: GraphProto) -> Vec<u8> {
    let opset = OperatorSetIdProto { domain: None, version: Some(18) };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

/// A recurrence `h = a * h + x` over the first axis as Scan, with a read-out behind it.
fn scan() -> Vec<u8> {
    let step = graph(
        vec![value("h", &[4]), value("v", &[4])],
        vec![],
        vec![node("Mul a h -> ah", vec![]), node("Add ah v -> n", vec![]), node("Identity n -> m", vec![])],
        vec![value("n", &[4]), value("m", &[4])],
    );
    let nodes = vec![
        node("Scan h0 x -> last all", vec![int("num_scan_inputs", 1), body("body", step)]),
        node("MatMul all w -> p", vec![]),
        node("Sigmoid p -> s", vec![]),
        node("Mul p s -> y", vec![]),
    ];
    let tensors = vec![
        floats("a", &[4], &[0.9, 0.5, -0.3, 0.1]),
        floats("h0", &[4], &[0.0; 4]),
        floats("w", &[4, 2], &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
    ];
    file(graph(vec![value("x", &[-1, 4])], tensors, nodes, vec![value("y", &[-1, 2])]))
}

/// The same recurrence, three steps written out.
fn unrolled() -> Vec<u8> {
    let mut nodes = Vec::new();
    for t in 0..3 {
        let before = if t == 0 { "h0".to_owned() } else { format!("h{t}") };
        nodes.push(node(&format!("Gather x i{t} -> x{t}"), vec![int("axis", 0)]));
        nodes.push(node(&format!("Mul a {before} -> a{t}"), vec![]));
        nodes.push(node(&format!("Add a{t} x{t} -> h{}", t + 1), vec![]));
    }
    nodes.push(node("Concat h1 h2 h3 -> y", vec![int("axis", 0)]));
    let mut tensors = vec![floats("a", &[4], &[0.9, 0.5, -0.3, 0.1]), floats("h0", &[4], &[0.0; 4])];
    tensors.extend((0..3).map(|t| ints(&format!("i{t}"), &[], &[t])));
    file(graph(vec![value("x", &[3, 4])], tensors, nodes, vec![value("y", &[12])]))
}

/// Powers of a masked matrix of decays, as exporters invert `1 + M` in a delta rule: no first-order recurrence, and
/// the number of sequences of steps in its elements grows with each product.
fn delta() -> Vec<u8> {
    const STEPS: i64 = 24;
    let mask = TensorProto {
        name: Some("mask".to_owned()),
        dims: vec![STEPS, STEPS],
        data_type: Some(9),
        raw_data: Some((0..STEPS * STEPS).map(|i| u8::from(i % STEPS < i / STEPS)).collect()),
        ..TensorProto::default()
    };
    let nodes = vec![
        node("CumSum la first -> sums", vec![]),
        node("Unsqueeze sums second -> to", vec![]),
        node("Unsqueeze sums first -> from", vec![]),
        node("Sub to from -> between", vec![]),
        node("Where mask between never -> masked", vec![]),
        node("Exp masked -> decays", vec![]),
        node("Transpose k -> kt", vec![]),
        node("MatMul k kt -> pairs", vec![]),
        node("Mul pairs decays -> m", vec![]),
        node("MatMul m m -> m2", vec![]),
        node("MatMul m2 m -> m3", vec![]),
        node("MatMul m3 m -> m4", vec![]),
        node("MatMul m4 k -> y", vec![]),
    ];
    let tensors = vec![
        mask,
        ints("first", &[1], &[0]),
        ints("second", &[1], &[1]),
        floats("never", &[], &[f32::NEG_INFINITY]),
    ];
    let inputs = vec![value("la", &[STEPS]), value("k", &[STEPS, 4])];
    file(graph(inputs, tensors, nodes, vec![value("y", &[STEPS, 4])]))
}

/// Shape arithmetic with symbols, views and a convolution.
fn shapes() -> Vec<u8> {
    let nodes = vec![
        node("Shape x -> s", vec![]),
        node("Gather s i0 -> n", vec![int("axis", 0)]),
        node("Concat n minus -> to", vec![int("axis", 0)]),
        node("Reshape x to -> flat", vec![]),
        node("Transpose x -> t", vec![int_list("perm", &[0, 2, 1])]),
        node("Conv t k -> c", vec![int("group", 4), int_list("pads", &[2, 0])]),
        node("Slice c zero three two -> cut", vec![]),
        node("ReduceMean flat -> m", vec![int("keepdims", 0)]),
        node("Add cut m -> y", vec![]),
    ];
    let tensors = vec![
        ints("i0", &[1], &[0]),
        ints("minus", &[1], &[-1]),
        ints("zero", &[1], &[0]),
        ints("three", &[1], &[3]),
        ints("two", &[1], &[2]),
        floats("k", &[4, 1, 3], &[0.1; 12]),
    ];
    file(graph(vec![value("x", &[-1, 5, 4])], tensors, nodes, vec![value("y", &[-1, 4, 3])]))
}

/// y = x + w with the elements of w in another file.
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    };
    let w = TensorProto {
        external_data: entries.iter().map(entry).collect(),
        data_location: Some(1),
        ..floats("w", &[4], &[])
    };
    file(graph(vec![value("x", &[4])], vec![w], vec![node("Add x w -> y", vec![])], vec![value("y", &[4])]))
}

/// One node on x of shape [2, 3] and one tensor.
fn single(text: &str, attributes: Vec<AttributeProto>, tensor: TensorProto) -> Vec<u8> {
    // Its type follows.
    let out = vec![ValueInfoProto { name: Some("y".to_owned()), ..ValueInfoProto::default() }];
    file(graph(vec![value("x", &[2, 3])], vec![tensor], vec![node(text, attributes)], out))
}

/// If in If in If.
fn nested(depth: usize) -> GraphProto {
    let nodes = if depth == 0 {
        vec![node("Neg x -> y", vec![])]
    } else {
        let branches = vec![body("then_branch", nested(depth - 1)), body("else_branch", nested(0))];
        vec![node("If c -> y", branches)]
    };
    graph(vec![], vec![], nodes, vec![value("y", &[2, 3])])
}

/// The seeds by name; those that begin with `valid` are imported, the others are refused.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let huge = i64::MAX;
    let mut deep = nested(40);
    deep.input.push(value("x", &[2, 3]));
    let mut segment = floats("w", &[2, 3], &[0.0; 6]);
    segment.dims = vec![-2, -3];
    vec![
        ("valid_scan", scan()),
        ("valid_unrolled", unrolled()),
        ("valid_delta", delta()),
        ("valid_shapes", shapes()),
        ("valid_external", external(&[("location", "w.bin"), ("offset", "16"), ("length", "16")])),
        ("valid_negative_index", single("Gather x i -> y", vec![int("axis", -1)], ints("i", &[], &[-1]))),
        ("path_traversal", external(&[("location", "../outside.bin")])),
        ("path_traversal_inside", external(&[("location", "sub/../../outside.bin")])),
        ("path_absolute", external(&[("location", "/etc/hostname")])),
        ("path_with_nul", external(&[("location", "w.bin\0.txt")])),
        ("symbolic_link", external(&[("location", "link.bin")])),
        ("symbolic_link_folder", external(&[("location", "link/outside.bin")])),
        ("hard_link", external(&[("location", "hard.bin")])),
        ("offset_overflow", external(&[("location", "w.bin"), ("offset", "18446744073709551615")])),
        ("offset_behind_the_end", external(&[("location", "w.bin"), ("offset", "60"), ("length", "16")])),
        ("length_of_another_tensor", external(&[("location", "w.bin"), ("length", "64")])),
        ("huge_dims", single("Add x w -> y", vec![], floats("w", &[huge, huge, huge], &[]))),
        ("huge_product", single("Add x w -> y", vec![], floats("w", &[1 << 32, 1 << 32, 4], &[1.0]))),
        ("negative_dims", single("Add x w -> y", vec![], segment)),
        ("index_out_of_range", single("Gather x i -> y", vec![int("axis", 7)], ints("i", &[], &[0]))),
        ("negative_perm", single("Transpose x -> y", vec![int_list("perm", &[0, -2])], ints("i", &[], &[0]))),
        ("valid_expand_to_huge", single("Expand x to -> y", vec![], ints("to", &[3], &[1 << 40, 2, 3]))),
        ("reshape_twice_unknown", single("Reshape x to -> y", vec![], ints("to", &[2], &[-1, -1]))),
        ("deep_nesting", file(deep)),
        ("empty", Vec::new()),
        ("no_model", b"not a model at all".to_vec()),
    ]
}
