use super::*;
use crate::testing::{model, noise};
use ssmc_ir::{Bindings, Interpreter, Symbol};

/// A product with a large matrix, a lookup in it, the path of a time step, and a small matrix.
const MODEL: &str = r#"func @m(%x: f32[n, 64], %ids: i64[n]) {
  %w = weight {name="w", shape=[96, 64]} : f32[96, 64]
  %in = weight {name="in", shape=[64, 96]} : f32[64, 96]
  %low = weight {name="low", shape=[96, 80]} : f32[96, 80]
  %up = weight {name="up", shape=[64, 64]} : f32[64, 64]
  %small = weight {name="small", shape=[96, 8]} : f32[96, 8]
  %h = contract[ab,bc->ac] %x, %in : f32[n, 96]
  %l = contract[ab,bc->ac] %h, %low : f32[n, 80]
  %d = slice %l {axis=1, len=64, start=0} : f32[n, 64]
  %p = contract[ab,bc->ac] %d, %up : f32[n, 64]
  %dt = softplus %p : f32[n, 64]
  %y = contract[ab,cb->ac] %x, %w : f32[n, 96]
  %e = gather %w, %ids {axis=0} : f32[n, 64]
  %s = contract[ab,bc->ac] %h, %small : f32[n, 8]
  return %y "y", %e "e", %dt "dt", %s "s"
}"#;

#[test]
fn names_are_read_back() {
    for name in WeightFormat::NAMES {
        assert_eq!(name.parse::<WeightFormat>().unwrap().to_string(), name);
    }
    let error = "int5".parse::<WeightFormat>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected one of f32, bf16, f16, int8, int4, int4-64, int4-128, found int5"
    );
}

#[test]
fn the_policy_takes_large_matrices_but_not_the_path_of_the_time_step() {
    let matrices = policy::matrices(&model(MODEL).graph);
    let found: Vec<(&str, usize)> = matrices.iter().map(|(name, m)| (name.as_str(), m.k_axis)).collect();
    assert_eq!(found, [("in", 0), ("w", 1)]);
}

fn outputs(model: &Model) -> Vec<Vec<f64>> {
    let n = 3;
    let x = Tensor::floats(DType::F32, [n, 64], noise(5, n * 64)).unwrap();
    let ids = Tensor::ints(DType::I64, [n], vec![95, 0, 7]).unwrap();
    let bindings: Bindings = [(Symbol::new("n"), n as i64)].into_iter().collect();
    let mut interpreter = Interpreter::new(&model.graph, &model.weights);
    for (symbol, value) in &bindings {
        interpreter = interpreter.bind(symbol.clone(), *value);
    }
    let inputs = [("x".to_owned(), x), ("ids".to_owned(), ids)].into_iter().collect();
    let found = interpreter.run(&inputs).unwrap_or_else(|e| panic!("{e}\n{}", model.graph));
    found.values().map(Tensor::to_f64).collect()
}

#[test]
fn every_format_stays_close_and_verifies() {
    let exact = model(MODEL);
    for name in WeightFormat::NAMES {
        let format: WeightFormat = name.parse().unwrap();
        let mut stored = exact.clone();
        let done = store(&mut stored, format).unwrap();
        let faults = ssmc_ir::verify(&stored.graph, ssmc_ir::Stage::Imported);
        assert!(faults.is_empty(), "{name}: {faults:?}");
        assert_eq!(done.len(), if format == WeightFormat::F32 { 0 } else { 2 }, "{name}: {done:?}");
        for weight in &done {
            // Random numbers are harder than trained ones.
            assert!(weight.error < 1.5 * format.bound(), "{name}: {weight:?}");
        }
        for (before, after) in outputs(&exact).iter().zip(outputs(&stored)) {
            assert!(round::relative_error(before, &after) < 1.5 * format.bound(), "{name}");
        }
    }
}

#[test]
fn storage_is_counted_with_scales() {
    let bits = |format| {
        let mut model = model(MODEL);
        // The one that is no table.
        store(&mut model, format).unwrap()[0].bits
    };
    assert_eq!(bits(WeightFormat::Bf16), 16.0);
    assert_eq!(bits(WeightFormat::Int4 { group: 32 }), 4.5);
    assert_eq!(bits(WeightFormat::Int4 { group: 64 }), 4.25);
    assert_eq!(bits(WeightFormat::Int8), 8.5);
    let mut model = model(MODEL);
    assert_eq!(store(&mut model, WeightFormat::Int4 { group: 32 }).unwrap()[1].bits, 8.5);
}

#[test]
fn groups_run_along_either_axis() {
    let exact: Vec<f64> = (0..12).map(f64::from).collect();
    for (axis, group) in [(0, 2), (0, 4), (1, 3)] {
        let q = round::quantize(&exact, &[4, 3], axis, (8, group));
        assert_eq!(q.scales.len(), 12 / group);
        let found = round::numbers(&q.ints, &q.scales, &[4, 3], (axis, group));
        assert!(round::relative_error(&exact, &found) < 4e-3, "{axis} {group}: {found:?}");
    }
}

#[test]
fn zeros_and_extremes_have_finite_scales() {
    for bits in [4, 8] {
        let q = round::quantize(&[0.0, -0.0, 3e38, -3e38], &[2, 2], 1, (bits, 2));
        assert!(q.scales.iter().all(|s| s.is_finite()), "{:?}", q.scales);
        assert_eq!(&q.ints[..2], &[0, 0]);
    }
}

#[test]
fn products_are_put_beside_those_with_exact_weights() {
    let exact = model(MODEL);
    let mut stored = exact.clone();
    let done = store(&mut stored, WeightFormat::Int4 { group: 32 }).unwrap();
    let (both, found) = products::beside(&stored, &exact, &done).unwrap();
    let weights: Vec<&str> = found.iter().map(|c| c.weight.as_str()).collect();
    assert_eq!(weights, ["in", "w"]);
    let faults = ssmc_ir::verify(&both.graph, ssmc_ir::Stage::Imported);
    assert!(faults.is_empty(), "{faults:?}");
    let names: Vec<&str> = both.graph.outputs().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["stored.0", "exact.0", "stored.1", "exact.1"]);
    let n = 3;
    let x = Tensor::floats(DType::F32, [n, 64], noise(5, n * 64)).unwrap();
    let found = Interpreter::new(&both.graph, &both.weights)
        .bind(Symbol::new("n"), n as i64)
        .run(&[("x".to_owned(), x)].into_iter().collect())
        .unwrap();
    for (i, bound) in [(0, 0.12), (1, 0.01)] {
        let [stored, exact] = ["stored", "exact"].map(|kind| found[&format!("{kind}.{i}")].to_f64());
        let error = round::relative_error(&exact, &stored);
        assert!(error > 0.0 && error < bound, "{i}: {error}");
    }
}
