//! Normalizations, in the spelling that runtimes fuse.

use super::body::{Name, float, int};
use super::writer::Writer;
use ssmc_ir::ops::{GatedRmsNorm, LayerNorm, RmsNorm};
use ssmc_ir::{DType, Node};

impl Writer<'_> {
    /// x / sqrt(mean(x^2) + eps) * weight
    fn rms(&mut self, x: &str, dtype: DType, eps: f64, weight: Option<Name>) -> Name {
        let body = &mut self.body;
        let two = body.scalar(dtype, 2.0);
        let square = body.op("Pow", &[x, &two]);
        let mean = body.reduce("ReduceMean", &square, &[-1], true);
        let eps = body.scalar(dtype, eps);
        let sum = body.op("Add", &[&mean, &eps]);
        let root = body.op("Sqrt", &[&sum]);
        let y = body.op("Div", &[x, &root]);
        match weight {
            Some(weight) => body.op("Mul", &[&y, &weight]),
            None => y,
        }
    }

    pub(super) fn rms_norm(&mut self, node: &Node, op: &RmsNorm) -> Result<Name, String> {
        let (x, weight) = (self.operand(node, 0)?, self.optional(node, 1)?);
        let dtype = self.ty(node.results[0]).dtype;
        Ok(self.rms(&x, dtype, op.eps.get(), weight))
    }

    pub(super) fn gated_rms_norm(&mut self, node: &Node, op: &GatedRmsNorm) -> Result<Name, String> {
        let (x, z) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let weight = self.optional(node, 2)?;
        let dtype = self.ty(node.results[0]).dtype;
        let gate = self.body.silu(&z);
        if op.norm_before_gate {
            let y = self.rms(&x, dtype, op.eps.get(), weight);
            return Ok(self.body.op("Mul", &[&y, &gate]));
        }
        let x = self.body.op("Mul", &[&x, &gate]);
        Ok(self.rms(&x, dtype, op.eps.get(), weight))
    }

    pub(super) fn layer_norm(&mut self, node: &Node, op: &LayerNorm) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        let (weight, bias) = (self.optional(node, 1)?, self.optional(node, 2)?);
        let ty = self.ty(node.results[0]);
        if self.body.opset >= 17
            && let Some(weight) = &weight
        {
            let attributes = vec![int("axis", -1), float("epsilon", op.eps.get())];
            let bias = bias.unwrap_or_default();
            return Ok(self.body.with("LayerNormalization", &[&x, weight, &bias], attributes));
        }
        let body = &mut self.body;
        let mean = body.reduce("ReduceMean", &x, &[-1], true);
        let centered = body.op("Sub", &[&x, &mean]);
        let mut y = self.rms(&centered, ty.dtype, op.eps.get(), weight);
        if let Some(bias) = bias {
            y = self.body.op("Add", &[&y, &bias]);
        }
        Ok(y)
    }
}
