mod loops;
mod matrix;

use crate::pass::RemarkKind;
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::{ops, optimized};
use ssmc_ir::Graph;
use ssmc_ir::ops::Op;

fn raised(text: &str, scans: usize) -> Graph {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    for remark in &report.remarks {
        assert!(matches!(remark.kind, RemarkKind::Raised { scans: n, .. } if n == scans), "{remark}");
    }
    assert_eq!(report.remarks.len(), 1);
    let has_loop = model.graph.nodes().any(|(_, n)| matches!(n.op, Op::Loop(_)));
    assert!(!has_loop, "{}", model.graph);
    model.graph
}

/// Why the loop stays.
fn kept(text: &str) -> String {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    assert!(model.graph.nodes().any(|(_, n)| matches!(n.op, Op::Loop(_))), "{}", model.graph);
    match &report.remarks[..] {
        [remark] => match &remark.kind {
            RemarkKind::Kept { reason } => reason.clone(),
            RemarkKind::Raised { .. } | RemarkKind::State { .. } => panic!("{remark}"),
        },
        other => panic!("{other:?}"),
    }
}

/// The scans of a graph with the shapes of their inputs.
fn scans(graph: &Graph) -> Vec<(bool, String)> {
    let scan = |n: &ssmc_ir::graph::Node| match &n.op {
        Op::Scan(s) => Some((s.reverse, graph.ty(n.operands[1].unwrap()).shape.to_string())),
        _ => None,
    };
    graph.nodes().filter_map(|(_, n)| scan(n)).collect()
}

/// Discretization and read-out inside the body, with a captured decay.
#[test]
fn a_selective_scan_with_everything_in_its_body() {
    let graph = raised(
        "func @f(%x: f32[batch, seq_len, 4], %dt: f32[batch, seq_len, 4], %b: f32[batch, seq_len, 3], \
                 %c: f32[batch, seq_len, 3]) {
           %a = weight {name=\"a\", shape=[4, 3]} : f32[4, 3]
           %0 = constant {data=[0.0], shape=[]} : f32[]
           %h0 = broadcast %0 {shape=[batch, 4, 3]} : f32[batch, 4, 3]
           %1 = transpose %x {perm=[1, 0, 2]} : f32[seq_len, batch, 4]
           %2 = transpose %dt {perm=[1, 0, 2]} : f32[seq_len, batch, 4]
           %3 = transpose %b {perm=[1, 0, 2]} : f32[seq_len, batch, 3]
           %4 = transpose %c {perm=[1, 0, 2]} : f32[seq_len, batch, 3]
           %h, %y = loop %h0, %1, %2, %3, %4, %a {n_carried=1, scan_axes=[0, 0, 0, 0], \
               scan_reverse=[false, false, false, false], stack_axes=[0], stack_reverse=[false], \
               trip_count=seq_len} : f32[batch, 4, 3], f32[seq_len, batch, 4] {
             func @body(%i: i64[], %h: f32[batch, 4, 3], %x: f32[batch, 4], %dt: f32[batch, 4], \
                        %b: f32[batch, 3], %c: f32[batch, 3], %a: f32[4, 3]) {
               %1 = broadcast %dt {axes=[0, 1], shape=[batch, 4, 3]} : f32[batch, 4, 3]
               %2 = broadcast %a {axes=[1, 2], shape=[batch, 4, 3]} : f32[batch, 4, 3]
               %3 = mul %1, %2 : f32[batch, 4, 3]
               %4 = exp %3 : f32[batch, 4, 3]
               %5 = mul %4, %h : f32[batch, 4, 3]
               %6 = mul %dt, %x : f32[batch, 4]
               %7 = broadcast %6 {axes=[0, 1], shape=[batch, 4, 3]} : f32[batch, 4, 3]
               %8 = broadcast %b {axes=[0, 2], shape=[batch, 4, 3]} : f32[batch, 4, 3]
               %9 = mul %7, %8 : f32[batch, 4, 3]
               %10 = add %5, %9 : f32[batch, 4, 3]
               %11 = reshape %c {shape=[batch, 3, 1]} : f32[batch, 3, 1]
               %12 = contract[abc,acd->abd] %10, %11 : f32[batch, 4, 1]
               %13 = reshape %12 {shape=[batch, 4]} : f32[batch, 4]
               return %10 \"h\", %13 \"y\"
             }
           }
           %5 = transpose %y {perm=[1, 0, 2]} : f32[batch, seq_len, 4]
           return %5 \"y\"
         }",
        1,
    );
    assert_eq!(scans(&graph), [(false, "[batch, seq_len, 4, 3]".to_owned())]);
    assert_eq!(
        ops(&graph),
        ["abc,cd->abcd", "exp", "abc,abc,abd->abcd", "ssm.scan", "abcd,abd->abc"],
        "{graph}"
    );
    let scan = graph.nodes().find(|(_, n)| matches!(n.op, Op::Scan(_))).unwrap().1;
    assert_eq!(scan.operands[2], None, "zeros are no initial state");
}

