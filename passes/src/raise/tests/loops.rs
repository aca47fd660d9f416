//! Loops that write buffers at a counter, and loops of which a part is a recurrence.

use super::{kept, raised, scans};
use crate::pass::RemarkKind;
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::ops::Op;

/// h = a * h + x, written to a buffer of `rows` rows by `write`, which makes `%next` of `%buffer`, `%h2` and the number
/// `%i`; `%z` is stacked.
fn writing(rows: &str, write: &str, z: &str) -> String {
    format!(
        "func @f(%a: f32[seq_len, 3], %x: f32[seq_len, 3], %h0: f32[3], %b0: f32[{rows}, 3], %n0: i64[]) {{
           %h, %b, %n, %z = loop %h0, %b0, %n0, %a, %x {{n_carried=3, scan_axes=[0, 0], scan_reverse=[false, false], \
               stack_axes=[0], stack_reverse=[false], trip_count=seq_len}} : \
               f32[3], f32[{rows}, 3], i64[], f32[seq_len, 3] {{
             func @body(%i: i64[], %h: f32[3], %buffer: f32[{rows}, 3], %n: i64[], %a: f32[3], %x: f32[3]) {{
               %1 = mul %a, %h : f32[3]
               %h2 = add %1, %x : f32[3]
               %one = constant {{data=[1], dtype=i64, shape=[]}} : i64[]
               %n2 = add %n, %one : i64[]
               {write}
               %z = {z}
               return %h2 \"h\", %next \"b\", %n2 \"n\", %z \"z\"
             }}
           }}
           return %h \"h\", %b \"b\", %n \"n\", %z \"z\"
         }}"
    )
}

const NEG: &str = "neg %h2 : f32[3]";

fn scatter(rows: &str, index: &str, f: &str, row: &str) -> String {
    format!(
        "{index}
         %at = reshape %k {{shape=[1]}} : i64[1]
         %row = reshape {row} {{shape=[1, 3]}} : f32[1, 3]
         %next = scatter %buffer, %at, %row {{f={f}}} : f32[{rows}, 3]"
    )
}

fn masked(rows: &str, cmp: &str, sides: &str) -> String {
    format!(
        "%steps = iota {{axis=0, dtype=i64, shape=[{rows}]}} : i64[{rows}]
         %now = broadcast %i {{shape=[{rows}]}} : i64[{rows}]
         %is_now = compare %steps, %now {{cmp={cmp}}} : bool[{rows}]
         %mask = broadcast %is_now {{axes=[0], shape=[{rows}, 3]}} : bool[{rows}, 3]
         %all = broadcast %h2 {{axes=[1], shape=[{rows}, 3]}} : f32[{rows}, 3]
         %next = select %mask, {sides} : f32[{rows}, 3]"
    )
}

const NOW: &str = "%k = add %i, %zero : i64[] ";

/// The loop is raised with one scan.
#[track_caller]
fn one_scan(text: &str) {
    let graph = raised(text, 1);
    assert_eq!(scans(&graph).len(), 1, "{graph}");
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::Scatter(_) | Op::Select(_))), "{graph}");
}

#[test]
fn rows_written_at_the_number_of_the_iteration_are_the_states() {
    let zero = "%zero = constant {data=[0], dtype=i64, shape=[]} : i64[] ";
    for rows in ["seq_len", "seq_len + 3"] {
        one_scan(&writing(rows, &scatter(rows, &format!("{zero}{NOW}"), "set", "%h2"), NEG));
        one_scan(&writing(rows, &masked(rows, "eq", "%all, %buffer"), NEG));
        one_scan(&writing(rows, &masked(rows, "ne", "%buffer, %all"), NEG));
    }
    let later = "%two = constant {data=[2], dtype=i64, shape=[]} : i64[] %k = add %i, %two : i64[]";
    one_scan(&writing("seq_len + 3", &scatter("seq_len + 3", later, "set", "%h2"), NEG));
    let last = "%last = dim {value=seq_len - 1} : i64[] %k = sub %last, %i : i64[]";
    one_scan(&writing("seq_len", &scatter("seq_len", last, "set", "%h2"), NEG));
    // By an index that would count from the end if it were negative.
    let wrapped = format!(
        "{zero} %end = dim {{value=seq_len}} : i64[] %from_end = add %i, %end : i64[]
         %below = compare %i, %zero {{cmp=lt}} : bool[] %k = select %below, %from_end, %i : i64[]"
    );
    one_scan(&writing("seq_len", &scatter("seq_len", &wrapped, "set", "%h2"), NEG));
}

/// A buffer `[3, rows]` written in a column, as flat positions.
#[test]
fn elements_written_along_an_inner_axis_are_the_states() {
    let write = "%flat = transpose %buffer {perm=[1, 0]} : f32[3, seq_len]
         %cells = reshape %flat {shape=[3 * seq_len]} : f32[3 * seq_len]
         %channel = iota {axis=0, dtype=i64, shape=[3]} : i64[3]
         %n1 = dim {value=seq_len} : i64[]
         %width = broadcast %n1 {shape=[3]} : i64[3]
         %base = mul %channel, %width : i64[3]
         %now = broadcast %i {shape=[3]} : i64[3]
         %at = add %base, %now : i64[3]
         %set = scatter %cells, %at, %h2 {f=set} : f32[3 * seq_len]
         %columns = reshape %set {shape=[3, seq_len]} : f32[3, seq_len]
         %next = transpose %columns {perm=[1, 0]} : f32[seq_len, 3]";
    one_scan(&writing("seq_len", write, NEG));
}

