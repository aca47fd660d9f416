//! Run lines: inputs, and the outputs that the reference interpreter and compiled code compute.

use super::header::Header;
use super::values;
use ssmc_ir::{Graph, Interpreter, Tensor, Weights, parse};
use std::collections::BTreeMap;

/// The run lines with what comes of them. Compiled code must give the same, unless the header says why not.
pub(super) fn run(body: &str, header: &Header, expected: &[&str]) -> Result<Vec<String>, String> {
    let faults = |faults: Vec<ssmc_ir::TextError>| format!("{faults:?}");
    let graph = parse(body).map_err(faults)?;
    #[cfg(feature = "llvm")]
    let mut compiled = super::compiled::Compiled::new(&graph, header)?;
    #[cfg(not(feature = "llvm"))]
    let _ = header;
    let mut lines = Vec::new();
    for line in expected.iter().filter(|line| line.starts_with("run:")) {
        let inputs = inputs(&graph, &line["run:".len()..]).map_err(|fault| format!("{line}: {fault}"))?;
        let outputs = Interpreter::new(&graph, &Weights::new())
            .run(&inputs)
            .map_err(|error| format!("{line}: {error}"))?;
        #[cfg(feature = "llvm")]
        compiled.check(&inputs, &outputs).map_err(|fault| format!("{line}: compiled code: {fault}"))?;
        lines.push((*line).to_owned());
        let list = graph.outputs().iter().filter_map(|port| Some((&port.name, outputs.get(&port.name)?)));
        lines.extend(list.map(|(name, tensor)| format!("=> {name}={}", values::print(tensor))));
    }
    if lines.is_empty() {
        return Err("expected a line \";; run: NAME=[..]\"".into());
    }
    Ok(lines)
}

/// Reads `a=[1, 2] b=[3]`: all elements of each input, row by row.
fn inputs(graph: &Graph, text: &str) -> Result<BTreeMap<String, Tensor>, String> {
    let mut inputs = BTreeMap::new();
    for (name, values) in values::lists(text)? {
        let value = graph.input(&name).ok_or_else(|| format!("there is no input {name}"))?;
        let ty = graph.ty(value);
        let extents = ty.shape.as_const().ok_or_else(|| format!("{name}: run lines want constant shapes"))?;
        let shape: Vec<usize> = extents.iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).collect();
        let tensor = values::tensor(ty.dtype, shape, values).map_err(|error| format!("{name}: {error}"))?;
        inputs.insert(name, tensor);
    }
    Ok(inputs)
}
