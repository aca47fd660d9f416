//! Parts of results recomputed from their inputs by the reference interpreter.

use crate::rows::{Input, Row};
use crate::{Result, Tensors};
use ssmc_ir::{DType, Interpreter, Tensor, Weights, parse};
use ssmc_runtime::Tensor as Buffer;
use ssmc_tests::gpu_grid;

/// Elements of noise that are repeated to fill a tensor; no power of two, so that rows differ.
const PERIOD: usize = 1_000_003;

/// The elements of an input, from `low` to `high`.
pub(crate) fn noise(seed: u64, n: usize, (input, dtype): (&Input, DType)) -> Result<Vec<u8>> {
    let (low, high) = input.range;
    let mut next = gpu_grid::noise(seed);
    let some: Vec<f64> = (0..PERIOD.min(n)).map(|_| low + (high - low) * next()).collect();
    let period = Tensor::floats(dtype, [some.len()], some)?.rounded().to_bytes();
    let len = n * dtype.bits() / 8;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let part = period.len().min(len - bytes.len());
        bytes.extend_from_slice(&period[..part]);
    }
    Ok(bytes)
}

/// The elements at the row's window: some indices along some axes, all along the others.
fn cut(row: &Row, axes: &[&str], dtype: DType, bytes: &[u8]) -> Result<Tensor> {
    let indices: Vec<Vec<usize>> = axes
        .iter()
        .map(|axis| match row.window.iter().find(|(name, _)| name == axis) {
            Some((_, picked)) => picked.clone(),
            None => (0..row.extent(axis)).collect(),
        })
        .collect();
    let size = dtype.bits() / 8;
    let mut out = Vec::new();
    let mut at = vec![0usize; axes.len()];
    let n: usize = indices.iter().map(Vec::len).product();
    for _ in 0..n {
        let linear =
            axes.iter().enumerate().fold(0, |sum, (i, axis)| sum * row.extent(axis) + indices[i][at[i]]);
        out.extend_from_slice(&bytes[linear * size..(linear + 1) * size]);
        for i in (0..axes.len()).rev() {
            at[i] += 1;
            if at[i] < indices[i].len() {
                break;
            }
            at[i] = 0;
        }
    }
    let shape: Vec<usize> = indices.iter().map(Vec::len).collect();
    Ok(Tensor::from_bytes(dtype, shape, &out)?)
}

/// The largest difference in the window over its largest magnitude.
pub(crate) fn error(row: &Row, inputs: &[(&str, Buffer)], output: &Buffer) -> Result<f64> {
    let mut sizes = row.sizes.clone();
    for (axis, picked) in &row.window {
        sizes.insert(axis, picked.len());
    }
    let graph = parse(&row.graph_of(&sizes)).map_err(|faults| format!("{}: {faults:?}", row.name))?;
    let mut tensors = Tensors::new();
    for (input, (name, buffer)) in row.inputs.iter().zip(inputs) {
        tensors.insert((*name).to_owned(), cut(row, &input.axes, row.dtype(input), buffer.bytes())?);
    }
    let expected = Interpreter::new(&graph, &Weights::new()).run(&tensors)?;
    let expected = expected.get("y").ok_or("no output y")?.to_f64();
    let dtype = DType::parse(output.dtype().name()).ok_or("an unknown element type")?;
    let found = cut(row, &row.output, dtype, output.bytes())?.to_f64();
    let peak = expected.iter().fold(0f64, |peak, x| peak.max(x.abs()));
    let worst = expected.iter().zip(&found).map(|(x, y)| (x - y).abs());
    // A NaN is no maximum of anything.
    Ok(worst.fold(0f64, |worst, e| if e > worst || e.is_nan() { e } else { worst }) / peak)
}
