use super::*;
use crate::partition::partition;
use crate::testing::{model, noise};
use ssmc_ir::{Interpreter, Precision, Tensor};

/// A mixer with a residual: norm, product, convolution, two products of parts of a third, scan, gate, product.
const MIXER: &str = r#"func @mixer(%x: f32[2, len, 8]) {
  %in = weight {dtype=bf16, name="in", shape=[32, 8]} : bf16[32, 8]
  %in32 = cast %in {to=f32} : f32[32, 8]
  %taps = weight {name="taps", shape=[16, 3]} : f32[16, 3]
  %low = weight {dtype=bf16, name="low", shape=[12, 16]} : bf16[12, 16]
  %low32 = cast %low {to=f32} : f32[12, 16]
  %up = weight {dtype=bf16, name="up", shape=[16, 4]} : bf16[16, 4]
  %up32 = cast %up {to=f32} : f32[16, 4]
  %out = weight {dtype=bf16, name="out", shape=[8, 16]} : bf16[8, 16]
  %out32 = cast %out {to=f32} : f32[8, 16]
  %a0 = weight {name="a", shape=[1, 16, 4]} : f32[1, 16, 4]
  %a1 = exp %a0 : f32[1, 16, 4]
  %a = neg %a1 : f32[1, 16, 4]
  %n = rms_norm %x {eps=1e-5} : f32[2, len, 8]
  %xz = contract[bld,ed->ble] %n, %in32 : f32[2, len, 32]
  %x0 = slice %xz {axis=2, len=16} : f32[2, len, 16]
  %u, %tail = ssm.causal_conv1d %x0, %taps {activation=silu} : f32[2, len, 16], f32[2, 2, 16]
  %bcd = contract[bld,ed->ble] %u, %low32 : f32[2, len, 12]
  %d0 = slice %bcd {axis=2, len=4} : f32[2, len, 4]
  %dt = contract[bld,ed->ble] %d0, %up32 : f32[2, len, 16]
  %b0 = slice %bcd {axis=2, len=4, start=4} : f32[2, len, 4]
  %c0 = slice %bcd {axis=2, len=4, start=8} : f32[2, len, 4]
  %b1 = reshape %b0 {shape=[2, len, 1, 4]} : f32[2, len, 1, 4]
  %c1 = reshape %c0 {shape=[2, len, 1, 4]} : f32[2, len, 1, 4]
  %u1 = reshape %u {shape=[2, len, 1, 16]} : f32[2, len, 1, 16]
  %dt1 = reshape %dt {shape=[2, len, 1, 16]} : f32[2, len, 1, 16]
  %y1, %h = ssm.selective_scan %u1, %dt1, %a, %b1, %c1 {dt_softplus=true} : f32[2, len, 1, 16], f32[2, 1, 16, 4]
  %y = reshape %y1 {shape=[2, len, 16]} : f32[2, len, 16]
  %z0 = slice %xz {axis=2, len=16, start=16} : f32[2, len, 16]
  %z = silu %z0 : f32[2, len, 16]
  %g = mul %y, %z : f32[2, len, 16]
  %o = contract[bld,ed->ble] %g, %out32 : f32[2, len, 8]
  %r = add %x, %o : f32[2, len, 8]
  %n2 = rms_norm %r {eps=1e-5} : f32[2, len, 8]
  %s = add %n2, %r : f32[2, len, 8]
  return %s "s", %h "h", %tail "tail"
}"#;

#[test]
fn names_are_read_back() {
    for name in ComputeType::NAMES {
        assert_eq!(name.parse::<ComputeType>().unwrap().to_string(), name);
    }
    let error = "f8".parse::<ComputeType>().unwrap_err();
    assert_eq!(error.to_string(), "expected one of f32, bf16, f16, weights, found f8");
}

#[test]
fn halves_are_those_of_the_weights_of_products() {
    let of = |text: &str| ComputeType::Weights.half(&model(text).graph);
    assert_eq!(of(MIXER), Some(DType::BF16));
    assert_eq!(of(&MIXER.replace("bf16", "f16")), Some(DType::F16));
    assert_eq!(of(&MIXER.replace("bf16", "f32")), None);
    assert_eq!(ComputeType::F32.half(&model(MIXER).graph), None);
}

#[test]
fn factors_and_inputs_of_scans_are_rounded_but_neither_residual_nor_step_sizes() {
    let plan = partition(&model(MIXER).graph).unwrap();
    let rounded = round(&plan, DType::BF16).unwrap();
    let stored: Vec<(&str, DType)> = rounded.values.iter().map(|v| (v.op, v.dtype)).collect();
    let (half, exact) = (DType::BF16, DType::F32);
    let expected = [
        ("neg", exact),
        ("rms_norm", half),
        ("contract", half),
        ("ssm.causal_conv1d", half),
        ("contract", half),
        ("contract", exact),
        ("mul", half),
        ("add", exact),
    ];
    assert_eq!(stored, expected);
    // Partitioned again, there are as many kernels, and what was rounded lies in memory as halves.
    let again = partition(&rounded.graph).unwrap();
    assert_eq!(again.groups.len(), plan.groups.len());
    let stored: Vec<DType> = again
        .groups
        .iter()
        .flat_map(|group| &group.outputs)
        .filter(|value| matches!(again.places[value], Place::Slot(_)))
        .map(|value| again.graph.ty(*value).dtype)
        .collect();
    assert_eq!(stored, expected.map(|(_, dtype)| dtype));
}

#[test]
fn the_meaning_stays() {
    let model = model(MIXER);
    let plan = partition(&model.graph).unwrap();
    let x = Tensor::floats(DType::F32, [2, 5, 8], noise(3, 80)).unwrap().rounded();
    let inputs = BTreeMap::from([("x".to_owned(), x)]);
    let run = |graph: &Graph, precision| {
        Interpreter::new(graph, &model.weights).precision(precision).run(&inputs).unwrap()["s"].to_f64()
    };
    let exact = run(&model.graph, Precision::Truth);
    let size = exact.iter().map(|y| y * y).sum::<f64>();
    for (half, bound) in [(DType::BF16, 3e-2), (DType::F16, 4e-3)] {
        let rounded = round(&plan, half).unwrap();
        // Casts between floats are exact in truth.
        assert_eq!(run(&rounded.graph, Precision::Truth), exact);
        let found = run(&rounded.graph, Precision::Typed);
        let error = found.iter().zip(&exact).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        let error = (error / size).sqrt();
        assert!(error > 0.0 && error < bound, "{half:?}: {error}");
    }
}
