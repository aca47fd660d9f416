//! Ops without operands.

use super::{ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, eval};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// Checks that a literal type has no symbols and returns its number of bytes.
fn literal_bytes(dtype: DType, shape: &Shape) -> Result<usize, OpError> {
    let dims = shape.as_const().ok_or_else(|| OpError::attr("shape", format!("{shape} has a symbol")))?;
    dims.iter()
        .try_fold(dtype.bits(), |bits, d| bits.checked_mul(usize::try_from(*d).ok()?))
        .map(|bits| bits.div_ceil(8))
        .ok_or_else(|| OpError::attr("shape", format!("{shape} is not a size")))
}

/// A small literal tensor: little-endian row-major elements.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Constant {
    pub dtype: DType,
    pub shape: Shape,
    pub data: Vec<u8>,
}

impl Constant {
    /// A scalar of a floating-point or integer type that holds `x` rounded to it.
    pub fn scalar(dtype: DType, x: f64) -> Self {
        Self { dtype, shape: Shape::scalar(), data: crate::scalar::encode(dtype, x) }
    }

    /// A vector of `i64`.
    pub fn ints(xs: &[i64]) -> Self {
        let data = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: DType::I64, shape: Shape::from([xs.len() as i64]), data }
    }

    /// The value of a one-element real constant, whatever its rank.
    pub fn as_scalar(&self) -> Option<f64> {
        self.shape.n_elems().is(1).then(|| crate::scalar::decode(self.dtype, &self.data)).flatten()
    }
}

impl OpDef for Constant {
    const OPERANDS: &'static [Operand] = &[];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "constant"
    }

    fn templates() -> Vec<Op> {
        vec![Constant { dtype: DType::F32, shape: Shape::from([0]), data: Vec::new() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("data", AttrMut::Bytes(&mut self.data));
        v.attr("dtype", AttrMut::DType(&mut self.dtype));
        v.attr("shape", AttrMut::Shape(&mut self.shape));
    }

    fn infer(&self, _: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let expected = literal_bytes(self.dtype, &self.shape)?;
        if self.data.len() != expected {
            return Err(OpError::attr(
                "data",
                format!("expected {expected} bytes, found {}", self.data.len()),
            ));
        }
        Ok(vec![TensorType::new(self.dtype, self.shape.clone())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, _: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::constant(self, ctx)
    }
}

/// A tensor whose bytes lie beside the graph under this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct WeightRef {
    pub dtype: DType,
    pub name: String,
    pub shape: Shape,
}

impl OpDef for WeightRef {
    const OPERANDS: &'static [Operand] = &[];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "weight"
    }

    fn templates() -> Vec<Op> {
        vec![WeightRef { dtype: DType::F32, name: String::new(), shape: Shape::from([0]) }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("dtype", AttrMut::DType(&mut self.dtype));
        v.attr("name", AttrMut::Str(&mut self.name));
        v.attr("shape", AttrMut::Shape(&mut self.shape));
    }

    fn infer(&self, _: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        literal_bytes(self.dtype, &self.shape)?;
        Ok(vec![TensorType::new(self.dtype, self.shape.clone())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, _: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::weight(self, ctx)
    }
}

/// The value of a dim as an `i64` scalar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct DimValue {
    pub value: Dim,
}

impl OpDef for DimValue {
    const OPERANDS: &'static [Operand] = &[];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "dim"
    }

    fn templates() -> Vec<Op> {
        vec![DimValue { value: Dim::from(0) }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("value", AttrMut::Dim(&mut self.value));
    }

    fn infer(&self, _: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![TensorType::new(DType::I64, Shape::scalar())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, _: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::dim_value(self, ctx)
    }
}

/// The index along one axis: y[.., i, ..] = i.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Iota {
    pub axis: usize,
    pub dtype: DType,
    pub shape: Shape,
}

impl OpDef for Iota {
    const OPERANDS: &'static [Operand] = &[];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "iota"
    }

    fn templates() -> Vec<Op> {
        vec![Iota { axis: 0, dtype: DType::I64, shape: Shape::from([0]) }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("dtype", AttrMut::DType(&mut self.dtype));
        v.attr("shape", AttrMut::Shape(&mut self.shape));
    }

    fn infer(&self, _: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        if self.axis >= self.shape.rank() {
            return Err(OpError::attr("axis", format!("{} is not below {}", self.axis, self.shape.rank())));
        }
        if self.dtype == DType::Bool || self.dtype.is_complex() {
            return Err(OpError::attr("dtype", format!("{} cannot count", self.dtype)));
        }
        Ok(vec![TensorType::new(self.dtype, self.shape.clone())])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, _: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::iota(self, ctx)
    }
}
