use crate::pass::{Evidence, RemarkKind};
use crate::pipeline::{CANONICAL, RAISED};
use crate::testing::optimized;
use ssmc_ir::ops::Op;
use std::fmt::Write as _;

/// How many real and complex scans the graph has in the end, found by what it computes.
fn scans(text: &str) -> [usize; 2] {
    let (model, report) = optimized(text, &[CANONICAL, RAISED]);
    let numeric = |r: &&crate::pass::Remark| {
        r.pass == "linear-scan" && matches!(r.kind, RemarkKind::Raised { evidence: Evidence::Numeric, .. })
    };
    let count = |f: fn(&Op) -> bool| model.graph.nodes().filter(|(_, n)| f(&n.op)).count();
    let found = [count(|op| matches!(op, Op::Scan(_))), count(|op| matches!(op, Op::ComplexScan(_)))];
    let sums = count(|op| matches!(op, Op::Binary(_)));
    assert!(found == [0, 0] || sums == 0, "something of the tree is left\n{}", model.graph);
    assert_eq!(report.remarks.iter().filter(numeric).count(), found[0] + found[1]);
    found
}

/// A shifted copy of `x`: steps move by `d`, zeros come in.
fn shifted(text: &mut String, x: &str, d: usize, n: usize, reverse: bool) -> String {
    let (start, low, high) = if reverse { (d, 0, d) } else { (0, d, 0) };
    let len = n - d;
    write!(
        text,
        "%{x}_s = slice %{x} {{axis=1, start={start}, len={len}}} : f32[batch, {len}, 3]
         %{x}_p = pad %{x}_s, %zero {{axis=1, low={low}, high={high}}} : f32[batch, {n}, 3]\n"
    )
    .unwrap();
    format!("{x}_p")
}

const HEAD: &str = "%zero = constant {data=[0.0], shape=[]} : f32[]\n";

/// Combinations at distances of `n` steps with one decay per channel, whose powers are computed of weights.
fn hillis_steele(n: usize, distances: &[usize], reverse: bool) -> String {
    let mut text = format!("func @f(%b0: f32[batch, {n}, 3]) {{\n{HEAD}");
    text += "%a0 = weight {name=\"a\", shape=[3]} : f32[3]\n";
    for (i, d) in distances.iter().enumerate() {
        let x = shifted(&mut text, &format!("b{i}"), *d, n, reverse);
        let next = i + 1;
        write!(
            text,
            "%t{i} = contract[n,bln->bln] %a{i}, %{x} : f32[batch, {n}, 3]
             %b{next} = add %b{i}, %t{i} : f32[batch, {n}, 3]
             %a{next} = mul %a{i}, %a{i} : f32[3]\n"
        )
        .unwrap();
    }
    write!(text, "return %b{} \"h\"\n}}", distances.len()).unwrap();
    text
}

#[test]
fn combinations_at_doubled_distances_are_a_scan() {
    assert_eq!(scans(&hillis_steele(8, &[1, 2, 4], false)), [1, 0]);
    assert_eq!(scans(&hillis_steele(13, &[1, 2, 4, 8], false)), [1, 0]);
    assert_eq!(scans(&hillis_steele(8, &[1, 2, 4], true)), [1, 0]);
    // A power belongs to its distance.
    assert_eq!(scans(&hillis_steele(8, &[4, 2, 1], false)), [0, 0]);
}

#[test]
fn other_distances_are_not() {
    assert_eq!(scans(&hillis_steele(8, &[1, 2, 3], false)), [0, 0]);
    assert_eq!(scans(&hillis_steele(8, &[1, 2], false)), [0, 0]);
    assert_eq!(scans(&hillis_steele(8, &[1], false)), [0, 0]);
}

