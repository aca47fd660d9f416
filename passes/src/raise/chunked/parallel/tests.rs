use crate::pass::{Evidence, RemarkKind};
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::ops::Op;
use std::fmt::Write as _;

/// How many scans the graph has in the end, which are proved from its structure.
fn scans(text: &str) -> usize {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    let structural = |r: &&crate::pass::Remark| {
        r.pass == "parallel-scan"
            && matches!(r.kind, RemarkKind::Raised { evidence: Evidence::Structural, .. })
    };
    let scans = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Scan(_))).count();
    let adds = model.graph.nodes().filter(|(_, n)| matches!(n.op, Op::Binary(_))).count();
    assert!(scans == 0 || adds == 0, "something of the tree is left\n{}", model.graph);
    assert_eq!(report.remarks.iter().filter(structural).count(), scans);
    scans
}

/// Combinations at distances 1, 2, 4, .. of 8 steps, with shifted copies by padding; `low` and `high` are the paddings.
fn hillis_steele(distances: &[usize], reverse: bool, fill: &str) -> String {
    let mut text = format!(
        "func @f(%a0: f32[batch, 8, 3], %b0: f32[batch, 8, 3]) {{
           %zero = constant {{data=[0.0], shape=[]}} : f32[]
           %one = constant {{data=[{fill}], shape=[]}} : f32[]\n"
    );
    for (i, d) in distances.iter().enumerate() {
        let (start, low, high) = if reverse { (*d, 0, *d) } else { (0, *d, 0) };
        let len = 8 - d;
        let next = i + 1;
        for x in ["a", "b"] {
            let fill = if x == "a" { "one" } else { "zero" };
            write!(
                text,
                "%{x}s{i} = slice %{x}{i} {{axis=1, start={start}, len={len}}} : f32[batch, {len}, 3]
                 %{x}p{i} = pad %{x}s{i}, %{fill} {{axis=1, low={low}, high={high}}} : f32[batch, 8, 3]\n"
            )
            .unwrap();
        }
        write!(
            text,
            "%t{i} = mul %a{i}, %bp{i} : f32[batch, 8, 3]
             %b{next} = add %t{i}, %b{i} : f32[batch, 8, 3]
             %a{next} = mul %ap{i}, %a{i} : f32[batch, 8, 3]\n"
        )
        .unwrap();
    }
    let n = distances.len();
    write!(text, "return %b{n} \"h\"\n}}").unwrap();
    text
}

#[test]
fn combinations_at_doubled_distances_are_a_scan() {
    assert_eq!(scans(&hillis_steele(&[1, 2, 4], false, "1.0")), 1);
}

#[test]
fn backwards_too() {
    assert_eq!(scans(&hillis_steele(&[1, 2, 4], true, "1.0")), 1);
}

#[test]
fn other_distances_and_fills_are_not() {
    assert_eq!(scans(&hillis_steele(&[1, 2, 3], false, "1.0")), 0);
    assert_eq!(scans(&hillis_steele(&[1, 2], false, "1.0")), 0);
    // A fill of decays that only reaches products with zeros is one as well as another.
    assert_eq!(scans(&hillis_steele(&[1, 2, 4], false, "0.0")), 1);
}

/// Even and odd steps of `n` steps, recursively; returns the names of the scanned decays and inputs.
fn halves(text: &mut String, a: &str, b: &str, n: usize, depth: usize) -> (String, String) {
    if n < 2 {
        return (a.into(), b.into());
    }
    let (half, d) = (n / 2, depth);
    let even = n - half;
    let inner = even - 1;
    for (x, name) in [(a, "a"), (b, "b")] {
        write!(
            text,
            "%{name}l{d} = slice %{x} {{axis=1, start=0, len={half}, stride=2}} : f32[batch, {half}, 3]
             %{name}r{d} = slice %{x} {{axis=1, start=1, len={half}, stride=2}} : f32[batch, {half}, 3]
             %{name}f{d} = slice %{x} {{axis=1, start=0, len=1}} : f32[batch, 1, 3]\n"
        )
        .unwrap();
        if inner > 0 {
            writeln!(
                text,
                "%{name}e{d} = slice %{x} {{axis=1, start=2, len={inner}, stride=2}} : f32[batch, {inner}, 3]"
            )
            .unwrap();
        }
    }
    write!(
        text,
        "%t{d} = mul %ar{d}, %bl{d} : f32[batch, {half}, 3]
         %bo{d} = add %br{d}, %t{d} : f32[batch, {half}, 3]
         %ao{d} = mul %ar{d}, %al{d} : f32[batch, {half}, 3]\n"
    )
    .unwrap();
    let (ao, bo) = halves(text, &format!("ao{d}"), &format!("bo{d}"), half, depth + 1);
    let mut out = Vec::new();
    if inner > 0 {
        write!(
            text,
            "%aq{d} = slice %{ao} {{axis=1, start=0, len={inner}}} : f32[batch, {inner}, 3]
             %bq{d} = slice %{bo} {{axis=1, start=0, len={inner}}} : f32[batch, {inner}, 3]
             %u{d} = mul %ae{d}, %bq{d} : f32[batch, {inner}, 3]
             %bv{d} = add %u{d}, %be{d} : f32[batch, {inner}, 3]
             %av{d} = mul %ae{d}, %aq{d} : f32[batch, {inner}, 3]\n"
        )
        .unwrap();
    }
    for (name, odd) in [("a", &ao), ("b", &bo)] {
        if inner > 0 {
            writeln!(
                text,
                "%{name}w{d} = concat %{name}f{d}, %{name}v{d} {{axis=1}} : f32[batch, {even}, 3]"
            )
            .unwrap();
        } else {
            writeln!(text, "%{name}w{d} = slice %{name}f{d} {{axis=1, start=0, len=1}} : f32[batch, 1, 3]")
                .unwrap();
        }
        // Interleaved by a new axis; an odd number of steps is padded and cropped.
        let pad = even - half;
        write!(
            text,
            "%{name}z{d} = pad %{odd}, %zero {{axis=1, low=0, high={pad}}} : f32[batch, {even}, 3]
             %{name}x{d} = reshape %{name}w{d} {{shape=[batch, {even}, 1, 3]}} : f32[batch, {even}, 1, 3]
             %{name}y{d} = reshape %{name}z{d} {{shape=[batch, {even}, 1, 3]}} : f32[batch, {even}, 1, 3]
             %{name}j{d} = concat %{name}x{d}, %{name}y{d} {{axis=2}} : f32[batch, {even}, 2, 3]
             %{name}m{d} = reshape %{name}j{d} {{shape=[batch, {full}, 3]}} : f32[batch, {full}, 3]
             %{name}h{d} = slice %{name}m{d} {{axis=1, start=0, len={n}}} : f32[batch, {n}, 3]\n",
            full = 2 * even
        )
        .unwrap();
        out.push(format!("{name}h{d}"));
    }
    (out[0].clone(), out[1].clone())
}

