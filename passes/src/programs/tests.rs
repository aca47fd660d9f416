use super::*;
use crate::testing::{model, noise};
use ssmc_ir::{DType, Interpreter, Tensor, Weights};

/// A layer with a convolution window and a recurrence, as frontends import it.
const TEXT: &str = r#"func @lm(%x: f32[batch, seq_len, 3], %seq_idx: i32[batch, seq_len],
        %conv: f32[batch, 2, 3], %ssm: f32[batch, 3]) {
    %w = constant {data=[0.5, -0.25, 1.0, 0.75, 0.125, -1.0, 0.25, 0.5, -0.5], shape=[3, 3]} : f32[3, 3]
    %y, %tail = ssm.causal_conv1d %x, %w, _, %conv, %seq_idx : f32[batch, seq_len, 3], f32[batch, 2, 3]
    %a = sigmoid %y : f32[batch, seq_len, 3]
    %g = reshape %ssm {shape=[batch, 3]} : f32[batch, 3]
    %h, %last = ssm.scan %a, %x, %g, %seq_idx : f32[batch, seq_len, 3], f32[batch, 3]
    %s = slice %h {axis=1, len=1, start=seq_len - 1} : f32[batch, 1, 3]
    %l = reshape %s {shape=[batch, 3]} : f32[batch, 3]
    return %h "logits", %l "logits_last", %tail "conv", %last "ssm"
}"#;

fn names(ports: &[ssmc_ir::Port]) -> Vec<&str> {
    ports.iter().map(|p| p.name.as_str()).collect()
}

fn programs() -> BTreeMap<&'static str, Program> {
    derive(&model(TEXT).graph).unwrap().into_iter().map(|p| (p.name, p)).collect()
}

fn run(program: &Program, inputs: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    let inputs = inputs.iter().map(|(name, x)| ((*name).to_owned(), x.clone())).collect();
    Interpreter::new(&program.graph, &Weights::new()).run(&inputs).unwrap()
}

fn floats(shape: [usize; 3], data: &[f64]) -> Tensor {
    Tensor::floats(DType::F32, shape, data.to_vec()).unwrap()
}

#[test]
fn each_program_keeps_what_it_needs() {
    let programs = programs();
    let ports = |name: &str| (names(programs[name].graph.inputs()), names(programs[name].graph.outputs()));
    assert_eq!(programs.len(), 4);
    assert_eq!(ports("forward"), (vec!["x"], vec!["logits"]));
    assert_eq!(ports("forward_packed"), (vec!["x", "seq_idx"], vec!["logits"]));
    let with_state = (vec!["x", "conv", "ssm"], vec!["logits_last", "conv", "ssm"]);
    assert_eq!(ports("prefill"), with_state);
    assert_eq!(ports("step"), with_state);
    assert_eq!(programs["step"].states, ["conv", "ssm"]);
    assert!(programs["forward"].states.is_empty());
}

#[test]
fn a_state_that_starts_at_zero_is_no_operand() {
    for (_, node) in programs()["forward"].graph.nodes() {
        let n_operands = node.operands.iter().flatten().count();
        assert!(
            !matches!(node.op, Op::Scan(_) | Op::CausalConv1d(_)) || n_operands == 2,
            "{}",
            node.op.name()
        );
    }
}

#[test]
fn the_step_is_one_token_long() {
    let step = &programs()["step"].graph;
    for value in step.values() {
        let mut symbols = BTreeSet::new();
        step.ty(value).shape.iter().for_each(|d| d.collect_symbols(&mut symbols));
        assert!(!symbols.contains(&Symbol::new("seq_len")), "{}", step.ty(value));
    }
}

