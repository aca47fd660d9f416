use super::*;

/// A model of one node on `x` (and, as an input, whatever `data` names) with its result `y`.
fn one_node(
    text: &str,
    attributes: Vec<(&str, A)>,
    inputs: &[&str],
    initializers: Vec<TensorProto>,
) -> ModelProto {
    let mut g = graph(inputs, initializers, vec![node(text, attributes)], &[]);
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    model(18, g)
}

fn shaped(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    TensorProto { dims: dims.to_vec(), ..ints(name, data) }
}

fn count(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    tensor(dims, &(0..n).map(|i| i as f64).collect::<Vec<_>>())
}

fn indices(dims: &[usize], data: &[i64]) -> Tensor {
    Tensor::ints(DType::I64, dims, data.to_vec()).unwrap()
}

fn int_input(name: &str, dims: &[i64]) -> String {
    format!("i:{name}[{}]", dims.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
}

/// Constant and data-dependent indices give the same numbers; `is_slice` says whether the constant ones are read as a
/// slice.
fn check_nd(extents: &[usize], at: &[i64], data: &[i64], updates: &[usize], is_slice: bool) {
    let text = "ScatterND x i u -> y";
    let float_input = |name: &str, dims: &[usize]| {
        format!("{name}[{}]", dims.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
    };
    let (x, u) = (float_input("x", extents), float_input("u", updates));
    let n: usize = updates.iter().product();
    let new = tensor(updates, &(0..n).map(|i| -1.0 - i as f64).collect::<Vec<_>>());
    for reduction in ["none", "add", "mul", "min", "max"] {
        let attributes = || vec![("reduction", A::Str(reduction))];
        let constant = one_node(text, attributes(), &[&x, &u], vec![shaped("i", at, data)]);
        let dynamic = one_node(text, attributes(), &[&x, &int_input("i", at), &u], vec![]);
        let found = run(&constant, &[("x", count(extents)), ("u", new.clone())]).remove(0);
        let at: Vec<usize> = at.iter().map(|d| *d as usize).collect();
        let inputs = [("x", count(extents)), ("i", indices(&at, data)), ("u", new.clone())];
        let expected = run(&dynamic, &inputs).remove(0);
        assert_eq!(found.to_f64(), expected.to_f64(), "{reduction} {data:?}");
        let ops = |m: &ModelProto| -> Vec<&'static str> {
            import(m).unwrap().graph.nodes().map(|(_, n)| n.op.name()).collect()
        };
        assert_eq!(!ops(&constant).contains(&"scatter"), is_slice, "{data:?}");
        assert!(ops(&dynamic).contains(&"scatter"));
    }
}

#[test]
fn constant_tuples_that_count_are_slices() {
    check_nd(&[4, 2], &[1, 1], &[-1], &[1, 2], true);
    check_nd(&[5, 2], &[3, 1], &[0, 2, 4], &[3, 2], true);
    check_nd(&[6, 2], &[2, 1], &[1, 3], &[2, 2], true);
    check_nd(&[5], &[3, 1], &[3, 2, 1], &[3], true);
    // Rows 1 and 2, columns 0 and 2, in both orders.
    check_nd(&[3, 4], &[2, 2, 2], &[1, 0, 1, 2, 2, 0, 2, 2], &[2, 2], true);
    check_nd(&[3, 4], &[2, 2, 2], &[1, 0, 2, 0, 1, 2, 2, 2], &[2, 2], true);
    check_nd(&[2, 3, 2], &[2, 1, 2], &[0, 1, 1, 1], &[2, 1, 2], true);
}

#[test]
fn other_constant_tuples_are_scattered() {
    check_nd(&[4], &[3, 1], &[0, 1, 3], &[3], false);
    check_nd(&[3, 3], &[3, 2], &[0, 0, 1, 1, 2, 2], &[3], false);
    check_nd(&[3], &[2, 1], &[1, 1], &[2], false);
}

#[test]
fn a_slice_of_a_tensor_of_unknown_length_is_written() {
    let m =
        one_node("ScatterND x i u -> y", vec![], &["x[seq,2]", "u[1,2]"], vec![shaped("i", &[1, 1], &[0])]);
    let u = || tensor(&[1, 2], &[8.0, 9.0]);
    let y = run(&m, &[("x", count(&[3, 2])), ("u", u())]).remove(0);
    assert_eq!(y.to_f64(), [8.0, 9.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn elements_are_scattered_along_an_axis() {
    let axis = || vec![("axis", A::Int(1))];
    for data in [&[1, 1][..], &[-1, 0]] {
        let m = one_node(
            "ScatterElements x i u -> y",
            axis(),
            &["x[2,3]", "u[2,1]"],
            vec![shaped("i", &[2, 1], data)],
        );
        let y = run(&m, &[("x", count(&[2, 3])), ("u", tensor(&[2, 1], &[8.0, 9.0]))]).remove(0);
        let mut expected: Vec<f64> = (0..6).map(f64::from).collect();
        for (row, at) in data.iter().enumerate() {
            expected[row * 3 + at.rem_euclid(3) as usize] = 8.0 + row as f64;
        }
        assert_eq!(y.to_f64(), expected);
    }
}

#[test]
fn gathers_of_elements_and_tuples() {
    let axis = vec![("axis", A::Int(1))];
    let m = one_node("GatherElements x i -> y", axis, &["x[2,3]", "i:i[2,2]"], vec![]);
    let y = run(&m, &[("x", count(&[2, 3])), ("i", indices(&[2, 2], &[0, -1, 1, 1]))]).remove(0);
    assert_eq!(y.to_f64(), [0.0, 2.0, 4.0, 4.0]);
    let m = one_node("GatherND x i -> y", vec![], &["x[2,3,2]", "i:i[2,2]"], vec![]);
    let y = run(&m, &[("x", count(&[2, 3, 2])), ("i", indices(&[2, 2], &[0, 1, -1, -1]))]).remove(0);
    assert_eq!((y.shape(), y.to_f64()), (&[2, 2][..], vec![2.0, 3.0, 10.0, 11.0]));
    let batch = vec![("batch_dims", A::Int(1))];
    let m = one_node("GatherND x i -> y", batch, &["x[2,3,2]", "i:i[2,1]"], vec![]);
    let y = run(&m, &[("x", count(&[2, 3, 2])), ("i", indices(&[2, 1], &[2, 0]))]).remove(0);
    assert_eq!((y.shape(), y.to_f64()), (&[2, 2][..], vec![4.0, 5.0, 6.0, 7.0]));
}

#[test]
fn the_largest_come_first() {
    let mut m = one_node("TopK x k -> y i", vec![], &["x[2,3]"], vec![ints("k", &[2])]);
    m.graph
        .as_mut()
        .unwrap()
        .output
        .push(ValueInfoProto { name: Some("i".into()), ..ValueInfoProto::default() });
    let x = tensor(&[2, 3], &[1.0, 3.0, 2.0, 5.0, 5.0, 4.0]);
    let results = run(&m, &[("x", x)]);
    assert_eq!(results[0].to_f64(), [3.0, 2.0, 5.0, 5.0]);
    assert_eq!(results[1].to_f64(), [1.0, 2.0, 0.0, 1.0]);
}
