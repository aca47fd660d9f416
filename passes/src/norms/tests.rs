use super::*;
use crate::compute::round;
use crate::partition::{partition, partition_with_copies};
use crate::testing::{model, noise};
use ssmc_ir::{Interpreter, Model, Precision};

/// Two layers over a residual stream: a norm with a weight, a product, one without a weight of what a product made, and a
/// product that adds to the stream.
const LAYERS: &str = r#"func @layers(%x: f32[batch, len, 6], %p: f32[batch, len, 8]) {
  %first = weight {dtype=bf16, name="first", shape=[8, 6]} : bf16[8, 6]
  %first32 = cast %first {to=f32} : f32[8, 6]
  %in = weight {dtype=bf16, name="in", shape=[12, 8]} : bf16[12, 8]
  %in32 = cast %in {to=f32} : f32[12, 8]
  %out = weight {dtype=bf16, name="out", shape=[12, 8]} : bf16[12, 8]
  %out32 = cast %out {to=f32} : f32[12, 8]
  %g = weight {name="g", shape=[8]} : f32[8]
  %r0 = contract[bld,ed->ble] %x, %first32 : f32[batch, len, 8]
  %r = add %r0, %p : f32[batch, len, 8]
  %n = rms_norm %r, %g {eps=1e-5} : f32[batch, len, 8]
  %u0 = contract[bld,ed->ble] %n, %in32 : f32[batch, len, 12]
  %u = silu %u0 : f32[batch, len, 12]
  %m = rms_norm %u {eps=1e-5} : f32[batch, len, 12]
  %o = contract[bld,de->ble] %m, %out32 : f32[batch, len, 8]
  %s = add %r, %o : f32[batch, len, 8]
  return %s "s"
}"#;

fn plan_of(model: &Model, half: DType) -> Plan {
    let plan = partition(&model.graph).unwrap();
    partition(&round(&plan, half).unwrap().graph).unwrap()
}

fn kept(text: &str) -> Vec<Option<&'static str>> {
    let mut model = model(text);
    let plan = plan_of(&model, DType::BF16);
    let folded = fold(&plan, &mut model.weights, &mut Scaled::default()).unwrap();
    folded.norms.into_iter().map(|norm| norm.kept).collect()
}

#[test]
fn no_kernel_writes_normalized_rows() {
    let mut model = model(LAYERS);
    let plan = plan_of(&model, DType::BF16);
    let folded = fold(&plan, &mut model.weights, &mut Scaled::default()).unwrap();
    assert!(folded.norms.iter().all(|norm| norm.kept.is_none()), "{:?}", folded.norms);
    let plan = partition_with_copies(&folded.graph).unwrap();
    let stored = |value: &ValueId| (plan.graph.ty(*value).dtype, plan.graph.ty(*value).rank());
    let kernels: Vec<(&str, Vec<(DType, usize)>)> = plan
        .groups
        .iter()
        .map(|group| (plan.graph.node(group.root).op.name(), group.outputs.iter().map(stored).collect()))
        .collect();
    let (exact, half) = (DType::F32, DType::BF16);
    let expected = [
        // The residual stream with its copy, and one number for each row.
        ("contract", vec![(exact, 3), (half, 3)]),
        ("reduce", vec![(exact, 2)]),
        ("contract", vec![(half, 3)]),
        ("reduce", vec![(exact, 2)]),
        ("contract", vec![(exact, 3)]),
    ];
    assert_eq!(kernels, expected, "{}", plan.graph);
}

/// In truth nothing but the rounding of the scaled weight changes, and in typed arithmetic no more than rounding does.
#[test]
fn the_meaning_stays() {
    for len in [0, 1, 5] {
        let mut model = model(LAYERS);
        let plan = plan_of(&model, DType::BF16);
        let folded = fold(&plan, &mut model.weights, &mut Scaled::default()).unwrap();
        let tensor = |seed, width| {
            let data = noise(seed, 2 * len * width);
            Tensor::floats(DType::F32, [2, len, width], data).unwrap().rounded()
        };
        let inputs = BTreeMap::from([("x".to_owned(), tensor(3, 6)), ("p".to_owned(), tensor(4, 8))]);
        let run = |graph: &Graph, precision| {
            let interpreter = Interpreter::new(graph, &model.weights).precision(precision);
            interpreter.run(&inputs).unwrap()["s"].to_f64()
        };
        let exact = run(&plan.graph, Precision::Truth);
        let size = exact.iter().map(|y| y * y).sum::<f64>();
        for (precision, bound) in [(Precision::Truth, 4e-3), (Precision::Typed, 8e-3)] {
            let found = run(&folded.graph, precision);
            let error = found.iter().zip(&exact).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            let error = (error / size.max(1e-30)).sqrt();
            assert!(error < bound && (error > 0.0 || len == 0), "{precision:?}: {error}");
        }
    }
}