#[test]
fn prefill_and_steps_continue_what_forward_computes_at_once() {
    let programs = programs();
    let (batch, len, first) = (2, 5, 2);
    let data = noise(3, batch * len * 3);
    let part = |from: usize, to: usize| {
        let rows = (0..batch).flat_map(|b| data[(b * len + from) * 3..(b * len + to) * 3].to_vec());
        floats([batch, to - from, 3], &rows.collect::<Vec<_>>())
    };
    let whole = run(&programs["forward"], &[("x", part(0, len))]);
    let zeros = |shape: &[usize]| Tensor::zeros(DType::F32, shape.to_vec()).unwrap();
    let (mut conv, mut ssm) = (zeros(&[batch, 2, 3]), zeros(&[batch, 3]));
    for (program, from, to) in [("prefill", 0, first), ("step", first, 3), ("step", 3, 4), ("step", 4, 5)] {
        let inputs = [("x", part(from, to)), ("conv", conv), ("ssm", ssm)];
        let mut found = run(&programs[program], &inputs);
        for b in 0..batch {
            let at = (b * len + to - 1) * 3;
            let last = &found["logits_last"].to_f64()[b * 3..b * 3 + 3];
            assert_eq!(last, &whole["logits"].to_f64()[at..at + 3], "{program} up to {to}");
        }
        conv = found.remove("conv").unwrap();
        ssm = found.remove("ssm").unwrap();
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let programs = programs();
    let data = noise(4, 5 * 3);
    let packed = run(
        &programs["forward_packed"],
        &[
            ("x", floats([1, 5, 3], &data)),
            ("seq_idx", Tensor::ints(DType::I32, [1, 5], vec![0, 0, 1, 1, 1]).unwrap()),
        ],
    );
    let alone = |from: usize, to: usize| {
        run(&programs["forward"], &[("x", floats([1, to - from, 3], &data[from * 3..to * 3]))])["logits"]
            .to_f64()
    };
    assert_eq!(packed["logits"].to_f64(), [alone(0, 2), alone(2, 5)].concat());
}

#[test]
fn a_state_that_an_op_must_have_becomes_zeros() {
    let text = r#"func @f(%x: f32[batch, seq_len], %s: f32[batch, seq_len]) {
        %y = add %x, %s : f32[batch, seq_len]
        return %y "logits", %y "logits_last", %y "s"
    }"#;
    let programs = derive(&model(text).graph).unwrap();
    assert_eq!(names(programs[0].graph.inputs()), ["x"]);
    let x = Tensor::floats(DType::F32, [1, 2], vec![1.0, 2.0]).unwrap();
    assert_eq!(run(&programs[0], &[("x", x)])["logits"].to_f64(), [1.0, 2.0]);
}

#[test]
fn a_graph_without_logits_has_one_program() {
    let text = r#"func @f(%x: f32[batch]) { %y = neg %x : f32[batch] return %y "y" }"#;
    let programs = derive(&model(text).graph).unwrap();
    assert_eq!(programs.iter().map(|p| p.name).collect::<Vec<_>>(), ["forward"]);
}

#[test]
fn the_next_tokens_are_the_most_likely_ones() {
    let text = r#"func @lm(%input_ids: i64[batch, seq_len], %h: f32[batch, 3]) {
    %x = cast %input_ids {to=f32} : f32[batch, seq_len]
    %l = reshape %x {shape=[batch, seq_len, 1]} : f32[batch, seq_len, 1]
    %b = broadcast %l {axes=[0, 1, 2], shape=[batch, seq_len, 3]} : f32[batch, seq_len, 3]
    %s = neg %h : f32[batch, 3]
    return %b "logits", %h "logits_last", %s "h"
}"#;
    let programs = derive(&model(text).graph).unwrap();
    let choose = programs.iter().find(|p| p.name == "choose").unwrap();
    assert_eq!(
        (names(choose.graph.inputs()), names(choose.graph.outputs())),
        (vec!["logits"], vec!["input_ids"])
    );
    let logits =
        Tensor::floats(DType::F32, [3, 3], vec![0.5, 2.0, 2.0, -1.0, -2.0, -3.0, 0.0, 0.0, 0.25]).unwrap();
    let found = run(choose, &[("logits", logits)]).remove("input_ids").unwrap();
    assert_eq!((found.shape(), found.to_f64()), (&[3, 1][..], vec![1.0, 0.0, 2.0]));
}
