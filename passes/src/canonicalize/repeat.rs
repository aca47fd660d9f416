//! Weights that repeat themselves along an axis are broadcasts of smaller ones.
//!
//! Exporters fold what a model expands: a decay for each head arrives as a tensor over channels and states as well, and
//! the zeros that a sum starts from as a tensor over the whole sequence.

use crate::pass::{Changed, Pass, PassCtx, PassError};
use ssmc_ir::edit::{Action, EditError, rewrite};
use ssmc_ir::ops::{Broadcast, Constant, Op, WeightRef};
use ssmc_ir::{DType, Dim, Model, Shape, TensorType, Weight, Weights};

/// Takes repetitions out of weights and literals with at least two axes, one of which does not repeat, and out of weights
/// of zeros.
pub struct Repeat;

impl Pass for Repeat {
    fn name(&self) -> &'static str {
        "repeat"
    }

    fn run(&self, model: &mut Model, _: &mut PassCtx) -> Result<Changed, PassError> {
        let weights = &mut model.weights;
        let graph = rewrite(&model.graph, |r, _, node| {
            let b = r.builder();
            let (small, dims) = match &node.op {
                Op::Constant(c) => {
                    let Some(part) = distinct(c.dtype, &c.shape, &c.data) else {
                        return Ok(Action::Copy);
                    };
                    let op = Constant { dtype: c.dtype, shape: part.shape.clone(), data: part.bytes };
                    (b.op(op, &[])?, part.axes)
                }
                Op::WeightRef(w) => {
                    let Some(weight) = weights.get(&w.name) else { return Ok(Action::Copy) };
                    let bytes = weight.bytes.as_slice();
                    if w.shape.rank() > 1 && w.dtype.is_float() && bytes.iter().all(|byte| *byte == 0) {
                        let zero = b.scalar(w.dtype, 0.0)?;
                        let whole = b.broadcast(zero, &[], w.shape.clone())?;
                        r.replace(node.results[0], whole)?;
                        return Ok(Action::Done);
                    }
                    let Some(part) = distinct(w.dtype, &w.shape, bytes) else {
                        return Ok(Action::Copy);
                    };
                    let name = unused(weights, &w.name);
                    let ty = TensorType::new(w.dtype, part.shape.clone());
                    weights.insert(name.clone(), Weight { ty, bytes: part.bytes.into() });
                    (b.op(WeightRef { dtype: w.dtype, name, shape: part.shape }, &[])?, part.axes)
                }
                _ => return Ok(Action::Copy),
            };
            let shape = r.old().ty(node.results[0]).shape.clone();
            let whole = r.builder().op(Broadcast { axes: dims, shape }, &[small])?;
            r.replace(node.results[0], whole)?;
            Ok::<_, EditError>(Action::Done)
        })?;
        Ok(Changed::replace(model, graph))
    }
}

/// What a tensor repeats, and the axes along which it does not.
struct Part {
    bytes: Vec<u8>,
    shape: Shape,
    axes: Vec<usize>,
}

fn distinct(dtype: DType, shape: &Shape, bytes: &[u8]) -> Option<Part> {
    let dims: Vec<usize> =
        shape.as_const()?.into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    let size = dtype.bits() / 8;
    let n_elems: usize = dims.iter().product();
    if dims.len() < 2 || size == 0 || n_elems == 0 || bytes.len() != n_elems * size {
        return None;
    }
    let repeats = |axis: &usize| dims[*axis] > 1 && repeats(bytes, &dims, *axis, size);
    let repeated: Vec<usize> = (0..dims.len()).filter(repeats).collect();
    let axes: Vec<usize> = (0..dims.len()).filter(|axis| !repeated.contains(axis)).collect();
    if repeated.is_empty() || axes.iter().all(|axis| dims[*axis] == 1) {
        return None;
    }
    let mut bytes = bytes.to_vec();
    let mut extents = dims.clone();
    for axis in repeated {
        let row = extents[axis + 1..].iter().product::<usize>() * size;
        bytes = bytes.chunks_exact(row * extents[axis]).flat_map(|rows| &rows[..row]).copied().collect();
        extents[axis] = 1;
    }
    let shape = axes.iter().map(|axis| Dim::from(dims[*axis] as i64)).collect();
    Some(Part { bytes, shape, axes })
}

/// Whether all rows along the axis are equal.
fn repeats(bytes: &[u8], dims: &[usize], axis: usize, size: usize) -> bool {
    let row = dims[axis + 1..].iter().product::<usize>() * size;
    bytes.chunks_exact(row * dims[axis]).all(|rows| rows[row..] == rows[..rows.len() - row])
}

/// A name for a part of this weight.
fn unused(weights: &Weights, name: &str) -> String {
    let names = (0..).map(|i| format!("{name}.part{i}"));
    let mut free = names.skip_while(|name| weights.get(name).is_some());
    free.next().expect("there are more numbers than weights")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(shape: [i64; 3], data: &[u8]) -> Option<(Vec<u8>, Vec<usize>)> {
        distinct(DType::U8, &Shape::from(shape), data).map(|p| (p.bytes, p.axes))
    }

    #[test]
    fn rows_that_are_equal_are_kept_once() {
        assert_eq!(part([2, 3, 1], &[1, 2, 3, 1, 2, 3]), Some((vec![1, 2, 3], vec![1, 2])));
        assert_eq!(part([2, 3, 1], &[1, 1, 1, 2, 2, 2]), Some((vec![1, 2], vec![0, 2])));
        assert_eq!(part([2, 2, 2], &[1, 1, 1, 1, 2, 2, 2, 2]), Some((vec![1, 2], vec![0])));
        assert_eq!(part([2, 2, 2], &[1, 1, 2, 2, 1, 1, 2, 2]), Some((vec![1, 2], vec![1])));
    }

    #[test]
    fn tensors_that_do_not_repeat_or_are_one_number_stay() {
        assert_eq!(part([2, 3, 1], &[1, 2, 3, 1, 2, 4]), None);
        assert_eq!(part([2, 3, 1], &[7; 6]), None);
        assert_eq!(part([0, 3, 1], &[]), None);
        assert_eq!(part([1, 3, 1], &[1, 2, 3]), None);
    }
}
