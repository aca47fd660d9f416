//! A mixer as the partitioner cuts it: every product and the scan have kernels, with whatever was grouped with them.

use super::problem::launch;
use super::*;
use ssmc_ir::{Bindings, Data, Interpreter, Symbol, Tensor, Weight, Weights, parse};
use ssmc_passes::partition::partition;
use std::collections::BTreeMap;

const MIXER: &str = r#"func @mixer(%x: f32[batch, len, 6]) {
  %w_in = weight {dtype=bf16, name="in", shape=[10, 6]} : bf16[10, 6]
  %w_in32 = cast %w_in {to=f32} : f32[10, 6]
  %w_bc = weight {name="bc", shape=[6, 10]} : f32[6, 10]
  %w_dt = weight {name="dt", shape=[10, 10]} : f32[10, 10]
  %w_out = weight {dtype=bf16, name="out", shape=[6, 10]} : bf16[6, 10]
  %w_out32 = cast %w_out {to=f32} : f32[6, 10]
  %a = weight {name="a", shape=[1, 10, 3]} : f32[1, 10, 3]
  %a_pos = exp %a : f32[1, 10, 3]
  %a_neg = neg %a_pos : f32[1, 10, 3]
  %u0 = contract[bld,ed->ble] %x, %w_in32 : f32[batch, len, 10]
  %u = silu %u0 : f32[batch, len, 10]
  %bc = contract[bld,ed->ble] %u, %w_bc : f32[batch, len, 6]
  %dt = contract[bld,ed->ble] %u, %w_dt : f32[batch, len, 10]
  %b0 = slice %bc {axis=2, len=3} : f32[batch, len, 3]
  %c0 = slice %bc {axis=2, len=3, start=3} : f32[batch, len, 3]
  %b1 = reshape %b0 {shape=[batch, len, 1, 3]} : f32[batch, len, 1, 3]
  %c1 = reshape %c0 {shape=[batch, len, 1, 3]} : f32[batch, len, 1, 3]
  %u1 = reshape %u {shape=[batch, len, 1, 10]} : f32[batch, len, 1, 10]
  %dt1 = reshape %dt {shape=[batch, len, 1, 10]} : f32[batch, len, 1, 10]
  %y1, %h = ssm.selective_scan %u1, %dt1, %a_neg, %b1, %c1 {dt_softplus=true} : f32[batch, len, 1, 10], f32[batch, 1, 10, 3]
  %y = reshape %y1 {shape=[batch, len, 10]} : f32[batch, len, 10]
  %o = contract[bld,ed->ble] %y, %w_out32 : f32[batch, len, 6]
  %r = add %o, %x : f32[batch, len, 6]
  return %r "y", %h "h"
}"#;

fn numbers(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f64 / 16.0 - 0.7).collect()
}

#[test]
fn products_and_scan_of_a_mixer() {
    let graph = parse(MIXER).unwrap_or_else(|faults| panic!("{faults:?}"));
    let plan = partition(&graph).unwrap();
    let graph = &plan.graph;
    let mut weights = Weights::new();
    for (i, (_, node)) in graph.nodes().enumerate() {
        if let Op::WeightRef(op) = &node.op {
            let ty = graph.ty(node.results[0]).clone();
            let shape: Vec<usize> = ty.shape.as_const().unwrap().iter().map(|n| *n as usize).collect();
            let data = Data::Float(numbers(shape.iter().product(), i));
            let bytes = Tensor::new(ty.dtype, shape, data).unwrap().rounded().to_bytes();
            weights.insert(&op.name, Weight { ty, bytes: bytes.into() });
        }
    }
    let (batch, len) = (2, 7);
    let bindings = Bindings::from([(Symbol::new("batch"), batch), (Symbol::new("len"), len)]);
    let x = Tensor::floats(DType::F32, [2, 7, 6], numbers(84, 9)).unwrap().rounded();
    let inputs = BTreeMap::from([("x".to_owned(), x)]);
    let truth = Interpreter::new(graph, &weights).run_recorded(&inputs).unwrap().values;
    let tensors = truth.iter().map(|(value, tensor)| (*value, tensor.clone().rounded())).collect();
    let mut lowered = BTreeMap::new();
    for target in targets() {
        for group in &plan.groups {
            let op = graph.node(group.root).op.name();
            let kernel = lower_block(graph, group, &target).unwrap();
            for (value, found) in launch(graph, &kernel, &bindings, (&tensors, &mut Vec::new())).unwrap() {
                for (x, y) in found.to_f64().into_iter().zip(truth[&value].to_f64()) {
                    assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{op}, {value}: {x} is not {y}");
                }
            }
            *lowered.entry(op).or_insert(0) += 1;
        }
    }
    assert_eq!(lowered, BTreeMap::from([("contract", 8), ("neg", 2), ("ssm.selective_scan", 2)]));
}
