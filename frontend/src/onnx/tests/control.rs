use super::*;

/// A body of a `Scan` or `Loop` over vectors of 2.
fn body(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> A {
    A::Graph(graph(inputs, vec![], nodes, outputs).into())
}

/// h' = w * h + x, y = h'; `w` is captured and the state's type is left open.
fn recurrence() -> A {
    let nodes = vec![
        node("Mul w h -> wh", vec![]),
        node("Add wh x -> next", vec![]),
        node("Identity next -> y", vec![]),
    ];
    let mut g = graph(&["h[2]", "x[2]"], vec![], nodes, &["next[2]", "y[2]"]);
    g.input[0].r#type = None;
    A::Graph(g.into())
}

fn scan(mut attributes: Vec<(&'static str, A)>) -> ModelProto {
    attributes.extend([("body", recurrence()), ("num_scan_inputs", A::Int(1))]);
    let nodes = vec![node("Scan h0 xs -> last ys", attributes)];
    let inputs = ["h0[2]", "xs[n,2]", "w[2]"];
    model(21, graph(&inputs, vec![], nodes, &["last[2]", "ys[n,2]"]))
}

fn scan_inputs() -> Vec<(&'static str, Tensor)> {
    vec![
        ("h0", tensor(&[2], &[1.0, 0.0])),
        ("xs", tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("w", tensor(&[2], &[2.0, 10.0])),
    ]
}

#[test]
fn a_scan_forwards() {
    let out = run(&scan(vec![]), &scan_inputs());
    assert_eq!(out[0].to_f64(), [23.0, 246.0]);
    assert_eq!(out[1].to_f64(), [3.0, 2.0, 9.0, 24.0, 23.0, 246.0]);
}

#[test]
fn a_scan_backwards() {
    let both =
        |o| vec![("scan_input_directions", A::Ints(vec![1])), ("scan_output_directions", A::Ints(vec![o]))];
    let out = run(&scan(both(0)), &scan_inputs());
    assert_eq!(out[1].to_f64(), [7.0, 6.0, 17.0, 64.0, 35.0, 642.0]);
    let out = run(&scan(both(1)), &scan_inputs());
    assert_eq!(out[1].to_f64(), [35.0, 642.0, 17.0, 64.0, 7.0, 6.0]);
}

#[test]
fn scan_axes() {
    let axes = vec![("scan_input_axes", A::Ints(vec![-1])), ("scan_output_axes", A::Ints(vec![-1]))];
    let mut m = scan(axes);
    let g = m.graph.as_mut().unwrap();
    g.input[1] = value("xs[2,n]");
    g.output[1] = value("ys[2,n]");
    let mut inputs = scan_inputs();
    inputs[1].1 = tensor(&[2, 3], &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    assert_eq!(run(&m, &inputs)[1].to_f64(), [3.0, 9.0, 23.0, 2.0, 24.0, 246.0]);
}

#[test]
fn a_batched_scan_of_version_8() {
    let nodes =
        vec![node("Scan _ h0 xs -> last ys", vec![("body", recurrence()), ("num_scan_inputs", A::Int(1))])];
    let inputs = ["h0[b,2]", "xs[b,n,2]", "w[2]"];
    let m = model(8, graph(&inputs, vec![], nodes, &["last[b,2]", "ys[b,n,2]"]));
    let out = run(
        &m,
        &[
            ("h0", tensor(&[2, 2], &[1.0, 0.0, 0.0, 0.0])),
            ("xs", tensor(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 0.0, 1.0])),
            ("w", tensor(&[2], &[2.0, 10.0])),
        ],
    );
    assert_eq!(out[0].to_f64(), [9.0, 24.0, 0.0, 11.0]);
    assert_eq!(out[1].to_f64(), [3.0, 2.0, 9.0, 24.0, 0.0, 1.0, 0.0, 11.0]);
}

#[test]
fn faults_of_a_scan() {
    let wrong = [
        ("num_scan_inputs", A::Int(5), "num_scan_inputs"),
        ("scan_input_axes", A::Ints(vec![7]), "axis"),
        ("scan_input_directions", A::Ints(vec![2]), "scan_input_directions"),
        ("scan_output_axes", A::Ints(vec![0, 0]), "scan_output_axes"),
    ];
    for (name, value, expected) in wrong {
        let mut m = scan(vec![]);
        let attributes = &mut m.graph.as_mut().unwrap().node[0].attribute;
        attributes.retain(|a| a.name() != name);
        attributes.push(attribute(name, value));
        let found = refused(&m);
        assert!(
            found.len() == 1 && found[0].contains(expected) && found[0].contains("make_last"),
            "{found:?}"
        );
    }
}

#[test]
fn faults_inside_a_body_are_placed_there() {
    let bad =
        vec![node("Transpose x -> next", vec![("perm", A::Ints(vec![3]))]), node("Identity x -> y", vec![])];
    let mut m = scan(vec![]);
    let attributes = &mut m.graph.as_mut().unwrap().node[0].attribute;
    attributes.retain(|a| a.name() != "body");
    attributes.push(attribute("body", body(&["h[2]", "x[2]"], bad, &["next[2]", "y[2]"])));
    let found = refused(&m);
    assert!(found.len() == 1 && found[0].contains("make_next") && found[0].contains("perm"), "{found:?}");
}

/// acc' = acc + x + i, stacked; `goes_on` makes the condition.
fn loop_model(goes_on: NodeProto, trips: Vec<TensorProto>) -> ModelProto {
    let nodes = vec![
        goes_on,
        node("Cast i -> f", vec![("to", A::Int(1))]),
        node("Add acc x -> s", vec![]),
        node("Add s f -> next", vec![]),
        node("Identity next -> out", vec![]),
    ];
    let body = body(&["i:i[]", "b:c[]", "acc[2]"], nodes, &["b:c2[]", "next[2]", "out[2]"]);
    let count = if trips.is_empty() { "_" } else { "m" };
    let nodes = vec![node(&format!("Loop {count} _ x -> last all"), vec![("body", body)])];
    model(21, graph(&["x[2]"], trips, nodes, &["last[2]", "all[3,2]"]))
}

#[test]
fn a_loop_counts_carries_and_stacks() {
    let m = loop_model(node("Identity c -> c2", vec![]), vec![scalar("m", 3)]);
    let out = run(&m, &[("x", tensor(&[2], &[1.0, 2.0]))]);
    assert_eq!(out[0].to_f64(), [7.0, 11.0]);
    assert_eq!(out[1].to_f64(), [2.0, 4.0, 4.0, 7.0, 7.0, 11.0]);
}

#[test]
fn loops_that_end_on_data_are_refused() {
    let found = refused(&loop_model(node("Identity c -> c2", vec![]), vec![]));
    assert!(found[0].contains("unsupported") && found[0].contains("64 iterations"), "{found:?}");
    let found = refused(&loop_model(node("IsNaN acc -> c2", vec![]), vec![]));
    assert!(found[0].contains("unsupported") && found[0].contains("ends on data"), "{found:?}");
}

/// y = cond ? x * k : x - z
fn branches(cond: &str, initializers: Vec<TensorProto>, inputs: &[&str]) -> ModelProto {
    let yes = body(&[], vec![node("Mul x k -> p", vec![])], &["p[2]"]);
    let no = body(&[], vec![node("Sub x z -> q", vec![])], &["q[2]"]);
    let nodes = vec![node(&format!("If {cond} -> y"), vec![("then_branch", yes), ("else_branch", no)])];
    model(21, graph(inputs, initializers, nodes, &["y[2]"]))
}

#[test]
fn a_branch_on_data_captures_what_either_side_reads() {
    let k = floats("k", &[], &[3.0]);
    let m = branches("c", vec![k], &["b:c[]", "x[2]", "z[2]"]);
    for (cond, expected) in [(true, [3.0, 6.0]), (false, [-9.0, -18.0])] {
        let out = run(
            &m,
            &[
                ("c", Tensor::bools([0usize; 0], vec![cond]).unwrap()),
                ("x", tensor(&[2], &[1.0, 2.0])),
                ("z", tensor(&[2], &[10.0, 20.0])),
            ],
        );
        assert_eq!(out[0].to_f64(), expected);
    }
}

#[test]
fn a_constant_condition_leaves_no_branch() {
    let c = TensorProto {
        name: Some("c".into()),
        data_type: Some(9),
        int32_data: vec![1],
        ..TensorProto::default()
    };
    let m = branches("c", vec![c, floats("k", &[], &[3.0])], &["x[2]", "z[2]"]);
    let model = import(&m).unwrap();
    assert!(model.graph.nodes().all(|(_, n)| n.regions.is_empty()));
    let inputs = [("x", tensor(&[2], &[1.0, 2.0])), ("z", tensor(&[2], &[10.0, 20.0]))];
    assert_eq!(run(&m, &inputs)[0].to_f64(), [3.0, 6.0]);
}

/// The state grows and the loop ends on a condition that follows from the iteration: it is written out.
#[test]
fn a_short_loop_whose_shapes_follow_from_the_iteration_is_written_out() {
    let mut body = graph(&["i:i[]", "b:go[]", "h[2]"], vec![scalar("three", 3)], vec![], &[]);
    body.input[2] = ValueInfoProto { name: Some("h".into()), ..ValueInfoProto::default() };
    body.node = vec![
        node("Concat h x -> g", vec![("axis", A::Int(0))]),
        node("Add i i -> k", vec![]),
        node("Less k three -> on", vec![]),
        node("Add x x -> d", vec![]),
    ];
    body.output = ["on", "g", "d"]
        .map(|name| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() })
        .to_vec();
    let nodes = vec![node("Loop _ _ x -> y z", vec![("body", A::Graph(Box::new(body)))])];
    let mut g = graph(&["x[2]"], vec![], nodes, &[]);
    g.output = ["y", "z"]
        .map(|name| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() })
        .to_vec();
    let outputs = run(&model(18, g), &[("x", tensor(&[2], &[1.0, 2.0]))]);
    // Iterations 0, 1 and 2, the last of which ends it.
    assert_eq!(outputs[0].to_f64(), [1.0, 2.0].repeat(4));
    assert_eq!((outputs[1].shape(), outputs[1].to_f64()), (&[3, 2][..], [2.0, 4.0].repeat(3)));
}

#[test]
fn the_trip_count_may_follow_from_numbers() {
    let mut body = graph(&["i:i[]", "b:go[]", "h[2]"], vec![], vec![], &[]);
    body.node = vec![node("Identity go -> on", vec![]), node("Add h h -> g", vec![])];
    body.output = ["on", "g"]
        .map(|name| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() })
        .to_vec();
    let nodes = vec![
        node("Div from by -> q", vec![]),
        node("Ceil q -> c", vec![]),
        node("Cast c -> n", vec![("to", A::Int(7))]),
        node("Loop n _ x -> y", vec![("body", A::Graph(Box::new(body)))]),
    ];
    let numbers = vec![floats("from", &[], &[5.0]), floats("by", &[], &[2.0])];
    let m = model(18, graph(&["x[2]"], numbers, nodes, &["y[2]"]));
    assert_eq!(run(&m, &[("x", tensor(&[2], &[1.0, 2.0]))])[0].to_f64(), [8.0, 16.0]);
}
