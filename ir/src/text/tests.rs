use super::*;
use crate::dim::Dim;
use crate::entity::Entity;
use crate::graph::Graph;
use crate::loc::Loc;
use crate::ops::{Constant, Slice, UnaryFn};
use crate::types::{DType, Shape, TensorType};
use crate::verify::{DUPLICATE_INPUT, DUPLICATE_OUTPUT, INVALID_OP, TYPE_MISMATCH, UNDEFINED_VALUE};
use crate::{GraphBuilder, LocId};

fn round_trips(graph: &Graph) {
    let text = graph.to_string();
    let again = parse(&text).unwrap_or_else(|faults| panic!("{faults:?} in\n{text}"));
    assert_eq!(again, *graph, "{text}");
    assert_eq!(again.to_string(), parse(&again.to_string()).unwrap().to_string());
}

const SAMPLE: &str = r#"func @mixer(%x: f32[batch, 2*seq_len + 1], %1 "an input/name": i64[], %a: f32[batch, 1, 2]) {
  !0 = "fuse-scan" [!module "backbone.layers.0", !onnx "/Exp" "Exp" "dA"]
  !1 = "raise" [!0, !text 3:14, !unknown]
  %3 = weight {name="w.\"0\"\n", shape=[4, 2]} : f32[4, 2] !1
  %4 = contract[ab,cd->abcd] %x, %3 : f32[batch, 2*seq_len + 1, 4, 2]
  %5 = reshape %4 {shape=[batch, 8*seq_len + 4, 2]} : f32[batch, 8*seq_len + 4, 2] !0
  %6, %7 = ssm.scan %a, %5 {reverse=true} : f32[batch, 8*seq_len + 4, 2], f32[batch, 2]
  %8 = constant {data=[0.1, -0.0, inf], shape=[3]} : f32[3]
  %9 = constant {data=0x0000c07f, shape=[1]} : f32[1]
  %10 = slice %6 {axis=1, len=min(3, seq_len), start=floordiv(seq_len, 2)} : f32[batch, min(3, seq_len), 2]
  %11 = loop %1, %8 {n_carried=1, trip_count=3} : i64[] {
    func @body(%i: i64[], %carried: i64[], %free: f32[3]) {
      %3 = add %i, %carried : i64[] !module "inner"
      return %3 "out"
    }
  }
  return %7 "logits", %11 "count"
}
"#;

#[test]
fn printing_gives_the_parsed_text_back() {
    let graph = parse(SAMPLE).unwrap();
    assert_eq!(graph.to_string(), SAMPLE);
    round_trips(&graph);
}

#[test]
fn constants_keep_their_bits() {
    for dtype in DType::ALL.iter().copied() {
        for n in [0usize, 1, 3, 40] {
            let size = (n * dtype.bits()).div_ceil(8);
            let data: Vec<u8> = (0..size).map(|i| (i * 97 + 13) as u8).collect();
            let mut b = GraphBuilder::new("f");
            let y = b.op(Constant { dtype, shape: Shape::from([n as i64]), data }, &[]).unwrap();
            b.output("y", y);
            round_trips(&b.finish());
        }
    }
    for x in [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE / 2.0, 0.1, f64::MAX] {
        let mut b = GraphBuilder::new("f");
        let y = b.scalar(DType::F64, x).unwrap();
        b.output("y", y);
        round_trips(&b.finish());
    }
}

#[test]
fn odd_names_and_numbers_round_trip() {
    let mut b = GraphBuilder::new("a \"name\"\twith\u{1F980}");
    let dim = Dim::symbol("min") * Dim::from(i64::MIN)
        + Dim::symbol("a b")
        + Dim::symbol("T.1").modulo(&Dim::from(3));
    let ty = TensorType::new(DType::F32, [dim, Dim::symbol("é")]);
    let x = b.input("", ty.clone());
    let first = b.set_loc(Loc::Module("m".into()));
    b.set_loc(Loc::Derived { by: "r\\".into(), from: vec![first, first, LocId::new(0)] });
    let y = b.unary(UnaryFn::Exp, x).unwrap();
    let late = b.input("late", ty.clone());
    let duplicate = b.input("late", ty);
    let z = b
        .op(Slice { axis: 0, len: Dim::from(1), start: Dim::from(0), stride: i64::MIN }, &[duplicate])
        .unwrap();
    b.output("é", y);
    b.output("", late);
    b.output("z", z);
    let text = b.graph().to_string();
    // Two inputs of one name are a fault, but the text still says which is which.
    let faults = parse(&text).unwrap_err();
    assert_eq!(faults.iter().map(|f| f.code).collect::<Vec<_>>(), [DUPLICATE_INPUT], "{text}");
    round_trips(&parse(&text.replacen("\"late\"", "\"early\"", 1)).unwrap());
}

#[test]
fn equality_looks_at_locations_and_numbers() {
    let text = |loc: &str, n: &str| {
        format!(
            "func @f(%x: f32[2]) {{ %y = neg %x : f32[2] {loc} %{n} = exp %y : f32[2] return %{n} \"z\" }}"
        )
    };
    let a = parse(&text("!module \"a\"", "q")).unwrap();
    assert_eq!(a, parse(&text("!module \"a\"", "7")).unwrap());
    assert_ne!(a, parse(&text("!module \"b\"", "q")).unwrap());
    assert_ne!(a, parse(&text("", "q")).unwrap());
}

