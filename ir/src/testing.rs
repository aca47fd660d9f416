//! Helpers for the tests of this crate.

use crate::graph::Graph;
use crate::interp::{InterpError, Interpreter, Precision};
use crate::stage::Stage;
use crate::tensor::{Complex, Data, Tensor};
use crate::text::parse;
use crate::types::DType;
use crate::verify::verify;
use crate::weights::Weights;
use std::collections::BTreeMap;

pub(crate) fn f32s(shape: &[usize], data: &[f64]) -> Tensor {
    Tensor::floats(DType::F32, shape, data.to_vec()).unwrap()
}

pub(crate) fn i64s(shape: &[usize], data: &[i64]) -> Tensor {
    Tensor::ints(DType::I64, shape, data.to_vec()).unwrap()
}

pub(crate) fn i32s(shape: &[usize], data: &[i64]) -> Tensor {
    Tensor::ints(DType::I32, shape, data.to_vec()).unwrap()
}

pub(crate) fn bools(shape: &[usize], data: &[bool]) -> Tensor {
    Tensor::bools(shape, data.to_vec()).unwrap()
}

pub(crate) fn c128s(shape: &[usize], data: &[(f64, f64)]) -> Tensor {
    Tensor::complex(DType::C128, shape, data.iter().map(|z| Complex::new(z.0, z.1)).collect()).unwrap()
}

/// Numbers in -1..1 that differ from each other and are the same on every run.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub(crate) fn noisy(seed: u64, shape: &[usize]) -> Tensor {
    f32s(shape, &noise(seed, shape.iter().product()))
}

pub(crate) fn named(inputs: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    inputs.iter().map(|(name, x)| ((*name).to_owned(), x.clone())).collect()
}

/// The graph of a text, after checking that it is valid and that printing and parsing it changes nothing.
pub(crate) fn graph(text: &str) -> Graph {
    let read = |text: &str| parse(text).unwrap_or_else(|faults| panic!("{faults:?} in\n{text}"));
    let graph = read(text);
    assert_eq!(verify(&graph, Stage::Rewritten), []);
    assert_eq!(read(&graph.to_string()), graph);
    graph
}

pub(crate) fn run(
    graph: &Graph,
    precision: Precision,
    inputs: &[(&str, Tensor)],
) -> Result<BTreeMap<String, Tensor>, InterpError> {
    Interpreter::new(graph, &Weights::new()).precision(precision).run(&named(inputs))
}

/// The text of a function that applies one op, written as `name[spec] {attributes}`, to its inputs `x0`, `x1`, ..
pub(crate) fn one_op(
    op: &str,
    args: &[Option<Tensor>],
    results: &[(DType, Vec<usize>)],
    regions: &str,
) -> String {
    let ty = |dtype: DType, shape: &[usize]| format!("{dtype}{shape:?}");
    let (name, attrs) = op.split_once(' ').unwrap_or((op, ""));
    let mut inputs = Vec::new();
    let mut operands = Vec::new();
    for (i, arg) in args.iter().enumerate() {
        operands.push(arg.as_ref().map_or("_".into(), |_| format!("%x{i}")));
        if let Some(x) = arg {
            inputs.push(format!("%x{i}: {}", ty(x.dtype(), x.shape())));
        }
    }
    let names: Vec<_> = (0..results.len()).map(|i| format!("%y{i}")).collect();
    let types: Vec<_> = results.iter().map(|(dtype, shape)| ty(*dtype, shape)).collect();
    format!(
        "func @f({}) {{\n {} = {name} {} {attrs} : {} {regions}\n return {}\n}}",
        inputs.join(", "),
        names.join(", "),
        operands.join(", "),
        types.join(", "),
        names.join(", ")
    )
}

/// Applies one op; see [`one_op`].
pub(crate) fn apply(
    op: &str,
    args: &[Option<Tensor>],
    results: &[(DType, Vec<usize>)],
    regions: &str,
) -> Result<Vec<Tensor>, InterpError> {
    let graph = graph(&one_op(op, args, results, regions));
    let present = args.iter().enumerate().filter_map(|(i, x)| Some((format!("x{i}"), x.clone()?)));
    let mut outputs = Interpreter::new(&graph, &Weights::new()).run(&present.collect())?;
    Ok((0..results.len()).filter_map(|i| outputs.remove(&format!("y{i}"))).collect())
}

/// The tensors agree in type and, up to `tolerance` relative to 1 and to themselves, in their elements.
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{what}");
    if let (Data::Int(a), Data::Int(b)) = (found.data(), expected.data()) {
        return assert_eq!(a, b, "{what}");
    }
    for (i, (a, b)) in found.to_f64().iter().zip(expected.to_f64()).enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || *a == b;
        assert!(same || (a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}: element {i}: {a} is not {b}");
    }
}
