use super::*;

/// A graph with input `x: f32[2]`, these nodes, and output `y: f32[2]`.
fn nodes(nodes: Vec<NodeProto>) -> ModelProto {
    model(18, graph(&["x[2]"], vec![], nodes, &["y[2]"]))
}

fn check(model: &ModelProto, expected: &[&str]) {
    let found = refused(model);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            expected.split('|').all(|part| found.contains(part)),
            "expected {expected:?}, found {found:?}"
        );
    }
}

#[test]
fn every_unsupported_operator_is_named_with_node_and_version() {
    let mut other = node("Fft a -> b", vec![]);
    other.domain = Some("vendor".into());
    let mut m = nodes(vec![node("NoSuchOp x -> a", vec![]), other, node("Unique b -> y", vec![])]);
    m.opset_import.push(OperatorSetIdProto { domain: Some("vendor".into()), version: Some(3) });
    assert!(matches!(import(&m), Err(ImportError::Unsupported { .. })));
    check(
        &m,
        &[
            "unsupported_op|make_a|ai.onnx::NoSuchOp version 18",
            "unsupported_op|make_b|vendor::Fft version 3",
            "unsupported_op|make_y|ai.onnx::Unique version 18|depends on data",
        ],
    );
}

#[test]
fn an_operator_that_only_newer_versions_are_supported_of() {
    let m = model(5, graph(&["x[2]"], vec![], vec![node("Add x x -> y", vec![])], &["y[2]"]));
    check(&m, &["unsupported_op|make_y|ai.onnx::Add version 5|versions from 7 on are"]);
}

/// Every number of an element type, and one that is none.
#[test]
fn element_types_are_taken_or_named() {
    let mut refused = Vec::new();
    for number in 1..=28 {
        let mut g = graph(&["x[2]"], vec![], vec![node("Identity x -> y", vec![])], &["y[2]"]);
        for port in g.input.iter_mut().chain(&mut g.output) {
            if let Some(TypeProto { value: Some(TypeValue::TensorType(tensor)), .. }) = &mut port.r#type {
                tensor.elem_type = Some(number);
            }
        }
        if let Err(error) = import(&model(28, g)) {
            let fault = &error.faults()[0];
            assert!(fault.place.contains("\"x\""), "{fault:?}");
            refused.push((number, fault.message.clone()));
        }
    }
    let refused: Vec<String> = refused.into_iter().map(|(n, message)| format!("{n}: {message}")).collect();
    insta::assert_snapshot!(refused.join("\n"));
}

#[test]
fn a_domain_that_is_not_imported() {
    let mut m = nodes(vec![node("Relu x -> y", vec![])]);
    m.opset_import.clear();
    check(&m, &["ssmc::import::opset|make_y"]);
}

#[test]
fn a_newer_operator_set() {
    let m = model(1000, graph(&["x[2]"], vec![], vec![node("Relu x -> y", vec![])], &["y[2]"]));
    check(&m, &["unsupported_opset|1000"]);
}

#[test]
fn unordered_nodes() {
    check(
        &nodes(vec![node("Relu a -> y", vec![]), node("Relu x -> a", vec![])]),
        &["order|make_y|\"a\"|make_a"],
    );
}

#[test]
fn a_cycle() {
    let m =
        nodes(vec![node("Add x b -> a", vec![]), node("Relu a -> b", vec![]), node("Relu b -> y", vec![])]);
    check(&m, &["cycle|make_a|\"b\""]);
}

#[test]
fn missing_values() {
    check(&nodes(vec![node("Add x q -> y", vec![])]), &["missing_value|make_y|\"q\""]);
    check(&nodes(vec![node("Relu x -> a", vec![])]), &["missing_value|output \"y\""]);
}

#[test]
fn duplicate_names() {
    check(
        &nodes(vec![node("Relu x -> y", vec![]), node("Relu x -> y", vec![])]),
        &["duplicate|make_y|\"y\""],
    );
    check(
        &nodes(vec![node("Relu x -> x", vec![]), node("Relu x -> y", vec![])]),
        &["duplicate|make_x|\"x\""],
    );
    let two = vec![ints("w", &[1]), ints("w", &[2])];
    let m = model(18, graph(&["x[2]"], two, vec![node("Relu x -> y", vec![])], &["y[2]"]));
    check(&m, &["duplicate|\"w\""]);
}

#[test]
fn faults_of_several_nodes_are_reported_at_once_and_not_repeated() {
    let perm = |p: Vec<i64>| vec![("perm", A::Ints(p))];
    let m = nodes(vec![
        node("Transpose x -> a", perm(vec![-1])),
        node("Relu a -> b", vec![]),
        node("Softmax x -> c", vec![("axis", A::Int(5))]),
        node("Relu x -> d", vec![("alpha", A::Float(1.0))]),
        node("Relu x -> e f", vec![]),
        node("Add b c -> y", vec![]),
    ]);
    check(
        &m,
        &[
            "attribute|make_a|\"perm\"|[-1]",
            "attribute|make_c|\"axis\"|5",
            "attribute|make_d|unknown attribute \"alpha\"",
            "output|make_e",
        ],
    );
}