fn affine(reverse: bool, stack_reverse: bool) -> String {
    format!(
        "func @f(%a: f32[seq_len, 4], %b: f32[seq_len, 4], %h0: f32[4]) {{
           %h, %y = loop %h0, %a, %b {{n_carried=1, scan_axes=[0, 0], scan_reverse=[{reverse}, {reverse}], \
               stack_axes=[1], stack_reverse=[{stack_reverse}], trip_count=seq_len}} : f32[4], f32[4, seq_len] {{
             func @body(%i: i64[], %h: f32[4], %a: f32[4], %b: f32[4]) {{
               %1 = sub %h, %b : f32[4]
               %2 = mul %1, %a : f32[4]
               %3 = exp %h : f32[4]
               %4 = sub %3, %2 : f32[4]
               %5 = neg %2 : f32[4]
               return %5 \"h\", %4 \"y\"
             }}
           }}
           return %h \"h\", %y \"y\"
         }}"
    )
}

#[test]
fn both_directions_with_initial_and_final_states() {
    for (reverse, stack_reverse) in [(false, false), (true, true), (false, true), (true, false)] {
        let graph = raised(&affine(reverse, stack_reverse), 1);
        assert_eq!(scans(&graph)[0].0, reverse);
        let scan = graph.nodes().find(|(_, n)| matches!(n.op, Op::Scan(_))).unwrap().1;
        assert!(scan.operands[2].is_some(), "{graph}");
    }
}

#[test]
fn states_without_a_batch_axis_get_one() {
    let graph = raised(
        "func @f(%x: f32[seq_len, 4]) {
           %w = weight {name=\"w\", shape=[4, 4]} : f32[4, 4]
           %h0 = weight {name=\"h0\", shape=[4]} : f32[4]
           %b = contract[ld,ed->le] %x, %w : f32[seq_len, 4]
           %a = sigmoid %b : f32[seq_len, 4]
           %h, %y = loop %h0, %a, %b {n_carried=1, scan_axes=[0, 0], scan_reverse=[true, true], stack_axes=[0], \
               stack_reverse=[true], trip_count=seq_len} : f32[4], f32[seq_len, 4] {
             func @body(%i: i64[], %h: f32[4], %a: f32[4], %b: f32[4]) {
               %1 = mul %h, %a : f32[4]
               %2 = add %b, %1 : f32[4]
               return %2 \"h\", %2 \"y\"
             }
           }
           return %y \"y\"
         }",
        1,
    );
    assert_eq!(scans(&graph), [(true, "[1, seq_len, 4]".to_owned())]);
}

/// A counter, a delayed input, and a scan that reads both.
#[test]
fn carried_values_that_feed_each_other_are_split() {
    let graph = raised(
        "func @f(%x: f32[batch, seq_len], %h0: f32[batch], %p0: f32[batch], %n0: i64[]) {
           %n, %p, %h, %y = loop %n0, %p0, %h0, %x {n_carried=3, scan_axes=[1], scan_reverse=[false], \
               stack_axes=[1], stack_reverse=[false], trip_count=seq_len} : \
               i64[], f32[batch], f32[batch], f32[batch, seq_len] {
             func @body(%i: i64[], %n: i64[], %p: f32[batch], %h: f32[batch], %x: f32[batch]) {
               %1 = constant {data=[1], dtype=i64, shape=[]} : i64[]
               %2 = add %n, %1 : i64[]
               %3 = cast %2 {to=f32} : f32[]
               %4 = broadcast %3 {shape=[batch]} : f32[batch]
               %5 = reciprocal %4 : f32[batch]
               %6 = mul %h, %p : f32[batch]
               %7 = add %6, %x : f32[batch]
               %8 = mul %7, %5 : f32[batch]
               return %2 \"n\", %x \"p\", %7 \"h\", %8 \"y\"
             }
           }
           return %n \"n\", %p \"p\", %h \"h\", %y \"y\"
         }",
        1,
    );
    assert_eq!(scans(&graph).len(), 1);
}

fn unary_body(ops: &str) -> String {
    format!(
        "func @f(%x: f32[seq_len, batch], %h0: f32[batch], %g0: f32[batch]) {{
           %h, %g, %y = loop %h0, %g0, %x {{n_carried=2, scan_axes=[0], scan_reverse=[false], stack_axes=[0], \
               stack_reverse=[false], trip_count=seq_len}} : f32[batch], f32[batch], f32[seq_len, batch] {{
             func @body(%i: i64[], %h: f32[batch], %g: f32[batch], %x: f32[batch]) {{
               {ops}
               return %2 \"h\", %3 \"g\", %2 \"y\"
             }}
           }}
           return %y \"y\", %g \"g\"
         }}"
    )
}

#[test]
fn other_recurrences_stay_loops_with_a_reason() {
    let nonlinear =
        unary_body("%1 = tanh %h : f32[batch] %2 = add %1, %x : f32[batch] %3 = add %g, %2 : f32[batch]");
    assert_eq!(kept(&nonlinear), "carried value 0 is no first-order recurrence: tanh of it");
    let squared =
        unary_body("%1 = mul %h, %h : f32[batch] %2 = add %1, %x : f32[batch] %3 = add %g, %2 : f32[batch]");
    assert_eq!(kept(&squared), "carried value 0 is no first-order recurrence: mul of it");
    let coupled =
        unary_body("%1 = mul %h, %g : f32[batch] %2 = add %1, %x : f32[batch] %3 = add %g, %h : f32[batch]");
    assert!(kept(&coupled).contains("depends on other carried values"), "{}", kept(&coupled));
}