/// The recurrence is raised, and the buffer stays in a loop.
#[track_caller]
fn buffer_stays(write: &str, z: &str, rows: &str) {
    let (model, report) = optimized(&writing(rows, write, z), &[CANONICAL, RAISED]);
    let graph = &model.graph;
    assert!(graph.nodes().any(|(_, n)| matches!(n.op, Op::Loop(_))), "{write}: {graph}");
    assert!(report.remarks.iter().any(|r| matches!(r.kind, RemarkKind::Kept { .. })), "{:?}", report.remarks);
}

#[test]
fn other_writes_stay_in_a_loop() {
    let zero = "%zero = constant {data=[0], dtype=i64, shape=[]} : i64[] ";
    let now = format!("{zero}{NOW}");
    let twice = "%k = add %i, %i : i64[]";
    let before = "%k = sub %i, %one : i64[]";
    let data = format!(
        "{zero}%most = reduce %h2 {{axes=[0], f=max}} : f32[] %bound = cast %zero {{to=f32}} : f32[]
         %below = compare %most, %bound {{cmp=lt}} : bool[] %k = select %below, %zero, %i : i64[]"
    );
    // Another index: twice that of the iteration, one before it, one that the data gives.
    buffer_stays(&scatter("2 * seq_len", twice, "set", "%h2"), NEG, "2 * seq_len");
    buffer_stays(&scatter("seq_len", before, "set", "%h2"), NEG, "seq_len");
    buffer_stays(&scatter("seq_len", &data, "set", "%h2"), NEG, "seq_len");
    // Past the end, for all that is known.
    buffer_stays(&masked("batch", "eq", "%all, %buffer"), NEG, "batch");
    // Added, not written.
    buffer_stays(&scatter("seq_len", &now, "add", "%h2"), NEG, "seq_len");
    // Every row but that of the iteration.
    buffer_stays(&masked("seq_len", "ne", "%all, %buffer"), NEG, "seq_len");
    // The loop reads the buffer, before and after the write.
    for read in ["%buffer", "%next"] {
        let z = format!("reduce {read} {{axes=[0], f=sum}} : f32[3]");
        buffer_stays(&scatter("seq_len", &now, "set", "%h2"), &z, "seq_len");
    }
    // What is written is read from it.
    let reading =
        format!("%r = reduce %buffer {{axes=[0], f=sum}} : f32[3] {}", scatter("seq_len", &now, "set", "%r"));
    buffer_stays(&reading, NEG, "seq_len");
}

/// g is a recurrence, h is none; both are stacked and h reads g.
fn in_part(h: &str, read: &str) -> String {
    format!(
        "func @f(%a: f32[seq_len, 3], %x: f32[seq_len, 3], %h0: f32[3]) {{
           %g0 = neg %h0 : f32[3]
           %g, %h, %y, %z = loop %g0, %h0, %a, %x {{n_carried=2, scan_axes=[0, 0], scan_reverse=[false, false], \
               stack_axes=[0, 1], stack_reverse=[false, false], trip_count=seq_len}} : \
               f32[3], f32[3], f32[seq_len, 3], f32[3, seq_len] {{
             func @body(%i: i64[], %g: f32[3], %h: f32[3], %a: f32[3], %x: f32[3]) {{
               %1 = mul %a, %g : f32[3]
               %g2 = add %1, {read} : f32[3]
               %2 = {h} %h : f32[3]
               %3 = mul %2, %g : f32[3]
               %h2 = add %3, %x : f32[3]
               %y = exp %g2 : f32[3]
               %z = mul %h2, %g2 : f32[3]
               return %g2 \"g\", %h2 \"h\", %y \"y\", %z \"z\"
             }}
           }}
           return %g \"g\", %h \"h\", %y \"y\", %z \"z\"
         }}"
    )
}

#[test]
fn the_recurrent_part_of_a_loop_is_raised() {
    let text = in_part("tanh", "%x");
    let (model, report) = optimized(&text, &[CANONICAL, RAISED]);
    let kinds: Vec<&RemarkKind> = report.remarks.iter().map(|r| &r.kind).collect();
    assert!(
        matches!(kinds[..], [RemarkKind::Raised { scans: 1, .. }, RemarkKind::Kept { .. }]),
        "{:?}",
        report.remarks
    );
    assert_eq!(scans(&model.graph).len(), 1, "{}", model.graph);
    let left = model.graph.nodes().find_map(|(_, n)| match &n.op {
        Op::Loop(op) => Some(op.n_carried),
        _ => None,
    });
    assert_eq!(left, Some(1), "{}", model.graph);
}

#[test]
fn a_loop_without_a_recurrent_part_stays() {
    // g reads h, which is no recurrence.
    assert!(kept(&in_part("tanh", "%h")).contains("depends on other carried values"));
}
