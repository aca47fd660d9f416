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
    for nodes in [
        vec![node("SequenceConstruct x -> s", vec![]), node("Abs s -> y", vec![])],
        vec![node("SequenceConstruct x -> y", vec![])],
    ] {
        let m = with_output(graph(&["x[2]"], vec![], nodes, &[]));
        assert!(matches!(import(&m), Err(ImportError::Unsupported { .. })));
    }
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