/// A loop whose state holds real and imaginary parts along axis 2.
fn complex_loop(re: &str, x: &str) -> String {
    format!(
        "func @f(%x: f32[seq_len, batch, 4, 2], %h0: f32[batch, 4, 2]) {{
           %a = weight {{name=\"a\", shape=[4, 2]}} : f32[4, 2]
           %h, %y = loop %h0, %x, %a {{n_carried=1, scan_axes=[0], scan_reverse=[false], stack_axes=[0], \
               stack_reverse=[false], trip_count=seq_len}} : f32[batch, 4, 2], f32[seq_len, batch, 4, 2] {{
             func @body(%i: i64[], %h: f32[batch, 4, 2], %x: f32[batch, 4, 2], %a: f32[4, 2]) {{
               %hr = slice %h {{axis=2, len=1}} : f32[batch, 4, 1]
               %hi = slice %h {{axis=2, len=1, start=1}} : f32[batch, 4, 1]
               %ar0 = slice %a {{axis=1, len=1}} : f32[4, 1]
               %ai0 = slice %a {{axis=1, len=1, start=1}} : f32[4, 1]
               %ar = broadcast %ar0 {{axes=[1, 2], shape=[batch, 4, 1]}} : f32[batch, 4, 1]
               %ai = broadcast %ai0 {{axes=[1, 2], shape=[batch, 4, 1]}} : f32[batch, 4, 1]
               %p = mul %ar, %hr : f32[batch, 4, 1]
               %q = mul %hi, %ai : f32[batch, 4, 1]
               %s = mul %ar, %hi : f32[batch, 4, 1]
               %t = mul %ai, %hr : f32[batch, 4, 1]
               %re = {re} %p, %q : f32[batch, 4, 1]
               %im = add %s, %t : f32[batch, 4, 1]
               %n = concat %re, %im {{axis=2}} : f32[batch, 4, 2]
               %next = {x} %x, %n : f32[batch, 4, 2]
               return %next \"h\", %next \"y\"
             }}
           }}
           return %h \"h\", %y \"y\"
         }}"
    )
}

#[test]
fn a_complex_recurrence_over_pairs() {
    let graph = raised(&complex_loop("sub", "add"), 1);
    let node = graph.nodes().find(|(_, n)| matches!(n.op, Op::ComplexScan(_))).expect("a complex scan").1;
    let shape = |i: usize| graph.ty(node.operands[i].unwrap()).shape.to_string();
    assert_eq!([shape(2), shape(4)], ["[batch, seq_len, 4]", "[batch, 4]"]);
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::Scan(_))), "{graph}");
}

#[test]
fn coupled_parts_that_are_no_rotation_stay() {
    let reason = kept(&complex_loop("add", "add"));
    assert!(reason.contains("no first-order recurrence"), "{reason}");
    let reason = kept(&complex_loop("sub", "max"));
    assert!(reason.contains("no first-order recurrence"), "{reason}");
}

#[test]
fn a_recurrence_in_a_branch_is_raised() {
    let side = |f: &str| {
        format!(
            "func @side(%a: f32[seq_len, batch, 4], %b: f32[seq_len, batch, 4]) {{
               %0 = constant {{data=[0.0], shape=[]}} : f32[]
               %h0 = broadcast %0 {{shape=[batch, 4]}} : f32[batch, 4]
               %h, %y = loop %h0, %a, %b {{n_carried=1, scan_axes=[0, 0], scan_reverse=[false, false], \
                   stack_axes=[0], stack_reverse=[false], trip_count=seq_len}} : f32[batch, 4], \
                   f32[seq_len, batch, 4] {{
                 func @body(%i: i64[], %h: f32[batch, 4], %a: f32[batch, 4], %b: f32[batch, 4]) {{
                   %1 = mul %a, %h : f32[batch, 4]
                   %2 = {f} %1, %b : f32[batch, 4]
                   return %2 \"h\", %2 \"y\"
                 }}
               }}
               return %y \"y\"
             }}"
        )
    };
    let text = format!(
        "func @f(%n: i64[], %a: f32[seq_len, batch, 4], %b: f32[seq_len, batch, 4]) {{
           %1 = constant {{data=[0], dtype=i64, shape=[]}} : i64[]
           %cond = compare %n, %1 {{cmp=gt}} : bool[]
           %y = if %cond, %a, %b : f32[seq_len, batch, 4] {{
             {}
             {}
           }}
           return %y \"y\"
         }}",
        side("add"),
        side("sub")
    );
    let (model, report) = optimized(&text, &[CANONICAL, RAISED]);
    assert_eq!(scans(&model.graph).len(), 2, "{}", model.graph);
    assert!(
        report.remarks.iter().all(|r| matches!(r.kind, RemarkKind::Raised { .. })),
        "{:?}",
        report.remarks
    );
}
