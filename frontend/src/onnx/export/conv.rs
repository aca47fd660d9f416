//! Convolutions.

use super::body::{Name, int, ints};
use super::writer::Writer;
use ssmc_ir::Node;
use ssmc_ir::ops::{Activation, CausalConv1d, Conv, LongConv};

impl Writer<'_> {
    pub(super) fn conv(&mut self, node: &Node, op: &Conv) -> Result<Name, String> {
        let mut inputs = vec![self.operand(node, 0)?, self.operand(node, 1)?];
        inputs.extend(self.optional(node, 2)?);
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let list = |values: &[usize]| values.iter().map(|v| *v as i64).collect::<Vec<_>>();
        let attributes = vec![
            ints("dilations", list(&op.dilations)),
            int("group", op.groups as i64),
            ints("pads", list(&op.pads)),
            ints("strides", list(&op.strides)),
        ];
        Ok(self.body.with("Conv", &inputs, attributes))
    }

    /// Channels first, the state or zeros in front.
    pub(super) fn causal_conv(&mut self, node: &Node, op: &CausalConv1d) -> Result<Vec<Name>, String> {
        if let Some(results) = self.causal_conv_operator(node, op)? {
            return Ok(results);
        }
        if node.operands.get(4).is_some_and(Option::is_some) {
            return Err("packed sequences".to_owned());
        }
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let (bias, state) = (self.optional(node, 2)?, self.optional(node, 3)?);
        let shape = &self.ty(node.operands[1].ok_or("an operand is missing")?).shape;
        let (Some(channels), Some(taps)) = (shape[0].as_const(), shape[1].as_const()) else {
            return Err("a filter with a symbol".to_owned());
        };
        let body = &mut self.body;
        let w = body.unsqueeze(&w, &[1]);
        let x = body.transpose(&x, &[0, 2, 1]);
        let (x, low) = match state {
            Some(state) => {
                let state = body.transpose(&state, &[0, 2, 1]);
                (body.concat(&[state, x], 2), 0)
            }
            None => (x, taps - 1),
        };
        let attributes = vec![int("group", channels), ints("pads", [low, 0])];
        let bias = bias.unwrap_or_default();
        let mut y = body.with("Conv", &[&x, &w, &bias], attributes);
        if op.activation == Activation::Silu {
            y = body.silu(&y);
        }
        let tail = if taps == 1 || !self.is_used(node.results[1]) {
            String::new()
        } else {
            let padded = if low > 0 {
                let pads = self.body.vector(&[0, 0, low, 0, 0, 0]);
                self.body.op("Pad", &[&x, &pads])
            } else {
                x
            };
            let tail = self.body.slice(&padded, 2, 1 - taps, i64::MAX);
            self.body.transpose(&tail, &[0, 2, 1])
        };
        let y = self.body.transpose(&y, &[0, 2, 1]);
        Ok(vec![y, tail])
    }

    /// A depthwise convolution with the taps in reverse: the first one meets the latest step.
    pub(super) fn long_conv(&mut self, node: &Node, op: &LongConv) -> Result<Vec<Name>, String> {
        let kernel = &self.ty(node.operands[1].ok_or("an operand is missing")?).shape;
        let (Some(taps), Some(channels), Some(lead)) =
            (kernel[0].as_const(), kernel.last().and_then(|d| d.as_const()), op.lead.as_const())
        else {
            return Err("a kernel with a symbol".to_owned());
        };
        if kernel.rank() != 2 || lead >= taps || self.is_used(node.results[1]) {
            return Err("a kernel that depends on the input, and history as a result".to_owned());
        }
        let (x, k, history) = (self.operand(node, 0)?, self.operand(node, 1)?, self.optional(node, 2)?);
        let body = &mut self.body;
        let k = body.transpose(&k, &[1, 0]);
        let k = body.reversed(&k, 1);
        let k = body.unsqueeze(&k, &[1]);
        let x = body.transpose(&x, &[0, 2, 1]);
        let (x, low) = match history {
            Some(history) => {
                let history = body.transpose(&history, &[0, 2, 1]);
                (body.concat(&[history, x], 2), 0)
            }
            None => (x, taps - 1 - lead),
        };
        let attributes = vec![int("group", channels), ints("pads", [low, lead])];
        let y = body.with("Conv", &[&x, &k], attributes);
        Ok(vec![body.transpose(&y, &[0, 2, 1]), Name::new()])
    }
}
