use super::*;

/// A model with the output `y`.
fn with_output(mut g: GraphProto) -> ModelProto {
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    model(18, g)
}

fn count(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    tensor(dims, &(0..n).map(|i| i as f64).collect::<Vec<_>>())
}

#[test]
fn sequences_are_lists_of_values() {
    let nodes = vec![
        node("SequenceConstruct x z -> s", vec![]),
        node("SequenceInsert s x one -> t", vec![]),
        node("SequenceErase t zero -> u", vec![]),
        node("SequenceLength u -> n", vec![]),
        node("SequenceAt u last -> v", vec![]),
        node("ConcatFromSequence u -> w", vec![("axis", A::Int(0)), ("new_axis", A::Int(1))]),
        node("Cast n -> m", vec![("to", A::Int(1))]),
        node("Mul v m -> p", vec![]),
        node("Add w p -> y", vec![]),
    ];
    let initializers = vec![scalar("zero", 0), scalar("one", 1), scalar("last", -1)];
    let m = with_output(graph(&["x[2]", "z[2]"], initializers, nodes, &[]));
    let y = run(&m, &[("x", tensor(&[2], &[1.0, 2.0])), ("z", tensor(&[2], &[5.0, 6.0]))]).remove(0);
    // Rows x and z, each plus twice z.
    assert_eq!((y.shape(), y.to_f64()), (&[2, 2][..], vec![11.0, 14.0, 15.0, 18.0]));
}

#[test]
fn a_loop_may_append_to_a_sequence() {
    let mut body = graph(&["i:i[]", "b:go[]", "h[2]"], vec![], vec![], &[]);
    body.input.insert(2, ValueInfoProto { name: Some("s".into()), ..ValueInfoProto::default() });
    body.node = vec![
        node("Identity go -> on", vec![]),
        node("Add h h -> g", vec![]),
        node("SequenceInsert s g -> t", vec![]),
    ];
    body.output = ["on", "t", "g"]
        .map(|name| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() })
        .to_vec();
    for (new_axis, shape, expected) in [
        (1, vec![2, 3], vec![2.0, 4.0, 8.0, 4.0, 8.0, 16.0]),
        (0, vec![6], vec![2.0, 4.0, 4.0, 8.0, 8.0, 16.0]),
    ] {
        let axis = vec![("axis", A::Int(-1)), ("new_axis", A::Int(new_axis))];
        let nodes = vec![
            node("SequenceEmpty -> e", vec![]),
            node("Loop n _ e x -> t g", vec![("body", A::Graph(Box::new(body.clone())))]),
            node("ConcatFromSequence t -> y", axis),
        ];
        let m = with_output(graph(&["x[2]"], vec![scalar("n", 3)], nodes, &[]));
        let y = run(&m, &[("x", tensor(&[2], &[1.0, 2.0]))]).remove(0);
        assert_eq!((y.shape(), y.to_f64()), (shape.as_slice(), expected));
    }
}

#[test]
fn a_sequence_is_no_tensor() {
    let nodes = vec![node("SequenceConstruct x -> s", vec![]), node("Abs s -> y", vec![])];
    let m = with_output(graph(&["x[2]"], vec![], nodes, &[]));
    assert!(matches!(import(&m), Err(ImportError::Unsupported { .. })));
}

/// h = tanh(W x + R h + b), with one sequence shorter than the other.
#[test]
fn a_recurrent_cell_is_a_loop() {
    let weights = vec![
        floats("w", &[1, 1, 1], &[0.5]),
        floats("r", &[1, 1, 1], &[0.25]),
        floats("b", &[1, 2], &[0.1, 0.2]),
        TensorProto { data_type: Some(6), int32_data: vec![3, 2], int64_data: vec![], ..ints("n", &[3, 2]) },
    ];
    for reverse in [false, true] {
        let direction = vec![("direction", A::Str(if reverse { "reverse" } else { "forward" }))];
        let nodes = vec![node("RNN x w r b n -> y", direction)];
        let m = with_output(graph(&["x[3,2,1]"], weights.clone(), nodes, &[]));
        let y = run(&m, &[("x", count(&[3, 2, 1]))]).remove(0);
        let mut expected = vec![0.0; 6];
        for (row, length) in [3usize, 2].into_iter().enumerate() {
            let mut h = 0.0f64;
            for i in 0..length {
                let t = if reverse { length - 1 - i } else { i };
                h = (0.5 * (2 * t + row) as f64 + 0.25 * h + 0.3).tanh();
                expected[2 * t + row] = h;
            }
        }
        assert_eq!(y.shape(), [3, 1, 2, 1]);
        for (found, expected) in y.to_f64().iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{reverse} {:?} {expected:?}", y.to_f64());
        }
    }
}

/// A sequence of tensors, which may be absent as well.
fn sequence(name: &str, is_optional: bool) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type: Some(1), shape: None };
    let wrap = |value| TypeProto { value: Some(value), ..TypeProto::default() };
    let elem_type = Some(Box::new(wrap(TypeValue::TensorType(tensor))));
    let mut ty = wrap(TypeValue::SequenceType(Box::new(type_proto::Sequence { elem_type })));
    if is_optional {
        let elem_type = Some(Box::new(ty));
        ty = wrap(TypeValue::OptionalType(Box::new(type_proto::Optional { elem_type })));
    }
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn import_given(m: &ModelProto, shapes: &[&str]) -> Result<Model, ImportError> {
    let shapes: Vec<_> = shapes.iter().map(|text| text.parse().unwrap()).collect();
    import_model(m, Path::new("m.onnx"), &shapes)
}

#[test]
fn sequences_go_in_and_out_as_tensors_of_their_own() {
    let nodes = vec![node("SequenceInsert s x -> y", vec![])];
    let mut g = graph(&["x[2]"], vec![], nodes, &[]);
    g.input.insert(0, sequence("s", false));
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    let m = model(18, g);
    let names = |shapes: &[&str]| -> Vec<String> {
        import_given(&m, shapes).unwrap().graph.outputs().iter().map(|o| o.name.clone()).collect()
    };
    assert_eq!(names(&["s.0:3", "s.1:n,4"]), ["y.0", "y.1", "y.2"]);
    assert_eq!(names(&["s:-"]), ["y.0"]);
    let fault = |shapes: &[&str]| format!("{:?}", import_given(&m, shapes).unwrap_err());
    assert!(fault(&[]).contains("the tensors of a sequence"));
    assert!(fault(&["s.0:3", "x:-"]).contains("Absent"));
    assert!(fault(&["s.0:3", "s.2:3"]).contains("UnknownInput"));
}

#[test]
fn an_optional_value_is_there_or_not() {
    let nodes = vec![
        node("OptionalHasElement s -> has", vec![]),
        node("Cast has -> f", vec![("to", A::Int(1))]),
        node("Mul x f -> y", vec![]),
    ];
    let mut g = graph(&["x[2]"], vec![], nodes, &[]);
    g.input.insert(0, sequence("s", true));
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    let m = model(18, g);
    for (shapes, expected) in [(&["s:-"], [0.0, 0.0]), (&["s.0:3"], [1.0, 2.0])] {
        let model = import_given(&m, shapes).unwrap();
        let mut inputs = BTreeMap::from([("x".to_owned(), tensor(&[2], &[1.0, 2.0]))]);
        if model.graph.inputs().len() == 2 {
            inputs.insert("s.0".to_owned(), tensor(&[3], &[0.0; 3]));
        }
        let outputs = Interpreter::new(&model.graph, &model.weights).run(&inputs).unwrap();
        assert_eq!(outputs["y"].to_f64(), expected);
    }
}
