use super::*;

/// One node (or several, separated by `;`) on `x` and initializers; the result `y`.
struct Case {
    version: i64,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    output: &'static str,
}

fn case(version: i64, text: &str, attributes: Vec<(&str, A)>, initializers: Vec<TensorProto>) -> Case {
    Case { version, nodes: vec![node(text, attributes)], initializers, output: "y" }
}

fn check(c: Case, x: Tensor, shape: &[usize], expected: &[f64]) {
    let dims: Vec<String> = x.shape().iter().map(usize::to_string).collect();
    let mut g = graph(&[&format!("x[{}]", dims.join(","))], c.initializers, c.nodes, &[]);
    g.output = vec![ValueInfoProto { name: Some(c.output.into()), ..ValueInfoProto::default() }];
    let y = run(&model(c.version, g), &[("x", x)]).remove(0);
    assert_eq!(y.shape(), shape);
    for (found, expected) in y.to_f64().iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{:?} {expected:?}", y.to_f64());
    }
}

fn count(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    tensor(dims, &(0..n).map(|i| i as f64).collect::<Vec<_>>())
}

#[test]
fn squeeze_takes_axes_from_an_attribute_then_from_an_input() {
    let x = || count(&[1, 2, 1]);
    check(case(12, "Squeeze x -> y", vec![("axes", A::Ints(vec![-1]))], vec![]), x(), &[1, 2], &[0.0, 1.0]);
    check(case(13, "Squeeze x a -> y", vec![], vec![ints("a", &[0])]), x(), &[2, 1], &[0.0, 1.0]);
    check(case(13, "Squeeze x -> y", vec![], vec![]), x(), &[2], &[0.0, 1.0]);
}

