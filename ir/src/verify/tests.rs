use super::*;
use crate::entity::{Entity, ValueId};
use crate::testing::graph;
use crate::types::{DType, Shape, TensorType};
use crate::weights::Weight;

const TEXT: &str = "func @f(%x: f32[2], %y: f32[2]) {
    %2 = add %x, %y : f32[2]
    %3 = silu %2 : f32[2]
    %4 = loop %3 {n_carried=1} : f32[2] {
        func @body(%i: i64[], %h: f32[2]) { %n = neg %h : f32[2] return %n \"n\" }
    }
    return %3 \"a\", %4 \"b\"
}";

fn node(graph: &mut Graph, i: usize) -> &mut Node {
    &mut graph.nodes[NodeId::new(i)]
}

/// Breaks the graph of [`TEXT`] and compares the codes of all faults.
fn check(break_it: impl FnOnce(&mut Graph), codes: &[&str]) -> Vec<Diagnostic> {
    let mut graph = graph(TEXT);
    break_it(&mut graph);
    let faults = verify(&graph, Stage::Rewritten);
    assert_eq!(faults.iter().map(|f| f.code).collect::<Vec<_>>(), codes, "{faults:?}");
    faults
}

#[test]
fn a_valid_graph_has_no_fault() {
    check(|_| {}, &[]);
}

#[test]
fn every_kind_of_fault_is_found() {
    check(|g| g.inputs[1].name = "x".into(), &[DUPLICATE_INPUT]);
    check(|g| g.outputs[1].name = "a".into(), &[DUPLICATE_OUTPUT]);
    check(|g| g.outputs[1].value = ValueId::new(99), &[UNDEFINED_VALUE]);
    check(|g| node(g, 0).operands[0] = Some(ValueId::new(99)), &[UNDEFINED_VALUE]);
    check(|g| node(g, 0).operands[0] = Some(ValueId::new(3)), &[USE_BEFORE_DEF]);
    check(|g| node(g, 1).operands[0] = Some(ValueId::new(3)), &[USE_BEFORE_DEF]);
    check(|g| node(g, 0).operands[0] = None, &[INVALID_OP]);
    check(|g| node(g, 0).operands.clear(), &[INVALID_OP]);
    check(|g| g.values[ValueId::new(3)].ty.dtype = DType::F16, &[TYPE_MISMATCH, INVALID_OP]);
    check(|g| node(g, 1).results = vec![ValueId::new(4)], &[WRONG_DEF]);
    check(|g| node(g, 1).results.clear(), &[RESULT_COUNT]);
    check(|g| g.inputs.swap(0, 1), &[WRONG_DEF, WRONG_DEF]);
    check(|g| node(g, 2).regions.clear(), &[INVALID_OP]);
    check(|g| node(g, 2).regions[0].inputs.truncate(1), &[INVALID_OP]);
    check(
        |g| {
            let stray = g.clone();
            node(g, 0).regions.push(stray);
        },
        &[STRAY_REGION],
    );
    check(|g| node(&mut node(g, 2).regions[0], 0).operands[0] = Some(ValueId::new(9)), &[UNDEFINED_VALUE]);
    check(|g| node(g, 2).regions[0].outputs[0].value = ValueId::new(9), &[UNDEFINED_VALUE]);
}

#[test]
fn all_faults_are_reported_with_their_places() {
    let faults = check(
        |g| {
            g.inputs[1].name = "x".into();
            node(g, 0).operands[1] = None;
            g.values[ValueId::new(3)].ty.shape = Shape::from([3]);
        },
        &[DUPLICATE_INPUT, INVALID_OP, TYPE_MISMATCH, INVALID_OP],
    );
    assert_eq!(faults[0].place, "input \"x\"");
    assert!(faults[1].place.starts_with("%2 = add"), "{}", faults[1]);
    assert!(faults[2].message.contains("expected f32[2], found f32[3]"), "{}", faults[2]);
}

#[test]
fn fused_ops_wait_for_their_stage() {
    let graph = graph(TEXT);
    for stage in Stage::ALL.iter().copied() {
        let codes: Vec<_> = verify(&graph, stage).into_iter().map(|f| f.code).collect();
        let expected: &[_] = if stage < Stage::Rewritten { &[FUSED_OP] } else { &[] };
        assert_eq!(codes, expected, "{stage}");
    }
}

#[test]
fn weights_are_there_and_have_their_types() {
    let graph = graph(
        "func @f() {
            %0 = weight {name=\"a\", shape=[1]} : f32[1]
            %1 = weight {name=\"b\", shape=[1]} : f32[1]
            %2 = weight {name=\"c\", shape=[1]} : f32[1]
            return %0 \"0\", %1 \"1\", %2 \"2\"
        }",
    );
    let mut weights = Weights::new();
    for (name, n) in [("a", 1), ("b", 2)] {
        let ty = TensorType::new(DType::F32, Shape::from([n]));
        weights.insert(name, Weight { ty, bytes: vec![0; 4 * n as usize].into() });
    }
    let faults = verify_weights(&graph, &weights);
    let found: Vec<_> = faults.iter().map(|f| (f.code, f.place.as_str())).collect();
    assert_eq!(found, [(WEIGHT_TYPE, "weight \"b\""), (WEIGHT_MISSING, "weight \"c\"")]);
}
