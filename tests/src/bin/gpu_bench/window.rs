//! Parts of results recomputed from their inputs by the reference interpreter.

use crate::rows::{Input, Row};
use crate::{Result, Tensors};
use ssmc_ir::{DType, Interpreter, Tensor, Weights, parse};
use ssmc_runtime::{DType as BufferType, Tensor as Buffer};

/// Elements of noise that are repeated to fill a tensor; no power of two, so that rows differ.
const PERIOD: usize = 1_000_003;

/// The elements of an input, from `low` to `high`.
pub(crate) fn noise(seed: u64, n: usize, (input, dtype): (&Input, BufferType)) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let (low, high) = input.range;
    let mut period = Vec::new();
    for _ in 0..PERIOD.min(n) {
        let bits = ((low + (high - low) * next()) as f32).to_bits();
        match dtype {
            // Cutting the lower bits off rounds towards zero, which is as random.
            BufferType::Bf16 => period.extend_from_slice(&bits.to_le_bytes()[2..]),
            BufferType::F16 => period.extend_from_slice(&half_of(bits).to_le_bytes()),
            _ => period.extend_from_slice(&bits.to_le_bytes()),
        }
    }
    let len = n * if dtype == BufferType::F32 { 4 } else { 2 };
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let part = period.len().min(len - bytes.len());
        bytes.extend_from_slice(&period[..part]);
    }
    bytes
}

/// The bits of an `f16` from those of an `f32` below 65536, towards zero; 0 where it would be subnormal.
fn half_of(bits: u32) -> u16 {
    let (sign, exponent, fraction) = (bits >> 31, (bits >> 23) & 0xff, bits & 0x7f_ffff);
    match exponent.checked_sub(112) {
        None | Some(0) => (sign << 15) as u16,
        Some(exponent) => (sign << 15 | exponent << 10 | fraction >> 13) as u16,
    }
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