#[test]
fn attributes_of_a_wrong_type() {
    let m = nodes(vec![node("Transpose x -> y", vec![("perm", A::Float(0.0))])]);
    check(&m, &["attribute|make_y|\"perm\": expected a list of integers, found a float"]);
}

#[test]
fn shapes_that_do_not_fit() {
    let m = model(18, graph(&["x[2]", "z[3]"], vec![], vec![node("Add x z -> y", vec![])], &["y[2]"]));
    check(&m, &["broadcast|make_y|f32[2]|f32[3]"]);
    let m = model(18, graph(&["x[n]", "z[m]"], vec![], vec![node("Add x z -> y", vec![])], &["y[n]"]));
    check(&m, &["broadcast|make_y|f32[n]|f32[m]"]);
    let m = model(18, graph(&["x[2]"], vec![], vec![node("Relu x -> y", vec![])], &["y[3]"]));
    check(&m, &["mismatch|output \"y\"|extent 3|f32[2]"]);
}

#[test]
fn types_of_inputs() {
    let mut info = value("x[2]");
    info.r#type = None;
    let mut m = nodes(vec![node("Relu x -> y", vec![])]);
    m.graph.as_mut().unwrap().input = vec![info];
    check(&m, &["mismatch|input \"x\"|an element type"]);
    for (elem, expected) in [(99, "mismatch|input \"x\"|number 99"), (8, "unsupported|input \"x\"|STRING")] {
        let mut info = value("x[2]");
        let ty = info.r#type.as_mut().unwrap();
        ty.value = Some(TypeValue::TensorType(TensorTypeProto {
            elem_type: Some(elem),
            shape: Some(TensorShapeProto::default()),
        }));
        m.graph.as_mut().unwrap().input = vec![info];
        check(&m, &[expected]);
    }
    let m = model(18, graph(&["x[-2]"], vec![], vec![node("Relu x -> y", vec![])], &["y[2]"]));
    check(&m, &["mismatch|input \"x\"|-2"]);
}

#[test]
fn named_and_nameless_dims_become_symbols() {
    let m = model(18, graph(&["x[batch,?]"], vec![], vec![node("Relu x -> y", vec![])], &["y[batch,?]"]));
    let model = import(&m).unwrap();
    assert_eq!(model.graph.ty(model.graph.inputs()[0].value).to_string(), "f32[batch, x.1]");
}

/// `f(x) = x * alpha` as `LeakyRelu` for negative x, with `alpha` of the call or 0.5.
fn function() -> FunctionProto {
    FunctionProto {
        name: Some("Scale".into()),
        domain: Some("local".into()),
        input: vec!["p".into()],
        output: vec!["q".into()],
        attribute_proto: vec![attribute("slope", A::Float(0.5))],
        node: vec![node("LeakyRelu p -> q", vec![("alpha", A::Ref("slope", AttributeType::Float))])],
        opset_import: vec![opset(16)],
        ..FunctionProto::default()
    }
}

fn call(text: &str, attributes: Vec<(&str, A)>) -> NodeProto {
    NodeProto { domain: Some("local".into()), ..node(text, attributes) }
}

#[test]
fn functions_are_inlined_with_their_attributes() {
    let calls = vec![call("Scale x -> a", vec![]), call("Scale a -> y", vec![("slope", A::Float(4.0))])];
    let mut m = nodes(calls);
    m.functions = vec![function()];
    assert_eq!(run(&m, &[("x", tensor(&[2], &[-1.0, 3.0]))])[0].to_f64(), [-2.0, 3.0]);
}

#[test]
fn functions_that_call_each_other_are_refused() {
    let mut f = function();
    f.node = vec![call("Scale p -> q", vec![])];
    f.opset_import.push(OperatorSetIdProto { domain: Some("local".into()), version: Some(1) });
    let mut m = nodes(vec![call("Scale x -> y", vec![])]);
    m.functions = vec![f];
    check(&m, &["recursion|make_q|\"Scale\""]);
}

#[test]
fn doubling_functions_hit_a_limit() {
    let link = |i: usize| {
        let next = format!("F{}", i + 1);
        let body = match i {
            24 => vec![node("Relu p -> q", vec![])],
            _ => vec![call(&format!("{next} p -> a"), vec![]), call(&format!("{next} a -> q"), vec![])],
        };
        let mut f = FunctionProto { name: Some(format!("F{i}")), node: body, ..function() };
        f.opset_import.push(OperatorSetIdProto { domain: Some("local".into()), version: Some(1) });
        f
    };
    let mut m = nodes(vec![call("F0 x -> y", vec![])]);
    m.functions = (0..25).map(link).collect();
    check(&m, &["unsupported_limit|number of nodes"]);
}

#[test]
fn following_too_many_integers_hits_a_limit() {
    let table = |i: usize| if i == 0 { "t".to_owned() } else { format!("a{i}") };
    let link = |i: usize| node(&format!("Add {} t -> {}", table(i), table(i + 1)), vec![]);
    let mut links: Vec<NodeProto> = (0..5000).map(link).collect();
    links.push(node("Relu x -> y", vec![]));
    let m = model(18, graph(&["x[2]"], vec![ints("t", &[1; 1024])], links, &["y[2]"]));
    check(&m, &["unsupported_limit|integers followed"]);
}
