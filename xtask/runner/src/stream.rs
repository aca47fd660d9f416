//! A whole sequence in pieces, through `prefill` and `step`.

use std::collections::BTreeMap;
use std::path::Path;

use ssmc_artifact::{SymbolRole, TensorInfo};
use ssmc_npz::Array;
use ssmc_runtime::{Session, Tensor};

use crate::Error;
use crate::arrays::{array, view, write_arrays};
use crate::job::Pieces;

/// What came of it.
pub(crate) struct Streamed {
    pub(crate) pieces: usize,
    pub(crate) bytes_before: usize,
    pub(crate) bytes_after: usize,
}

/// Feeds the sequence to the artefact and writes every output: steps joined along the time axis, or, of outputs without
/// one, what the last piece gave.
pub(crate) fn run(
    session: &mut Session,
    pieces: Pieces,
    inputs: &BTreeMap<String, Array>,
    output: &Path,
) -> Result<Streamed, Error> {
    let (prefill, step) = (session.program("prefill")?.clone(), session.program("step")?.clone());
    let input_axes = time_axes(&prefill.inputs, &step.inputs);
    let output_axes = time_axes(&prefill.outputs, &step.outputs);
    let len = length(inputs, &input_axes)?;
    let mut state = session.new_state(batch(session, &prefill.inputs, inputs))?;
    let bytes_before = state.byte_len();
    let mut joined: BTreeMap<String, Vec<Array>> = BTreeMap::new();
    let (mut from, mut n, mut lengths) = (0, 0, Lengths::new(pieces));
    while from < len {
        let piece = lengths.next().min(len - from);
        let parts: BTreeMap<&str, Array> = inputs
            .iter()
            .map(|(name, x)| match input_axes.get(name) {
                Some(axis) => (name.as_str(), part(x, *axis, from, piece)),
                None => (name.as_str(), x.clone()),
            })
            .collect();
        let views =
            parts.iter().map(|(name, x)| Ok((*name, view(name, x)?))).collect::<Result<Vec<_>, Error>>()?;
        let program = if piece == 1 { "step" } else { "prefill" };
        let outputs = session.run_stateful(program, &mut state, piece as u64, &views)?;
        for (name, tensor) in outputs.iter() {
            keep(&mut joined, name, tensor, output_axes.contains_key(name))?;
        }
        (from, n) = (from + piece, n + 1);
    }
    let arrays: Vec<(&str, Array)> = joined
        .iter()
        .map(|(name, parts)| (name.as_str(), join(parts, output_axes.get(name).copied().unwrap_or(0))))
        .collect();
    write_arrays(output, &arrays)?;
    Ok(Streamed { pieces: n, bytes_before, bytes_after: state.byte_len() })
}

fn keep(
    joined: &mut BTreeMap<String, Vec<Array>>,
    name: &str,
    tensor: &Tensor,
    all: bool,
) -> Result<(), Error> {
    let parts = joined.entry(name.to_owned()).or_default();
    if !all {
        parts.clear();
    }
    parts.push(array(name, tensor)?);
    Ok(())
}

/// The axis of each tensor on which `prefill` takes any number of steps and `step` one.
fn time_axes(prefill: &[TensorInfo], step: &[TensorInfo]) -> BTreeMap<String, usize> {
    let pairs = prefill.iter().filter_map(|many| Some((many, step.iter().find(|s| s.name == many.name)?)));
    pairs
        .filter_map(|(many, one)| {
            let axis = many.shape.iter().zip(&one.shape).position(|(many, one)| many != one)?;
            Some((many.name.clone(), axis))
        })
        .collect()
}

fn length(inputs: &BTreeMap<String, Array>, axes: &BTreeMap<String, usize>) -> Result<usize, Error> {
    let mut lengths = axes.iter().filter_map(|(name, axis)| inputs.get(name)?.shape.get(*axis));
    let len = lengths.next().ok_or_else(|| Error::Array("no input has a time axis".into()))?;
    if lengths.any(|other| other != len) {
        return Err(Error::Array("the inputs differ in length".into()));
    }
    Ok(*len)
}

/// The number of sequences; 1 if the model has that built in.
fn batch(session: &Session, infos: &[TensorInfo], inputs: &BTreeMap<String, Array>) -> usize {
    let symbols = &session.artifact().manifest().symbols;
    let is_batch = |index: usize| symbols.get(index).is_some_and(|s| s.role() == SymbolRole::Batch);
    let of = |info: &TensorInfo| {
        let axis = info.shape.iter().position(|dim| dim.as_symbol().is_some_and(is_batch))?;
        inputs.get(&info.name)?.shape.get(axis).copied()
    };
    infos.iter().find_map(of).unwrap_or(1)
}

/// Lengths of pieces without end.
struct Lengths {
    pieces: Pieces,
    state: u64,
}

impl Lengths {
    fn new(pieces: Pieces) -> Self {
        let seed = if let Pieces::Random(seed) = pieces { seed } else { 0 };
        Self { pieces, state: seed.wrapping_mul(2).wrapping_add(1) }
    }

    /// From 1 to 7.
    fn next(&mut self) -> usize {
        const MOST: u64 = 7;
        if self.pieces == Pieces::Steps {
            return 1;
        }
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % MOST as usize + 1
    }
}

/// Bytes of everything that one index of an axis holds.
fn row(x: &Array, axis: usize) -> usize {
    let outer: usize = x.shape[..=axis].iter().product();
    x.bytes.len().checked_div(outer).unwrap_or(0)
}

/// The elements `from..from + len` of one axis.
fn part(x: &Array, axis: usize, from: usize, len: usize) -> Array {
    let row = row(x, axis);
    let blocks = x.bytes.chunks_exact((row * x.shape[axis]).max(1));
    let bytes = blocks.flat_map(|block| &block[from * row..(from + len) * row]).copied().collect();
    let mut shape = x.shape.clone();
    shape[axis] = len;
    Array { dtype: x.dtype, shape, bytes }
}

/// Arrays one after another along one axis.
fn join(parts: &[Array], axis: usize) -> Array {
    let [first, rest @ ..] = parts else { unreachable!("an output has at least one piece") };
    if rest.is_empty() {
        return first.clone();
    }
    let mut shape = first.shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    let outer: usize = first.shape[..axis].iter().product();
    let mut bytes = Vec::new();
    for block in 0..outer {
        for part in parts {
            let len = part.bytes.len() / outer;
            bytes.extend_from_slice(&part.bytes[block * len..(block + 1) * len]);
        }
    }
    Array { dtype: first.dtype, shape, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_whole() {
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let x = Array::f32s(&[2, 4, 3], &values);
        let parts = [part(&x, 1, 0, 1), part(&x, 1, 1, 2), part(&x, 1, 3, 1)];
        assert_eq!(parts[1].to_f64(), [3., 4., 5., 6., 7., 8., 15., 16., 17., 18., 19., 20.]);
        assert_eq!(join(&parts, 1), x);
    }

    #[test]
    fn lengths_vary_and_repeat() {
        let take = |pieces| {
            let mut lengths = Lengths::new(pieces);
            (0..50).map(|_| lengths.next()).collect::<Vec<_>>()
        };
        let random = take(Pieces::Random(3));
        assert_eq!(random, take(Pieces::Random(3)));
        assert_ne!(random, take(Pieces::Random(4)));
        assert!((1..=7).all(|n| random.contains(&n)));
        assert!(take(Pieces::Steps).iter().all(|n| *n == 1));
    }
}
