use crate::pass::{Evidence, RemarkKind};
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::Graph;
use ssmc_ir::ops::Op;

/// Eight steps in two chunks of four, with segment sums by masked running sums.
const SEGMENT_SUMS: &str = "\
func @f(%x: f32[batch, 8, 2, 3], %dt: f32[batch, 8, 2], %b: f32[batch, 8, 2, 5], %c: f32[batch, 8, 2, 5]) {
  %a = weight {name=\"a\", shape=[2]} : f32[2]
  %la = contract[blh,h->blh] %dt, %a : f32[batch, 8, 2]
  %u = contract[blh,blhp->blhp] %dt, %x : f32[batch, 8, 2, 3]
  %zero = constant {data=[0.0], shape=[]} : f32[]
  %inf = constant {data=[-inf], shape=[]} : f32[]
  %1 = reshape %la {shape=[batch, 2, 4, 2]} : f32[batch, 2, 4, 2]
  %2 = transpose %1 {perm=[0, 3, 1, 2]} : f32[batch, 2, 2, 4]
  %3 = reshape %u {shape=[batch, 2, 4, 2, 3]} : f32[batch, 2, 4, 2, 3]
  %4 = reshape %b {shape=[batch, 2, 4, 2, 5]} : f32[batch, 2, 4, 2, 5]
  %5 = reshape %c {shape=[batch, 2, 4, 2, 5]} : f32[batch, 2, 4, 2, 5]
  %cum = cumsum %2 {axis=3} : f32[batch, 2, 2, 4]
  %strict = constant {data=[false, false, false, false, true, false, false, false, true, true, false, false, \
                            true, true, true, false], dtype=bool, shape=[4, 4]} : bool[4, 4]
  %tril = constant {data=[true, false, false, false, true, true, false, false, true, true, true, false, \
                          true, true, true, true], dtype=bool, shape=[4, 4]} : bool[4, 4]
  %10 = broadcast %2 {axes=[0, 1, 2, 3], shape=[batch, 2, 2, 4, 4]} : f32[batch, 2, 2, 4, 4]
  %11 = broadcast %strict {axes=[3, 4], shape=[batch, 2, 2, 4, 4]} : bool[batch, 2, 2, 4, 4]
  %12 = broadcast %zero {shape=[batch, 2, 2, 4, 4]} : f32[batch, 2, 2, 4, 4]
  %13 = select %11, %10, %12 : f32[batch, 2, 2, 4, 4]
  %14 = cumsum %13 {axis=3} : f32[batch, 2, 2, 4, 4]
  %15 = broadcast %tril {axes=[3, 4], shape=[batch, 2, 2, 4, 4]} : bool[batch, 2, 2, 4, 4]
  %16 = broadcast %inf {shape=[batch, 2, 2, 4, 4]} : f32[batch, 2, 2, 4, 4]
  %17 = select %15, %14, %16 : f32[batch, 2, 2, 4, 4]
  %18 = exp %17 : f32[batch, 2, 2, 4, 4]
  %diag = contract[bclhn,bcshn,bhcls,bcshp->bclhp] %5, %4, %18, %3 : f32[batch, 2, 4, 2, 3]
  %20 = slice %cum {axis=3, len=1, start=3} : f32[batch, 2, 2, 1]
  %21 = reshape %20 {shape=[batch, 2, 2]} : f32[batch, 2, 2]
  %22 = broadcast %21 {axes=[0, 1, 2], shape=[batch, 2, 2, 4]} : f32[batch, 2, 2, 4]
  %23 = sub %22, %cum : f32[batch, 2, 2, 4]
  %24 = exp %23 : f32[batch, 2, 2, 4]
  %25 = contract[bclhn,bhcl,bclhp->bchpn] %4, %24, %3 : f32[batch, 2, 2, 3, 5]
  %26 = broadcast %zero {shape=[batch, 1, 2, 3, 5]} : f32[batch, 1, 2, 3, 5]
  %27 = concat %26, %25 {axis=1} : f32[batch, 3, 2, 3, 5]
  %28 = pad %21, %zero {axis=2, high=0, low=1} : f32[batch, 2, 3]
  %29 = cumsum %28 {axis=2} : f32[batch, 2, 3]
  %30 = broadcast %29 {axes=[0, 1, 2], shape=[batch, 2, 3, 3]} : f32[batch, 2, 3, 3]
  %31 = broadcast %29 {axes=[0, 1, 3], shape=[batch, 2, 3, 3]} : f32[batch, 2, 3, 3]
  %32 = sub %30, %31 : f32[batch, 2, 3, 3]
  %33 = constant {data=[true, false, false, true, true, false, true, true, true], dtype=bool, shape=[3, 3]} : bool[3, 3]
  %34 = broadcast %33 {axes=[2, 3], shape=[batch, 2, 3, 3]} : bool[batch, 2, 3, 3]
  %35 = broadcast %inf {shape=[batch, 2, 3, 3]} : f32[batch, 2, 3, 3]
  %36 = select %34, %32, %35 : f32[batch, 2, 3, 3]
  %37 = exp %36 : f32[batch, 2, 3, 3]
  %38 = contract[bhzc,bchpn->bzhpn] %37, %27 : f32[batch, 3, 2, 3, 5]
  %39 = slice %38 {axis=1, len=2, start=0} : f32[batch, 2, 2, 3, 5]
  %40 = slice %38 {axis=1, len=1, start=2} : f32[batch, 1, 2, 3, 5]
  %last = reshape %40 {shape=[batch, 2, 3, 5]} : f32[batch, 2, 3, 5]
  %41 = exp %cum : f32[batch, 2, 2, 4]
  %off = contract[bclhn,bchpn,bhcl->bclhp] %5, %39, %41 : f32[batch, 2, 4, 2, 3]
  %42 = add %diag, %off : f32[batch, 2, 4, 2, 3]
  %y = reshape %42 {shape=[batch, 8, 2, 3]} : f32[batch, 8, 2, 3]
  return %y \"y\", %last \"last\"
}";

