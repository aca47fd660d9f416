//! Recurrences whose state is a matrix.

use super::scan::{Check, ReadOut};
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, F64, Op, OpDef, OpError, Operand, Tolerance,
    arg, eval, opt, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{Shape, TensorType};

/// Matrix-state scan: linear attention with any transition that is diagonal or diagonal plus rank one.
///
/// # Equation
/// ```text
/// D[t] = exp(decay[t]) on the rows of S (1 if absent);
/// S[t] = D[t]*S[t-1] + k[t] v[t]^T                                          neither beta nor erase
/// S[t] = D[t]*S[t-1] + beta[t]*k[t] (v[t] - (D[t]*S[t-1])^T k[t])^T          with beta: the delta rule
/// S[t] = D[t]*S[t-1] + write[t] (S[t-1]^T erase[t])^T + k[t] v[t]^T          with erase and write
/// y[t,r] = scale * S[t]^T q[t,r], or scale * S[t-1]^T q[t,r] if `read_out` is before; S[-1] = h0 (zeros if absent);
/// `reverse` runs from the last step to the first; where `seq_idx` differs from that of the step before, S[t-1] counts
/// as zeros; with `slots` the batch row i starts from row slots[i] of h0 and replaces it
/// ```
///
/// # Shapes
/// ```text
/// q: T[B,L,H,R,K], k, erase, write: T[B,L,H,K], v: T[B,L,H,V], decay: T[B,L,H,K] of which any axis may be 1,
/// beta: T[B,L,H], h0: T[B,H,K,V], seq_idx: i32[B,L] -> y: T[B,L,H,R,V], h_last: T[B,H,K,V];
/// with slots: i32[B] h0 and h_last have P rows, those that no slot names are equal
/// ```
///
/// # Numerics
/// state and sums are f32 or wider; `decay` is a logarithm, so that no product of decays is formed. Of several batch
/// rows with one slot the last one's state is kept
///
/// # Source
/// Katharopoulos et al. 2020; Yang et al. 2024 (GLA, gated delta rule); RWKV-7 with erase and write; ONNX opset 27
/// `LinearAttention`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LinearAttention {
    pub read_out: ReadOut,
    pub reverse: bool,
    pub scale: F64,
}

impl Default for LinearAttention {
    fn default() -> Self {
        Self { read_out: ReadOut::After, reverse: false, scale: 1.0.into() }
    }
}

impl OpDef for LinearAttention {
    const OPERANDS: &'static [Operand] = &[
        req("q"),
        req("k"),
        req("v"),
        opt("decay"),
        opt("beta"),
        opt("erase"),
        opt("write"),
        opt("h0"),
        opt("seq_idx"),
        opt("slots"),
    ];
    const RESULTS: &'static [&'static str] = &["y", "h_last"];

    fn name(&self) -> &'static str {
        "ssm.linear_attention"
    }

    fn templates() -> Vec<Op> {
        vec![LinearAttention::default().into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("read_out", AttrMut::Word(&mut self.read_out));
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
        v.attr("scale", AttrMut::Float(&mut self.scale));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let q = arg(x, 0);
        let c = Check { x, operands: Self::OPERANDS, dtype: q.dtype };
        c.float(false)?;
        let [batch, len, heads, per_head, keys] = &c.rank(0, 5)?.shape[..] else {
            return Err(OpError::Rank { operand: "q", expected: 5, found: q.rank() });
        };
        let values = &c.rank(2, 4)?.shape[3];
        let key = [batch, len, heads, keys];
        c.shape(1, &key)?;
        c.shape(2, &[batch, len, heads, values])?;
        c.broadcast(3, &key)?;
        c.shape(4, &[batch, len, heads])?;
        c.shape(5, &key)?;
        c.shape(6, &key)?;
        if c.get(5).is_some() != c.get(6).is_some() {
            return Err(OpError::Missing { operand: if c.get(5).is_some() { "write" } else { "erase" } });
        }
        if let (Some(beta), Some(_)) = (c.get(4), c.get(5)) {
            return Err(OpError::shape("beta", "none beside erase and write", &beta.shape));
        }
        let rows = c.slots(9, 7, batch)?;
        let state = [rows, heads, keys, values];
        c.shape(7, &state)?;
        c.seq_idx(8, q)?;
        let y = [batch, len, heads, per_head, values].into_iter().collect::<Shape>();
        Ok(vec![q.with_shape(y), q.with_shape(state.into_iter().collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::linear_attention(self, x)
    }

    fn tolerance(&self, dtype: crate::types::DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}
