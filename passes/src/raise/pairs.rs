//! Carried values that hold complex numbers, real and imaginary parts along an axis of extent 2.
//!
//! Both parts of the next value are affine in both parts of the present one. If the coefficients are those of a complex
//! product, `[[p, -q], [q, p]]`, the recurrence is one complex scan.

use super::affine::{Coef, Reader};
use super::lift::{Lifted, Obstacle};
use crate::view;
use ssmc_ir::ops::{Binary, BinaryFn, Contract, Op, Spec, Unary, UnaryFn};
use ssmc_ir::{BuildError, Dim, Entity, Graph, Node, Shape, TensorType, ValueId};
use std::collections::BTreeMap;

/// re * real(h) + im * imag(h) + b, element by element.
#[derive(Clone, Copy, Debug)]
struct Mixed {
    re: Coef,
    im: Coef,
    b: Coef,
}

/// h' = (a_re + i*a_im) * h + (b_re + i*b_im); each coefficient has the shape of the state with extent 1 for its pair
/// axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Complex {
    pub(super) a: [Lifted; 2],
    pub(super) b: [Lifted; 2],
}

/// Reads the next value of the reader's state, whose axis `axis` has extent 2, as a complex recurrence.
pub(super) fn complex(
    reader: &mut Reader<'_, '_>,
    next: ValueId,
    axis: usize,
) -> Result<Option<Complex>, Obstacle> {
    let ty = part_of(reader.body.ty(reader.state), axis);
    let mut pairs = Pairs { reader, axis, memo: BTreeMap::new() };
    let (re, im) = (pairs.read(next, Some(0))?, pairs.read(next, Some(1))?);
    let mut tensor = |c: Coef| pairs.tensor(c, &ty);
    let [p, q] = [tensor(im.im)?, tensor(im.re)?];
    let [p2, q2] = [tensor(re.re)?, tensor(re.im)?];
    let b = [tensor(re.b)?, tensor(im.b)?];
    let graph = reader.lifter.b.graph();
    let is_complex = same(graph, p, p2, 1.0) && same(graph, q, q2, -1.0);
    Ok(is_complex.then_some(Complex { a: [p, q], b }))
}

/// The type of one part of a tensor of pairs.
fn part_of(ty: &TensorType, axis: usize) -> TensorType {
    let mut dims = ty.shape.to_vec();
    dims[axis] = Dim::from(1);
    ty.with_shape(Shape::from(&dims[..]))
}

struct Pairs<'r, 'a, 'b> {
    reader: &'r mut Reader<'a, 'b>,
    axis: usize,
    memo: BTreeMap<(ValueId, Option<i64>), Mixed>,
}