fn with(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

fn scans(graph: &Graph) -> Vec<(bool, String)> {
    let scan = |n: &ssmc_ir::graph::Node| match &n.op {
        Op::Scan(s) => Some((s.reverse, graph.ty(n.operands[1].unwrap()).shape.to_string())),
        _ => None,
    };
    graph.nodes().filter_map(|(_, n)| scan(n)).collect()
}

/// One scan, and nothing of the chunks is left.
#[track_caller]
fn raised(text: &str) -> Graph {
    let graph = raised_in_part(text);
    assert_eq!(scans(&graph).len(), 1, "{graph}");
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::CumSum(_))), "{graph}");
    graph
}

#[track_caller]
fn raised_in_part(text: &str) -> Graph {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    let expected = RemarkKind::Raised { evidence: Evidence::Structural, scans: 1 };
    assert!(report.remarks.iter().any(|r| r.kind == expected), "{:?}\n{}", report.remarks, model.graph);
    model.graph
}

#[track_caller]
fn kept(text: &str) {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    assert!(scans(&model.graph).is_empty(), "{}", model.graph);
    assert!(report.remarks.iter().all(|r| matches!(r.kind, RemarkKind::Kept { .. })), "{:?}", report.remarks);
}

#[test]
fn chunks_with_segment_sums_become_one_scan() {
    let graph = raised(SEGMENT_SUMS);
    assert_eq!(scans(&graph), [(false, "[batch, 8, 2, 3, 5]".to_owned())]);
}

#[test]
fn masks_may_multiply() {
    raised(&with(
        SEGMENT_SUMS,
        &[
            (
                "%strict = constant {data=[false, false, false, false, true, false, false, false, true, true, false, false, \
                            true, true, true, false], dtype=bool, shape=[4, 4]} : bool[4, 4]",
                "%strict = constant {data=[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], shape=[4, 4]} : f32[4, 4]",
            ),
            (
                "%11 = broadcast %strict {axes=[3, 4], shape=[batch, 2, 2, 4, 4]} : bool",
                "%11 = broadcast %strict {axes=[3, 4], shape=[batch, 2, 2, 4, 4]} : f32",
            ),
            ("%13 = select %11, %10, %12", "%13 = mul %10, %11"),
        ],
    ));
}

#[test]
fn a_fill_of_any_great_size_masks() {
    raised(&with(SEGMENT_SUMS, &[("data=[-inf]", "data=[-1e30]")]));
    kept(&with(SEGMENT_SUMS, &[("data=[-inf]", "data=[-10.0]")]));
}

#[test]
fn an_initial_state_is_kept() {
    raised(&with(
        SEGMENT_SUMS,
        &[
            ("%c: f32[batch, 8, 2, 5])", "%c: f32[batch, 8, 2, 5], %h0: f32[batch, 2, 3, 5])"),
            (
                "%26 = broadcast %zero {shape=[batch, 1, 2, 3, 5]}",
                "%26 = reshape %h0 {shape=[batch, 1, 2, 3, 5]}",
            ),
        ],
    ));
}

