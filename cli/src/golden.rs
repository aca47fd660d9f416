//! Golden vectors: what the reference interpreter computes from a small random input.

use crate::random::{Rng, random_tensor};
use crate::{Compiled, CompiledProgram, Error};
use ssmc_artifact::{DType, Golden, GoldenCall, GoldenCase, NamedArray};
use ssmc_ir::ops::Op;
use ssmc_ir::{Bindings, Dim, Graph, InterpError, Interpreter, Symbol, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// Lengths to try, the first whose cost is bearable is taken.
const LENGTHS: [i64; 4] = [8, 4, 3, 2];
/// Multiplications that every length but the last may cost.
const CHEAP: f64 = 2e8;
/// Multiplications that the last length may cost: a language model of 2 G parameters.
const MOST: f64 = 4e9;
const SEED: u64 = 1;

/// The golden vectors of a model, or `None` if they would take too long to compute.
///
/// `forward` sees one random input. Of a language model, `prefill` then reads all but the last token and `step` the
/// last one: both must give rows of the logits of `forward`, so that one run of the interpreter serves all three.
pub(crate) fn golden(compiled: &Compiled) -> Result<Option<Golden>, Error> {
    let Some(forward) = compiled.programs.iter().find(|p| p.name == "forward") else { return Ok(None) };
    let (shortest, longer) = LENGTHS.split_last().expect("there are lengths");
    let fits = |len: &&i64| cost(&forward.imported, &bindings(&forward.imported, **len)) <= CHEAP;
    let len = *longer.iter().find(fits).unwrap_or(shortest);
    let sizes = bindings(&forward.imported, len);
    if cost(&forward.imported, &sizes) > MOST {
        return Ok(None);
    }
    let inputs = inputs(compiled, forward, &sizes)?;
    let outputs = Interpreter::new(&forward.imported, &forward.imported_weights).run(&inputs)?;
    let mut calls = vec![call(forward.name, &inputs, &outputs)];
    let program = |name: &str| compiled.programs.iter().any(|p| p.name == name);
    let max_context = compiled.streaming.as_ref().and_then(|streaming| streaming.max_context);
    if program("prefill")
        && program("step")
        && let (Some(ids), Some(logits)) = (inputs.get("input_ids"), outputs.get("logits"))
        && let [1, n] = ids.shape()[..]
        && n > 1
        && max_context.is_none_or(|max| n as u64 <= max)
    {
        let of_call = |name: &str, tokens: std::ops::Range<usize>| {
            let last = tokens.end - 1;
            let inputs = BTreeMap::from([("input_ids".to_owned(), columns(ids, tokens))]);
            let row = columns(logits, last..last + 1);
            let vocab = row.shape()[2];
            let row = row.reshaped([1, vocab]).expect("one row has as many elements");
            call(name, &inputs, &BTreeMap::from([("logits".to_owned(), row)]))
        };
        if gives_last_logits(compiled) {
            calls.extend([of_call("prefill", 0..n - 1), of_call("step", n - 1..n)]);
        }
    }
    let peak =
        outputs.values().flat_map(Tensor::to_f64).filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    let tolerance = tolerance(&forward.imported).max(compiled.rounding());
    let atol = if peak > 0.0 { tolerance * peak } else { tolerance };
    let case = GoldenCase { name: format!("random-{len}"), calls, rtol: tolerance, atol };
    Ok(Some(Golden { cases: vec![case] }))
}

/// Whether `prefill` gives the logits of the last position alone, not those of the whole piece.
fn gives_last_logits(compiled: &Compiled) -> bool {
    let prefill = compiled.programs.iter().find(|p| p.name == "prefill").map(|p| &p.imported);
    prefill.is_some_and(|g| g.output("logits").is_some_and(|logits| g.ty(logits).rank() == 2))
}

/// Relative to the largest output: what f32 arithmetic loses in a deep model, or what half precision does.
fn tolerance(graph: &Graph) -> f64 {
    let computes_in_half = graph.nodes().any(|(_, node)| {
        !matches!(node.op, Op::WeightRef(_) | Op::Gather(_) | Op::Cast(_) | Op::Reshape(_) | Op::Transpose(_))
            && node.results.iter().any(|v| graph.ty(*v).dtype.is_float() && graph.ty(*v).dtype.bits() <= 16)
    });
    if computes_in_half { 2e-2 } else { 1e-4 }
}

/// One sequence of `len`; every symbol that does not count sequences is `len`.
fn bindings(graph: &Graph, len: i64) -> Bindings {
    let mut symbols: BTreeSet<Symbol> = BTreeSet::new();
    for port in graph.inputs() {
        graph.ty(port.value).shape.iter().for_each(|d: &Dim| d.collect_symbols(&mut symbols));
    }
    let is_batch = |s: &Symbol| matches!(s.name(), "batch" | "batch_size" | "B" | "N");
    symbols.into_iter().map(|s| if is_batch(&s) { (s, 1) } else { (s, len) }).collect()
}

/// Multiplications that the interpreter does, about: the geometric mean of the sizes of a product is exact for
/// matrices.
fn cost(graph: &Graph, sizes: &Bindings) -> f64 {
    let elems = |v: &ssmc_ir::ValueId| {
        graph.ty(*v).shape.n_elems().eval(sizes).map_or(f64::INFINITY, |n| n.max(1) as f64)
    };
    let node_cost = |node: &ssmc_ir::Node| {
        let out: f64 = node.results.iter().map(elems).sum();
        match &node.op {
            Op::Contract(_) => {
                let product: f64 = node.operands.iter().flatten().map(elems).product();
                (product * out).sqrt()
            }
            Op::WeightRef(_) | Op::Constant(_) => out * 0.1,
            _ => out,
        }
    };
    graph.nodes().map(|(_, node)| node_cost(node)).sum()
}

fn inputs(
    compiled: &Compiled,
    program: &CompiledProgram,
    sizes: &Bindings,
) -> Result<BTreeMap<String, Tensor>, Error> {
    let infos = compiled.kernels.programs.iter().find(|p| p.name == program.name).map(|p| &p.inputs);
    let mut rng = Rng::new(SEED);
    let mut all = BTreeMap::new();
    for port in program.imported.inputs() {
        let ty = program.imported.ty(port.value);
        let mut shape = Vec::new();
        for (axis, dim) in ty.shape.iter().enumerate() {
            let extent = dim.eval(sizes);
            let extent =
                extent.map_err(|source| InterpError::InputDim { name: port.name.clone(), axis, source })?;
            shape.push(usize::try_from(extent).unwrap_or(0));
        }
        let info = infos.into_iter().flatten().find(|info| info.name == port.name);
        // An index may count from the end, but a token id does not.
        let bounds = info.and_then(|i| Some((i.min_value?.max(0), i.max_value?))).unwrap_or((0, 1));
        let tensor = random_tensor(ty.dtype, &shape, bounds, &mut rng).map_err(|_| {
            InterpError::InputShape { name: port.name.clone(), expected: ty.shape.to_string(), found: shape }
        })?;
        all.insert(port.name.clone(), tensor);
    }
    Ok(all)
}

/// The columns of axis 1 of a tensor whose axis 0 is 1.
fn columns(tensor: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let (shape, size) = (tensor.shape(), tensor.dtype().bits() / 8);
    let row: usize = shape[2..].iter().product::<usize>() * size;
    let mut dims = shape.to_vec();
    dims[1] = range.len();
    let bytes = &tensor.to_bytes()[range.start * row..range.end * row];
    Tensor::from_bytes(tensor.dtype(), dims, bytes).expect("the columns of a tensor fill their shape")
}

fn call(program: &str, inputs: &BTreeMap<String, Tensor>, outputs: &BTreeMap<String, Tensor>) -> GoldenCall {
    let arrays = |all: &BTreeMap<String, Tensor>| all.iter().map(|(name, t)| array(name, t)).collect();
    GoldenCall { program: program.to_owned(), inputs: arrays(inputs), outputs: arrays(outputs) }
}

fn array(name: &str, tensor: &Tensor) -> NamedArray {
    let dtype = (1..=21)
        .filter_map(|number| DType::try_from(number).ok())
        .find(|dtype| dtype.name() == tensor.dtype().name())
        .expect("artefact and graph know the same element types");
    NamedArray {
        name: name.to_owned(),
        dtype: dtype.into(),
        dims: tensor.shape().iter().map(|d| *d as u64).collect(),
        data: tensor.to_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_from_rows() {
        let x = Tensor::ints(ssmc_ir::DType::I32, [1, 3, 2], (0..6).collect()).unwrap();
        assert_eq!(columns(&x, 1..3).as_ints().unwrap(), [2, 3, 4, 5]);
        assert_eq!(columns(&x, 2..3).shape(), [1, 1, 2]);
    }
}