impl Pairs<'_, '_, '_> {
    /// A value, or one of its parts along the pair axis.
    fn read(&mut self, value: ValueId, part: Option<i64>) -> Result<Mixed, Obstacle> {
        if let Some(known) = self.memo.get(&(value, part)) {
            return Ok(*known);
        }
        let constant = |b| Mixed { re: Coef::Zero, im: Coef::Zero, b };
        let form = match (self.reader.known[value.idx()], part) {
            (Some(known), None) => constant(Coef::Value(known)),
            (Some(known), Some(part)) => constant(Coef::Value(self.slice(known, self.axis, part)?)),
            (None, Some(part)) if value == self.reader.state => match part {
                0 => Mixed { re: Coef::One, ..constant(Coef::Zero) },
                _ => Mixed { im: Coef::One, ..constant(Coef::Zero) },
            },
            (None, _) => {
                let body = self.reader.body;
                let carried = self.reader.carried;
                let node = body.def_node(value).ok_or(Obstacle::Coupled { carried })?;
                self.node(node, value, part)?
            }
        };
        self.memo.insert((value, part), form);
        Ok(form)
    }

    fn node(&mut self, node: &Node, value: ValueId, part: Option<i64>) -> Result<Mixed, Obstacle> {
        let body = self.reader.body;
        let obstacle = Obstacle::NotAffine { carried: self.reader.carried, op: node.op.name() };
        let operand = |i: usize| node.operands.get(i).copied().flatten();
        let (x, y) = (operand(0), operand(1));
        let ty = match part {
            Some(_) => part_of(body.ty(value), self.axis),
            None => body.ty(value).clone(),
        };
        match (&node.op, x, y) {
            (Op::Slice(op), Some(x), _)
                if part.is_none()
                    && op.axis == self.axis
                    && op.len.is(1)
                    && body.ty(x).shape == body.ty(self.reader.state).shape =>
            {
                let start = op.start.as_const().ok_or(obstacle)?;
                self.read(x, Some(start))
            }
            (Op::Concat(op), _, _) if op.axis == self.axis => {
                let mut at = part.ok_or(obstacle)?;
                for x in node.operands.iter().flatten() {
                    let n = body.ty(*x).shape[op.axis].as_const().unwrap_or(i64::MAX);
                    if at < n {
                        return self.read(*x, (n > 1).then_some(at));
                    }
                    at -= n;
                }
                Err(Obstacle::NotAffine { carried: self.reader.carried, op: "concat" })
            }
            (Op::Reshape(op), Some(x), _) if part.is_none() => {
                let form = self.read(x, None)?;
                self.map(form, |pairs, x| Ok(pairs.reshape(x, &op.shape)?))
            }
            (Op::Unary(Unary { f: UnaryFn::Neg }), Some(x), _) => {
                let form = self.read(x, part)?;
                self.negated(form, &ty)
            }
            (Op::Cast(op), Some(x), _) if op.to.is_float() && body.ty(x).dtype.is_float() => {
                let form = self.read(x, part)?;
                let op = node.op.clone();
                self.map(form, |pairs, x| Ok(pairs.reader.lifter.elementwise(&op, &[x])?))
            }
            (Op::Binary(Binary { f: BinaryFn::Add }), Some(x), Some(y)) => {
                let (p, q) = (self.read(x, part)?, self.read(y, part)?);
                self.sum(p, q, &ty)
            }
            (Op::Binary(Binary { f: BinaryFn::Sub }), Some(x), Some(y)) => {
                let (p, q) = (self.read(x, part)?, self.read(y, part)?);
                let q = self.negated(q, &ty)?;
                self.sum(p, q, &ty)
            }
            (Op::Binary(Binary { f: BinaryFn::Mul }), Some(x), Some(y)) => {
                match (self.read(x, part)?, self.read(y, part)?) {
                    (Mixed { re: Coef::Zero, im: Coef::Zero, b: Coef::Value(k) }, form)
                    | (form, Mixed { re: Coef::Zero, im: Coef::Zero, b: Coef::Value(k) }) => {
                        self.scaled(form, k)
                    }
                    _ => Err(obstacle),
                }
            }
            (Op::Contract(op), _, _) => self.contract(node, op, (&ty.shape, part), obstacle),
            _ => Err(obstacle),
        }
    }

    /// A product with one factor that holds the state, whose axes are those of the result.
    fn contract(
        &mut self,
        node: &Node,
        op: &Contract,
        (shape, part): (&Shape, Option<i64>),
        obstacle: Obstacle,
    ) -> Result<Mixed, Obstacle> {
        let mut form = None;
        let (mut inputs, mut factors) = (Vec::new(), Vec::new());
        for (labels, value) in op.spec.inputs.iter().zip(node.operands.iter().flatten()) {
            match self.reader.known[value.idx()] {
                Some(known) => {
                    let pair = part.and_then(|part| {
                        labels.iter().position(|l| *l == op.spec.output[self.axis]).map(|axis| (axis, part))
                    });
                    inputs.push(labels.clone());
                    factors.push(match pair {
                        Some((axis, part)) => self.slice(known, axis, part)?,
                        None => known,
                    });
                }
                None if form.is_none() && *labels == op.spec.output => form = Some(self.read(*value, part)?),
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
        let coef = self.reader.lifter.contract(&Contract { spec: Spec { inputs, output } }, &factors)?;
        let coef = self.reader.expand(coef, &axes, shape)?;
        self.scaled(form, coef)
    }

    fn map(
        &mut self,
        form: Mixed,
        mut f: impl FnMut(&mut Self, Lifted) -> Result<Lifted, Obstacle>,
    ) -> Result<Mixed, Obstacle> {
        let mut one = |c: Coef| match c {
            Coef::Value(x) => f(self, x).map(Coef::Value),
            Coef::Zero | Coef::One => Ok(c),
        };
        Ok(Mixed { re: one(form.re)?, im: one(form.im)?, b: one(form.b)? })
    }

    fn negated(&mut self, form: Mixed, ty: &TensorType) -> Result<Mixed, Obstacle> {
        let mut one = |c: Coef| -> Result<Coef, BuildError> {
            if c == Coef::Zero {
                return Ok(c);
            }
            let x = self.tensor(c, ty)?;
            Ok(Coef::Value(self.reader.lifter.elementwise(&Unary { f: UnaryFn::Neg }.into(), &[x])?))
        };
        Ok(Mixed { re: one(form.re)?, im: one(form.im)?, b: one(form.b)? })
    }

    fn sum(&mut self, p: Mixed, q: Mixed, ty: &TensorType) -> Result<Mixed, Obstacle> {
        let mut one = |x: Coef, y: Coef| -> Result<Coef, BuildError> {
            Ok(match (x, y) {
                (Coef::Zero, z) | (z, Coef::Zero) => z,
                (x, y) => {
                    let xs = [self.tensor(x, ty)?, self.tensor(y, ty)?];
                    let add = Binary { f: BinaryFn::Add }.into();
                    Coef::Value(self.reader.lifter.elementwise(&add, &xs)?)
                }
            })
        };
        Ok(Mixed { re: one(p.re, q.re)?, im: one(p.im, q.im)?, b: one(p.b, q.b)? })
    }

    fn scaled(&mut self, form: Mixed, k: Lifted) -> Result<Mixed, Obstacle> {
        let mut one = |c: Coef| -> Result<Coef, BuildError> {
            Ok(match c {
                Coef::Zero => c,
                Coef::One => Coef::Value(k),
                Coef::Value(x) => {
                    let mul = Binary { f: BinaryFn::Mul }.into();
                    Coef::Value(self.reader.lifter.elementwise(&mul, &[k, x])?)
                }
            })
        };
        Ok(Mixed { re: one(form.re)?, im: one(form.im)?, b: one(form.b)? })
    }

    fn tensor(&mut self, c: Coef, ty: &TensorType) -> Result<Lifted, BuildError> {
        let x = match c {
            Coef::Value(x) => return Ok(x),
            Coef::Zero => 0.0,
            Coef::One => 1.0,
        };
        let b = &mut *self.reader.lifter.b;
        let scalar = b.scalar(ty.dtype, x)?;
        Ok(Lifted::Same(b.broadcast(scalar, &[], ty.shape.clone())?))
    }

    fn slice(&mut self, x: Lifted, axis: usize, start: i64) -> Result<Lifted, BuildError> {
        let b = &mut *self.reader.lifter.b;
        Ok(match x {
            Lifted::Same(x) => Lifted::Same(b.slice(x, axis, start, 1)?),
            Lifted::Stacked(x) => Lifted::Stacked(b.slice(x, axis + 1, start, 1)?),
        })
    }

    fn reshape(&mut self, x: Lifted, shape: &Shape) -> Result<Lifted, BuildError> {
        let trips = self.reader.lifter.trips.clone();
        let b = &mut *self.reader.lifter.b;
        Ok(match x {
            Lifted::Same(x) => Lifted::Same(b.reshape(x, shape.clone())?),
            Lifted::Stacked(x) => {
                let shape: Shape = std::iter::once(&trips).chain(shape.iter()).collect();
                Lifted::Stacked(b.reshape(x, shape)?)
            }
        })
    }
}

/// Whether x = sign * y, because both were built alike.
fn same(graph: &Graph, x: Lifted, y: Lifted, sign: f64) -> bool {
    match (x, y) {
        (Lifted::Same(x), Lifted::Same(y)) | (Lifted::Stacked(x), Lifted::Stacked(y)) => {
            equal(graph, x, y, sign, 0)
        }
        _ => false,
    }
}

/// Coefficients with deeper expressions are not compared.
const MAX_DEPTH: usize = 12;

fn equal(graph: &Graph, x: ValueId, y: ValueId, sign: f64, depth: usize) -> bool {
    if let (Some(x), Some(y)) = (view::splat(graph, x), view::splat(graph, y)) {
        return x == sign * y;
    }
    if x == y {
        return sign == 1.0;
    }
    if depth == MAX_DEPTH {
        return false;
    }
    let negated = |v: ValueId| {
        graph.def_node(v).filter(|n| matches!(n.op, Op::Unary(Unary { f: UnaryFn::Neg })))?.operands[0]
    };
    match (negated(x), negated(y)) {
        (Some(x), _) => return equal(graph, x, y, -sign, depth + 1),
        (None, Some(y)) => return equal(graph, x, y, -sign, depth + 1),
        (None, None) => {}
    }
    let (Some(p), Some(q)) = (graph.def_node(x), graph.def_node(y)) else { return false };
    if p.op != q.op || p.operands.len() != q.operands.len() || !p.regions.is_empty() || p.operands.is_empty()
    {
        return false;
    }
    let pairs: Option<Vec<(ValueId, ValueId)>> =
        p.operands.iter().zip(&q.operands).map(|(x, y)| (*x).zip(*y)).collect();
    let Some(pairs) = pairs else { return false };
    let is_product = matches!(p.op, Op::Contract(_) | Op::Binary(Binary { f: BinaryFn::Mul }));
    let keeps_sign =
        is_product || (p.operands.len() == 1 && (p.op.is_layout() || matches!(p.op, Op::Cast(_))));
    // The sign of a product is in one of its factors.
    let mut found = 1.0;
    let all = pairs.into_iter().all(|(x, y)| {
        equal(graph, x, y, 1.0, depth + 1)
            || (keeps_sign && {
                found = -found;
                equal(graph, x, y, -1.0, depth + 1)
            })
    });
    all && found == sign
}