#[test]
fn padding_and_cropping_are_neutral() {
    let graph = raised(&with(
        SEGMENT_SUMS,
        &[
            (
                "%x: f32[batch, 8, 2, 3], %dt: f32[batch, 8, 2], %b: f32[batch, 8, 2, 5], %c: f32[batch, 8, 2, 5]",
                "%x: f32[batch, 6, 2, 3], %dt: f32[batch, 6, 2], %b: f32[batch, 6, 2, 5], %c: f32[batch, 6, 2, 5]",
            ),
            (
                "%la = contract[blh,h->blh] %dt, %a : f32[batch, 8, 2]",
                "%la0 = contract[blh,h->blh] %dt, %a : f32[batch, 6, 2]",
            ),
            (
                "%u = contract[blh,blhp->blhp] %dt, %x : f32[batch, 8, 2, 3]",
                "%u0 = contract[blh,blhp->blhp] %dt, %x : f32[batch, 6, 2, 3]",
            ),
            (
                "%inf = constant {data=[-inf], shape=[]} : f32[]",
                "%inf = constant {data=[-inf], shape=[]} : f32[]
  %la = pad %la0, %zero {axis=1, high=2, low=0} : f32[batch, 8, 2]
  %u = pad %u0, %zero {axis=1, high=2, low=0} : f32[batch, 8, 2, 3]
  %bp = pad %b, %zero {axis=1, high=2, low=0} : f32[batch, 8, 2, 5]
  %cp = pad %c, %zero {axis=1, high=2, low=0} : f32[batch, 8, 2, 5]",
            ),
            ("%4 = reshape %b ", "%4 = reshape %bp "),
            ("%5 = reshape %c ", "%5 = reshape %cp "),
            (
                "%y = reshape %42 {shape=[batch, 8, 2, 3]} : f32[batch, 8, 2, 3]",
                "%43 = reshape %42 {shape=[batch, 8, 2, 3]} : f32[batch, 8, 2, 3]
  %xp = pad %x, %zero {axis=1, high=2, low=0} : f32[batch, 8, 2, 3]
  %d = contract[blhp,h->blhp] %xp, %a : f32[batch, 8, 2, 3]
  %44 = add %43, %d : f32[batch, 8, 2, 3]
  %y = slice %44 {axis=1, len=6, start=0} : f32[batch, 6, 2, 3]",
            ),
        ],
    ));
    assert_eq!(scans(&graph), [(false, "[batch, 6, 2, 3, 5]".to_owned())]);
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::Pad(_))), "{graph}");
}

#[test]
fn maps_that_heads_share_are_not_repeated() {
    let graph = raised(&with(
        SEGMENT_SUMS,
        &[
            (
                "%b: f32[batch, 8, 2, 5], %c: f32[batch, 8, 2, 5]",
                "%b0: f32[batch, 8, 1, 5], %c0: f32[batch, 8, 1, 5]",
            ),
            (
                "%inf = constant {data=[-inf], shape=[]} : f32[]",
                "%inf = constant {data=[-inf], shape=[]} : f32[]
  %b1 = broadcast %b0 {axes=[0, 1, 2, 4], shape=[batch, 8, 1, 2, 5]} : f32[batch, 8, 1, 2, 5]
  %b = reshape %b1 {shape=[batch, 8, 2, 5]} : f32[batch, 8, 2, 5]
  %c1 = broadcast %c0 {axes=[0, 1, 2, 4], shape=[batch, 8, 1, 2, 5]} : f32[batch, 8, 1, 2, 5]
  %c = reshape %c1 {shape=[batch, 8, 2, 5]} : f32[batch, 8, 2, 5]",
            ),
        ],
    ));
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::Broadcast(_))), "{graph}");
}

#[test]
fn a_mask_that_is_off_by_one_is_not_raised() {
    kept(&with(SEGMENT_SUMS, &[("%11 = broadcast %strict", "%11 = broadcast %tril")]));
    kept(&with(SEGMENT_SUMS, &[("%15 = broadcast %tril", "%15 = broadcast %strict")]));
}

#[test]
fn decays_of_another_tensor_are_not_raised() {
    kept(&with(
        SEGMENT_SUMS,
        &[
            ("%dt: f32[batch, 8, 2],", "%dt: f32[batch, 8, 2], %other: f32[batch, 2, 2, 4],"),
            ("%23 = sub %22, %cum", "%23 = sub %22, %other"),
        ],
    ));
}

#[test]
fn chunks_that_are_not_carried_are_not_raised() {
    kept(&with(SEGMENT_SUMS, &[("%42 = add %diag, %off", "%42 = sub %diag, %off")]));
}

/// Each chunk reads its own last state: what is left is a recurrence over the two chunks.
#[test]
fn a_part_that_is_a_recurrence_is_raised_alone() {
    let graph =
        raised_in_part(&with(SEGMENT_SUMS, &[("{axis=1, len=2, start=0}", "{axis=1, len=2, start=1}")]));
    assert_eq!(scans(&graph), [(false, "[batch, 2, 2, 3, 5]".to_owned())]);
}

