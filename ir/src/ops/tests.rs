use super::{Attr, Op, OpError};
use crate::text::{SYNTAX, parse};
use crate::verify::INVALID_OP;
use std::collections::BTreeSet;

/// A statement without results, with operand types in the place of operands, and a part of the fault's message.
/// The types of the results are not reached.
const FAULTS: &[(&str, &[&str], &str)] = &[
    ("constant {data=0x00, shape=[1]}", &[], "expected 4 bytes, found 1"),
    ("constant {shape=[n]}", &[], "has a symbol"),
    ("weight {name=\"w\", shape=[-1]}", &[], "not a size"),
    ("iota {axis=1, shape=[2]}", &[], "1 is not below 1"),
    ("iota {dtype=bool, shape=[2]}", &[], "cannot count"),
    ("neg", &["bool[2]"], "one that neg takes"),
    ("not", &["f32[2]"], "one that not takes"),
    ("exp", &["i32[2]"], "one that exp takes"),
    ("add", &["f32[2]"], "expected 2 operands, found 1"),
    ("add", &["f32[2]", "f32[3]"], "expected shape [2], found [3]"),
    ("add", &["f32[2]", "f16[2]"], "expected element type f32, found f16"),
    ("add", &["bool[2]", "bool[2]"], "one that add takes"),
    ("and", &["f32[2]", "f32[2]"], "one that and takes"),
    ("compare", &["f32[1]", "f32[2]"], "expected shape [1], found [2]"),
    ("select", &["f32[2]", "f32[2]", "f32[2]"], "expected element type bool"),
    ("select", &["bool[1]", "f32[2]", "f32[2]"], "operand cond: expected shape [2]"),
    ("cast {to=f32}", &["c64[1]"], "a real one"),
    ("dequantize {group=2}", &["f32[2, 3]", "f32[1, 3]"], "expected element type i8"),
    ("dequantize {group=2}", &["i8[2, 3]", "i8[1, 3]"], "a real one"),
    ("dequantize {axis=2}", &["i8[2, 3]", "f32[1, 3]"], "2 is not below 2"),
    ("dequantize {axis=1, group=2}", &["i8[2, 3]", "f32[2, 1]"], "3 is no multiple of 2"),
    ("dequantize {axis=1, group=3}", &["i8[2, 3]", "f32[2, 3]"], "expected shape [2, 1]"),
    ("dequantize {bits=5}", &["i8[2]", "f32[2]"], "expected 4 or 8"),
    ("bitcast {to=i32}", &["f64[1]"], "one with the bits of i32"),
    ("bitcast {to=u8}", &["bool[1]"], "not bool or complex"),
    ("broadcast {axes=[0], shape=[3]}", &["f32[2]"], "1 or 3 on axis 0"),
    ("broadcast {axes=[1, 0], shape=[2, 2]}", &["f32[2, 2]"], "not ascending"),
    ("broadcast {axes=[4], shape=[2]}", &["f32[2]"], "4 is not below 1"),
    ("reshape {shape=[5]}", &["f32[2, 3]"], "as many elements as [5]"),
    ("reshape {shape=[n]}", &["f32[m]"], "as many elements as [n]"),
    ("transpose {perm=[0, 0]}", &["f32[2, 3]"], "does not permute 2 axes"),
    ("slice {len=3, start=1}", &["f32[3]"], "holds 3 elements from 1 by 1"),
    ("slice {len=2, start=0, stride=-1}", &["f32[3]"], "holds 2 elements"),
    ("slice {len=1, stride=0}", &["f32[3]"], "stride: is 0"),
    ("slice {len=-9223372036854775808}", &["f32[3]"], "holds"),
    ("reverse {axis=1}", &["f32[3]"], "1 is not below 1"),
    ("concat", &["f32[2]", "f32[2, 2]"], "expected 1 axes, found 2"),
    ("concat {axis=1}", &["f32[2, 2]", "f32[3, 2]"], "expected shape [2, 2]"),
    ("pad", &["f32[2]", "f32[1]"], "expected 0 axes, found 1"),
    ("pad", &["f32[2]", "f64[]"], "expected element type f32"),
    ("gather", &["f32[2]", "f32[1]"], "an integer"),
    ("reduce {axes=[1, 0]}", &["f32[2, 2]"], "not ascending below 2"),
    ("reduce {axes=[0], f=max}", &["c64[2]"], "one that max takes"),
    ("cumsum", &["bool[2]"], "a number"),
    ("argmax", &["c64[2]"], "one with an order"),
    ("scatter", &["f32[]", "i64[1]", "f32[1]"], "expected 1 axes, found 0"),
    ("scatter", &["f32[2]", "f32[1]", "f32[1]"], "operand indices: expected element type i64 or i32"),
    ("scatter", &["f32[2, 3]", "i64[4]", "f32[4, 2]"], "operand updates: expected shape [4, 3]"),
    ("scatter {f=add}", &["bool[2]", "i64[1]", "bool[1]"], "one that add takes"),
    ("top_k {axis=1}", &["f32[2]"], "1 is not below 1"),
    ("top_k {k=3}", &["f32[2]"], "3 is not in 0..=2"),
    ("top_k", &["c64[2]"], "one with an order"),
    ("contract[ab,bc->ac]", &["f32[2, 3]", "f32[4, 5]"], "3 for label b"),
    ("contract[aa->a]", &["f32[2, 2]"], "twice in operand 0"),
    ("contract[a->aa]", &["f32[2]"], "twice in the result"),
    ("contract[a->b]", &["f32[2]"], "in no operand"),
    ("contract[a,a->a]", &["f32[2]"], "expected 2 operands, found 1"),
    ("conv", &["f32[1, 3, 4]", "f32[2, 2, 1]"], "3/1 channels"),
    ("conv {groups=2}", &["f32[1, 2, 4]", "f32[3, 1, 1]"], "a multiple of 2"),
    ("conv {strides=[0]}", &["f32[1, 2, 4]", "f32[3, 2, 1]"], "are positive"),
    ("conv", &["f32[1, 2, 4]", "f32[3, 2, 1]", "f32[2]"], "operand bias: expected shape [3]"),
    ("ssm.causal_conv1d", &["f32[1, 5, 2]", "f32[3, 4]"], "[2, K] with K > 0"),
    ("ssm.causal_conv1d", &["f32[1, 5, 2]", "f32[2, 0]"], "[2, K] with K > 0"),
    (
        "ssm.causal_conv1d",
        &["f32[1, 5, 2]", "f32[2, 4]", "_", "f32[1, 4, 2]"],
        "operand state: expected shape [1, 3, 2]",
    ),
    ("ssm.long_conv", &["f32[1, 2]", "f32[3, 4]"], "expected 3 axes, found 2"),
    ("ssm.long_conv", &["f32[1, 2, 4]", "f32[3, 5]"], "operand k: expected shape [K, 4]"),
    ("ssm.long_conv", &["f32[1, 2, 4]", "f64[3, 4]"], "operand k: expected element type f32"),
    (
        "ssm.long_conv {lead=1}",
        &["f32[1, 2, 4]", "f32[3, 4]", "f32[1, 2, 4]"],
        "a history needs lead 0, found 1",
    ),
    ("ssm.long_conv {lead=-1}", &["f32[1, 2, 4]", "f32[3, 4]"], "expected a number from 0, found -1"),
    (
        "ssm.long_conv",
        &["f32[1, 2, 4]", "f32[3, 4]", "f32[1, 3, 4]"],
        "operand history: expected shape [1, 2, 4]",
    ),
    ("dft", &["i32[2]"], "a floating-point one"),
    ("dft {axis=1}", &["f32[2]"], "1 of a tensor of rank 1"),
    ("dft {length=0}", &["f32[2]"], "expected a positive number, found 0"),
    ("dft {onesided=true}", &["f32[2]", "f32[2]"], "the signal of a onesided transform is real"),
    ("dft", &["f32[2]", "f32[3]"], "operand im: expected shape [2]"),
    (
        "ssm.complex_scan",
        &["f32[2, 3]", "f32[2, 3]", "f32[1, 3]", "f32[1, 3]"],
        "operand a_re: expected shape",
    ),
    (
        "ssm.complex_scan",
        &["f32[1, 1]", "f32[1, 3]", "f32[1, 3]", "f32[1, 3]"],
        "operand a_im: expected shape",
    ),
    ("ssm.complex_scan", &["f32[1, 3]", "f32[1, 3]", "f32[1, 3]", "f32[1, 3]", "f32[1]"], "operand h0_im"),
    ("ssm.scan", &["f32[2, 3]", "f32[1, 3]"], "or 1 on some axes"),
    ("ssm.scan", &["i32[1, 3]", "i32[1, 3]"], "floating-point or complex"),
    ("ssm.scan", &["f32[1, 3]", "f32[1, 3]", "f32[1, 1]"], "operand h0: expected shape [1]"),
    ("ssm.scan", &["f32[1, 3]", "f32[1, 3]", "_", "i64[1, 3]"], "operand seq_idx: expected element type i32"),
    (
        "ssm.discretized_scan",
        &["f32[1, 3, 1, 2]", "f32[1, 3, 1, 2]", "f32[1, 2, 4]", "f32[1, 3, 1, 5]"],
        "operand a",
    ),
    (
        "ssm.selective_scan",
        &["f32[1, 3, 1, 2]", "f32[1, 3, 1, 2]", "f32[1, 2, 4]", "f32[1, 3, 1, 5]", "f32[1, 3, 1, 4]"],
        "operand b",
    ),
    (
        "ssm.selective_scan",
        &["c64[1, 3, 1, 2]", "c64[1, 3, 1, 2]", "c64[1, 2, 4]", "c64[1, 3, 1, 4]", "c64[1, 3, 1, 4]"],
        "a floating-point one",
    ),
    (
        "ssm.ssd {mode=chunked}",
        &["f32[1, 3, 1, 2, 2]", "f32[1, 3, 1, 2]", "f32[1, 2]", "f32[1, 3, 1, 4]", "f32[1, 3, 1, 4]"],
        "positive in chunked mode",
    ),
    (
        "ssm.ssd",
        &[
            "f32[1, 3, 1, 2, 2]",
            "f32[1, 3, 1, 2]",
            "f32[1, 2]",
            "f32[1, 3, 1, 4]",
            "f32[1, 3, 1, 4]",
            "f32[1, 2, 3]",
        ],
        "operand d: expected shape [1, 2, 2]",
    ),
    (
        "ssm.ssd {chunk_size=4, discretization=bilinear, mode=chunked}",
        &["f32[1, 3, 1, 2, 2]", "f32[1, 3, 1, 2]", "f32[1, 2]", "f32[1, 3, 1, 4]", "f32[1, 3, 1, 4]"],
        "attribute discretization: a decay by bilinear may be negative",
    ),
    (
        "ssm.ssd {chunk_size=4, mode=chunked, read_out=before}",
        &["f32[1, 3, 1, 2, 2]", "f32[1, 3, 1, 2]", "f32[1, 2]", "f32[1, 3, 1, 4]", "f32[1, 3, 1, 4]"],
        "attribute read_out: is after the update in chunked mode",
    ),
    (
        "ssm.scan",
        &["f32[2, 3]", "f32[2, 3]", "f32[5]", "_", "i64[2]"],
        "operand slots: expected element type i32",
    ),
    ("ssm.scan", &["f32[2, 3]", "f32[2, 3]", "f32[5]", "_", "i32[5]"], "operand slots: expected shape [2]"),
    (
        "ssm.linear_attention",
        &["f32[1, 3, 2, 1, 4]", "f32[1, 3, 2, 4]", "f32[1, 3, 2, 5]", "f32[1, 3, 2, 3]"],
        "operand decay: expected shape [1, 3, 2, 4] or 1 on some axes",
    ),
    (
        "ssm.linear_attention",
        &["f32[1, 3, 2, 1, 4]", "f32[1, 3, 2, 4]", "f32[1, 3, 2, 5]", "_", "_", "f32[1, 3, 2, 4]"],
        "operand write is missing",
    ),
    (
        "ssm.linear_attention",
        &["f32[1, 3, 2, 1, 4]", "f32[1, 3, 2, 4]", "f32[1, 3, 2, 5]", "_", "_", "_", "_", "_", "_", "i32[1]"],
        "operand h0 is missing",
    ),
    ("ssm.wkv", &["f32[2]", "f32[1, 3, 2]", "f32[1, 3, 2]"], "operand w: expected shape [1, 3, 2] or 1"),
    (
        "ssm.wkv",
        &["f32[1, 1, 2]", "f32[1, 3, 2]", "f32[1, 3, 2]", "_", "f32[1, 2]"],
        "operand den is missing",
    ),
    ("rms_norm", &["f32[2]", "f32[3]"], "operand weight: expected shape [2]"),
    ("layer_norm", &["f32[]"], "expected 1 axes, found 0"),
    ("gated_rms_norm", &["f32[2]", "f32[1]"], "operand z: expected shape [2]"),
    ("gated_rms_norm", &["i32[2]", "i32[2]"], "a floating-point one"),
    ("loop", &[], "region body: is missing"),
    ("loop {n_carried=2}", &["f32[1]"], "expected 2 operands, found 1"),
    ("loop {scan_axes=[0]}", &["f32[1]"], "differ in number"),
    ("if", &["f32[]"], "a bool scalar"),
    ("if", &["bool[]"], "region then: is missing"),
];