/// The same with complex numbers as two tensors each; `sign` is that of the product of the imaginary parts.
fn complex(n: usize, distances: &[usize], reverse: bool, sign: &str) -> String {
    let mut text = format!("func @f(%r0: f32[batch, {n}, 3], %i0: f32[batch, {n}, 3]) {{\n{HEAD}");
    text += "%p0 = weight {name=\"p\", shape=[3]} : f32[3]\n%q0 = weight {name=\"q\", shape=[3]} : f32[3]\n";
    let ty = |text: &mut String, name: String, op: &str| {
        writeln!(text, "%{name} = {op} : f32[batch, {n}, 3]").unwrap();
    };
    for (i, d) in distances.iter().enumerate() {
        let next = i + 1;
        let x = shifted(&mut text, &format!("r{i}"), *d, n, reverse);
        let y = shifted(&mut text, &format!("i{i}"), *d, n, reverse);
        for (c, v, name) in [("p", &x, "px"), ("q", &y, "qy"), ("p", &y, "py"), ("q", &x, "qx")] {
            ty(&mut text, format!("{name}{i}"), &format!("contract[n,bln->bln] %{c}{i}, %{v}"));
        }
        ty(&mut text, format!("re{i}"), &format!("{sign} %px{i}, %qy{i}"));
        ty(&mut text, format!("im{i}"), &format!("add %py{i}, %qx{i}"));
        ty(&mut text, format!("r{next}"), &format!("add %r{i}, %re{i}"));
        ty(&mut text, format!("i{next}"), &format!("add %im{i}, %i{i}"));
        write!(
            text,
            "%pp{i} = mul %p{i}, %p{i} : f32[3]
             %qq{i} = mul %q{i}, %q{i} : f32[3]
             %pq{i} = mul %p{i}, %q{i} : f32[3]
             %p{next} = sub %pp{i}, %qq{i} : f32[3]
             %q{next} = add %pq{i}, %pq{i} : f32[3]\n"
        )
        .unwrap();
    }
    let last = distances.len();
    write!(text, "return %r{last} \"re\", %i{last} \"im\"\n}}").unwrap();
    text
}

#[test]
fn pairs_are_a_complex_scan() {
    assert_eq!(scans(&complex(8, &[1, 2, 4], false, "sub")), [0, 1]);
    assert_eq!(scans(&complex(11, &[1, 2, 4, 8], false, "sub")), [0, 1]);
    assert_eq!(scans(&complex(8, &[1, 2, 4], true, "sub")), [0, 1]);
}

#[test]
fn products_of_other_pairs_are_not() {
    assert_eq!(scans(&complex(8, &[1, 2, 4], false, "add")), [0, 0]);
    assert_eq!(scans(&complex(8, &[1, 2, 3], false, "sub")), [0, 0]);
}

/// Pairs along the last axis, taken apart and joined again at every distance; the read-out takes the real part.
#[test]
fn pairs_in_one_tensor_are_a_complex_scan() {
    let n = 6;
    let mut text = format!("func @f(%b: f32[batch, {n}, 3, 2]) {{\n{HEAD}");
    text += "%p0 = weight {name=\"p\", shape=[3]} : f32[3]\n%q0 = weight {name=\"q\", shape=[3]} : f32[3]
             %h0 = reshape %b {shape=[batch, 6, 3, 2]} : f32[batch, 6, 3, 2]\n";
    for (i, d) in [1, 2, 4].into_iter().enumerate() {
        let next = i + 1;
        let flat = format!("f32[batch, {n}, 3]");
        for (k, part) in ["r", "i"].into_iter().enumerate() {
            write!(
                text,
                "%{part}u{i} = slice %h{i} {{axis=3, start={k}, len=1}} : f32[batch, {n}, 3, 1]
                 %{part}{i} = reshape %{part}u{i} {{shape=[batch, {n}, 3]}} : {flat}\n"
            )
            .unwrap();
        }
        let x = shifted(&mut text, &format!("r{i}"), d, n, false);
        let y = shifted(&mut text, &format!("i{i}"), d, n, false);
        for (c, v, name) in [("p", &x, "px"), ("q", &y, "qy"), ("p", &y, "py"), ("q", &x, "qx")] {
            writeln!(text, "%{name}{i} = contract[n,bln->bln] %{c}{i}, %{v} : {flat}").unwrap();
        }
        write!(
            text,
            "%re{i} = sub %px{i}, %qy{i} : {flat}
             %im{i} = add %py{i}, %qx{i} : {flat}
             %rs{i} = add %re{i}, %r{i} : {flat}
             %is{i} = add %im{i}, %i{i} : {flat}
             %rw{i} = reshape %rs{i} {{shape=[batch, {n}, 3, 1]}} : f32[batch, {n}, 3, 1]
             %iw{i} = reshape %is{i} {{shape=[batch, {n}, 3, 1]}} : f32[batch, {n}, 3, 1]
             %h{next} = concat %rw{i}, %iw{i} {{axis=3}} : f32[batch, {n}, 3, 2]
             %pp{i} = mul %p{i}, %p{i} : f32[3]
             %qq{i} = mul %q{i}, %q{i} : f32[3]
             %pq{i} = mul %p{i}, %q{i} : f32[3]
             %p{next} = sub %pp{i}, %qq{i} : f32[3]
             %q{next} = add %pq{i}, %pq{i} : f32[3]\n"
        )
        .unwrap();
    }
    text += "return %h3 \"h\"\n}";
    assert_eq!(scans(&text), [0, 1]);
}