#[test]
fn even_and_odd_steps_are_a_scan() {
    for n in [2, 5, 8, 13] {
        let mut text = format!(
            "func @f(%a: f32[batch, {n}, 3], %b: f32[batch, {n}, 3]) {{
               %zero = constant {{data=[0.0], shape=[]}} : f32[]\n"
        );
        let (_, b) = halves(&mut text, "a", "b", n, 0);
        write!(text, "return %{b} \"h\"\n}}").unwrap();
        assert_eq!(scans(&text), 1, "{n} steps");
    }
}

/// Decays per head, rolled inputs and a mask, in a layout with steps last.
#[test]
fn rolled_and_masked_combinations_are_a_scan() {
    let text = "func @f(%a0: f32[batch, 1, 4], %b0: f32[batch, 3, 4]) {
        %m = constant {data=[false, true, true, true], dtype=bool, shape=[4]} : bool[4]
        %k = constant {data=[false, false, true, true], dtype=bool, shape=[4]} : bool[4]
        %m1 = broadcast %m {axes=[2], shape=[batch, 3, 4]} : bool[batch, 3, 4]
        %k1 = broadcast %k {axes=[2], shape=[batch, 3, 4]} : bool[batch, 3, 4]
        %m0 = broadcast %m {axes=[2], shape=[batch, 1, 4]} : bool[batch, 1, 4]
        %1 = slice %b0 {axis=2, start=3, len=1} : f32[batch, 3, 1]
        %2 = slice %b0 {axis=2, start=0, len=3} : f32[batch, 3, 3]
        %3 = concat %1, %2 {axis=2} : f32[batch, 3, 4]
        %4 = broadcast %a0 {axes=[0, 1, 2], shape=[batch, 3, 4]} : f32[batch, 3, 4]
        %5 = mul %4, %3 : f32[batch, 3, 4]
        %6 = add %b0, %5 : f32[batch, 3, 4]
        %b1 = select %m1, %6, %b0 : f32[batch, 3, 4]
        %7 = slice %a0 {axis=2, start=3, len=1} : f32[batch, 1, 1]
        %8 = slice %a0 {axis=2, start=0, len=3} : f32[batch, 1, 3]
        %9 = concat %7, %8 {axis=2} : f32[batch, 1, 4]
        %10 = mul %a0, %9 : f32[batch, 1, 4]
        %a1 = select %m0, %10, %a0 : f32[batch, 1, 4]
        %11 = slice %b1 {axis=2, start=2, len=2} : f32[batch, 3, 2]
        %12 = slice %b1 {axis=2, start=0, len=2} : f32[batch, 3, 2]
        %13 = concat %11, %12 {axis=2} : f32[batch, 3, 4]
        %14 = broadcast %a1 {axes=[0, 1, 2], shape=[batch, 3, 4]} : f32[batch, 3, 4]
        %15 = mul %14, %13 : f32[batch, 3, 4]
        %16 = add %b1, %15 : f32[batch, 3, 4]
        %b2 = select %k1, %16, %b1 : f32[batch, 3, 4]
        return %b2 \"h\"
      }";
    assert_eq!(scans(text), 1);
}

#[test]
fn a_sum_with_a_scaled_neighbor_is_no_scan() {
    let text = "func @f(%a: f32[batch, 4], %x: f32[batch, 4]) {
        %zero = constant {data=[0.0], shape=[]} : f32[]
        %1 = slice %x {axis=1, start=0, len=3} : f32[batch, 3]
        %2 = pad %1, %zero {axis=1, low=1, high=0} : f32[batch, 4]
        %3 = mul %a, %2 : f32[batch, 4]
        %4 = add %x, %3 : f32[batch, 4]
        return %4 \"y\"
      }";
    assert_eq!(scans(text), 0);
}