/// Linear attention with decay: nothing scales the input.
#[test]
fn inputs_without_step_sizes_become_linear_attention() {
    let text = with(
        SEGMENT_SUMS,
        &[
            ("%u = contract[blh,blhp->blhp] %dt, %x : f32[batch, 8, 2, 3]", ""),
            ("%3 = reshape %u ", "%3 = reshape %x "),
            (", %last \"last\"", ""),
        ],
    );
    let graph = raised_in_part(&text);
    let is_attention = |op: &Op| matches!(op, Op::LinearAttention(_));
    assert_eq!(graph.nodes().filter(|(_, n)| is_attention(&n.op)).count(), 1, "{graph}");
    assert!(!graph.nodes().any(|(_, n)| matches!(n.op, Op::CumSum(_) | Op::Scan(_))), "{graph}");
}

#[test]
fn a_recurrence_from_the_last_step_on_runs_in_reverse() {
    let reversed = with(
        SEGMENT_SUMS,
        &[
            (
                "%x: f32[batch, 8, 2, 3], %dt: f32[batch, 8, 2], %b: f32[batch, 8, 2, 5], %c: f32[batch, 8, 2, 5]",
                "%xr: f32[batch, 8, 2, 3], %dtr: f32[batch, 8, 2], %br: f32[batch, 8, 2, 5], %cr: f32[batch, 8, 2, 5]",
            ),
            (
                "  %a = weight",
                "  %x = reverse %xr {axis=1} : f32[batch, 8, 2, 3]
  %dt = reverse %dtr {axis=1} : f32[batch, 8, 2]
  %b = reverse %br {axis=1} : f32[batch, 8, 2, 5]
  %c = reverse %cr {axis=1} : f32[batch, 8, 2, 5]
  %a = weight",
            ),
            (
                "%y = reshape %42 {shape=[batch, 8, 2, 3]} : f32[batch, 8, 2, 3]",
                "%43 = reshape %42 {shape=[batch, 8, 2, 3]} : f32[batch, 8, 2, 3]
  %y = reverse %43 {axis=1} : f32[batch, 8, 2, 3]",
            ),
        ],
    );
    raised(&reversed);
}

#[test]
fn chunk_sums_of_another_size_are_not_raised() {
    kept(&with(SEGMENT_SUMS, &[("{axis=3, len=1, start=3}", "{axis=3, len=1, start=2}")]));
}

/// Running sums of log decays, forward or over the steps behind, and the quotient of what they scale.
fn quotient(suffix: bool, divisor: &str, scale: &str) -> String {
    let sums = if suffix {
        "%0 = slice %la {axis=1, start=1, len=5} : f32[batch, 5, 3]
         %1 = pad %0, %zero {axis=1, low=0, high=1} : f32[batch, 6, 3]
         %2 = reverse %1 {axis=1} : f32[batch, 6, 3]
         %3 = cumsum %2 {axis=1} : f32[batch, 6, 3]
         %4 = exp %3 : f32[batch, 6, 3]
         %e = reverse %4 {axis=1} : f32[batch, 6, 3]
         %5 = mul %b, %e : f32[batch, 6, 3]
         %n = cumsum %5 {axis=1} : f32[batch, 6, 3]"
    } else {
        "%1 = cumsum %la {axis=1} : f32[batch, 6, 3]
         %e = exp %1 : f32[batch, 6, 3]
         %5 = div %b, %e : f32[batch, 6, 3]
         %n = cumsum %5 {axis=1} : f32[batch, 6, 3]"
    };
    format!(
        "func @f(%dt: f32[batch, 6, 3], %b: f32[batch, 6, 3]) {{
           %a = weight {{name=\"a\", shape=[3]}} : f32[3]
           %zero = constant {{data=[0.0], shape=[]}} : f32[]
           %eps = constant {{data=[{divisor}], shape=[]}} : f32[]
           %la = contract[bld,d->bld] %dt, %a : f32[batch, 6, 3]
           {sums}
           %8 = broadcast %eps {{shape=[batch, 6, 3]}} : f32[batch, 6, 3]
           %g = add %e, %8 : f32[batch, 6, 3]
           {scale}
           return %h \"h\"
         }}"
    )
}

#[test]
fn quotients_of_running_sums_are_scans() {
    raised(&quotient(false, "0.0", "%h = mul %n, %e : f32[batch, 6, 3]"));
    raised(&quotient(true, "1e-12", "%h = div %n, %g : f32[batch, 6, 3]"));
    let reciprocal = "%r = reciprocal %e : f32[batch, 6, 3]\n%h = mul %r, %n : f32[batch, 6, 3]";
    raised(&quotient(true, "0.0", reciprocal));
}

#[test]
fn quotients_by_other_numbers_are_not() {
    kept(&quotient(true, "0.001", "%h = div %n, %g : f32[batch, 6, 3]"));
    kept(&quotient(false, "0.0", "%h = div %n, %e : f32[batch, 6, 3]"));
}
