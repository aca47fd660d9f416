//! Numbers stored as small integers with a scale.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// The numbers that integers with a scale per group stand for.
///
/// ```text
/// y[a.., i, b..] = q[a.., i, b..] * scale[a.., i / group, b..]
/// ```
///
/// # Shapes
/// ```text
/// q: i8[a.., n, b..], scale: F[a.., n / group, b..] -> f32[a.., n, b..]
/// ```
///
/// # Numerics
/// `bits` says how many bits of `q` are used: the elements of a literal lie in `-2^(bits-1)..2^(bits-1)`. Products with
/// such a matrix may round their other factor to 8 bits with a scale for each row (`docs/weights.md`).
///
/// # Source
/// `DequantizeLinear` of ONNX, opset 21, without zero points
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Dequantize {
    pub axis: usize,
    /// Elements along the axis that share a scale.
    pub group: usize,
    pub bits: usize,
}

impl OpDef for Dequantize {
    const OPERANDS: &'static [Operand] = &[req("q"), req("scale")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "dequantize"
    }

    fn templates() -> Vec<Op> {
        vec![Dequantize { axis: 0, group: 1, bits: 8 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("bits", AttrMut::Usize(&mut self.bits));
        v.attr("group", AttrMut::Usize(&mut self.group));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (q, scale) = (arg(x, 0), arg(x, 1));
        if q.dtype != DType::I8 {
            return Err(OpError::dtype("q", DType::I8, q.dtype));
        }
        if !scale.dtype.is_float() {
            return Err(OpError::dtype("scale", "a real one", scale.dtype));
        }
        if self.axis >= q.rank() {
            return Err(OpError::attr("axis", format!("{} is not below {}", self.axis, q.rank())));
        }
        if !matches!(self.bits, 4 | 8) {
            return Err(OpError::attr("bits", format!("expected 4 or 8, found {}", self.bits)));
        }
        let extent = &q.shape[self.axis];
        let n = extent.as_const().and_then(|n| usize::try_from(n).ok());
        let groups = n.filter(|n| self.group > 0 && n.is_multiple_of(self.group)).map(|n| n / self.group);
        let Some(groups) = groups else {
            return Err(OpError::attr("group", format!("{extent} is no multiple of {}", self.group)));
        };
        let mut expected = q.shape.to_vec();
        expected[self.axis] = (groups as i64).into();
        let expected = q.with_shape(expected).shape;
        if scale.shape != expected {
            return Err(OpError::shape("scale", expected, &scale.shape));
        }
        Ok(vec![q.with_dtype(DType::F32)])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::dequantize(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::rounding(dtype)
    }
}
