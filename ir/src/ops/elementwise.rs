//! Ops that act on each element by itself. Operands have equal shapes; broadcasting is an op of its own.

use super::attr::keyword;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req,
};
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnaryFn {
    /// -x
    Neg,
    /// |x|
    Abs,
    /// e^x
    Exp,
    /// ln x
    Log,
    /// ln (1 + x)
    Log1p,
    /// e^x - 1
    Expm1,
    /// x^(1/2)
    Sqrt,
    /// x^(-1/2)
    Rsqrt,
    /// 1/x
    Reciprocal,
    /// sine of an angle in radians
    Sin,
    /// cosine of an angle in radians
    Cos,
    /// hyperbolic tangent
    Tanh,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// ln (1 + e^x) = max(x, 0) + log1p(e^-|x|)
    Softplus,
    /// x * sigmoid(x); only rewrites create it
    Silu,
    /// error function
    Erf,
    /// max(x, 0)
    Relu,
    /// largest integer not above x
    Floor,
    /// smallest integer not below x
    Ceil,
    /// nearest integer, ties to even
    Round,
    /// -1, 0 or 1
    Sign,
    /// logical complement of a bool
    Not,
    /// whether x is NaN
    IsNan,
}

keyword!(UnaryFn {
    Neg = "neg", Abs = "abs", Exp = "exp", Log = "log", Log1p = "log1p", Expm1 = "expm1", Sqrt = "sqrt",
    Rsqrt = "rsqrt", Reciprocal = "reciprocal", Sin = "sin", Cos = "cos", Tanh = "tanh", Sigmoid = "sigmoid",
    Softplus = "softplus", Silu = "silu", Erf = "erf", Relu = "relu", Floor = "floor", Ceil = "ceil",
    Round = "round", Sign = "sign", Not = "not", IsNan = "is_nan",
});

/// Applies a [`UnaryFn`] to every element.
///
/// # Shapes
/// ```text
/// x: T[s] -> T[s]; `is_nan` gives bool
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Unary {
    pub f: UnaryFn,
}

impl OpDef for Unary {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn templates() -> Vec<Op> {
        UnaryFn::ALL.iter().map(|f| Unary { f: *f }.into()).collect()
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        let dtype = x.dtype;
        let fits = match self.f {
            UnaryFn::Not => dtype == DType::Bool,
            UnaryFn::Neg => dtype != DType::Bool,
            UnaryFn::Abs | UnaryFn::Sign | UnaryFn::Relu => dtype != DType::Bool && !dtype.is_complex(),
            UnaryFn::Exp | UnaryFn::Reciprocal => dtype.is_float() || dtype.is_complex(),
            UnaryFn::Log
            | UnaryFn::Log1p
            | UnaryFn::Expm1
            | UnaryFn::Sqrt
            | UnaryFn::Rsqrt
            | UnaryFn::Sin
            | UnaryFn::Cos
            | UnaryFn::Tanh
            | UnaryFn::Sigmoid
            | UnaryFn::Softplus
            | UnaryFn::Silu
            | UnaryFn::Erf
            | UnaryFn::Floor
            | UnaryFn::Ceil
            | UnaryFn::Round
            | UnaryFn::IsNan => dtype.is_float(),
        };
        if !fits {
            return Err(OpError::dtype("x", format!("one that {} takes", self.f.name()), dtype));
        }
        Ok(vec![if self.f == UnaryFn::IsNan { x.with_dtype(DType::Bool) } else { x.clone() }])
    }