/// Even and odd steps: neighbors are combined, the sums are scanned with squared decays, and even steps take one more.
fn halves(text: &mut String, b: &str, n: usize, depth: usize) -> String {
    if n < 2 {
        return b.into();
    }
    let (half, d, next) = (n / 2, depth, depth + 1);
    write!(
        text,
        "%l{d} = slice %{b} {{axis=1, start=0, len={half}, stride=2}} : f32[batch, {half}, 3]
         %r{d} = slice %{b} {{axis=1, start=1, len={half}, stride=2}} : f32[batch, {half}, 3]
         %t{d} = contract[n,bln->bln] %a{d}, %l{d} : f32[batch, {half}, 3]
         %o{d} = add %r{d}, %t{d} : f32[batch, {half}, 3]
         %a{next} = mul %a{d}, %a{d} : f32[3]\n"
    )
    .unwrap();
    let odd = halves(text, &format!("o{d}"), half, next);
    let inner = half - 1;
    write!(
        text,
        "%e{d} = slice %{b} {{axis=1, start=2, len={inner}, stride=2}} : f32[batch, {inner}, 3]
         %q{d} = slice %{odd} {{axis=1, start=0, len={inner}}} : f32[batch, {inner}, 3]
         %u{d} = contract[n,bln->bln] %a{d}, %q{d} : f32[batch, {inner}, 3]
         %v{d} = add %e{d}, %u{d} : f32[batch, {inner}, 3]
         %f{d} = slice %{b} {{axis=1, start=0, len=1}} : f32[batch, 1, 3]
         %w{d} = concat %f{d}, %v{d} {{axis=1}} : f32[batch, {half}, 3]
         %x{d} = reshape %w{d} {{shape=[batch, {half}, 1, 3]}} : f32[batch, {half}, 1, 3]
         %y{d} = reshape %{odd} {{shape=[batch, {half}, 1, 3]}} : f32[batch, {half}, 1, 3]
         %j{d} = concat %x{d}, %y{d} {{axis=2}} : f32[batch, {half}, 2, 3]
         %h{d} = reshape %j{d} {{shape=[batch, {n}, 3]}} : f32[batch, {n}, 3]\n"
    )
    .unwrap();
    format!("h{d}")
}

#[test]
fn even_and_odd_steps_are_a_scan() {
    for n in [4, 16] {
        let mut text = format!("func @f(%b: f32[batch, {n}, 3]) {{\n{HEAD}");
        text += "%a0 = weight {name=\"a\", shape=[3]} : f32[3]\n";
        let h = halves(&mut text, "b", n, 0);
        write!(text, "return %{h} \"h\"\n}}").unwrap();
        assert_eq!(scans(&text), [1, 0], "{n} steps");
    }
}
