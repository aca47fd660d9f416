//! Expressions of a loop body that are affine in one carried value: a * h + b.

use super::lift::{Lifted, Lifter, Obstacle};
use crate::view::same_dense;
use ssmc_ir::ops::{Binary, BinaryFn, Broadcast, Contract, Op, Spec, Unary, UnaryFn};
use ssmc_ir::{BuildError, Entity, Graph, Node, Shape, ValueId};
use std::collections::BTreeMap;

/// A coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coef {
    /// 0
    Zero,
    /// 1
    One,
    /// A tensor of the shape of the state.
    Value(Lifted),
}

/// a * h + b, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Affine {
    pub(super) a: Coef,
    pub(super) b: Coef,
}

/// Reads values of a body as affine in one carried value. Casts between floating-point types count as exact: the scan
/// carries its state in the type of the loop.
pub(super) struct Reader<'a, 'b> {
    pub(super) body: &'a Graph,
    /// What is known of every value of the body: nothing of those that depend on unresolved carried values.
    pub(super) known: &'a [Option<Lifted>],
    pub(super) carried: usize,
    pub(super) state: ValueId,
    pub(super) lifter: &'a mut Lifter<'b>,
    pub(super) memo: BTreeMap<ValueId, Affine>,
}

impl Reader<'_, '_> {
    /// The coefficients of a value.
    pub(super) fn read(&mut self, value: ValueId) -> Result<Affine, Obstacle> {
        if value == self.state {
            return Ok(Affine { a: Coef::One, b: Coef::Zero });
        }
        if let Some(known) = self.known[value.idx()] {
            return Ok(Affine { a: Coef::Zero, b: Coef::Value(known) });
        }
        if let Some(known) = self.memo.get(&value) {
            return Ok(*known);
        }
        let node = self.body.def_node(value).ok_or(Obstacle::Coupled { carried: self.carried })?;
        let form = self.node(node)?;
        self.memo.insert(value, form);
        Ok(form)
    }

    fn node(&mut self, node: &Node) -> Result<Affine, Obstacle> {
        let obstacle = Obstacle::NotAffine { carried: self.carried, op: node.op.name() };
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let (x, y) = (operand(0), operand(1));
        match (&node.op, x, y) {
            (Op::Unary(Unary { f: UnaryFn::Neg }), Some(x), _) => {
                let Affine { a, b } = self.read(x)?;
                Ok(Affine { a: self.neg(a, x)?, b: self.neg(b, x)? })
            }
            (Op::Cast(op), Some(x), _) if op.to.is_float() && self.body.ty(x).dtype.is_float() => {
                let Affine { a, b } = self.read(x)?;
                Ok(Affine { a: self.cast(a, &node.op)?, b: self.cast(b, &node.op)? })
            }
            (Op::Binary(Binary { f: BinaryFn::Add }), Some(x), Some(y)) => {
                let (p, q) = (self.read(x)?, self.read(y)?);
                Ok(Affine { a: self.add(p.a, q.a, x)?, b: self.add(p.b, q.b, x)? })
            }
            (Op::Binary(Binary { f: BinaryFn::Sub }), Some(x), Some(y)) => {
                let (p, q) = (self.read(x)?, self.read(y)?);
                let (a, b) = (self.neg(q.a, y)?, self.neg(q.b, y)?);
                Ok(Affine { a: self.add(p.a, a, x)?, b: self.add(p.b, b, x)? })
            }
            (Op::Binary(Binary { f: BinaryFn::Mul }), Some(x), Some(y)) => {
                let (p, q) = (self.read(x)?, self.read(y)?);
                match (p, q) {
                    (Affine { a: Coef::Zero, b: k }, form) | (form, Affine { a: Coef::Zero, b: k }) => {
                        Ok(Affine { a: self.mul(k, form.a)?, b: self.mul(k, form.b)? })
                    }
                    _ => Err(obstacle),
                }
            }
            (Op::Binary(op @ Binary { f: BinaryFn::Div }), Some(x), Some(y))
                if self.body.ty(x).dtype.is_float() =>
            {
                let (p, q) = (self.read(x)?, self.read(y)?);
                let Affine { a: Coef::Zero, b: Coef::Value(k) } = q else { return Err(obstacle) };
                Ok(Affine { a: self.div(p.a, k, op, x)?, b: self.div(p.b, k, op, x)? })
            }
            (Op::Reshape(op), Some(x), _) if same_dense(&op.shape, &self.body.ty(x).shape) => {
                let Affine { a, b } = self.read(x)?;
                Ok(Affine { a: self.reshape(a, &op.shape)?, b: self.reshape(b, &op.shape)? })
            }
            (Op::Contract(op), _, _) => self.contract(node, op, obstacle),
            _ => Err(obstacle),
        }
    }

