//! Ops that move elements, and reductions.

use super::body::{Name, int, string};
use super::type_number;
use super::writer::Writer;
use ssmc_ir::ops::{
    ArgMax, Concat, CumSum, Gather, Iota, Pad, Reduce, ReduceFn, Reshape, Scatter, ScatterFn, Slice, TopK,
};
use ssmc_ir::{DType, Dim, Node, Shape};

impl Writer<'_> {
    pub(super) fn iota(&mut self, op: &Iota) -> Result<Name, String> {
        let count = self.dim(&op.shape[op.axis])?;
        let count = self.body.squeeze(&count, &[0]);
        let (zero, one) = (self.body.scalar(DType::I64, 0.0), self.body.scalar(DType::I64, 1.0));
        let mut x = self.body.op("Range", &[&zero, &count, &one]);
        if op.dtype != DType::I64 {
            x = self.body.with("Cast", &[&x], vec![int("to", i64::from(type_number(op.dtype)))]);
        }
        let behind: Vec<i64> = (1..op.shape.rank() - op.axis).map(|axis| axis as i64).collect();
        let x = self.body.unsqueeze(&x, &behind);
        let shape = self.shape_tensor(&op.shape)?;
        Ok(self.body.op("Expand", &[&x, &shape]))
    }

    pub(super) fn reshape(&mut self, node: &Node, op: &Reshape) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        let from = self.ty(node.operands[0].ok_or("an operand is missing")?).shape.clone();
        if let Some(axes) = added(&from, &op.shape) {
            return Ok(self.body.unsqueeze(&x, &axes));
        }
        if let Some(axes) = added(&op.shape, &from) {
            return Ok(self.body.squeeze(&x, &axes));
        }
        self.reshaped(&x, &op.shape)
    }

    pub(super) fn slice(&mut self, node: &Node, op: &Slice) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        let axis = op.axis as i64;
        let extent = &self.ty(node.operands[0].ok_or("an operand is missing")?).shape[op.axis];
        if op.stride == 1 && op.start.clone() + &op.len == *extent {
            // Up to the end, and if that is a known number of elements, counted from there.
            match (op.len.as_const(), op.start.as_const()) {
                (_, Some(start)) => return Ok(self.body.slice(&x, axis, start, i64::MAX)),
                (Some(len), None) if len > 0 => return Ok(self.body.slice(&x, axis, -len, i64::MAX)),
                _ => {}
            }
        }
        let start = self.dim(&op.start)?;
        let end = op.start.clone() + op.len.clone() * op.stride;
        // Going down, the index before the first one cannot be written as such.
        let end = if op.stride < 0 && end.as_const().is_none_or(|end| end < 0) {
            self.body.vector(&[i64::MIN])
        } else {
            self.dim(&end)?
        };
        let (axis, step) = (self.body.vector(&[axis]), self.body.vector(&[op.stride]));
        Ok(self.body.op("Slice", &[&x, &start, &end, &axis, &step]))
    }

    pub(super) fn concat(&mut self, node: &Node, op: &Concat) -> Result<Name, String> {
        let names: Vec<Name> =
            (0..node.operands.len()).map(|i| self.operand(node, i)).collect::<Result<_, _>>()?;
        Ok(self.body.concat(&names, op.axis as i64))
    }

    pub(super) fn pad(&mut self, node: &Node, op: &Pad) -> Result<Name, String> {
        let (x, value) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let rank = self.ty(node.results[0]).rank();
        let zeros = vec![Dim::from(0); rank];
        let mut pads = [zeros.clone(), zeros].concat();
        pads[op.axis] = op.low.clone();
        pads[rank + op.axis] = op.high.clone();
        let pads = self.shape_tensor(&Shape::from(pads))?;
        Ok(self.body.op("Pad", &[&x, &pads, &value]))
    }

    pub(super) fn gather(&mut self, node: &Node, op: &Gather) -> Result<Name, String> {
        let (x, indices) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let dtype = self.ty(node.operands[1].ok_or("an operand is missing")?).dtype;
        let indices = if matches!(dtype, DType::I64 | DType::I32) {
            indices
        } else {
            self.body.with("Cast", &[&indices], vec![int("to", i64::from(type_number(DType::I64)))])
        };
        Ok(self.body.with("Gather", &[&x, &indices], vec![int("axis", op.axis as i64)]))
    }

    pub(super) fn scatter(&mut self, node: &Node, op: &Scatter) -> Result<Name, String> {
        let (x, indices, updates) = (self.operand(node, 0)?, self.operand(node, 1)?, self.operand(node, 2)?);
        let (reduction, since) = match op.f {
            ScatterFn::Set => (None, 13),
            ScatterFn::Add => (Some("add"), 16),
            ScatterFn::Mul => (Some("mul"), 16),
            ScatterFn::Min => (Some("min"), 18),
            ScatterFn::Max => (Some("max"), 18),
        };
        if self.body.opset < since {
            return Err(format!("this reduction needs opset {since}"));
        }
        let wide = int("to", i64::from(type_number(DType::I64)));
        let indices = self.body.with("Cast", &[&indices], vec![wide]);
        let indices = self.body.unsqueeze(&indices, &[1]);
        let reduction = reduction.map(|word| string("reduction", word)).into_iter().collect();
        Ok(self.body.with("ScatterND", &[&x, &indices, &updates], reduction))
    }

    pub(super) fn top_k(&mut self, node: &Node, op: &TopK) -> Result<Vec<Name>, String> {
        let x = self.operand(node, 0)?;
        let k = self.dim(&op.k)?;
        let attributes = vec![int("axis", op.axis as i64), int("largest", op.largest.into())];
        Ok(self.body.node("TopK", &[&x, &k], 2, attributes))
    }

    pub(super) fn reduce(&mut self, node: &Node, op: &Reduce) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        if op.axes.is_empty() {
            return Ok(x);
        }
        let operator = match op.f {
            ReduceFn::Sum => "ReduceSum",
            ReduceFn::Mean => "ReduceMean",
            ReduceFn::Max => "ReduceMax",
            ReduceFn::Min => "ReduceMin",
            ReduceFn::Prod => "ReduceProd",
        };
        let axes: Vec<i64> = op.axes.iter().map(|axis| *axis as i64).collect();
        Ok(self.body.reduce(operator, &x, &axes, false))
    }

    pub(super) fn cumsum(&mut self, node: &Node, op: &CumSum) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        let axis = self.body.scalar(DType::I64, op.axis as f64);
        let flags = vec![int("exclusive", op.exclusive.into()), int("reverse", op.reverse.into())];
        Ok(self.body.with("CumSum", &[&x, &axis], flags))
    }

    pub(super) fn argmax(&mut self, node: &Node, op: &ArgMax) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        Ok(self.body.with("ArgMax", &[&x], vec![int("axis", op.axis as i64), int("keepdims", 0)]))
    }
}

/// The axes of extent 1 by which `more` exceeds `shape`, if nothing else changes.
fn added(shape: &Shape, more: &Shape) -> Option<Vec<i64>> {
    let mut axes = Vec::new();
    let mut rest = shape.iter().peekable();
    for (axis, dim) in more.iter().enumerate() {
        if rest.peek() == Some(&dim) {
            rest.next();
        } else if dim.is(1) {
            axes.push(axis as i64);
        } else {
            return None;
        }
    }
    (rest.next().is_none() && !axes.is_empty()).then_some(axes)
}