    fn fused(&self) -> bool {
        self.f == UnaryFn::Silu
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::unary(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::rounding(dtype)
    }
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BinaryFn {
    /// x + y
    Add,
    /// x - y
    Sub,
    /// x * y
    Mul,
    /// x / y; integers round towards zero
    Div,
    /// x^y
    Pow,
    /// the smaller; NaN if either is
    Min,
    /// the larger; NaN if either is
    Max,
    /// remainder with the sign of the divisor
    Rem,
    /// logical or bitwise conjunction
    And,
    /// logical or bitwise disjunction
    Or,
    /// logical or bitwise exclusive disjunction
    Xor,
}

keyword!(BinaryFn {
    Add = "add", Sub = "sub", Mul = "mul", Div = "div", Pow = "pow", Min = "min", Max = "max", Rem = "rem",
    And = "and", Or = "or", Xor = "xor",
});

/// Applies a [`BinaryFn`] to each pair of elements.
///
/// # Shapes
/// ```text
/// x: T[s], y: T[s] -> T[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Binary {
    pub f: BinaryFn,
}

/// The operands have the same type; that type.
fn same<'a>(x: &'a TensorType, y: &TensorType, operand: &'static str) -> Result<&'a TensorType, OpError> {
    if x.dtype != y.dtype {
        return Err(OpError::dtype(operand, x.dtype, y.dtype));
    }
    if x.shape != y.shape {
        return Err(OpError::shape(operand, &x.shape, &y.shape));
    }
    Ok(x)
}

impl OpDef for Binary {
    const OPERANDS: &'static [Operand] = &[req("x"), req("y")];
    const RESULTS: &'static [&'static str] = &["z"];

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn templates() -> Vec<Op> {
        BinaryFn::ALL.iter().map(|f| Binary { f: *f }.into()).collect()
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let ty = same(arg(x, 0), arg(x, 1), "y")?;
        let dtype = ty.dtype;
        let fits = match self.f {
            BinaryFn::And | BinaryFn::Or | BinaryFn::Xor => dtype == DType::Bool || dtype.is_int(),
            BinaryFn::Min | BinaryFn::Max | BinaryFn::Rem => dtype != DType::Bool && !dtype.is_complex(),
            BinaryFn::Pow => dtype.is_float() || dtype.is_int(),
            BinaryFn::Add | BinaryFn::Sub | BinaryFn::Mul | BinaryFn::Div => dtype != DType::Bool,
        };
        if !fits {
            return Err(OpError::dtype("x", format!("one that {} takes", self.f.name()), dtype));
        }
        Ok(vec![ty.clone()])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::binary(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::rounding(dtype)
    }
}

/// An order relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

keyword!(Cmp { Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge" });

/// Compares each pair of elements; every relation with NaN is false but `ne`.
///
/// # Shapes
/// ```text
/// x: T[s], y: T[s] -> bool[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Compare {
    pub cmp: Cmp,
}

impl OpDef for Compare {
    const OPERANDS: &'static [Operand] = &[req("x"), req("y")];
    const RESULTS: &'static [&'static str] = &["z"];

    fn name(&self) -> &'static str {
        "compare"
    }

    fn templates() -> Vec<Op> {
        vec![Compare { cmp: Cmp::Eq }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("cmp", AttrMut::Word(&mut self.cmp));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![same(arg(x, 0), arg(x, 1), "y")?.with_dtype(DType::Bool)])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::compare(self, x)
    }
}

/// Takes each element of `x` where `cond` holds and of `y` elsewhere.
///
/// # Shapes
/// ```text
/// cond: bool[s], x: T[s], y: T[s] -> T[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Select;

impl OpDef for Select {
    const OPERANDS: &'static [Operand] = &[req("cond"), req("x"), req("y")];
    const RESULTS: &'static [&'static str] = &["z"];

    fn name(&self) -> &'static str {
        "select"
    }

    fn templates() -> Vec<Op> {
        vec![Select.into()]
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let ty = same(arg(x, 1), arg(x, 2), "y")?;
        let cond = arg(x, 0);
        if cond.dtype != DType::Bool {
            return Err(OpError::dtype("cond", "bool", cond.dtype));
        }
        if cond.shape != ty.shape {
            return Err(OpError::shape("cond", &ty.shape, &cond.shape));
        }
        Ok(vec![ty.clone()])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::select(x)
    }
}

/// Converts each element. Float to float rounds to nearest even; float to integer truncates and saturates, NaN gives
/// 0; integer to integer wraps; to bool: whether it is not zero.
///
/// # Shapes
/// ```text
/// x: T[s] -> to[s]
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Cast {
    pub to: DType,
}

impl OpDef for Cast {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "cast"
    }

    fn templates() -> Vec<Op> {
        vec![Cast { to: DType::F32 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("to", AttrMut::DType(&mut self.to));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        if x.dtype.is_complex() && !self.to.is_complex() {
            return Err(OpError::dtype("x", "a real one", x.dtype));
        }
        Ok(vec![x.with_dtype(self.to)])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::cast(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::rounding(dtype)
    }
}

/// Reads the bits of each element, rounded to its type, as an element of another type of the same width; source: ONNX
/// `BitCast`.
///
/// # Shapes
/// ```text
/// x: T[s] -> to[s], T and to with equally many bits, neither bool nor complex
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Bitcast {
    pub to: DType,
}

impl OpDef for Bitcast {
    const OPERANDS: &'static [Operand] = &[req("x")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "bitcast"
    }

    fn templates() -> Vec<Op> {
        vec![Bitcast { to: DType::I32 }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("to", AttrMut::DType(&mut self.to));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let x = arg(x, 0);
        let has_bits = |dtype: DType| dtype != DType::Bool && !dtype.is_complex();
        if !has_bits(x.dtype) || !has_bits(self.to) || x.dtype.bits() != self.to.bits() {
            let expected = format!("one with the bits of {}, not bool or complex", self.to);
            return Err(OpError::dtype("x", expected, x.dtype));
        }
        Ok(vec![x.with_dtype(self.to)])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::bitcast(self, x)
    }
}
