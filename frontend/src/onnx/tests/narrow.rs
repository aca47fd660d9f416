use super::*;

fn with_output(nodes: Vec<NodeProto>, input: &str) -> ModelProto {
    let mut g = graph(&[input], vec![], nodes, &[]);
    g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
    model(25, g)
}

/// Numbers cast to an element type and back.
fn there_and_back(to: i64, saturate: i64, x: &[f64]) -> Vec<f64> {
    let nodes = vec![
        node("Cast x -> e", vec![("to", A::Int(to)), ("saturate", A::Int(saturate))]),
        node("Cast e -> y", vec![("to", A::Int(1))]),
    ];
    let m = with_output(nodes, &format!("x[{}]", x.len()));
    run(&m, &[("x", tensor(&[x.len()], x))]).remove(0).to_f64()
}

#[test]
fn casts_round_to_the_nearest_value() {
    // E4M3: ties to even, the largest number, signs of zero.
    let x = [0.478_925, 17.0, 19.0, 465.0, -1e6, -0.0, 2f64.powi(-10), 3.0 * 2f64.powi(-11)];
    let expected = [0.46875, 16.0, 20.0, 448.0, -448.0, -0.0, 0.0, 2f64.powi(-9)];
    let found = there_and_back(17, 1, &x);
    assert_eq!(found, expected);
    assert!(found[5].is_sign_negative());
    assert!(there_and_back(17, 0, &[465.0])[0].is_nan());
    assert_eq!(there_and_back(19, 0, &[1e6, -1e6, 57344.0]), [f64::INFINITY, f64::NEG_INFINITY, 57344.0]);
    let found = there_and_back(18, 0, &[-0.0, 1e6, 0.3]);
    assert!(!found[0].is_sign_negative() && found[1].is_nan());
    assert_eq!(found[2], 0.3125);
    // E2M1, two and four bit integers.
    assert_eq!(there_and_back(23, 1, &[0.25, 0.75, 5.0, 9.0, -3.4]), [0.0, 1.0, 4.0, 6.0, -3.0]);
    assert_eq!(there_and_back(22, 1, &[-9.0, -8.0, 7.0, 8.0]), [7.0, -8.0, 7.0, -8.0]);
    assert_eq!(there_and_back(25, 1, &[-1.0, 3.0, 4.0]), [3.0, 3.0, 0.0]);
}

#[test]
fn other_operators_do_not_see_the_bytes() {
    let nodes = vec![node("Cast x -> e", vec![("to", A::Int(17))]), node("Abs e -> y", vec![])];
    assert!(matches!(import(&with_output(nodes, "x[2]")), Err(ImportError::Unsupported { .. })));
}
