//! Operators of `com.microsoft`.

use super::*;
use In::{B, F, I};

/// An input.
enum In {
    /// Floats `((7 i + 3 n) mod 11 - 5) / 4` of these extents, where n is the place of the input.
    F(&'static [usize]),
    /// Bytes `(37 i + 11 n) mod 256` of these extents, known when importing.
    B(&'static [usize]),
    /// These integers.
    I(&'static [i64]),
}

/// Runs one node and compares its results.
fn check(text: &str, attributes: Vec<(&str, A)>, inputs: &[In], expected: &[(&[usize], &[f64])]) {
    let mut node = node(text, attributes);
    node.domain = Some("com.microsoft".into());
    let is_weight = node.op_type() == "MatMulNBits";
    let (mut ports, mut known, mut given) = (Vec::new(), Vec::new(), Vec::new());
    let names: Vec<String> = node.input.iter().filter(|name| !name.is_empty()).cloned().collect();
    for (name, input) in names.iter().zip(inputs) {
        let n = usize::from(name.as_bytes()[0] - b'a');
        match input {
            F(dims) => {
                let data: Vec<f64> = (0..dims.iter().product())
                    .map(|i: usize| ((i * 7 + n * 3) % 11) as f64 / 4.0 - 1.25)
                    .collect();
                if is_weight && n > 0 {
                    let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
                    known.push(floats(name, &dims, &data.iter().map(|x| *x as f32).collect::<Vec<_>>()));
                    continue;
                }
                let text: Vec<String> = dims.iter().map(usize::to_string).collect();
                ports.push(value(&format!("{name}[{}]", text.join(","))));
                given.push((name.as_str(), tensor(dims, &data)));
            }
            B(dims) => known.push(TensorProto {
                name: Some(name.clone()),
                data_type: Some(2),
                dims: dims.iter().map(|d| *d as i64).collect(),
                raw_data: Some((0..dims.iter().product()).map(|i: usize| (i * 37 + n * 11) as u8).collect()),
                ..TensorProto::default()
            }),
            I(data) => {
                ports.push(value(&format!("i:{name}[{}]", data.len())));
                given.push((name.as_str(), Tensor::ints(DType::I64, [data.len()], data.to_vec()).unwrap()));
            }
        }
    }
    let outputs = node.output.iter().filter(|name| !name.is_empty());
    let output = outputs.map(|n| ValueInfoProto { name: Some(n.clone()), ..ValueInfoProto::default() });
    let output = output.collect();
    let mut m = model(21, GraphProto { input: ports, output, ..graph(&[], known, vec![node], &[]) });
    m.opset_import.push(OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) });
    let found = run(&m, &given);
    assert_eq!(found.len(), expected.len());
    for (found, (shape, expected)) in found.iter().zip(expected) {
        assert_eq!(found.shape(), *shape, "{text}");
        for (x, y) in found.to_f64().iter().zip(*expected) {
            let is_near = (x - y).abs() <= 2e-5 * y.abs().max(1.0);
            assert!(is_near, "{text}: {:?}, expected {expected:?}", found.to_f64());
        }
    }
}

/// The numbers are those of the CPU provider of onnxruntime 1.31.1.
#[test]
fn results_are_those_of_onnxruntime() {
    check(
        "FusedMatMul a b -> y",
        vec![("alpha", A::Float(0.5))],
        &[F(&[2, 3, 2]), F(&[2, 2, 3])],
        &[(
            &[2, 3, 3],
            &[
                0.125, -0.53125, -0.15625, -0.34375, 0.3125, -0.0625, 0.21875, -0.21875, 0.03125, -0.5,
                0.375, -0.125, 0.03125, -0.1875, -0.0625, 0.90625, -0.40625, 0.34375,
            ],
        )],
    );
    check(
        "FusedMatMul a b -> y",
        vec![("transA", A::Int(1))],
        &[F(&[2, 3, 2]), F(&[2, 3, 2])],
        &[(&[2, 2, 2], &[0.75, -1.1875, -0.6875, -0.3125, -0.875, 2.125, -0.8125, -0.3125])],
    );
    check(
        "FusedMatMul a b -> y",
        vec![("transBatchA", A::Int(1))],
        &[F(&[2, 3, 4]), F(&[3, 4, 2])],
        &[(
            &[3, 2, 2],
            &[-1.0, -1.0, 0.625, 1.1875, 0.8125, 0.3125, 1.4375, -0.5625, 1.5, -0.875, 1.125, -0.6875],
        )],
    );
    check(
        "FusedMatMul a b -> y",
        vec![
            ("transBatchA", A::Int(1)),
            ("transA", A::Int(1)),
            ("transBatchB", A::Int(1)),
            ("transB", A::Int(1)),
        ],
        &[F(&[4, 3, 2]), F(&[2, 3, 4])],
        &[(&[3, 2, 2], &[2.0, -1.6875, 0.375, 0.0, -1.1875, 1.75, 0.8125, -0.5, 0.5, -1.625, 2.0, 0.4375])],
    );
    check(
        "Gelu a -> y",
        vec![],
        &[F(&[5])],
        &[(&[5], &[-0.132062, 0.345731, -0.154269, 1.117938, 0.149677])],
    );
    check(
        "BiasGelu a b -> y",
        vec![],
        &[F(&[2, 3]), F(&[3])],
        &[(&[2, 3], &[-0.070104, 1.679896, -0.100323, 0.580029, 1.399789, -0.154269])],
    );
    check(
        "FastGelu a b -> y",
        vec![],
        &[F(&[2, 3]), F(&[3])],
        &[(&[2, 3], &[-0.070205, 1.679795, -0.100325, 0.579961, 1.399572, -0.154286])],
    );
    check(
        "QuickGelu a -> y",
        vec![("alpha", A::Float(1.5))],
        &[F(&[5])],
        &[(&[5], &[-0.166205, 0.339589, -0.160411, 1.083795, 0.148167])],
    );
    check(
        "FusedConv a b c -> y",
        vec![("activation", A::Str("LeakyRelu")), ("activation_params", A::Floats(vec![0.1]))],
        &[F(&[1, 2, 4]), F(&[1, 2, 2]), F(&[1])],
        &[(&[1, 1, 3], &[2.125, -0.15625, 2.3125])],
    );
    check(
        "FusedConv a b c d -> y",
        vec![("activation", A::Str("Relu"))],
        &[F(&[1, 1, 2, 2]), F(&[1, 1, 2, 2]), F(&[1]), F(&[1, 1, 1, 1])],
        &[(&[1, 1, 1, 1], &[1.4375])],
    );
    check(
        "FusedConv a b -> y",
        vec![("activation", A::Str("HardSigmoid")), ("activation_params", A::Floats(vec![0.2, 0.4]))],
        &[F(&[1, 2, 4]), F(&[1, 2, 2])],
        &[(&[1, 1, 3], &[0.775, 0.0375, 0.8125])],
    );
    check(
        "FusedConv a b -> y",
        vec![("activation", A::Str("Clip")), ("activation_params", A::Floats(vec![-0.5, 0.5]))],
        &[F(&[1, 2, 4]), F(&[1, 2, 2])],
        &[(&[1, 1, 3], &[0.5, -0.5, 0.5])],
    );
    check(
        "FusedGemm a b c -> y",
        vec![
            ("activation", A::Str("LeakyRelu")),
            ("activation_alpha", A::Float(0.2)),
            ("alpha", A::Float(0.5)),
        ],
        &[F(&[2, 3]), F(&[3, 2]), F(&[2])],
        &[(&[2, 2], &[0.375, -0.34375, -0.08125, -0.0125])],
    );
    check(
        "SkipLayerNormalization a b c d e -> y _ _ v",
        vec![("epsilon", A::Float(0.001))],
        &[F(&[1, 2, 4]), F(&[1, 2, 4]), F(&[4]), F(&[4]), F(&[4])],
        &[
            (&[1, 2, 4], &[0.683378, -1.149836, -1.066657, 0.75, 1.333284, -0.333284, -1.444379, 0.75]),
            (&[1, 2, 4], &[-2.75, 2.5, -0.5, -0.75, 0.25, 0.0, -0.25, -0.5]),
        ],
    );
    check(
        "SkipLayerNormalization a b c d -> y",
        vec![],
        &[F(&[2, 2, 4]), F(&[2, 4]), F(&[4]), F(&[4])],
        &[(
            &[2, 2, 4],
            &[
                0.642384, -0.998859, -1.246632, 0.75, 1.309295, 1.051602, -1.412393, 0.75, 0.819276,
                -1.144588, -0.759034, 0.75, 1.309295, 1.051602, -1.412393, 0.75,
            ],
        )],
    );
    check(
        "SkipSimplifiedLayerNormalization a b c d -> y _ _ v",
        vec![("epsilon", A::Float(0.001))],
        &[F(&[1, 2, 4]), F(&[1, 2, 4]), F(&[4]), F(&[4])],
        &[
            (&[1, 2, 4], &[-0.144295, -1.010064, -0.961965, 0.0, 0.377547, 0.377547, -0.671194, 0.0]),
            (&[1, 2, 4], &[-0.75, 1.75, -1.25, 1.25, 2.25, -0.75, -1.0, 1.5]),
        ],
    );
    check(
        "MatMulNBits a b c -> y",
        vec![("K", A::Int(16)), ("N", A::Int(3)), ("bits", A::Int(4)), ("block_size", A::Int(16))],
        &[F(&[2, 16]), B(&[3, 1, 8]), F(&[3, 1])],
        &[(&[2, 3], &[-3.4375, 9.1875, 15.5, -6.75, -5.625, -7.5])],
    );
    check(
        "MatMulNBits a b c d -> y",
        vec![("K", A::Int(20)), ("N", A::Int(3)), ("bits", A::Int(4)), ("block_size", A::Int(16))],
        &[F(&[2, 20]), B(&[3, 2, 8]), F(&[3, 2]), B(&[3, 1])],
        &[(&[2, 3], &[-0.9375, 16.0, -3.8125, 4.6875, 29.25, -39.625])],
    );
    check(
        "MatMulNBits a b c _ _ f -> y",
        vec![("K", A::Int(16)), ("N", A::Int(3)), ("bits", A::Int(8)), ("block_size", A::Int(16))],
        &[F(&[2, 16]), B(&[3, 1, 16]), F(&[3, 1]), F(&[3])],
        &[(&[2, 3], &[2.625, 23.125, -12.0, -20.125, -37.625, 241.0])],
    );
    check(
        "MatMulNBits a b c -> y",
        vec![("K", A::Int(16)), ("N", A::Int(3)), ("bits", A::Int(2)), ("block_size", A::Int(16))],
        &[F(&[2, 16]), B(&[3, 1, 4]), F(&[3, 1])],
        &[(&[2, 3], &[0.5, 4.3125, -3.0, -1.0, -1.6875, 1.25])],
    );
    check(
        "CausalConvWithState a b c d -> y z",
        vec![("activation", A::Str("silu"))],
        &[F(&[1, 2, 3]), F(&[2, 1, 3]), F(&[2]), F(&[1, 2, 2])],
        &[
            (&[1, 2, 3], &[-0.20417, -0.277526, 1.097507, 0.509384, -0.030274, -0.275903]),
            (&[1, 2, 2], &[0.5, -0.5, 0.25, -0.75]),
        ],
    );
    check(
        "CausalConvWithState a b c d -> y z",
        vec![("dilation", A::Int(2))],
        &[F(&[1, 2, 4]), F(&[2, 1, 3]), F(&[2]), F(&[1, 2, 4])],
        &[
            (&[1, 2, 4], &[-1.8125, 1.3125, -0.9375, 0.8125, -0.0625, -0.3125, -0.875, -1.125]),
            (&[1, 2, 4], &[-1.25, 0.5, -0.5, 1.25, 0.25, -0.75, 1.0, 0.0]),
        ],
    );
    check(
        "CausalConvWithState a b c d -> y z",
        vec![("channels_last", A::Int(1))],
        &[F(&[1, 3, 2]), F(&[2, 1, 3]), F(&[2]), F(&[1, 2, 2])],
        &[
            (&[1, 3, 2], &[-1.8125, 0.0, -0.9375, -0.8125, 0.3125, 0.125]),
            (&[1, 2, 2], &[-0.5, 1.25, 0.25, -0.75]),
        ],
    );
    check(
        "CausalConvWithState a b -> y z",
        vec![("channels_last", A::Int(1)), ("dilation", A::Int(2))],
        &[F(&[1, 3, 1, 2]), F(&[2, 1, 3])],
        &[
            (&[1, 3, 1, 2], &[-0.3125, 0.0, -0.125, 0.0, -1.5, 0.5]),
            (&[1, 4, 1, 2], &[0.0, 0.0, -1.25, 0.5, -0.5, 1.25, 0.25, -0.75]),
        ],
    );
    check(
        "LinearAttention a b c d e f -> y z",
        vec![("q_num_heads", A::Int(1)), ("kv_num_heads", A::Int(2))],
        &[F(&[1, 2, 2]), F(&[1, 2, 2]), F(&[1, 2, 4]), F(&[1, 2, 2, 2]), F(&[1, 2, 2]), F(&[1, 2, 2])],
        &[
            (&[1, 2, 4], &[-0.652729, 0.339487, 1.49141, 1.96474, -0.024829, 0.035778, 0.681216, -0.483803]),
            (
                &[1, 2, 2, 2],
                &[0.18959, 0.03562, 0.047745, 0.054726, -0.286754, -0.597175, 0.656007, -0.786231],
            ),
        ],
    );
    check(
        "LinearAttention a b c _ e -> y z",
        vec![
            ("q_num_heads", A::Int(2)),
            ("kv_num_heads", A::Int(2)),
            ("update_rule", A::Str("gated")),
            ("scale", A::Float(0.5)),
        ],
        &[F(&[1, 2, 4]), F(&[1, 2, 4]), F(&[1, 2, 4]), F(&[1, 2, 4])],
        &[
            (&[1, 2, 4], &[0.15625, -0.46875, -0.53125, 0.0, -0.221839, 0.384267, 0.561293, 0.625]),
            (&[1, 2, 2, 2], &[-1.20609, 1.36827, 0.189541, -0.568622, 1.122586, 1.25, -1.150519, -0.9375]),
        ],
    );
    check(
        "LinearAttention a b c _ _ f -> y z",
        vec![("q_num_heads", A::Int(2)), ("kv_num_heads", A::Int(1)), ("update_rule", A::Str("delta"))],
        &[F(&[1, 2, 4]), F(&[1, 2, 2]), F(&[1, 2, 2]), F(&[1, 2, 1])],
        &[
            (
                &[1, 2, 4],
                &[-0.055243, 0.165728, -0.080102, 0.240306, -0.468786, -0.250923, -0.1842, -0.110313],
            ),
            (&[1, 1, 2, 2], &[-0.260498, -0.156006, 0.797119, 0.421143]),
        ],
    );
    check(
        "GatedRMSNorm a b c -> y",
        vec![("epsilon", A::Float(0.001))],
        &[F(&[1, 2, 4]), F(&[2]), F(&[1, 2, 4])],
        &[(&[1, 2, 4], &[0.092221, -0.157885, 0.19188, 0.0, 0.060041, -0.852899, 0.07732, 0.0])],
    );
    check(
        "GatedRMSNorm a b c -> y",
        vec![("activation", A::Str("sigmoid"))],
        &[F(&[2, 4]), F(&[4]), F(&[2, 4])],
        &[(&[2, 4], &[0.369085, 0.210628, -0.095992, -0.492396, -0.052743, -0.998972, 0.171726, 0.0])],
    );
    check(
        "LinearAttentionGate a b c d -> y z",
        vec![],
        &[F(&[1, 2, 3]), F(&[3]), F(&[3]), F(&[1, 2, 3])],
        &[
            (&[1, 2, 3], &[0.040056, -1.432668, 0.575939, 0.284218, -1.27606, 0.474077]),
            (&[1, 2, 3], &[0.731059, 0.5, 0.268941, 0.679179, 0.437824, 0.2227]),
        ],
    );
}

/// The numbers are those of the formulas in the documentation: no CPU provider has these.
#[test]
fn results_follow_the_documented_formulas() {
    check(
        "VarlenCausalConvWithState a b c d e -> y z",
        vec![("activation", A::Str("silu"))],
        &[F(&[5, 2]), F(&[2, 1, 3]), I(&[0, 2, 5]), F(&[2]), F(&[2, 2, 2])],
        &[
            (
                &[5, 2],
                &[
                    1.898282, -0.272884, -0.272884, 1.161597, 0.102513, -0.23003, 1.558141, -0.263818,
                    1.625692, 0.35833,
                ],
            ),
            (&[2, 2, 2], &[-1.25, -0.5, 0.5, 1.25, 1.0, -1.0, 0.0, 0.75]),
        ],
    );
    check(
        "GatedDeltaNet a b c d e f g h i -> y z",
        vec![
            ("gate_activation", A::Str("qwen")),
            ("beta_activation", A::Str("sigmoid")),
            ("qk_l2_norm", A::Int(1)),
        ],
        &[
            F(&[3, 1, 2]),
            F(&[3, 1, 2]),
            F(&[3, 2, 2]),
            I(&[0, 2, 3]),
            F(&[3, 2]),
            F(&[3, 2]),
            F(&[2, 2, 2, 2]),
            F(&[2]),
            F(&[2]),
        ],
        &[
            (
                &[3, 2, 2],
                &[
                    -0.13001, -0.5634, 0.162294, -0.013922, 0.429066, -0.371985, 0.13072, 0.320289, 0.114373,
                    -0.140174, -0.096945, 0.182472,
                ],
            ),
            (
                &[2, 2, 2, 2],
                &[
                    -0.140859, 0.59719, 0.396939, -0.407816, -0.078866, 0.16756, -0.156031, 0.425438,
                    0.411024, -0.03349, -0.425941, 0.066979, 0.640048, 0.357866, 0.171881, -0.21472,
                ],
            ),
        ],
    );
    check(
        "Rfft a -> y",
        vec![],
        &[F(&[2, 4])],
        &[(&[2, 3, 2], &[0.0, 0.0, -0.75, 0.75, -3.5, 0.0, 0.5, 0.0, -0.75, 0.75, 2.0, 0.0])],
    );
    check(
        "Irfft a -> y",
        vec![("signal_ndim", A::Int(1))],
        &[F(&[2, 3, 2])],
        &[(&[2, 4], &[-0.5, -1.0, 0.0, 0.25, -0.3125, -0.0625, 0.6875, 0.6875])],
    );
    check(
        "ComplexMul a b -> y",
        vec![],
        &[F(&[2, 3, 2]), F(&[3, 2])],
        &[(
            &[2, 3, 2],
            &[0.0, -1.8125, 0.8125, 0.6875, 0.25, -0.75, -0.5, 1.25, 0.3125, 0.9375, -0.25, -1.25],
        )],
    );
    check(
        "ComplexMulConj a b -> y",
        vec![],
        &[F(&[2, 3, 2]), F(&[3, 2])],
        &[(
            &[2, 3, 2],
            &[1.25, 1.3125, -1.0625, -0.0625, 0.25, -0.75, -0.5, -1.25, -0.8125, -0.5625, -0.25, -1.25],
        )],
    );
    check(
        "GatedDeltaNet a _ _ _ e _ g -> y z",
        vec![("update_rule", A::Str("gated")), ("scale", A::Float(0.5))],
        &[F(&[2, 2, 12]), F(&[2, 2, 2]), F(&[2, 2, 2, 2])],
        &[
            (
                &[2, 2, 2, 2],
                &[
                    0.182803, -0.522226, 1.782563, -1.010625, -0.451199, 0.327026, -0.097011, -0.362148,
                    -0.504248, 1.342951, -0.525344, 0.392666, 2.128523, -6.925451, 1.31741, -1.354385,
                ],
            ),
            (
                &[2, 2, 2, 2],
                &[
                    -0.613948, 1.190848, 0.691656, -0.616449, -0.526524, 1.856531, -0.358131, -1.106531,
                    3.443366, -0.188651, -11.556182, 2.377301, -1.406413, 1.580011, 1.774213, -1.37811,
                ],
            ),
        ],
    );
    check(
        "GatedDeltaNet a b c _ _ f g -> y z",
        vec![("update_rule", A::Str("delta"))],
        &[F(&[4, 2, 2]), F(&[4, 2, 2]), F(&[4, 2, 1]), F(&[4, 2]), F(&[2, 2, 1, 2])],
        &[
            (
                &[4, 2, 1],
                &[-0.867311, -1.042706, 0.596621, 1.767076, 1.022681, 0.905981, -0.720054, -0.059731],
            ),
            (
                &[2, 2, 1, 2],
                &[0.820312, -0.851562, 2.499023, -1.302002, -1.225464, 0.811157, 0.177734, -1.226562],
            ),
        ],
    );
    check(
        "VarlenCausalConvWithState a b c _ e -> y z",
        vec![("dilation", A::Int(2))],
        &[F(&[3, 2]), F(&[2, 1, 2]), I(&[0, 2, 3]), F(&[2, 2, 2])],
        &[
            (&[3, 2], &[-1.0625, -0.4375, -1.0, -1.25, 0.0625, 0.875]),
            (&[2, 2, 2], &[-1.25, -0.5, 0.5, 1.25, -0.5, 0.25, 0.25, -0.75]),
        ],
    );
}