#[test]
fn what_does_not_fit_is_refused() {
    for (op, types, message) in FAULTS {
        let (name, attrs) = op.split_once(' ').unwrap_or((op, ""));
        let present = types.iter().enumerate().filter(|(_, ty)| **ty != "_");
        let inputs: Vec<_> = present.map(|(i, ty)| format!("%x{i}: {ty}")).collect();
        let operands: Vec<_> = types
            .iter()
            .enumerate()
            .map(|(i, ty)| if *ty == "_" { "_".into() } else { format!("%x{i}") })
            .collect();
        let text = format!(
            "func @f({}) {{ %y = {name} {} {attrs} : f32[] return %y }}",
            inputs.join(", "),
            operands.join(", ")
        );
        let faults = parse(&text).expect_err(op);
        let [fault] = faults.as_slice() else { panic!("{faults:?} in {text}") };
        assert_eq!(fault.code, INVALID_OP, "{fault} in {text}");
        assert!(fault.message.contains(message), "{text}: {fault}");
    }
}

#[test]
fn every_op_with_a_rule_has_a_refusal() {
    let rules: BTreeSet<_> = FAULTS.iter().map(|f| f.0.split([' ', '[']).next().unwrap()).collect();
    let families: BTreeSet<_> = Op::templates()
        .into_iter()
        .filter(|op| rules.contains(op.name()))
        .map(|op| std::mem::discriminant(&op))
        .map(|d| format!("{d:?}"))
        .collect();
    let all: BTreeSet<_> =
        Op::templates().iter().map(|op| format!("{:?}", std::mem::discriminant(op))).collect();
    // `dim` takes nothing that could be wrong.
    assert_eq!(all.len(), families.len() + 1);
}

