//! Labelled contractions.

use super::num::{Num, unwrapped, wrapping};
use super::{Args, EvalError, arg, strides};
use crate::ops::{Contract, Label};
use crate::tensor::{Data, Tensor};
use std::collections::BTreeMap;

/// The loop nest of a contraction: extents of the result's labels and of the summed ones, and for each operand how
/// far one step along each label moves in it.
struct Nest {
    outer: Vec<usize>,
    summed: Vec<usize>,
    outer_steps: Vec<Vec<usize>>,
    summed_steps: Vec<Vec<usize>>,
}

impl Nest {
    fn new(op: &Contract, xs: &[&Tensor]) -> Result<Self, EvalError> {
        let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
        for (labels, x) in op.spec.inputs.iter().zip(xs) {
            for (label, extent) in labels.iter().zip(x.shape()) {
                let known = *extents.entry(*label).or_insert(*extent);
                if known != *extent {
                    return Err(EvalError::Shape {
                        operand: "x",
                        expected: vec![known],
                        found: vec![*extent],
                    });
                }
            }
        }
        let summed = op.spec.summed();
        let extent = |labels: &[Label]| -> Vec<usize> {
            labels.iter().map(|l| extents.get(l).copied().unwrap_or(0)).collect()
        };
        let steps = |labels: &[Label]| -> Vec<Vec<usize>> {
            let operands = op.spec.inputs.iter().zip(xs);
            operands
                .map(|(own, x)| {
                    let strides = strides(x.shape());
                    let step = |l: &Label| own.iter().position(|o| o == l).map_or(0, |i| strides[i]);
                    labels.iter().map(step).collect()
                })
                .collect()
        };
        Ok(Self {
            outer: extent(&op.spec.output),
            summed: extent(&summed),
            outer_steps: steps(&op.spec.output),
            summed_steps: steps(&summed),
        })
    }

    fn run<T: Num>(&self, xs: &[&[T]]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.outer.iter().product());
        super::for_each_index(&self.outer, |index| {
            let first =
                self.outer_steps.iter().map(|steps| index.iter().zip(steps).map(|(i, s)| i * s).sum());
            let mut at: Vec<usize> = first.collect();
            out.push(self.sum(xs, 0, &mut at));
        });
        out
    }

    /// The sum over summed labels `depth..` of the products of the operands from `at` on.
    fn sum<T: Num>(&self, xs: &[&[T]], depth: usize, at: &mut [usize]) -> T {
        let Some(extent) = self.summed.get(depth) else {
            return xs.iter().zip(at).fold(T::ONE, |product, (x, at)| product * x[*at]);
        };
        let mut sum = T::ZERO;
        if depth + 1 == self.summed.len()
            && let ([x, y], [i, j]) = (xs, &*at)
        {
            let (dx, dy) = (self.summed_steps[0][depth], self.summed_steps[1][depth]);
            for k in 0..*extent {
                sum = sum + x[i + k * dx] * y[j + k * dy];
            }
            return sum;
        }
        for _ in 0..*extent {
            sum = sum + self.sum(xs, depth + 1, at);
            at.iter_mut().zip(&self.summed_steps).for_each(|(at, steps)| *at += steps[depth]);
        }
        at.iter_mut().zip(&self.summed_steps).for_each(|(at, steps)| *at -= steps[depth] * extent);
        sum
    }
}

pub(in crate::ops) fn contract(op: &Contract, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
    let xs = (0..x.len()).map(|i| arg(x, i)).collect::<Result<Vec<_>, _>>()?;
    let nest = Nest::new(op, &xs)?;
    let dtype = arg(x, 0)?.dtype();
    let data = match arg(x, 0)?.data() {
        Data::Float(_) => {
            let xs = xs.iter().map(|x| x.as_floats()).collect::<Result<Vec<_>, _>>()?;
            Data::Float(nest.run(&xs))
        }
        Data::Complex(_) => {
            let xs = xs.iter().map(|x| x.as_complex()).collect::<Result<Vec<_>, _>>()?;
            Data::Complex(nest.run(&xs))
        }
        Data::Int(_) => {
            let xs = xs.iter().map(|x| Ok(wrapping(x.as_ints()?))).collect::<Result<Vec<_>, EvalError>>()?;
            let xs: Vec<_> = xs.iter().map(Vec::as_slice).collect();
            unwrapped(dtype, nest.run(&xs))
        }
        Data::Bool(_) => return Err(EvalError::NoSuchFunction { op: "contract", dtype }),
    };
    Ok(vec![Tensor::new(dtype, nest.outer, data)?])
}
