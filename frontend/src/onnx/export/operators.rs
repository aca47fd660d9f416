//! Recurrences that operator set 27 has as operators.

use super::body::{Name, float, int, string};
use super::writer::Writer;
use ssmc_ir::Node;
use ssmc_ir::ops::{Activation, CausalConv1d, LinearAttention, ReadOut};

/// The operator set with `LinearAttention` and `CausalConvWithState`.
const SINCE: i64 = 27;

impl Writer<'_> {
    /// `LinearAttention`, where the operator set has it and it can say this; heads are packed into the last axis.
    pub(super) fn linear_attention_operator(
        &mut self,
        node: &Node,
        op: &LinearAttention,
    ) -> Result<Option<Vec<Name>>, String> {
        let has = |i: usize| node.operands.get(i).copied().flatten();
        let (Some(q), Some(k), Some(v)) = (has(0), has(1), has(2)) else { return Ok(None) };
        let (q, k, v) = (&self.ty(q).shape, &self.ty(k).shape, &self.ty(v).shape);
        let (Some(heads), Some(per_head)) = (q[2].as_const(), q[3].as_const()) else { return Ok(None) };
        let decays = has(3).is_none_or(|decay| self.ty(decay).shape[..3] == k[..3]);
        let is_plain = op.read_out == ReadOut::After && !op.reverse && [5, 6, 8, 9].map(has) == [None; 4];
        if self.body.opset < SINCE || !is_plain || !decays {
            return Ok(None);
        }
        let values = v[3].as_const().ok_or("values with a symbol")?;
        let rule = match (has(3), has(4)) {
            (None, None) => "linear",
            (Some(_), None) => "gated",
            (None, Some(_)) => "delta",
            (Some(_), Some(_)) => "gated_delta",
        };
        let mut inputs = vec![Name::new(); 6];
        for (to, from) in [(0, 0), (1, 1), (2, 2), (4, 3)] {
            if has(from).is_some() {
                let x = self.operand(node, from)?;
                let packed = self.body.vector(&[0, 0, -1]);
                inputs[to] = self.body.op("Reshape", &[&x, &packed]);
            }
        }
        inputs[3] = self.optional(node, 7)?.unwrap_or_default();
        inputs[5] = self.optional(node, 4)?.unwrap_or_default();
        let attributes = vec![
            int("q_num_heads", heads * per_head),
            int("kv_num_heads", heads),
            string("update_rule", rule),
            float("scale", op.scale.get()),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let results = self.body.node("LinearAttention", &inputs, 2, attributes);
        let unpacked = self.body.vector(&[0, 0, heads, per_head, values]);
        let y = self.body.op("Reshape", &[&results[0], &unpacked]);
        Ok(Some(vec![y, results[1].clone()]))
    }

    /// `CausalConvWithState`, where the operator set has it; channels before time.
    pub(super) fn causal_conv_operator(
        &mut self,
        node: &Node,
        op: &CausalConv1d,
    ) -> Result<Option<Vec<Name>>, String> {
        if self.body.opset < SINCE || node.operands.get(4).is_some_and(Option::is_some) {
            return Ok(None);
        }
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let (bias, state) = (self.optional(node, 2)?.unwrap_or_default(), self.optional(node, 3)?);
        let body = &mut self.body;
        let (x, w) = (body.transpose(&x, &[0, 2, 1]), body.unsqueeze(&w, &[1]));
        let state = state.map_or_else(Name::new, |state| body.transpose(&state, &[0, 2, 1]));
        let activation = if op.activation == Activation::Silu { "silu" } else { "none" };
        let attributes = vec![string("activation", activation)];
        let results = body.node("CausalConvWithState", &[&x, &w, &bias, &state], 2, attributes);
        let results: Vec<Name> = results.iter().map(|r| body.transpose(r, &[0, 2, 1])).collect();
        Ok(Some(results))
    }
}