#[test]
fn attributes_come_in_alphabetical_order_and_take_their_own_values() {
    for op in Op::templates() {
        let mut attrs: Vec<(&str, Attr)> = Vec::new();
        op.clone().attrs(&mut |name: &'static str, value: super::AttrMut<'_>| {
            attrs.push((name, value.get()));
        });
        assert!(attrs.is_sorted_by(|a, b| a.0 < b.0), "{}: {attrs:?}", op.name());
        let mut copy = op.clone();
        copy.attrs(&mut |name: &'static str, slot: super::AttrMut<'_>| {
            let (_, value) = attrs.iter().find(|a| a.0 == name).expect("the walk is the same");
            slot.set(value.clone()).expect("an attribute takes its own value");
        });
        assert_eq!(copy, op);
    }
}

#[test]
fn names_of_ops_are_unique() {
    let names: Vec<_> = Op::templates().iter().map(Op::name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!(Op::template("ssm.scan").map(|op| op.name()), Some("ssm.scan"));
    assert_eq!(Op::template("scan"), None);
}

#[test]
fn missing_operands_are_named() {
    let op = Op::template("add").unwrap();
    let ty = crate::TensorType::new(crate::DType::F32, [2]);
    assert_eq!(op.infer(&[Some(&ty), None], &[]), Err(OpError::Missing { operand: "y" }));
    assert!(parse("func @f(%x: f32[]) { %y = add _, %x : f32[] return %y }").unwrap_err()[0].code != SYNTAX);
}
