//! Normalized recurrences, kept in range by a running maximum.

use super::scan::Check;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, opt, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// Stabilized scan of a weighted mean: numerator and denominator have exponential weights, whose largest exponent is
/// carried apart.
///
/// # Equation
/// ```text
/// n[t] = exp(w[t])*n[t-1] + exp(k[t])*v[t], d[t] = exp(w[t])*d[t-1] + exp(k[t]), n[-1] = num*exp(max),
/// d[-1] = den*exp(max) (zeros if absent);
/// y[t] = n[t] / d[t], or with u: y[t] = (n[t-1] + exp(u + k[t])*v[t]) / (d[t-1] + exp(u + k[t]));
/// max_last[t] = the largest of max_last[t-1] + w[t] and k[t] (minus infinity at first), num_last = n*exp(-max_last),
/// den_last = d*exp(-max_last); `reverse` runs from the last step to the first; where `seq_idx` differs from that of
/// the step before, n[t-1] and d[t-1] count as zeros; with `slots` the batch row i starts from row slots[i] of the
/// states and replaces it
/// ```
///
/// # Shapes
/// ```text
/// w: T[B,L,C] of which any axis may be 1, k, v: T[B,L,C], u: T[C], num, den, max: T[B,C], seq_idx: i32[B,L]
/// -> y: T[B,L,C], num_last, den_last, max_last: T[B,C];
/// with slots: i32[B] the states have P rows, those that no slot names are equal
/// ```
///
/// # Numerics
/// no exponential is larger than 1; states are f32 or wider; without any weight (every k minus infinity) y is not a
/// number. Of several batch rows with one slot the last one's state is kept
///
/// # Source
/// Peng et al. 2023 (RWKV-4), appendix "numerically stable"; Milakov & Gimelshein 2018
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Wkv {
    pub reverse: bool,
}

impl OpDef for Wkv {
    const OPERANDS: &'static [Operand] = &[
        req("w"),
        req("k"),
        req("v"),
        opt("u"),
        opt("num"),
        opt("den"),
        opt("max"),
        opt("seq_idx"),
        opt("slots"),
    ];
    const RESULTS: &'static [&'static str] = &["y", "num_last", "den_last", "max_last"];

    fn name(&self) -> &'static str {
        "ssm.wkv"
    }

    fn templates() -> Vec<Op> {
        vec![Wkv::default().into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let k = arg(x, 1);
        let c = Check { x, operands: Self::OPERANDS, dtype: k.dtype };
        c.float(false)?;
        let [batch, len, channels] = &c.rank(1, 3)?.shape[..] else {
            return Err(OpError::Rank { operand: "k", expected: 3, found: k.rank() });
        };
        let all = [batch, len, channels];
        c.broadcast(0, &all)?;
        c.shape(1, &all)?;
        c.shape(2, &all)?;
        c.shape(3, &[channels])?;
        let states = 4..7;
        if let (Some(missing), true) =
            (states.clone().find(|i| c.get(*i).is_none()), states.clone().any(|i| c.get(i).is_some()))
        {
            return Err(OpError::Missing { operand: Self::OPERANDS[missing].name });
        }
        let rows = c.slots(8, 4, batch)?;
        for i in states {
            c.shape(i, &[rows, channels])?;
        }
        c.seq_idx(7, k)?;
        let state = k.with_shape([rows, channels].into_iter().collect::<Shape>());
        Ok(vec![k.clone(), state.clone(), state.clone(), state])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::wkv(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}