#[test]
fn programs_share_scaled_weights() {
    let mut model = model(LAYERS);
    let plan = plan_of(&model, DType::BF16);
    let mut scaled = Scaled::default();
    fold(&plan, &mut model.weights, &mut scaled).unwrap();
    fold(&plan, &mut model.weights, &mut scaled).unwrap();
    let product = &model.weights.get("in * g").unwrap().bytes;
    let [_, _, known] = &scaled.0["in * g"];
    assert!(std::ptr::eq(product.as_slice(), known.bytes.as_slice()));
    assert_eq!(scaled.0.len(), 1);
    // Other bytes of the same name are another weight.
    let [weight, g, _] = scaled.0["in * g"].clone();
    assert!(scaled.known("in * g", [&weight, &g]).is_some());
    assert!(scaled.known("in * g", [&weight, &Weight { bytes: vec![0; 32].into(), ..g }]).is_none());
}

#[test]
fn a_weight_of_ones_changes_nothing() {
    let mut model = model(LAYERS);
    let ones = Tensor::floats(DType::F32, [8], vec![1.0; 8]).unwrap();
    let g = model.weights.get("g").unwrap().clone();
    model.weights.insert("g", Weight { bytes: ones.to_bytes().into(), ..g });
    let before = model.weights.len();
    let plan = plan_of(&model, DType::BF16);
    let folded = fold(&plan, &mut model.weights, &mut Scaled::default()).unwrap();
    assert_eq!(model.weights.len(), before);
    assert!(folded.norms.iter().all(|norm| norm.kept.is_none()));
}

#[test]
fn what_is_not_folded_has_a_reason() {
    assert_eq!(kept(LAYERS), [None, None]);
    let another =
        LAYERS.replace(r#"return %s "s""#, "%t = add %s, %n : f32[batch, len, 8]\n  return %t \"s\"");
    assert_eq!(kept(&another)[0], Some("something else than products reads it"));
    let output = LAYERS.replace(r#"return %s "s""#, r#"return %s "s", %n "n""#);
    assert!(kept(&output)[0].is_some());
    let from_input = LAYERS.replace("rms_norm %r, %g", "rms_norm %p, %g");
    assert_eq!(kept(&from_input)[0], Some("no kernel stores its rows"));
    let exact = LAYERS
        .replace(r#"%in = weight {dtype=bf16, name="in", shape=[12, 8]} : bf16[12, 8]"#, "")
        .replace("%in32 = cast %in {to=f32}", r#"%in32 = weight {name="in", shape=[12, 8]}"#);
    assert!(kept(&exact)[0].is_some());
    let twice = LAYERS
        .replace(r#"%out = weight {dtype=bf16, name="out", shape=[12, 8]} : bf16[12, 8]"#, "")
        .replace("%out32 = cast %out {to=f32} : f32[12, 8]", "")
        .replace("contract[bld,de->ble] %m, %out32", "contract[bld,de->ble] %m, %in32");
    assert_eq!(kept(&twice), [Some("something else reads the weight of a product"); 2]);
    let mean = LAYERS.replace("rms_norm %u", "layer_norm %u");
    assert_eq!(kept(&mean), [None, Some("it subtracts a mean")]);
}

/// Rows that no norm has scaled may be larger than f16 can say.
#[test]
fn f16_stays_as_it_is() {
    let mut model = model(&LAYERS.replace("bf16", "f16"));
    let plan = plan_of(&model, DType::F16);
    let folded = fold(&plan, &mut model.weights, &mut Scaled::default()).unwrap();
    assert!(folded.norms.iter().all(|norm| norm.kept.is_some()), "{:?}", folded.norms);
    assert_eq!(folded.graph.to_string(), plan.graph.to_string());
}