    /// A product with one factor that holds the state, whose axes are those of the result.
    fn contract(&mut self, node: &Node, op: &Contract, obstacle: Obstacle) -> Result<Affine, Obstacle> {
        let mut form = None;
        let (mut inputs, mut factors) = (Vec::new(), Vec::new());
        for (labels, value) in op.spec.inputs.iter().zip(node.operands.iter().flatten()) {
            match self.known[value.idx()] {
                Some(known) => {
                    inputs.push(labels.clone());
                    factors.push(known);
                }
                None if form.is_none() && *labels == op.spec.output => form = Some(self.read(*value)?),
                None => return Err(obstacle),
            }
        }
        let Some(form) = form else { return Err(obstacle) };
        if factors.is_empty() {
            return Ok(form);
        }
        let has = |l: &u8| inputs.iter().any(|labels| labels.contains(l));
        let axes: Vec<usize> = (0..op.spec.output.len()).filter(|i| has(&op.spec.output[*i])).collect();
        let output = axes.iter().map(|i| op.spec.output[*i]).collect();
        let shape = self.body.ty(node.results[0]).shape.clone();
        let coef = self.lifter.contract(&Contract { spec: Spec { inputs, output } }, &factors)?;
        let coef = Coef::Value(self.expand(coef, &axes, &shape)?);
        Ok(Affine { a: self.mul(coef, form.a)?, b: self.mul(coef, form.b)? })
    }

    pub(super) fn expand(&mut self, x: Lifted, axes: &[usize], shape: &Shape) -> Result<Lifted, BuildError> {
        let trips = self.lifter.trips.clone();
        Ok(match x {
            Lifted::Same(x) => {
                Lifted::Same(self.lifter.b.op(Broadcast { axes: axes.to_vec(), shape: shape.clone() }, &[x])?)
            }
            Lifted::Stacked(x) => {
                let axes = std::iter::once(0).chain(axes.iter().map(|axis| axis + 1)).collect();
                let shape = std::iter::once(&trips).chain(shape.iter()).collect();
                Lifted::Stacked(self.lifter.b.op(Broadcast { axes, shape }, &[x])?)
            }
        })
    }

    /// The number as a tensor like a value of the body.
    fn number(&mut self, x: f64, like: ValueId) -> Result<Lifted, BuildError> {
        let ty = self.body.ty(like);
        let scalar = self.lifter.b.scalar(ty.dtype, x)?;
        Ok(Lifted::Same(self.lifter.b.broadcast(scalar, &[], ty.shape.clone())?))
    }

    fn add(&mut self, x: Coef, y: Coef, like: ValueId) -> Result<Coef, BuildError> {
        Ok(match (x, y) {
            (Coef::Zero, z) | (z, Coef::Zero) => z,
            (x, y) => {
                let xs = [self.tensor(x, like)?, self.tensor(y, like)?];
                Coef::Value(self.lifter.elementwise(&Binary { f: BinaryFn::Add }.into(), &xs)?)
            }
        })
    }

    fn mul(&mut self, x: Coef, y: Coef) -> Result<Coef, BuildError> {
        Ok(match (x, y) {
            (Coef::Zero, _) | (_, Coef::Zero) => Coef::Zero,
            (Coef::One, z) | (z, Coef::One) => z,
            (Coef::Value(x), Coef::Value(y)) => {
                Coef::Value(self.lifter.elementwise(&Binary { f: BinaryFn::Mul }.into(), &[x, y])?)
            }
        })
    }

    fn div(&mut self, x: Coef, k: Lifted, op: &Binary, like: ValueId) -> Result<Coef, BuildError> {
        if x == Coef::Zero {
            return Ok(x);
        }
        let x = self.tensor(x, like)?;
        Ok(Coef::Value(self.lifter.elementwise(&op.clone().into(), &[x, k])?))
    }

    fn neg(&mut self, x: Coef, like: ValueId) -> Result<Coef, BuildError> {
        if x == Coef::Zero {
            return Ok(x);
        }
        let x = self.tensor(x, like)?;
        Ok(Coef::Value(self.lifter.elementwise(&Unary { f: UnaryFn::Neg }.into(), &[x])?))
    }

    fn reshape(&mut self, x: Coef, shape: &Shape) -> Result<Coef, BuildError> {
        let trips = self.lifter.trips.clone();
        Ok(match x {
            Coef::Zero | Coef::One => x,
            Coef::Value(Lifted::Same(x)) => {
                Coef::Value(Lifted::Same(self.lifter.b.reshape(x, shape.clone())?))
            }
            Coef::Value(Lifted::Stacked(x)) => {
                let rows: Shape = std::iter::once(&trips).chain(shape.iter()).collect();
                Coef::Value(Lifted::Stacked(self.lifter.b.reshape(x, rows)?))
            }
        })
    }

    fn cast(&mut self, x: Coef, op: &Op) -> Result<Coef, BuildError> {
        match x {
            Coef::Value(x) => Ok(Coef::Value(self.lifter.elementwise(op, &[x])?)),
            Coef::Zero | Coef::One => Ok(x),
        }
    }

    /// The coefficient as a tensor like a value of the body.
    pub(super) fn tensor(&mut self, x: Coef, like: ValueId) -> Result<Lifted, BuildError> {
        match x {
            Coef::Zero => self.number(0.0, like),
            Coef::One => self.number(1.0, like),
            Coef::Value(x) => Ok(x),
        }
    }
}
