//! Recurrences of one step, without an axis for time. Their operands are put into shape outside of the function, where
//! these views meet others.

use super::body::{Body, Name};
use super::recurrence::{finish, step_size};
use super::writer::Writer;
use ssmc_ir::ops::SelectiveScan;
use ssmc_ir::{Node, Shape};

impl Writer<'_> {
    /// h = a h0 + b over pairs of real numbers.
    pub(super) fn complex_step(&mut self, node: &Node) -> Result<Vec<Name>, String> {
        let types: Vec<Shape> = node.results.iter().map(|v| self.ty(*v).shape.clone()).collect();
        let mut actuals = Vec::new();
        for i in 0..node.operands.len() {
            let Some(value) = node.operands[i] else {
                actuals.push(None);
                continue;
            };
            let (x, mut dims) = (self.full(value)?, self.ty(value).shape.to_vec());
            // A and b have an axis for time, the state has none.
            actuals.push(Some(if i < 4 {
                dims.remove(1);
                self.reshaped(&x, &dims.into())?
            } else {
                x
            }));
        }
        let results = self.call_with(node, "one step", actuals, |body, x| {
            let part = |body: &mut Body, part: usize| -> Result<Name, String> {
                let b = x.get(2 + part)?;
                let (Some(own), Some(other)) = (x.find(4 + part), x.find(5 - part)) else {
                    return Ok(body.op("Identity", &[b]));
                };
                let kept = body.op("Mul", &[x.get(0)?, own]);
                let turned = body.op("Mul", &[x.get(1)?, other]);
                let sum = body.op(if part == 0 { "Sub" } else { "Add" }, &[&kept, &turned]);
                Ok(body.op("Add", &[&sum, b]))
            };
            Ok(vec![part(body, 0)?, part(body, 1)?])
        })?;
        for (name, ty) in results.iter().zip(&types[2..]) {
            self.body.shapes.extend(ty.as_const().map(|dims| (name.clone(), dims)));
        }
        let (re, im) = (self.reshaped(&results[0], &types[0])?, self.reshaped(&results[1], &types[1])?);
        Ok(vec![re, im, results[0].clone(), results[1].clone()])
    }

    /// h = exp(dt*a) h0 + dt*x b^T, y = h c.
    pub(super) fn selective_step(&mut self, node: &Node, op: &SelectiveScan) -> Result<Vec<Name>, String> {
        let dtype = self.ty(node.results[0]).dtype;
        let mut actuals = Vec::new();
        for (i, value) in node.operands.iter().enumerate() {
            let Some(value) = *value else {
                actuals.push(None);
                continue;
            };
            let mut dims = self.ty(value).shape.to_vec();
            let mut x = self.full(value)?;
            if let (1, Some(bias)) = (i, node.operands[7]) {
                // Beside the product that dt is, with which runtimes fuse it.
                let bias = self.full(bias)?;
                x = self.body.op("Add", &[&x, &bias]);
                self.body.shapes.extend(self.ty(value).shape.as_const().map(|dims| (x.clone(), dims)));
            }
            match i {
                // [B,1,G,E] as columns
                0 | 1 | 6 => dims = vec![dims[0].clone(), dims[2].clone(), dims[3].clone(), 1.into()],
                // [B,1,G,N] as a row and as a column
                3 => dims = vec![dims[0].clone(), dims[2].clone(), 1.into(), dims[3].clone()],
                4 => dims = vec![dims[0].clone(), dims[2].clone(), dims[3].clone(), 1.into()],
                // [G,E]
                5 => dims.push(1.into()),
                7 => {
                    actuals.push(None);
                    continue;
                }
                _ => {}
            }
            let shape = Shape::from(dims);
            let is_same = shape == self.ty(value).shape;
            actuals.push(Some(if is_same { x } else { self.reshaped(&x, &shape)? }));
        }
        let mut results = self.call_with(node, "one step", actuals, |body, x| {
            let dt = step_size(body, x, op.dt_softplus, op.dt_min.get(), op.dt_max.get(), dtype)?;
            let input = body.op("Mul", &[&dt, x.get(0)?]);
            let mut h = body.op("Mul", &[&input, x.get(3)?]);
            if let Some(h0) = x.find(8) {
                let exponent = body.op("Mul", &[&dt, x.get(2)?]);
                let a = body.op("Exp", &[&exponent]);
                let kept = body.op("Mul", &[&a, h0]);
                h = body.op("Add", &[&kept, &h]);
            }
            let y = body.op("MatMul", &[&h, x.get(4)?]);
            Ok(vec![finish(body, x, &y)?, h])
        })?;
        let dims = self.ty(node.results[0]).shape.to_vec();
        let column = Shape::from(vec![dims[0].clone(), dims[2].clone(), dims[3].clone(), 1.into()]);
        self.body.shapes.extend(column.as_const().map(|dims| (results[0].clone(), dims)));
        results[0] = self.reshaped(&results[0], &dims.into())?;
        Ok(results)
    }
}