/// The text of the body of a function, and the faults expected as line, column, code and a part of the message.
fn check_faults(text: &str, expected: &[(u32, u32, &str, &str)]) {
    let faults = parse(text).expect_err(text);
    let found: Vec<_> = faults.iter().map(|f| (f.line, f.column, f.code)).collect();
    let places: Vec<_> = expected.iter().map(|e| (e.0, e.1, e.2)).collect();
    assert_eq!(found, places, "{faults:?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.message.contains(expected.3), "{fault} does not say {:?}", expected.3);
    }
}

#[test]
fn faults_have_places() {
    let body = |text: &str| format!("func @f(%x: f32[2]) {{\n{text}\n}}");
    let syntax = |text: &str, column, message| check_faults(&body(text), &[(2, column, SYNTAX, message)]);
    syntax("%y = frob %x : f32[2] return %y", 6, "there is no op frob");
    syntax("%y = reverse %x {axle=0} : f32[2] return %y", 18, "reverse has no attribute axle");
    syntax("%y = reverse %x {axis=0, axis=0} : f32[2] return %y", 26, "given twice");
    syntax("%y = reverse %x {axis=-1} : f32[2] return %y", 23, "not negative");
    syntax("%y = compare %x, %x {cmp=less} : bool[2] return %y", 26, "one of eq, ne, lt");
    syntax("%y = cast %x {to=f31} : f32[2] return %y", 18, "expected an element type (f64, f32");
    syntax("%y = neg %x return %y", 13, "as many types as results");
    check_faults(&body("%y = neg %x : f32[2]"), &[(3, 1, SYNTAX, "expected a node or return")]);
    syntax("%y = neg %x : f32[2] !3 return %y", 22, "number defined above");
    syntax("%y = constant {data=[1.0], shape=[99999999999999999999]} : f32[1] return %y", 35, "64-bit");
    syntax("return \"open", 8, "the string has no end");
    syntax("return # %x", 8, "unexpected character");
    syntax("%y = neg %x : f32[2] %y = neg %x : f32[2] return %y", 22, "%y is defined twice");
    check_faults("func @f() { return } x", &[(1, 22, SYNTAX, "expected the end")]);
    check_faults("", &[(1, 1, SYNTAX, "expected func")]);
    check_faults(
        "func @f(%x: f32[2], %x: f32[2]) { return %x \"a\", %x \"a\" }",
        &[
            (1, 21, DUPLICATE_INPUT, "\"x\""),
            (1, 21, SYNTAX, "defined twice"),
            (1, 50, DUPLICATE_OUTPUT, "\"a\""),
        ],
    );
    // Faults of types do not end the reading.
    let text = "%y = add %x, %q : f32[2]\n%z = neg %x : f32[3]\n%u = not %z : bool[3]\nreturn %u, %v";
    check_faults(
        &body(text),
        &[
            (2, 14, UNDEFINED_VALUE, "%q"),
            (3, 6, TYPE_MISMATCH, "[f32[2]]"),
            (4, 6, INVALID_OP, "not: operand x"),
            (5, 12, UNDEFINED_VALUE, "%v"),
        ],
    );
    let literal = |data: &str, dtype: &str| {
        format!(
            "func @f() {{ %y = constant {{data={data}, dtype={dtype}, shape=[1]}} : {dtype}[1] return %y }}"
        )
    };
    for (data, dtype) in
        [("[300]", "u8"), ("[-1]", "u8"), ("[1.5]", "i32"), ("[2]", "bool"), ("[1.0]", "c64"), ("[x]", "f32")]
    {
        let fault = &parse(&literal(data, dtype)).unwrap_err()[0];
        assert_eq!((fault.code, fault.column), (INVALID_OP, 33), "{fault}");
    }
    assert!(parse(&literal("[255]", "u8")).is_ok());
    let deep = format!("func @f(%x: f32[{}1{}]) {{ return %x }}", "min(a, ".repeat(5000), ")".repeat(5000));
    assert!(parse(&deep).unwrap_err()[0].message.contains("nested deeper"));
}

#[test]
fn extents_that_leave_64_bits_are_faults_and_not_panics() {
    let text = "func @f(%x: f32[9223372036854775807, 9223372036854775807]) {
        %y = reshape %x {shape=[4]} : f32[4]
        %z = concat %x, %x : f32[2, 9223372036854775807]
        return %y }";
    let codes: Vec<_> = parse(text).unwrap_err().iter().map(|f| f.code).collect();
    assert_eq!(codes, [INVALID_OP, TYPE_MISMATCH]);
}

/// Every text that is one edit away from the sample parses or has faults with places inside it; none panics.
#[test]
fn mutated_texts_do_not_panic() {
    let chars: Vec<char> = SAMPLE.chars().collect();
    let lines = SAMPLE.lines().count() as u32;
    let mut n_valid = 0;
    let mut try_text = |text: String| match parse(&text) {
        Ok(graph) => {
            n_valid += 1;
            let again = parse(&graph.to_string());
            assert_eq!(again.as_ref(), Ok(&graph), "{text}");
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(faults.iter().all(|f| (1..=lines + 1).contains(&f.line) && f.column >= 1), "{faults:?}");
        }
    };
    let inserted =
        ['"', '{', '}', '[', ']', '(', ')', '-', '9', '%', '!', '=', ',', ':', '_', 'e', '\n', '\u{e9}'];
    for i in 0..chars.len() {
        let (before, after) = (&chars[..i], &chars[i + 1..]);
        try_text(before.iter().chain(after).collect());
        try_text(before.iter().collect());
        let c = inserted[i % inserted.len()];
        try_text(before.iter().chain([&c]).chain(after).collect());
        try_text(before.iter().chain([&c]).chain(&chars[i..]).collect());
    }
    assert!(n_valid > 50, "{n_valid}");
}
