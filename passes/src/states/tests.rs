use super::*;
use crate::partition::partition;
use crate::testing::{model, noise};
use ssmc_ir::{Interpreter, Place, Precision, Tensor};
use std::collections::BTreeMap;

/// A step of a convolution and a scan, whose last state is an output behind a reshape, and a counter.
const STEP: &str = r#"func @step(%x: f32[2, 1, 16], %tail: f32[2, 2, 16], %h: f32[2, 64], %n: i64[1]) {
  %taps = weight {name="taps", shape=[16, 3]} : f32[16, 3]
  %a0 = weight {name="a", shape=[1, 16, 4]} : f32[1, 16, 4]
  %a1 = exp %a0 : f32[1, 16, 4]
  %a = neg %a1 : f32[1, 16, 4]
  %u, %tail1 = ssm.causal_conv1d %x, %taps, _, %tail {activation=silu} : f32[2, 1, 16], f32[2, 2, 16]
  %u1 = reshape %u {shape=[2, 1, 1, 16]} : f32[2, 1, 1, 16]
  %b0 = slice %x {axis=2, len=4} : f32[2, 1, 4]
  %b = reshape %b0 {shape=[2, 1, 1, 4]} : f32[2, 1, 1, 4]
  %h0 = reshape %h {shape=[2, 1, 16, 4]} : f32[2, 1, 16, 4]
  %y, %h1 = ssm.selective_scan %u1, %u1, %a, %b, %b, _, _, _, %h0 {dt_softplus=true} : f32[2, 1, 1, 16], f32[2, 1, 16, 4]
  %h2 = reshape %h1 {shape=[2, 64]} : f32[2, 64]
  %n1 = add %n, %n : i64[1]
  return %y "y", %tail1 "tail", %h2 "h", %n1 "n"
}"#;

fn states() -> Vec<String> {
    ["tail", "h", "n"].map(str::to_owned).to_vec()
}

#[test]
fn names_are_read_back() {
    for name in StateType::NAMES {
        assert_eq!(name.parse::<StateType>().unwrap().to_string(), name);
    }
    let error = "f8".parse::<StateType>().unwrap_err();
    assert_eq!(error.to_string(), "expected one of f32, bf16, f16, found f8");
}

#[test]
fn states_in_f32_become_halves_and_others_stay() {
    let graph = keep_in(DType::BF16, &model(STEP).graph, &states()).unwrap();
    let dtypes = |ports: &[ssmc_ir::Port]| -> Vec<(String, DType)> {
        ports.iter().map(|port| (port.name.clone(), graph.ty(port.value).dtype)).collect()
    };
    let expect = |all: &[(&str, DType)]| -> Vec<(String, DType)> {
        all.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype)).collect()
    };
    let kept = [("tail", DType::BF16), ("h", DType::BF16), ("n", DType::I64)];
    assert_eq!(dtypes(graph.inputs()), expect(&[&[("x", DType::F32)], &kept[..]].concat()));
    assert_eq!(dtypes(graph.outputs()), expect(&[&[("y", DType::F32)], &kept[..]].concat()));
}

/// There are as many kernels as before: states are converted by those that use and make them.
#[test]
fn kernels_store_states_as_halves() {
    let model = model(STEP);
    let before = partition(&model.graph).unwrap();
    let graph = keep_in(DType::BF16, &model.graph, &states()).unwrap();
    let after = partition(&graph).unwrap();
    assert_eq!(after.groups.len(), before.groups.len());
    let outputs = |of: &ssmc_ir::Plan| -> Vec<(usize, String)> {
        of.groups
            .iter()
            .flat_map(|group| {
                group.outputs.iter().filter_map(|value| match of.places[value] {
                    Place::Output(i) => Some((i, of.graph.ty(*value).dtype.name().to_owned())),
                    _ => None,
                })
            })
            .collect()
    };
    let dtypes = |names: [&str; 4]| -> BTreeSet<(usize, String)> {
        names.into_iter().map(str::to_owned).enumerate().collect()
    };
    assert_eq!(BTreeSet::from_iter(outputs(&before)), dtypes(["f32", "f32", "f32", "i64"]));
    assert_eq!(BTreeSet::from_iter(outputs(&after)), dtypes(["f32", "bf16", "bf16", "i64"]));
}

/// States are rounded once: typed, the results are those of rounded states before, rounded after.
#[test]
fn a_step_rounds_each_state_once() {
    let model = model(STEP);
    let kept = keep_in(DType::BF16, &model.graph, &states()).unwrap();
    let floats = |dtype, shape: &[usize], seed| {
        let data = noise(seed, shape.iter().product());
        Tensor::floats(dtype, shape.to_vec(), data).unwrap().rounded()
    };
    let mut inputs = BTreeMap::from([
        ("x".to_owned(), floats(DType::F32, &[2, 1, 16], 1)),
        ("tail".to_owned(), floats(DType::BF16, &[2, 2, 16], 2)),
        ("h".to_owned(), floats(DType::BF16, &[2, 64], 3)),
        ("n".to_owned(), Tensor::ints(DType::I64, [1], vec![3]).unwrap()),
    ]);
    let run = |graph: &Graph, inputs: &BTreeMap<String, Tensor>| {
        Interpreter::new(graph, &model.weights).precision(Precision::Typed).run(inputs).unwrap()
    };
    let found = run(&kept, &inputs);
    for name in ["tail", "h"] {
        let wide = &inputs[name];
        let wide = Tensor::floats(DType::F32, wide.shape().to_vec(), wide.to_f64()).unwrap();
        inputs.insert(name.to_owned(), wide);
    }
    let exact = run(&model.graph, &inputs);
    for name in ["y", "tail", "h", "n"] {
        let expected = &exact[name];
        let expected = match name {
            "tail" | "h" => {
                let all = expected.to_f64();
                Tensor::floats(DType::BF16, expected.shape().to_vec(), all).unwrap().rounded()
            }
            _ => expected.clone(),
        };
        assert_eq!(found[name].to_f64(), expected.to_f64(), "{name}");
    }
    assert_ne!(found["h"].to_f64(), exact["h"].to_f64());
}
