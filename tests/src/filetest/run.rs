//! Run lines: inputs, and the outputs that the reference interpreter computes.

use std::collections::BTreeMap;

use ssmc_ir::tensor::Data;
use ssmc_ir::{DType, Graph, Interpreter, Tensor, Weights, parse};

/// Outputs are printed with this many decimals, so that the last bits of a machine's functions do not show.
const DECIMALS: i32 = 6;

/// The run lines with what comes of them.
pub(super) fn run(body: &str, expected: &[&str]) -> Result<Vec<String>, String> {
    let faults = |faults: Vec<ssmc_ir::TextError>| format!("{faults:?}");
    let graph = parse(body).map_err(faults)?;
    let mut lines = Vec::new();
    for line in expected.iter().filter(|line| line.starts_with("run:")) {
        let inputs = inputs(&graph, &line["run:".len()..]).map_err(|fault| format!("{line}: {fault}"))?;
        let outputs = Interpreter::new(&graph, &Weights::new())
            .run(&inputs)
            .map_err(|error| format!("{line}: {error}"))?;
        lines.push((*line).to_owned());
        let list = graph.outputs().iter().filter_map(|port| Some((&port.name, outputs.get(&port.name)?)));
        lines.extend(list.map(|(name, tensor)| format!("=> {name}={}", print(tensor))));
    }
    if lines.is_empty() {
        return Err("expected a line \";; run: NAME=[..]\"".into());
    }
    Ok(lines)
}

/// Reads `a=[1, 2] b=[3]`: all elements of each input, row by row.
fn inputs(graph: &Graph, text: &str) -> Result<BTreeMap<String, Tensor>, String> {
    let mut inputs = BTreeMap::new();
    for part in text.split_terminator(']') {
        let (name, values) = part.split_once("=[").ok_or("expected NAME=[..]")?;
        let name = name.trim();
        let value = graph.input(name).ok_or_else(|| format!("there is no input {name}"))?;
        let ty = graph.ty(value);
        let extents = ty.shape.as_const().ok_or_else(|| format!("{name}: run lines want constant shapes"))?;
        let shape: Vec<usize> = extents.iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).collect();
        let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
        let values: Vec<f64> = values
            .map(|value| value.parse().map_err(|_| format!("{name}: {value:?} is no number")))
            .collect::<Result<_, _>>()?;
        inputs.insert(
            name.to_owned(),
            tensor(ty.dtype, shape, values).map_err(|error| format!("{name}: {error}"))?,
        );
    }
    Ok(inputs)
}

fn tensor(dtype: DType, shape: Vec<usize>, values: Vec<f64>) -> Result<Tensor, ssmc_ir::TensorError> {
    if dtype == DType::Bool {
        Tensor::bools(shape, values.iter().map(|x| *x != 0.0).collect())
    } else if dtype.is_int() {
        Tensor::ints(dtype, shape, values.iter().map(|x| *x as i64).collect())
    } else {
        Tensor::floats(dtype, shape, values)
    }
}

fn print(tensor: &Tensor) -> String {
    let list = |values: Vec<String>| format!("[{}]", values.join(", "));
    match tensor.data() {
        Data::Int(values) => list(values.iter().map(ToString::to_string).collect()),
        Data::Bool(values) => list(values.iter().map(|x| u8::from(*x).to_string()).collect()),
        _ => list(tensor.to_f64().iter().map(|x| number(*x)).collect()),
    }
}

/// Rounded to [`DECIMALS`], without trailing zeros.
fn number(x: f64) -> String {
    let scale = 10f64.powi(DECIMALS);
    // Adding zero turns -0 into 0.
    let rounded = if x.is_finite() { (x * scale).round() / scale + 0.0 } else { x };
    rounded.to_string()
}
