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

/// h' = h + x[t] from t = 0 on, which `grows` to t2, while `goes_on`. Before the first iteration: `starts`.
fn counted(starts: &str, limit: Option<i64>, grows: &str, goes_on: &[&str]) -> ModelProto {
    let mut inside = vec![node(grows, vec![])];
    inside.extend(goes_on.iter().map(|text| node(text, vec![])));
    inside.push(node("Gather x t -> row", vec![("axis", A::Int(0))]));
    inside.push(node("Add h row -> h2", vec![]));
    inside.push(node("Identity h2 -> y", vec![]));
    let ports = ["i:i[]", "b:go[]", "i:t[]", "h[2]"];
    let body = body(&ports, inside, &["b:on[]", "i:t2[]", "h2[2]", "y[2]"]);
    let count = limit.map_or("_", |_| "most");
    let nodes = vec![
        node("Shape x -> dims", vec![]),
        node("Gather dims zero -> n", vec![]),
        node("Less zero n -> any", vec![]),
        node("Less one n -> other", vec![]),
        node(&format!("Loop {count} {starts} zero h0 -> end last all"), vec![("body", body)]),
    ];
    let mut numbers = vec![scalar("zero", 0), scalar("one", 1), scalar("two", 2)];
    numbers.extend(limit.map(|n| scalar("most", n)));
    let inputs = ["x[n,2]", "h0[2]"];
    model(21, graph(&inputs, numbers, nodes, &["i:end[]", "last[2]", "all[?,2]"]))
}

/// The one loop of the model and what it computes of 5 rows.
#[track_caller]
fn counted_trips(m: &ModelProto) -> (String, i64, usize) {
    let graph = import(m).unwrap().graph;
    let trips = graph.nodes().find_map(|(_, n)| match &n.op {
        ssmc_ir::ops::Op::Loop(op) => Some(op.trip_count.to_string()),
        _ => None,
    });
    let x: Vec<f64> = (0..10).map(f64::from).collect();
    let out = run(m, &[("x", tensor(&[5, 2], &x)), ("h0", tensor(&[2], &[0.0, 0.0]))]);
    (trips.expect("one loop"), out[0].to_f64()[0] as i64, out[2].shape()[0])
}

#[test]
fn a_loop_that_counts_up_to_a_bound_has_that_many_iterations() {
    let next = "Add t one -> t2";
    let by_two = "Add two t -> t2";
    let most = Some(i64::MAX);
    let cases = [
        (counted("any", None, next, &["Less t2 n -> on"]), "n", 5, 5),
        (counted("any", most, next, &["Greater n t2 -> on"]), "n", 5, 5),
        (counted("any", None, next, &["Less t2 n -> less", "And go less -> on"]), "n", 5, 5),
        (counted("any", None, next, &["GreaterOrEqual t2 n -> ends", "Not ends -> on"]), "n", 5, 5),
        (counted("any", None, next, &["Add t two -> t3", "LessOrEqual t3 n -> on"]), "n", 5, 5),
        (counted("any", None, by_two, &["Less t2 n -> on"]), "ceildiv(n, 2)", 6, 3),
        // The first iteration is sure.
        (counted("_", None, next, &["Less t2 n -> on"]), "", 5, 5),
        // The number of the iteration counts as well, and a limit holds too.
        (counted("_", Some(3), next, &["Add i one -> k", "Less k n -> on"]), "", 3, 3),
    ];
    for (m, trips, end, rows) in cases {
        let (found, last, n) = counted_trips(&m);
        assert_eq!((last, n), (end, rows), "{found}");
        assert!(trips.is_empty() || found == trips, "{found}, expected {trips}");
    }
}

#[test]
fn loops_that_do_not_count_up_to_a_bound_are_refused() {
    let next = "Add t one -> t2";
    let cases = [
        // A counter that grows by itself, that does not grow, or that falls.
        counted("any", None, "Add t t -> t2", &["Less t2 n -> on"]),
        counted("any", None, "Mul t one -> t2", &["Less t2 n -> on"]),
        counted("any", None, "Sub t one -> t2", &["Less t2 n -> on"]),
        // A comparison that says nothing of the order.
        counted("any", None, next, &["Equal t2 n -> less", "Not less -> on"]),
        // One of two conditions is enough.
        counted("any", None, next, &["Less t2 n -> p", "Less t n -> q", "Or p q -> on"]),
        // The first iteration has another condition.
        counted("other", None, next, &["Less t2 n -> on"]),
        // Data.
        counted("any", None, next, &["ReduceMax h -> most", "Cast most -> k", "Less k n -> on"]),
    ];
    for mut m in cases {
        for a in m.graph.as_mut().unwrap().node.iter_mut().flat_map(|n| &mut n.attribute) {
            for n in a.g.iter_mut().flat_map(|g| &mut g.node) {
                match n.op_type() {
                    "Cast" => n.attribute.push(attribute("to", A::Int(7))),
                    "ReduceMax" => n.attribute.push(attribute("keepdims", A::Int(0))),
                    _ => {}
                }
            }
        }
        let found = refused(&m);
        assert!(found.iter().all(|f| f.contains("unsupported")), "{found:?}");
    }
}
