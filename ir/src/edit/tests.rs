use super::*;
use crate::interp::Precision;
use crate::ops::{Unary, UnaryFn};
use crate::testing::{f32s, graph, noisy, run};
use crate::types::DType;

const TEXT: &str = "func @lm(%x: f32[batch, seq_len, 2], %state: f32[batch, 2], %free: f32[batch]) {
    %a = exp %x : f32[batch, seq_len, 2] !module \"decay\"
    %dead = neg %a : f32[batch, seq_len, 2]
    %h, %last = ssm.scan %a, %x, %state : f32[batch, seq_len, 2], f32[batch, 2]
    %y = slice %h {axis=1, len=1, start=seq_len - 1} : f32[batch, 1, 2]
    %n = dim {value=seq_len} : i64[]
    return %h \"logits\", %y \"logits_last\", %last \"state\", %n \"n\"
}";

fn op_names(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().map(|(_, n)| n.op.name()).collect()
}

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn rewriting_copies_or_replaces() {
    let old = graph(TEXT);
    let copy = rewrite::<EditError>(&old, |_, _, _| Ok(Action::Copy)).unwrap();
    assert_eq!(copy, old);
    // exp(x) becomes 1/exp(-x), which keeps location and value.
    let new = rewrite::<EditError>(&old, |r, _, node| {
        if node.op != (Unary { f: UnaryFn::Exp }).into() {
            return Ok(Action::Copy);
        }
        let x = r.operands(node)?[0].expect("exp has one operand");
        let b = r.builder();
        let minus = b.unary(UnaryFn::Neg, x)?;
        let exp = b.unary(UnaryFn::Exp, minus)?;
        let y = b.unary(UnaryFn::Reciprocal, exp)?;
        r.replace(node.results[0], y)?;
        Ok(Action::Done)
    })
    .unwrap();
    assert_eq!(op_names(&new)[..4], ["neg", "exp", "reciprocal", "neg"]);
    let loc = |g: &Graph, i: usize| g.locs().describe(g.nodes().nth(i).unwrap().1.loc);
    assert_eq!(loc(&new, 2), loc(&old, 0));
    let inputs = [("x", noisy(1, &[2, 3, 2])), ("state", noisy(2, &[2, 2])), ("free", noisy(3, &[2]))];
    let (a, b) =
        (run(&old, Precision::Typed, &inputs).unwrap(), run(&new, Precision::Typed, &inputs).unwrap());
    crate::testing::assert_close(&a["logits"], &b["logits"], 1e-5, "logits");
}

#[test]
fn faults_of_rewriting() {
    let old = graph(TEXT);
    let dropped =
        rewrite::<EditError>(&old, |_, id, _| Ok(if id.idx() == 0 { Action::Done } else { Action::Copy }));
    assert_eq!(dropped, Err(EditError::Dropped { value: old.nodes().next().unwrap().1.results[0] }));
    let mistyped = rewrite::<EditError>(&old, |r, _, node| {
        let x = r.builder().scalar(DType::F32, 0.0)?;
        r.replace(node.results[0], x)?;
        Ok(Action::Done)
    });
    assert!(matches!(mistyped, Err(EditError::ReplacementType { .. })), "{mistyped:?}");
}

#[test]
fn dead_nodes_go_and_inputs_stay() {
    let new = dce(&graph(TEXT)).unwrap();
    assert_eq!(op_names(&new), ["exp", "ssm.scan", "slice", "dim"]);
    assert_eq!(names(new.inputs()), ["x", "state", "free"]);
    assert_eq!(names(drop_unused_inputs(&new).unwrap().inputs()), ["x", "state"]);
}

#[test]
fn dead_nodes_of_regions_go_too() {
    let new = dce(&graph(
        "func @f(%x: f32[1]) {
            %y = loop %x {n_carried=1, trip_count=2} : f32[1] {
                func @body(%i: i64[], %h: f32[1]) { %d = exp %h : f32[1] %n = neg %h : f32[1] return %n \"n\" }
            }
            return %y \"y\"
        }",
    ))
    .unwrap();
    assert_eq!(op_names(&new.nodes().next().unwrap().1.regions[0]), ["neg"]);
}

#[test]
fn outputs_are_selected_in_the_given_order() {
    let old = graph(TEXT);
    let new = select_outputs(&old, &["state", "logits"]).unwrap();
    assert_eq!(names(new.outputs()), ["state", "logits"]);
    assert_eq!(op_names(&new), ["exp", "ssm.scan"]);
    let unknown = select_outputs(&old, &["logit"]);
    assert_eq!(unknown, Err(EditError::UnknownOutput { name: "logit".into() }));
}

#[test]
fn symbols_become_dims_everywhere() {
    let old = graph(TEXT);
    let one = BTreeMap::from([(Symbol::new("seq_len"), Dim::from(1))]);
    let step = substitute(&old, &one).unwrap();
    let x = step.input("x").unwrap();
    assert_eq!(step.ty(x).to_string(), "f32[batch, 1, 2]");
    assert!(!step.to_string().contains("seq_len"), "{step}");
    // A slice that starts one before the end does not fit an empty sequence.
    let none = BTreeMap::from([(Symbol::new("seq_len"), Dim::from(0))]);
    assert!(matches!(substitute(&old, &none), Err(EditError::Build(_))));
}

#[test]
fn a_bound_input_is_zeros() {
    let old = graph(TEXT);
    let new = bind_input(&old, "state").unwrap();
    assert_eq!(names(new.inputs()), ["x", "free"]);
    let (x, free) = (("x", noisy(1, &[2, 3, 2])), ("free", noisy(2, &[2])));
    let zeros = ("state", f32s(&[2, 2], &[0.0; 4]));
    let expected = run(&old, Precision::Truth, &[x.clone(), free.clone(), zeros]).unwrap();
    assert_eq!(run(&new, Precision::Truth, &[x, free]).unwrap(), expected);
    assert_eq!(bind_input(&old, "h"), Err(EditError::UnknownInput { name: "h".into() }));
}
