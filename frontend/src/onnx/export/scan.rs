//! `h[t] = a[t] * h[t-1] + b[t]` in standard operators.

use super::super::proto::type_proto::{Tensor as TensorTypeProto, Value};
use super::super::proto::{GraphProto, NodeProto, TypeProto, ValueInfoProto};
use super::body::{Body, Name, graph, int, ints, literal, tensor};
use super::type_number;
use ssmc_ir::DType;

/// The longest sequence whose steps are written out: operators cost less than iterations of `Scan`, but each takes its
/// time when the model is loaded.
const UNROLLED: i64 = 160;

/// The recurrence over axis 1 of a and b.
pub(super) struct Recurrence<'a> {
    pub(super) a: &'a str,
    pub(super) b: &'a str,
    pub(super) h0: Option<&'a str>,
    /// Whether `a` is the same at every step: its axis 1 has extent 1.
    pub(super) constant: bool,
    pub(super) len: Option<i64>,
    pub(super) reverse: bool,
    pub(super) dtype: DType,
    pub(super) rank: usize,
}

/// All states, and the last one.
pub(super) fn recurrence(body: &mut Body, of: &Recurrence<'_>) -> Result<Vec<Name>, String> {
    match of.len {
        Some(0) => Err("a sequence without steps".to_owned()),
        Some(len) if len <= UNROLLED => Ok(unrolled(body, of, len as usize)),
        _ => Ok(iterated(body, of)),
    }
}

fn unrolled(body: &mut Body, of: &Recurrence<'_>, len: usize) -> Vec<Name> {
    let a = if of.constant { vec![of.a.to_owned(); len] } else { body.split(of.a, 1, len) };
    let b = body.split(of.b, 1, len);
    let order: Vec<usize> = if of.reverse { (0..len).rev().collect() } else { (0..len).collect() };
    let mut state = of.h0.map(|h0| body.unsqueeze(h0, &[1]));
    let mut states = vec![Name::new(); len];
    for t in order {
        let next = match &state {
            Some(state) => {
                let kept = body.op("Mul", &[&a[t], state]);
                body.op("Add", &[&kept, &b[t]])
            }
            None => b[t].clone(),
        };
        states[t].clone_from(&next);
        state = Some(next);
    }
    let last = state.unwrap_or_default();
    let last = body.squeeze(&last, &[1]);
    if len == 1 {
        // One state is its own sequence; a result must have a node of its own.
        let only = body.op("Identity", &[&states[0]]);
        return vec![only, last];
    }
    vec![body.concat(&states, 1), last]
}

fn iterated(body: &mut Body, of: &Recurrence<'_>) -> Vec<Name> {
    let start = match of.h0 {
        Some(h0) => h0.to_owned(),
        None => zeros(body, of),
    };
    let constant = of.constant.then(|| body.squeeze(of.a, &[1]));
    let names = ["h", "a", "b"].map(|name| format!("step.{name}"));
    let [h, a, b] = &names;
    let node = |op: &str, inputs: [&str; 2], output: &str| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().filter(|i| !i.is_empty()).map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let factor = constant.as_deref().unwrap_or(a);
    let info = |name: &str| {
        let tensor = TensorTypeProto { elem_type: Some(type_number(of.dtype)), shape: None };
        let ty = TypeProto { value: Some(Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
    };
    let scanned: Vec<&str> = if of.constant { vec![of.b] } else { vec![of.a, of.b] };
    let inputs: Vec<&str> = if of.constant { vec![h, b] } else { vec![h, a, b] };
    let step = GraphProto {
        name: Some("step".to_owned()),
        node: vec![
            node("Mul", [factor, h], "step.kept"),
            node("Add", ["step.kept", b], "step.next"),
            node("Identity", ["step.next", ""], "step.state"),
        ],
        input: inputs.into_iter().map(info).collect(),
        output: vec![info("step.next"), info("step.state")],
        ..GraphProto::default()
    };
    let n = scanned.len();
    let direction = i64::from(of.reverse);
    let attributes = vec![
        graph("body", step),
        int("num_scan_inputs", n as i64),
        ints("scan_input_axes", vec![1; n]),
        ints("scan_output_axes", [1]),
        ints("scan_input_directions", vec![direction; n]),
        ints("scan_output_directions", [direction]),
    ];
    let operands: Vec<&str> = std::iter::once(start.as_str()).chain(scanned).collect();
    let results = body.node("Scan", &operands, 2, attributes);
    vec![results[1].clone(), results[0].clone()]
}

/// Zeros of the shape of one step of b.
fn zeros(body: &mut Body, of: &Recurrence<'_>) -> Name {
    let shape = body.op("Shape", &[of.b]);
    let axes: Vec<i64> = (0..of.rank as i64).filter(|axis| *axis != 1).collect();
    let axes = body.vector(&axes);
    let shape = body.op("Gather", &[&shape, &axes]);
    let zero = literal("", of.dtype, &[1], ssmc_ir::scalar::encode(of.dtype, 0.0));
    body.with("ConstantOfShape", &[&shape], vec![tensor("value", zero)])
}
