//! Loop bodies applied to all iterations at once.

use crate::view;
use ssmc_ir::ops::{
    ArgMax, Broadcast, Concat, Contract, CumSum, Gather, Op, Pad, Reduce, Reshape, Reverse, Slice, Transpose,
};
use ssmc_ir::{BuildError, Dim, Graph, GraphBuilder, Node, Shape, TensorType, ValueId};

/// What stands for a value of a loop body outside of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifted {
    /// The same in every iteration.
    Same(ValueId),
    /// One slice along axis 0 for each iteration.
    Stacked(ValueId),
}

/// Why a loop stays a loop.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("{op} in the body cannot be applied to all iterations at once")]
    Op { op: &'static str },
    #[error("carried value {carried} is no first-order recurrence: {op} of it")]
    NotAffine { carried: usize, op: &'static str },
    #[error("carried value {carried} depends on other carried values of the same iteration")]
    Coupled { carried: usize },
    #[error("carried value {carried} has the type {ty}, expected a floating-point one")]
    DType { carried: usize, ty: TensorType },
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Builds outside of a loop what its body computes.
pub(super) struct Lifter<'a> {
    pub(super) b: &'a mut GraphBuilder,
    pub(super) trips: Dim,
}

impl Lifter<'_> {
    /// The stacked form: what is the same in every iteration is repeated.
    pub(super) fn stacked(&mut self, x: Lifted) -> Result<ValueId, BuildError> {
        match x {
            Lifted::Stacked(x) => Ok(x),
            Lifted::Same(x) => {
                let dims = self.b.shape(x).to_vec();
                let axes = (1..=dims.len()).collect();
                self.b.op(Broadcast { axes, shape: self.with_trips(&dims) }, &[x])
            }
        }
    }

    fn with_trips(&self, dims: &[Dim]) -> Shape {
        std::iter::once(&self.trips).chain(dims).collect()
    }

    /// An elementwise op.
    pub(super) fn elementwise(&mut self, op: &Op, xs: &[Lifted]) -> Result<Lifted, BuildError> {
        let same: Option<Vec<ValueId>> = xs
            .iter()
            .map(|x| match x {
                Lifted::Same(x) => Some(*x),
                Lifted::Stacked(_) => None,
            })
            .collect();
        if let Some(same) = same {
            return Ok(Lifted::Same(self.b.op(op.clone(), &same)?));
        }
        let xs = xs.iter().map(|x| self.stacked(*x)).collect::<Result<Vec<_>, _>>()?;
        Ok(Lifted::Stacked(self.b.op(op.clone(), &xs)?))
    }

    /// A product; operands that are the same in every iteration are not repeated.
    pub(super) fn contract(&mut self, op: &Contract, xs: &[Lifted]) -> Result<Lifted, Obstacle> {
        let used: Vec<u8> = op.spec.inputs.iter().flatten().copied().collect();
        let mut letters = (b'a'..=b'z').chain(b'A'..=b'Z');
        let t = letters.find(|l| !used.contains(l)).ok_or(Obstacle::Op { op: "contract" })?;
        let mut spec = op.spec.clone();
        let mut operands = Vec::new();
        let mut is_stacked = false;
        for (labels, x) in spec.inputs.iter_mut().zip(xs) {
            operands.push(match x {
                Lifted::Same(x) => *x,
                Lifted::Stacked(x) => {
                    labels.insert(0, t);
                    is_stacked = true;
                    *x
                }
            });
        }
        if is_stacked {
            spec.output.insert(0, t);
        }
        let y = self.b.op(Contract { spec: spec.renamed() }, &operands)?;
        Ok(if is_stacked { Lifted::Stacked(y) } else { Lifted::Same(y) })
    }

    /// The results of a node of the body for all iterations.
    pub(super) fn node(
        &mut self,
        body: &Graph,
        node: &Node,
        xs: &[Option<Lifted>],
    ) -> Result<Vec<Lifted>, Obstacle> {
        let is_stacked = xs.iter().flatten().any(|x| matches!(x, Lifted::Stacked(_)));
        if !is_stacked {
            let operands: Vec<Option<ValueId>> = xs.iter().map(|x| x.map(value)).collect();
            let results = self.b.node(node.op.clone(), &operands, node.regions.clone())?;
            return Ok(results.into_iter().map(Lifted::Same).collect());
        }
        let op_name = node.op.name();
        let unsupported = || Obstacle::Op { op: op_name };
        let all: Vec<Lifted> = xs.iter().copied().collect::<Option<_>>().ok_or_else(unsupported)?;
        if let Op::Contract(op) = &node.op {
            return Ok(vec![self.contract(op, &all)?]);
        }
        if matches!(node.op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_)) {
            return Ok(vec![self.elementwise(&node.op, &all)?]);
        }
        let y = match (&node.op, &all[..]) {
            (Op::Gather(op), [x, indices]) => self.gather(body, node, op, *x, *indices)?,
            (Op::Concat(op), _) => {
                let xs = all.iter().map(|x| self.stacked(*x)).collect::<Result<Vec<_>, _>>()?;
                self.b.op(Concat { axis: op.axis + 1 }, &xs)?
            }
            (Op::Pad(op), [Lifted::Stacked(x), Lifted::Same(fill)]) => {
                self.b.op(Pad { axis: op.axis + 1, ..op.clone() }, &[*x, *fill])?
            }
            (op, [Lifted::Stacked(x)]) => {
                let op = self.shifted(op).ok_or_else(unsupported)?;
                self.b.op(op, &[*x])?
            }
            _ => return Err(unsupported()),
        };
        Ok(vec![Lifted::Stacked(y)])
    }

    /// An op of one tensor with one more axis in front.
    fn shifted(&self, op: &Op) -> Option<Op> {
        let after = |axes: &[usize]| axes.iter().map(|axis| axis + 1).collect::<Vec<_>>();
        let zero_and = |axes: &[usize]| [vec![0], after(axes)].concat();
        Some(match op {
            Op::Broadcast(op) => {
                Broadcast { axes: zero_and(&op.axes), shape: self.with_trips(&op.shape) }.into()
            }
            Op::Reshape(op) => Reshape { shape: self.with_trips(&op.shape) }.into(),
            Op::Transpose(op) => Transpose { perm: zero_and(&op.perm) }.into(),
            Op::Slice(op) => Slice { axis: op.axis + 1, ..op.clone() }.into(),
            Op::Reverse(op) => Reverse { axis: op.axis + 1 }.into(),
            Op::Reduce(op) => Reduce { axes: after(&op.axes), f: op.f }.into(),
            Op::CumSum(op) => CumSum { axis: op.axis + 1, ..op.clone() }.into(),
            Op::ArgMax(op) => ArgMax { axis: op.axis + 1 }.into(),
            _ => return None,
        })
    }

    fn gather(
        &mut self,
        body: &Graph,
        node: &Node,
        op: &Gather,
        x: Lifted,
        indices: Lifted,
    ) -> Result<ValueId, Obstacle> {
        match (x, indices) {
            (Lifted::Stacked(x), Lifted::Same(indices)) => {
                Ok(self.b.op(Gather { axis: op.axis + 1 }, &[x, indices])?)
            }
            (Lifted::Same(x), Lifted::Stacked(indices)) => {
                let y = self.b.op(op.clone(), &[x, indices])?;
                let rank = body.ty(node.results[0]).rank() + 1;
                let others = (0..rank).filter(|axis| *axis != op.axis);
                let perm: Vec<usize> = std::iter::once(op.axis).chain(others).collect();
                Ok(view::permute(self.b, y, &perm)?)
            }
            _ => Err(Obstacle::Op { op: "gather" }),
        }
    }
}

/// The value in either form.
pub(super) fn value(x: Lifted) -> ValueId {
    match x {
        Lifted::Same(x) | Lifted::Stacked(x) => x,
    }
}
