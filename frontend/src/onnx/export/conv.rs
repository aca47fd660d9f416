//! Convolutions.

use super::super::proto::AttributeProto;
use super::body::{Name, int, ints};
use super::writer::Writer;
use ssmc_ir::ops::{Activation, CausalConv1d, Conv, LongConv};
use ssmc_ir::{Node, Shape, TensorType};

/// Runtimes take a slower path for padded convolutions with at least this many taps.
const MANY_TAPS: i64 = 8;

/// The attributes of a convolution over time with a filter for each channel. All are written: runtimes work out what is
/// left out at every call.
fn plain(groups: i64, taps: i64, pads: [i64; 2]) -> Vec<AttributeProto> {
    let one = |name| ints(name, [1]);
    let shape = ints("kernel_shape", [taps]);
    vec![one("dilations"), int("group", groups), shape, ints("pads", pads), one("strides")]
}

impl Writer<'_> {
    pub(super) fn conv(&mut self, node: &Node, op: &Conv) -> Result<Name, String> {
        let mut inputs = vec![self.operand(node, 0)?, self.operand(node, 1)?];
        inputs.extend(self.optional(node, 2)?);
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let list = |values: &[usize]| values.iter().map(|v| *v as i64).collect::<Vec<_>>();
        let mut attributes = vec![
            ints("dilations", list(&op.dilations)),
            int("group", op.groups as i64),
            ints("pads", list(&op.pads)),
            ints("strides", list(&op.strides)),
        ];
        let weight = self.ty(node.operands[1].ok_or("an operand is missing")?);
        attributes.extend(weight.shape.as_const().map(|dims| ints("kernel_shape", dims[2..].to_vec())));
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
        let ty = self.ty(node.results[0]);
        let w = self.body.unsqueeze(&w, &[1]);
        let x = self.body.transpose(&x, &[0, 2, 1]);
        let state = state.map(|state| self.body.transpose(&state, &[0, 2, 1]));
        let (x, low) = self.preceded(x, state, ty, taps - 1, true)?;
        let attributes = plain(channels, taps, [low, 0]);
        let bias = bias.unwrap_or_default();
        let mut y = self.body.with("Conv", &[&x, &w, &bias], attributes);
        if op.activation == Activation::Silu {
            y = self.body.silu(&y);
        }
        let tail = if taps == 1 || !self.is_used(node.results[1]) {
            String::new()
        } else {
            let padded = self.padded(&x, low);
            let tail = self.body.slice(&padded, 2, 1 - taps, i64::MAX);
            self.body.transpose(&tail, &[0, 2, 1])
        };
        let y = self.body.transpose(&y, &[0, 2, 1]);
        Ok(vec![y, tail])
    }

    /// A depthwise convolution with the taps in reverse: the first one meets the latest step.
    pub(super) fn long_conv(&mut self, node: &Node, op: &LongConv) -> Result<Vec<Name>, String> {
        let kernel = &self.ty(node.operands[1].ok_or("an operand is missing")?).shape;
        let rank = kernel.rank();
        let (Some(taps), Some(channels), Some(lead)) =
            (kernel[rank - 2].as_const(), kernel[rank - 1].as_const(), op.lead.as_const())
        else {
            return Err("a kernel with a symbol".to_owned());
        };
        if lead >= taps {
            return Err("a kernel that looks ahead only".to_owned());
        }
        let ty = self.ty(node.results[0]);
        let (x, k, history) = (self.operand(node, 0)?, self.operand(node, 1)?, self.optional(node, 2)?);
        let k =
            if rank == 2 { self.body.transpose(&k, &[1, 0]) } else { self.body.transpose(&k, &[0, 2, 1]) };
        let k = self.body.reversed(&k, rank as i64 - 1);
        let x = self.body.transpose(&x, &[0, 2, 1]);
        let history = match history {
            Some(history) => Some(self.body.transpose(&history, &[0, 2, 1])),
            None => None,
        };
        let behind = self.is_used(node.results[1]);
        if behind && lead > 0 {
            return Err("history as a result, of a kernel that looks ahead".to_owned());
        }
        let (x, low) = self.preceded(x, history, ty, taps - 1 - lead, lead == 0)?;
        let tail = if behind {
            let padded = self.padded(&x, low);
            let tail = self.body.slice(&padded, 2, 1 - taps, i64::MAX);
            self.body.transpose(&tail, &[0, 2, 1])
        } else {
            Name::new()
        };
        if rank == 2 {
            let k = self.body.unsqueeze(&k, &[1]);
            let attributes = plain(channels, taps, [low, lead]);
            let y = self.body.with("Conv", &[&x, &k], attributes);
            return Ok(vec![self.body.transpose(&y, &[0, 2, 1]), tail]);
        }
        // A kernel for each row of the batch: rows are further channels.
        let batch =
            ty.shape[0].as_const().ok_or("a kernel that depends on the input, for a symbolic batch")?;
        let as_weights = self.body.vector(&[batch * channels, 1, taps]);
        let k = self.body.op("Reshape", &[&k, &as_weights]);
        let as_channels = self.body.vector(&[1, batch * channels, -1]);
        let x = self.body.op("Reshape", &[&x, &as_channels]);
        let attributes = plain(batch * channels, taps, [low, lead]);
        let y = self.body.with("Conv", &[&x, &k], attributes);
        let apart = self.body.vector(&[batch, channels, -1]);
        let y = self.body.op("Reshape", &[&y, &apart]);
        Ok(vec![self.body.transpose(&y, &[0, 2, 1]), tail])
    }

    /// A sequence with time last behind its history, and the zeros in front that are left to be padded. `ty` is its type
    /// with channels last.
    fn preceded(
        &mut self,
        x: Name,
        history: Option<Name>,
        ty: &TensorType,
        columns: i64,
        causal: bool,
    ) -> Result<(Name, i64), String> {
        if let Some(history) = history {
            return Ok((self.body.concat(&[history, x], 2), 0));
        }
        if columns < MANY_TAPS - 1 || !causal {
            return Ok((x, columns));
        }
        let zero = ssmc_ir::scalar::encode(ty.dtype, 0.0);
        let zero = self.body.constant(ty.dtype, &[1, 1, 1], zero);
        let dims = vec![ty.shape[0].clone(), ty.shape[2].clone(), columns.into()];
        let shape = self.shape_tensor(&Shape::from(dims))?;
        let zeros = self.body.op("Expand", &[&zero, &shape]);
        Ok((self.body.concat(&[zeros, x], 2), 0))
    }

    /// A sequence with time last and this many zeros in front.
    fn padded(&mut self, x: &str, low: i64) -> Name {
        if low == 0 {
            return x.to_owned();
        }
        let pads = self.body.vector(&[0, 0, low, 0, 0, 0]);
        self.body.op("Pad", &[x, &pads])
    }
}
