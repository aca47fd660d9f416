use crate::pass::{Evidence, RemarkKind};
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::{ops, optimized};
use ssmc_ir::Graph;
use ssmc_ir::ops::Op;

/// The raised graph, with how each convolution was proved. The interpreter computes the same before and after.
fn raised(text: &str) -> (Graph, Vec<Evidence>) {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    let evidence = report.remarks.iter().map(|r| match r.kind {
        RemarkKind::Raised { evidence, scans: 1 } => evidence,
        _ => panic!("{r}"),
    });
    let evidence = evidence.collect();
    assert!(!ops(&model.graph).iter().any(|op| op == "dft" || op == "conv"), "{}", model.graph);
    (model.graph, evidence)
}

/// Why transforms stay.
fn kept(text: &str) -> String {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    assert!(!ops(&model.graph).iter().any(|op| op == "ssm.long_conv"), "{}", model.graph);
    match &report.remarks[..] {
        [remark] => match &remark.kind {
            RemarkKind::Kept { reason } => reason.clone(),
            RemarkKind::Raised { .. } | RemarkKind::State { .. } => panic!("{remark}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Types of input and kernel and the lead of every long convolution.
fn convolutions(graph: &Graph) -> Vec<(String, String, String)> {
    let ty = |v: Option<ssmc_ir::ValueId>| graph.ty(v.unwrap()).shape.to_string();
    let conv = |n: &ssmc_ir::Node| match &n.op {
        Op::LongConv(op) => Some((ty(n.operands[0]), ty(n.operands[1]), op.lead.to_string())),
        _ => None,
    };
    graph.nodes().filter_map(|(_, n)| conv(n)).collect()
}

fn conv(x: &str, k: &str, lead: &str) -> (String, String, String) {
    (x.into(), k.into(), lead.into())
}

/// Pads four steps of three channels to `n` elements, multiplies by the transform of a weight of `width` taps and reads
/// four elements from `from` on.
fn frozen(n: usize, width: usize, from: usize) -> String {
    let half = n / 2 + 1;
    format!(
        "func @f(%x: f32[batch, 4, 3]) {{
           %0 = constant {{data=[0.0], shape=[]}} : f32[]
           %k = weight {{name=\"k\", shape=[{width}, 3]}} : f32[{width}, 3]
           %hr, %hi = dft %k {{axis=0, length={n}, onesided=true}} : f32[{half}, 3], f32[{half}, 3]
           %xp = pad %x, %0 {{axis=1, high={pad}}} : f32[batch, {n}, 3]
           {}",
        product("batch", n, 3, from, 4, false),
        pad = n - 4,
    )
}

/// Transforms xp, multiplies by hr and hi, which lack the batch, or have it, transforms back and cuts.
fn product(batch: &str, n: usize, channels: usize, from: usize, kept: usize, conjugate: bool) -> String {
    let half = n / 2 + 1;
    let ty = format!("f32[{batch}, {half}, {channels}]");
    let (first, second) = if conjugate { ("add", "sub") } else { ("sub", "add") };
    format!(
        "%xr, %xi = dft %xp {{axis=1, length={n}, onesided=true}} : {ty}, {ty}
         %br = broadcast %hr {{axes=[1, 2], shape=[{batch}, {half}, {channels}]}} : {ty}
         %bi = broadcast %hi {{axes=[1, 2], shape=[{batch}, {half}, {channels}]}} : {ty}
         %p = mul %xr, %br : {ty}
         %q = mul %xi, %bi : {ty}
         %s = mul %br, %xi : {ty}
         %t = mul %xr, %bi : {ty}
         %yr = {first} %p, %q : {ty}
         %yi = {second} %s, %t : {ty}
         %y, %z = dft %yr, %yi {{axis=1, inverse=true, length={n}, onesided=true}} : \
             f32[{batch}, {n}, {channels}], f32[{batch}, {n}, {channels}]
         %o = slice %y {{axis=1, len={kept}, start={from}}} : f32[{batch}, {kept}, {channels}]
         return %o \"y\"
       }}"
    )
}

#[test]
fn a_frozen_spectrum_is_a_causal_kernel() {
    let (graph, evidence) = raised(&frozen(8, 4, 0));
    assert_eq!(convolutions(&graph), [conv("[batch, 4, 3]", "[4, 3]", "0")]);
    assert_eq!(evidence, [Evidence::Numeric]);
    // Any number of elements, and kernels shorter than the sequence.
    for (n, width) in [(7, 4), (9, 4), (10, 2), (12, 3)] {
        let (graph, _) = raised(&frozen(n, width, 0));
        assert_eq!(convolutions(&graph), [conv("[batch, 4, 3]", &format!("[{width}, 3]"), "0")]);
    }
}

#[test]
fn a_kernel_that_fills_the_circle_looks_both_ways() {
    let (graph, _) = raised(&frozen(8, 8, 0));
    assert_eq!(convolutions(&graph), [conv("[batch, 4, 3]", "[7, 3]", "3")]);
}

#[test]
fn a_later_cut_looks_ahead() {
    let (graph, _) = raised(&frozen(8, 4, 1));
    assert_eq!(convolutions(&graph), [conv("[batch, 4, 3]", "[4, 3]", "1")]);
}

#[test]
fn without_padding_a_convolution_is_circular() {
    for n in [5, 6] {
        let reason = kept(&frozen(n, 4, 0));
        assert!(reason.contains("circular"), "{reason}");
    }
    // Nothing is cut.
    let (model, _) = optimized(&frozen(4, 4, 0), &[CANONICAL, RAISED]);
    assert_eq!(ops(&model.graph).iter().filter(|op| *op == "dft").count(), 2, "{}", model.graph);
}

/// With a kernel in the graph, for each sequence of the batch.
fn in_graph(n: usize, from: usize, conjugate: bool) -> String {
    let half = n / 2 + 1;
    format!(
        "func @f(%x: f32[1, 4, 3], %k: f32[4, 3]) {{
           %0 = constant {{data=[0.0], shape=[]}} : f32[]
           %kp = pad %k, %0 {{axis=0, high={pad}}} : f32[{n}, 3]
           %hr, %hi = dft %kp {{axis=0, length={n}, onesided=true}} : f32[{half}, 3], f32[{half}, 3]
           %xp = pad %x, %0 {{axis=1, high={pad}}} : f32[1, {n}, 3]
           {}",
        product("1", n, 3, from, 4, conjugate),
        pad = n - 4,
    )
}

#[test]
fn a_kernel_of_the_graph_is_used_as_it_is() {
    let (graph, evidence) = raised(&in_graph(8, 0, false));
    assert_eq!(convolutions(&graph), [conv("[1, 4, 3]", "[4, 3]", "0")]);
    assert_eq!(evidence, [Evidence::Structural]);
    let reason = kept(&in_graph(6, 0, false));
    assert!(reason.contains("circular"), "{reason}");
}

#[test]
fn a_conjugate_spectrum_is_a_reversed_kernel() {
    let (graph, _) = raised(&in_graph(8, 0, true));
    assert_eq!(convolutions(&graph), [conv("[1, 4, 3]", "[4, 3]", "3")]);
    assert!(ops(&graph).iter().any(|op| op == "reverse"), "{graph}");
}

#[test]
fn what_is_no_complex_product_stays() {
    let text = in_graph(8, 0, false).replace("%yr = sub %p, %q", "%yr = add %p, %q");
    assert_eq!(kept(&text), "the spectrum is not that of one signal times that of one kernel");
    let text = in_graph(8, 0, false).replace("%q = mul %xi, %bi", "%q = mul %xi, %br");
    assert_eq!(kept(&text), "the spectrum is not that of one signal times that of one kernel");
}

/// Batched kernels of the length of the sequence, with channels and time in another order and a factor.
#[test]
fn lengths_may_be_symbols() {
    let (graph, _) = raised(
        "func @f(%x: f32[batch, 3, seq_len], %k: f32[batch, 3, seq_len]) {
           %0 = constant {data=[0.0], shape=[]} : f32[]
           %2 = constant {data=[2.0], shape=[]} : f32[]
           %xp = pad %x, %0 {axis=2, high=seq_len + 2} : f32[batch, 3, 2*seq_len + 2]
           %xr, %xi = dft %xp {axis=2, length=2*seq_len + 2, onesided=true} \
               : f32[batch, 3, seq_len + 2], f32[batch, 3, seq_len + 2]
           %hr, %hi = dft %k {axis=2, length=2*seq_len + 2, onesided=true} \
               : f32[batch, 3, seq_len + 2], f32[batch, 3, seq_len + 2]
           %p = mul %xr, %hr : f32[batch, 3, seq_len + 2]
           %q = mul %xi, %hi : f32[batch, 3, seq_len + 2]
           %s = mul %hr, %xi : f32[batch, 3, seq_len + 2]
           %t = mul %xr, %hi : f32[batch, 3, seq_len + 2]
           %yr = sub %p, %q : f32[batch, 3, seq_len + 2]
           %yi = add %s, %t : f32[batch, 3, seq_len + 2]
           %y, %z = dft %yr, %yi {axis=2, inverse=true, length=2*seq_len + 2, onesided=true} \
               : f32[batch, 3, 2*seq_len + 2], f32[batch, 3, 2*seq_len + 2]
           %b = broadcast %2 {shape=[batch, 3, 2*seq_len + 2]} : f32[batch, 3, 2*seq_len + 2]
           %m = mul %b, %y : f32[batch, 3, 2*seq_len + 2]
           %o = slice %m {axis=2, len=seq_len} : f32[batch, 3, seq_len]
           return %o \"y\"
         }",
    );
    assert_eq!(convolutions(&graph), [conv("[batch, seq_len, 3]", "[batch, seq_len, 3]", "0")]);
}

/// Real and imaginary parts along a last axis, half of a whole spectrum, and a result that is rolled before it is cut.
#[test]
fn pairs_along_an_axis_and_a_rolled_result() {
    let (graph, _) = raised(
        "func @f(%x: f32[batch, 2, 4]) {
           %k = weight {name=\"k\", shape=[2, 4]} : f32[2, 4]
           %hr, %hi = dft %k {axis=1, length=8, onesided=true} : f32[2, 5], f32[2, 5]
           %1 = constant {data=[0.0], shape=[]} : f32[]
           %xp = pad %x, %1 {axis=2, low=4} : f32[batch, 2, 8]
           %a, %b = dft %xp {axis=2, length=8} : f32[batch, 2, 8], f32[batch, 2, 8]
           %a1 = reshape %a {shape=[batch, 2, 8, 1]} : f32[batch, 2, 8, 1]
           %b1 = reshape %b {shape=[batch, 2, 8, 1]} : f32[batch, 2, 8, 1]
           %ab = concat %a1, %b1 {axis=3} : f32[batch, 2, 8, 2]
           %half = slice %ab {axis=2, len=5} : f32[batch, 2, 5, 2]
           %xr = slice %half {axis=3, len=1} : f32[batch, 2, 5, 1]
           %xi = slice %half {axis=3, len=1, start=1} : f32[batch, 2, 5, 1]
           %hr1 = broadcast %hr {axes=[1, 2], shape=[batch, 2, 5, 1]} : f32[batch, 2, 5, 1]
           %hi1 = broadcast %hi {axes=[1, 2], shape=[batch, 2, 5, 1]} : f32[batch, 2, 5, 1]
           %p = mul %xr, %hr1 : f32[batch, 2, 5, 1]
           %q = mul %xi, %hi1 : f32[batch, 2, 5, 1]
           %s = mul %hr1, %xi : f32[batch, 2, 5, 1]
           %t = mul %xr, %hi1 : f32[batch, 2, 5, 1]
           %yr = sub %p, %q : f32[batch, 2, 5, 1]
           %yi = add %s, %t : f32[batch, 2, 5, 1]
           %yp = concat %yr, %yi {axis=3} : f32[batch, 2, 5, 2]
           %c0 = slice %yp {axis=3, len=1} : f32[batch, 2, 5, 1]
           %c = reshape %c0 {shape=[batch, 2, 5]} : f32[batch, 2, 5]
           %d0 = slice %yp {axis=3, len=1, start=1} : f32[batch, 2, 5, 1]
           %d = reshape %d0 {shape=[batch, 2, 5]} : f32[batch, 2, 5]
           %y, %z = dft %c, %d {axis=2, inverse=true, length=8, onesided=true} : f32[batch, 2, 8], f32[batch, 2, 8]
           %y1 = reshape %y {shape=[batch, 2, 8, 1]} : f32[batch, 2, 8, 1]
           %tail = slice %y1 {axis=2, len=7, start=1} : f32[batch, 2, 7, 1]
           %head = slice %y1 {axis=2, len=1} : f32[batch, 2, 1, 1]
           %roll = concat %tail, %head {axis=2} : f32[batch, 2, 8, 1]
           %at = constant {data=[4, 5, 6, 7], dtype=i64, shape=[4]} : i64[4]
           %o = gather %roll, %at {axis=2} : f32[batch, 2, 4, 1]
           return %o \"y\"
         }",
    );
    assert_eq!(convolutions(&graph), [conv("[batch, 4, 2]", "[4, 2]", "1")]);
}

fn depthwise(width: usize, pads: [usize; 2], len: &str, kept: &str) -> String {
    format!(
        "func @f(%x: f32[batch, 3, seq_len]) {{
           %w = weight {{name=\"w\", shape=[3, 1, {width}]}} : f32[3, 1, {width}]
           %b = weight {{name=\"b\", shape=[3]}} : f32[3]
           %0 = conv %x, %w, %b {{dilations=[1], groups=3, pads=[{}, {}], strides=[1]}} : f32[batch, 3, {len}]
           %1 = slice %0 {{axis=2, len={kept}}} : f32[batch, 3, {kept}]
           return %1 \"y\"
         }}",
        pads[0], pads[1],
    )
}

#[test]
fn a_depthwise_convolution_with_many_taps() {
    let (graph, _) = raised(&depthwise(9, [8, 8], "seq_len + 8", "seq_len"));
    assert_eq!(convolutions(&graph), [conv("[batch, seq_len, 3]", "[9, 3]", "0")]);
    let (graph, _) = raised(&depthwise(9, [8, 2], "seq_len + 2", "seq_len + 2"));
    assert_eq!(convolutions(&graph), [conv("[batch, seq_len + 2, 3]", "[9, 3]", "0")]);
}

#[test]
fn short_and_centered_convolutions_are_left_to_others() {
    for (width, pads, len) in [(8, [7, 7], "seq_len + 7"), (9, [4, 4], "seq_len")] {
        let (model, report) = optimized(&depthwise(width, pads, len, "seq_len"), &[CANONICAL, RAISED]);
        assert!(ops(&model.graph).iter().any(|op| op == "conv"), "{}", model.graph);
        assert!(report.remarks.is_empty());
    }
}