#[test]
fn blocks_become_depth_in_the_order_of_the_mode() {
    let node = |mode: &'static str| {
        let attributes = vec![("blocksize", A::Int(2)), ("mode", A::Str(mode))];
        case(28, "SpaceToDepth x -> y", attributes, vec![])
    };
    let x = || count(&[1, 2, 2, 2]);
    check(node("DCR"), x(), &[1, 8, 1, 1], &[0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    check(node("CRD"), x(), &[1, 8, 1, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn swiglu_gates_its_second_input() {
    let c = case(28, "SwiGLU x x -> y", vec![("alpha", A::Float(2.0))], vec![]);
    check(c, tensor(&[2], &[1.0, 0.0]), &[2], &[0.880797077977882, 0.0]);
}

#[test]
fn softmax_flattens_before_version_13() {
    let x = || tensor(&[2, 1, 2], &[0.0, 0.0, 1.0, 1.0]);
    let axis = || vec![("axis", A::Int(0))];
    let (low, high) = (0.134470710684998, 0.365529289315002);
    check(case(12, "Softmax x -> y", axis(), vec![]), x(), &[2, 1, 2], &[low, low, high, high]);
    let (low, high) = (2.0 * low, 2.0 * high);
    check(case(13, "Softmax x -> y", axis(), vec![]), x(), &[2, 1, 2], &[low, low, high, high]);
}

#[test]
fn slice_takes_bounds_from_attributes_then_from_inputs() {
    let bounds = |s: i64, e: i64| vec![("starts", A::Ints(vec![s])), ("ends", A::Ints(vec![e]))];
    check(case(9, "Slice x -> y", bounds(1, 100), vec![]), count(&[4]), &[3], &[1.0, 2.0, 3.0]);
    let cases: [(i64, i64, i64, &[f64]); 6] = [
        (0, i64::MAX, 1, &[0.0, 1.0, 2.0, 3.0, 4.0]),
        (-3, -1, 1, &[2.0, 3.0]),
        (1, 5, 2, &[1.0, 3.0]),
        (-1, i64::MIN, -1, &[4.0, 3.0, 2.0, 1.0, 0.0]),
        (10, 0, -3, &[4.0, 1.0]),
        (3, 1, 1, &[]),
    ];
    for (start, end, step, expected) in cases {
        let initializers =
            [("s", start), ("e", end), ("a", 0), ("t", step)].map(|(n, v)| ints(n, &[v])).to_vec();
        check(
            case(13, "Slice x s e a t -> y", vec![], initializers),
            count(&[5]),
            &[expected.len()],
            expected,
        );
    }
}

#[test]
fn reshape_copies_and_infers() {
    check(
        case(14, "Reshape x s -> y", vec![], vec![ints("s", &[0, -1])]),
        count(&[2, 3, 2]),
        &[2, 6],
        &[0.0],
    );
}

#[test]
fn matmul_broadcasts_batch_axes_and_vectors() {
    let w = || floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    check(case(13, "MatMul x w -> y", vec![], vec![w()]), count(&[1, 1, 2]), &[1, 1, 2], &[3.0, 4.0]);
    check(case(13, "MatMul w x -> y", vec![], vec![w()]), count(&[2]), &[2], &[2.0, 4.0]);
    let batch = floats("w", &[1, 2, 1], &[1.0, 1.0]);
    check(case(13, "MatMul x w -> y", vec![], vec![batch]), count(&[2, 1, 2]), &[2, 1, 1], &[1.0, 5.0]);
}

#[test]
fn shifts_of_signed_integers_keep_the_sign_to_the_right() {
    let cases: [(&'static str, [i64; 4], [i64; 4], [i64; 4]); 2] = [
        ("RIGHT", [-5, 5, -8, i64::MIN], [1, 1, 64, -1], [-3, 2, -1, -1]),
        ("LEFT", [1, -1, 3, i64::MAX], [63, 64, -2, 1], [i64::MIN, 0, 0, -2]),
    ];
    for (direction, x, by, expected) in cases {
        let attributes = vec![("direction", A::Str(direction))];
        let mut g = graph(&["i:x[4]", "i:n[4]"], vec![], vec![node("BitShift x n -> y", attributes)], &[]);
        g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
        let ints = |data: [i64; 4]| Tensor::ints(DType::I64, [4], data.to_vec()).unwrap();
        let y = run(&model(28, g), &[("x", ints(x)), ("n", ints(by))]).remove(0);
        assert_eq!(y, ints(expected), "{direction}");
    }
}

/// One head of one channel, scores 0: each row of the result is the mean of the values that it sees.
#[test]
fn attention_sees_windows_and_nothing_through_a_full_mask() {
    let check = |attributes: Vec<(&str, A)>, lengths: bool, expected: &[f64]| {
        let text = if lengths { "Attention q k v _ _ _ n -> y" } else { "Attention q k v -> y" };
        let dims = "1,1,4,1";
        let inputs = ["q", "k", "v"].map(|name| format!("{name}[{dims}]"));
        let mut inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        inputs.push("i:n[1]");
        let mut g = graph(&inputs, vec![], vec![node(text, attributes)], &[]);
        g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
        let zeros = || tensor(&[1, 1, 4, 1], &[0.0; 4]);
        let v = tensor(&[1, 1, 4, 1], &[1.0, 2.0, 4.0, 8.0]);
        let n = Tensor::ints(DType::I64, [1], vec![2]).unwrap();
        let y = run(&model(25, g), &[("q", zeros()), ("k", zeros()), ("v", v), ("n", n)]).remove(0);
        for (found, expected) in y.to_f64().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{:?}, expected {expected:?}", y.to_f64());
        }
    };
    let window = |left, right| vec![("left_window_size", A::Int(left)), ("right_window_size", A::Int(right))];
    check(window(1, 0), false, &[1.0, 1.5, 3.0, 6.0]);
    check(window(-1, 1), false, &[1.5, 7.0 / 3.0, 3.75, 3.75]);
    // Two keys count: the queries are at -2 to 1, and the first two see nothing.
    check(vec![("is_causal", A::Int(1))], true, &[0.0, 0.0, 1.0, 1.5]);
}

#[test]
fn gemm_scales_and_transposes() {
    let attributes = vec![("transB", A::Int(1)), ("alpha", A::Float(2.0)), ("beta", A::Float(3.0))];
    let initializers = vec![floats("w", &[1, 2], &[1.0, 10.0]), floats("c", &[1], &[1.0])];
    check(case(13, "Gemm x w c -> y", attributes, initializers), count(&[2, 2]), &[2, 1], &[23.0, 67.0]);
}

#[test]
fn einsum_with_ellipsis_and_implicit_output() {
    let equation = |e| vec![("equation", A::Str(e))];
    let w = || floats("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let out = &[3.0, 4.0, 11.0, 16.0];
    check(case(12, "Einsum x w -> y", equation("...i, ij -> ...j"), vec![w()]), count(&[2, 2]), &[2, 2], out);
    check(case(12, "Einsum x w -> y", equation("ai,ij"), vec![w()]), count(&[2, 2]), &[2, 2], out);
    check(case(12, "Einsum x -> y", equation("ij->ji"), vec![]), count(&[1, 2]), &[2, 1], &[0.0, 1.0]);
}

#[test]
fn convolution_with_groups_and_automatic_padding() {
    let w = || floats("w", &[2, 1, 2], &[1.0, 10.0, 1.0, 100.0]);
    let attributes = |mode| vec![("group", A::Int(2)), ("auto_pad", A::Str(mode))];
    let upper = &[10.0, 21.0, 2.0, 403.0, 504.0, 5.0];
    check(
        case(11, "Conv x w -> y", attributes("SAME_UPPER"), vec![w()]),
        count(&[1, 2, 3]),
        &[1, 2, 3],
        upper,
    );
    let lower = &[0.0, 10.0, 21.0, 300.0, 403.0, 504.0];
    check(
        case(11, "Conv x w -> y", attributes("SAME_LOWER"), vec![w()]),
        count(&[1, 2, 3]),
        &[1, 2, 3],
        lower,
    );
    check(
        case(11, "Conv x w -> y", attributes("VALID"), vec![w()]),
        count(&[1, 2, 3]),
        &[1, 2, 2],
        &[10.0, 21.0],
    );
}

#[test]
fn padding_modes() {
    let x = || count(&[3]);
    for (mode, expected) in [
        ("constant", [0.0, 0.0, 0.0, 1.0, 2.0, 0.0]),
        ("edge", [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]),
        ("reflect", [2.0, 1.0, 0.0, 1.0, 2.0, 1.0]),
        ("wrap", [1.0, 2.0, 0.0, 1.0, 2.0, 0.0]),
    ] {
        check(
            case(19, "Pad x p -> y", vec![("mode", A::Str(mode))], vec![ints("p", &[2, 1])]),
            x(),
            &[6],
            &expected,
        );
    }
    check(case(19, "Pad x p -> y", vec![], vec![ints("p", &[-1, 1])]), x(), &[3], &[1.0, 2.0, 0.0]);
}

#[test]
fn layer_norm_gives_mean_and_factor() {
    let mut c = case(
        17,
        "LayerNormalization x s b -> y m f",
        vec![("epsilon", A::Float(0.0))],
        vec![floats("s", &[2], &[2.0, 2.0]), floats("b", &[2], &[0.0, 1.0])],
    );
    c.output = "f";
    check(c, tensor(&[1, 2], &[1.0, 5.0]), &[1, 1], &[0.5]);
}

/// Shape arithmetic of exporters: halves the last axis of `x: f32[b, n]` and repeats the rest.
#[test]
fn shapes_are_followed_through_arithmetic() {
    let nodes = vec![
        node("Shape x -> s", vec![]),
        node("Gather s one -> n", vec![("axis", A::Int(0))]),
        node("Div n two -> half", vec![]),
        node("Unsqueeze half zero -> h", vec![]),
        node("Slice s zero one1 -> b", vec![]),
        node("Concat b h two1 -> to", vec![("axis", A::Int(0))]),
        node("Mul n two -> n2", vec![]),
        node("Div n2 two -> back", vec![]),
        node("Unsqueeze back zero -> back1", vec![]),
        node("Concat b back1 -> same", vec![("axis", A::Int(0))]),
        node("Reshape x same -> y", vec![]),
        node("ConstantOfShape to -> z", vec![]),
    ];
    let initializers =
        vec![scalar("one", 1), scalar("two", 2), ints("zero", &[0]), ints("one1", &[1]), ints("two1", &[2])];
    let mut g = graph(&["x[b,n]"], initializers, nodes, &["y[b,n]"]);
    g.output.push(ValueInfoProto { name: Some("z".into()), ..ValueInfoProto::default() });
    let m = model(18, g);
    let imported = import(&m).unwrap();
    let types: Vec<String> =
        imported.graph.outputs().iter().map(|o| imported.graph.ty(o.value).to_string()).collect();
    assert_eq!(types, ["f32[b, n]", "f32[b, floordiv(n, 2), 2]"]);
    assert!(imported.graph.nodes().all(|(_, n)| !matches!(n.op.name(), "dim" | "gather" | "div")));
}

#[test]
fn shapes_used_as_data_become_dims() {
    let nodes = vec![
        node("Shape x -> s", vec![]),
        node("ReduceProd s -> p", vec![("keepdims", A::Int(0))]),
        node("Cast p -> f", vec![("to", A::Int(1))]),
        node("Mul x f -> y", vec![]),
    ];
    let m = model(13, graph(&["x[n]"], vec![], nodes, &["y[n]"]));
    assert_eq!(run(&m, &[("x", count(&[3]))])[0].to_f64(), [0.0, 3.0, 6.0]);
}

#[test]
fn a_reshape_that_is_not_provable_is_unsupported() {
    let nodes = vec![node("Reshape x s -> y", vec![])];
    let m = model(18, graph(&["x[n]"], vec![ints("s", &[-1, 2])], nodes, &["y[m,2]"]));
    let found = refused(&m);
    assert!(found[0].contains("unsupported_unproven") && found[0].contains("2 divides n"), "{found:?}");
}

#[test]
fn arithmetic_that_leaves_64_bits_is_no_panic() {
    let big = i64::MAX;
    for op in ["Add", "Mul", "Sub"] {
        let nodes = vec![node(&format!("{op} a b -> s"), vec![]), node("ConstantOfShape s -> y", vec![])];
        let m = model(18, graph(&[], vec![ints("a", &[big]), ints("b", &[-big + 7])], nodes, &["y[n]"]));
        assert!(!refused(&m).is_empty());
    }
    let nodes = vec![
        node("Shape x -> s0", vec![]),
        node("Mul s0 s0 -> s1", vec![]),
        node("Mul s1 s1 -> s2", vec![]),
        node("Mul s2 s2 -> s3", vec![]),
        node("Mul s3 s3 -> s4", vec![]),
        node("Mul s4 s4 -> s5", vec![]),
        node("Mul s5 s5 -> s6", vec![]),
        node("Mul s6 s6 -> s7", vec![]),
        node("Mul s7 s7 -> s8", vec![]),
        node("ConstantOfShape s8 -> y", vec![]),
    ];
    let found = refused(&model(18, graph(&["x[n]"], vec![], nodes, &["y[m]"])));
    assert!(found[0].contains("unsupported"), "{found:?}");
}

#[test]
fn dft_of_real_and_complex_tensors() {
    let flags =
        |inverse: i64, onesided: i64| vec![("inverse", A::Int(inverse)), ("onesided", A::Int(onesided))];
    let axis = |mut attributes: Vec<(&'static str, A)>| {
        attributes.push(("axis", A::Int(0)));
        attributes
    };
    let real = || tensor(&[4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let whole = [10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0];
    check(case(17, "DFT x -> y", axis(flags(0, 0)), vec![]), real(), &[4, 2], &whole);
    // From version 20 on the axis is an input, the last but one if absent.
    check(case(20, "DFT x -> y", flags(0, 1), vec![]), real(), &[3, 2], &whole[..6]);
    let inputs = || vec![ints("n", &[2]), ints("a", &[-2])];
    check(case(20, "DFT x n a -> y", flags(0, 0), inputs()), real(), &[2, 2], &[3.0, 0.0, -1.0, 0.0]);
    let spectrum = || tensor(&[4, 2], &whole);
    let back = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0];
    check(case(20, "DFT x -> y", flags(1, 0), vec![]), spectrum(), &[4, 2], &back);
    let half = || tensor(&[3, 2], &whole[..6]);
    check(case(20, "DFT x -> y", flags(1, 1), vec![]), half(), &[4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let five = || vec![ints("n", &[5])];
    let x = tensor(&[3, 2], &[5.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    check(case(20, "DFT x n -> y", flags(1, 1), five()), x, &[5, 1], &[1.0; 5]);
}

/// A slice of a symbolic axis holds at most one element; squeezing it means that it holds one, as Gather would.
#[test]
fn a_slice_of_one_element_is_squeezed() {
    let nodes = |first: &str| {
        vec![node(&format!("Slice x {first} end axis -> s"), vec![]), node("Squeeze s axis -> y", vec![])]
    };
    let tensors =
        |end: i64| vec![ints("zero", &[0]), ints("last", &[-1]), ints("axis", &[0]), ints("end", &[end])];
    let x = || tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let found = |first: &str, end: i64| {
        run(&model(13, graph(&["x[l,2]"], tensors(end), nodes(first), &["y[2]"])), &[("x", x())])
    };
    assert_eq!(found("zero", 1), [tensor(&[2], &[1.0, 2.0])]);
    assert_eq!(found("last", i64::MAX), [tensor(&[2], &[5.0, 6.0])]);
    let faults = refused(&model(13, graph(&["x[l,2]"], tensors(2), nodes("zero"), &["y[2]"])));
    assert!(faults[0].contains("extent 1 on axis 0"), "{faults:?}");
}

/// The node tests `test_dft_inverse*` expect 1.9e-7 as imaginary part of the middle bin of a real signal, which is 0.
#[test]
fn the_middle_bin_of_a_real_signal_is_real() {
    let signal: Vec<f64> = (0..100).flat_map(|i| [f64::from(i), 0.0]).collect();
    let nodes = vec![node("DFT x -> y", vec![("inverse", A::Int(1)), ("axis", A::Int(1))])];
    let mut g = graph(&["x[1,10,10,2]"], vec![], nodes, &[]);
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    let y = run(&model(19, g), &[("x", tensor(&[1, 10, 10, 2], &signal))]).remove(0).to_f64();
    assert!((0..10).all(|column| y[5 * 20 + 2 * column + 1].abs() < 1e-12), "{y:?}");
}

#[test]
fn frames_of_a_signal_are_transformed() {
    let x = || tensor(&[1, 5, 1], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let inputs = || vec![scalar("step", 2), floats("w", &[3], &[1.0, 0.0, 2.0])];
    // Frames 1 0 6 and 3 0 10: bin 0 is their sum, bin 1 is a + c cos(4 pi / 3) and -c sin(4 pi / 3).
    let root = 3f64.sqrt() / 2.0;
    let expected = [7.0, 0.0, -2.0, 6.0 * root, 13.0, 0.0, -2.0, 10.0 * root];
    check(case(17, "STFT x step w -> y", vec![], inputs()), x(), &[1, 2, 2, 2], &expected);
    let faults = refused(&model(
        17,
        graph(&["x[1,n,1]"], inputs(), vec![node("STFT x step w -> y", vec![])], &["y[1,f,2,2]"]),
    ));
    assert!(faults[0].contains("a frame of 3 fits"), "{faults:?}");
}

#[test]
fn n_grams_are_counted_with_gaps() {
    let attributes = |mode: &'static str| {
        vec![
            ("min_gram_length", A::Int(1)),
            ("max_gram_length", A::Int(2)),
            ("max_skip_count", A::Int(1)),
            ("mode", A::Str(mode)),
            ("ngram_counts", A::Ints(vec![0, 2])),
            ("ngram_indexes", A::Ints(vec![3, 0, 1])),
            ("pool_int64s", A::Ints(vec![7, 8, 7, 9])),
        ]
    };
    let nodes = |mode| {
        vec![node("Cast x -> i", vec![("to", A::Int(7))]), node("TfIdfVectorizer i -> y", attributes(mode))]
    };
    for (mode, expected) in [("TF", [1.0, 2.0, 0.0, 2.0]), ("IDF", [1.0, 1.0, 0.0, 1.0])] {
        let c = Case { version: 9, nodes: nodes(mode), initializers: vec![], output: "y" };
        // 7 9 once next to each other, once with 8 between them.
        check(c, tensor(&[5], &[7.0, 9.0, 7.0, 8.0, 9.0]), &[4], &expected);
    }
}

#[test]
fn regions_are_sampled_between_elements() {
    let x = || count(&[1, 1, 4, 4]);
    let attributes = |mode: &'static str| {
        vec![
            ("mode", A::Str(mode)),
            ("sampling_ratio", A::Int(1)),
            ("output_height", A::Int(2)),
            ("output_width", A::Int(2)),
            ("coordinate_transformation_mode", A::Str("output_half_pixel")),
        ]
    };
    // Bins of 1.5 from 0: samples at 0.75 and 2.25, where the value is 4 y + x.
    let inputs = || vec![floats("r", &[1, 4], &[0.0, 0.0, 3.0, 3.0]), ints("b", &[0])];
    let expected = [3.75, 5.25, 9.75, 11.25];
    check(case(16, "RoiAlign x r b -> y", attributes("avg"), inputs()), x(), &[1, 1, 2, 2], &expected);
    let outside = vec![floats("r", &[1, 4], &[40.0, 40.0, 43.0, 43.0]), ints("b", &[0])];
    check(case(16, "RoiAlign x r b -> y", attributes("avg"), outside), x(), &[1, 1, 2, 2], &[0.0; 4]);
}

#[test]
fn a_kernel_reads_at_offsets() {
    let inputs = || {
        vec![
            floats("w", &[1, 1, 1, 1], &[2.0]),
            floats("o", &[1, 2, 1, 2], &[0.5, 0.0, 0.0, 9.0]),
            floats("b", &[1], &[1.0]),
        ]
    };
    // The first place reads half a row below, the second far outside.
    check(
        case(19, "DeformConv x w o b -> y", vec![], inputs()),
        tensor(&[1, 1, 1, 2], &[4.0, 6.0]),
        &[1, 1, 1, 2],
        &[5.0, 1.0],
    );
}

#[test]
fn bits_are_read_as_another_type() {
    let nodes = vec![
        node("BitCast x -> i", vec![("to", A::Int(6))]),
        node("Add i one -> j", vec![]),
        node("BitCast j -> y", vec![("to", A::Int(1))]),
    ];
    let one = TensorProto { data_type: Some(6), int32_data: vec![1], ..scalar("one", 1) };
    let one = TensorProto { int64_data: vec![], ..one };
    let c = Case { version: 26, nodes, initializers: vec![one], output: "y" };
    check(c, tensor(&[2], &[1.0, 2.0]), &[2], &[1.000_000_119_209_289_6, 2.000_000_238_418_579]);
    let faults = refused(&model(
        26,
        graph(&["x[2]"], vec![], vec![node("BitCast x -> y", vec![("to", A::Int(11))])], &["y[2]"]),
    ));
    assert!(faults[0].contains("bits of f64"), "{faults:?}");
}
